// The RoI operators for one box on one feature map: the positions they read and the values they pool.
//
// The arithmetic is that of maskrcnn_ops (csrc/geometry.h): float32, operation by operation in the same order, so that
// coordinates are the same bits. Every product, sum and quotient of coordinates is rounded by Math.fround.
//
// There are two coordinate systems, both in cells of the map. For the operators, cell c is centred at c. On the drawing,
// cell c covers c to c + 1, so its centre is at c + 0.5. Fields named `x` are coordinates of the operators; `low` and
// `high` of a bin or a region are coordinates of the drawing.
//
// This file uses neither the DOM nor the page's state.
"use strict";

const RoIGeometry = (() => {
  const f32 = Math.fround;
  const POSITIONS = { centre: 0.5, corner: 0, thirds: 1 };
  const MARGINS = { align: 1, mnc: 0.5, inner: 0 }; // samples up to this far outside the outermost centres are inside
  const CENTRE = 0.5; // position of a cell's centre on the drawing

  // C's round: half away from zero.
  function roundHalfAway(x) {
    const whole = Math.trunc(x);
    return Math.abs(x - whole) >= 0.5 ? whole + Math.sign(x) : whole;
  }

  // Start and bin size of the region between two pixel coordinates, in cells.
  function edges(low, high, scale, bins, s) {
    let one = s.plus_one ? 1 : 0;
    if (s.box_rounding === "pixel") {
      low = roundHalfAway(f32(low));
      high = f32(roundHalfAway(f32(high)) + one);
      one = 0;
    }
    let start = f32(f32(low) * f32(scale));
    let end = f32(f32(high) * f32(scale));
    if (s.box_rounding === "round") {
      start = roundHalfAway(start);
      end = roundHalfAway(end);
    }
    start = f32(start - f32(s.offset));
    end = f32(end - f32(s.offset));
    let width = f32(f32(end - start) + one);
    if (s.min_width !== null && !(width >= f32(s.min_width))) width = f32(s.min_width);
    return { start, bin: f32(width / bins) };
  }

  function clip(x, size) {
    return x > 0 ? Math.min(Math.trunc(x), size) : 0;
  }

  // The cells first..last-1 of bin p. If the start is a whole number, it is added after rounding, as in the released RoIPool.
  function cellsOfBin(start, bin, p, size, s) {
    const low = f32(p * bin);
    const high = f32((p + 1) * bin);
    const whole = s.box_rounding === "round" && s.offset === 0;
    const from = whole ? f32(Math.floor(low) + start) : Math.floor(f32(start + low));
    const to = whole ? f32(Math.ceil(high) + start) : Math.ceil(f32(start + high));
    const limit = s.border === "inner" ? Math.max(size - 1, 0) : size;
    const first = clip(from, limit);
    return { first, last: Math.max(clip(to, limit), first) };
  }

  function samplesPerBin(bin, ratio) {
    return ratio > 0 ? ratio : Math.max(Math.ceil(bin), 0);
  }

  // Sample i of bin p.
  function sampleAt(start, bin, p, i, samples, position) {
    const divisor = position === "thirds" ? samples + 1 : samples;
    const within = f32(f32(f32(i + POSITIONS[position]) * bin) / divisor);
    return f32(f32(start + f32(p * bin)) + within);
  }

  function inside(x, size, border) {
    return x >= -MARGINS[border] && x <= size - 1 + MARGINS[border];
  }

  // The two cells that a sample at x reads and the weight of the second.
  function neighbours(x, size) {
    const clamped = Math.min(Math.max(x, 0), size - 1);
    const low = Math.trunc(clamped);
    return { low, high: Math.min(low + 1, size - 1), weight: f32(clamped - low) };
  }

  function sampledBin(start, bin, p, size, samples, s) {
    const points = [];
    for (let i = 0; i < samples; i++) {
      const x = sampleAt(start, bin, p, i, samples, s.sample_position);
      points.push({ x, inside: inside(x, size, s.border), ...neighbours(x, size) });
    }
    const low = start + CENTRE + p * bin;
    return { low, high: low + bin, points, divisor: Math.max(samples, 1) };
  }

  function roundedBin(start, bin, p, size, s) {
    const { first, last } = cellsOfBin(start, bin, p, size, s);
    const points = [];
    for (let c = first; c < last; c++) points.push({ x: c, inside: true, low: c, high: c, weight: 0 });
    return { low: first, high: last, points, divisor: Math.max(points.length, 1) };
  }

  // One axis of a box: the region, its bins and the points that every bin reads.
  function readAxis(low, high, scale, bins, size, s) {
    const { start, bin } = edges(low, high, scale, bins, s);
    const samples = samplesPerBin(bin, s.sampling_ratio);
    const read = [];
    for (let p = 0; p < bins; p++) {
      read.push(s.bin_rounding ? roundedBin(start, bin, p, size, s) : sampledBin(start, bin, p, size, samples, s));
    }
    const begin = start + (s.bin_rounding ? 0 : CENTRE);
    return { start, bin, samples, low: begin, high: begin + bins * bin, bins: read };
  }

  // Bilinear interpolation between four cells.
  function interpolate(value, y, x) {
    const upper = value(y.low, x.low) * (1 - x.weight) + value(y.low, x.high) * x.weight;
    const lower = value(y.high, x.low) * (1 - x.weight) + value(y.high, x.high) * x.weight;
    return upper * (1 - y.weight) + lower * y.weight;
  }

  // Value of one bin, and for a maximum the index [i, j] of the largest sample. Samples outside the map are zero.
  function poolBin(value, yBin, xBin, reduction) {
    let sum = 0;
    let best = -Infinity;
    let winner = null;
    let count = 0;
    yBin.points.forEach((y, i) => xBin.points.forEach((x, j) => {
      if (!y.inside || !x.inside) return;
      const v = interpolate(value, y, x);
      count += 1;
      sum += v;
      if (v > best) [best, winner] = [v, [i, j]];
    }));
    const all = yBin.points.length * xBin.points.length;
    if (reduction === "avg") return { value: sum / (yBin.divisor * xBin.divisor), winner: null };
    if (count === 0 || (count < all && best <= 0)) return { value: 0, winner: null };
    return { value: best, winner };
  }

  // Apply the operator with switches s to a map.
  //   map: { height, width, at(channel, row, column) }. Position-sensitive operators read channel i * P + j in bin
  //        (i, j), the others channel 0.
  //   box: [x1, y1, x2, y2] in pixels.  scale: cells per pixel.  bins: P, bins per side.
  function read(map, box, scale, bins, s) {
    const y = readAxis(box[1], box[3], scale, bins, map.height, s);
    const x = readAxis(box[0], box[2], scale, bins, map.width, s);
    const pooled = y.bins.map((yBin, i) => x.bins.map((xBin, j) => {
      const channel = s.position_sensitive ? i * bins + j : 0;
      return poolBin((row, column) => map.at(channel, row, column), yBin, xBin, s.reduction);
    }));
    return { x, y, pooled };
  }

  // The range [low, high] that is read along an axis: the region, or with rounded bins all cells of the bins.
  function extent(axis, rounded) {
    if (!rounded) return [axis.low, Math.max(axis.high, axis.low)];
    const used = axis.bins.filter((bin) => bin.high > bin.low);
    if (!used.length) return [axis.low, axis.low];
    return [Math.min(...used.map((bin) => bin.low)), Math.max(...used.map((bin) => bin.high))];
  }

  // Area of the box that is not read, and area read outside the box, as shares of the box's area.
  function areas(box, scale, reading, s) {
    const [left, right] = extent(reading.x, s.bin_rounding);
    const [top, bottom] = extent(reading.y, s.bin_rounding);
    const [x1, y1, x2, y2] = box.map((edge) => edge * scale);
    const overlap = Math.max(Math.min(right, x2) - Math.max(left, x1), 0)
      * Math.max(Math.min(bottom, y2) - Math.max(top, y1), 0);
    const own = (x2 - x1) * (y2 - y1);
    return { lost: 1 - overlap / own, gained: ((right - left) * (bottom - top) - overlap) / own };
  }

  // Distance along an axis from the middle of the box to the mean position read, in pixels; null if nothing is read.
  function shift(axis, low, high, scale) {
    let sum = 0;
    let total = 0;
    for (const bin of axis.bins) {
      for (const point of bin.points) {
        if (!point.inside) continue;
        sum += (point.low + point.weight * (point.high - point.low) + CENTRE) / bin.divisor;
        total += 1 / bin.divisor;
      }
    }
    return total ? sum / total / scale - (low + high) / 2 : null;
  }

  // Root mean square difference of two lists of values, in percent of the map's range [lowest, highest].
  function change(before, after, [lowest, highest]) {
    const squares = before.reduce((sum, v, i) => sum + (v - after[i]) ** 2, 0);
    return highest > lowest ? 100 * Math.sqrt(squares / before.length) / (highest - lowest) : 0;
  }

  return { read, interpolate, extent, areas, shift, change };
})();
