// Drawing of one panel: the map and what an operator reads of it, as strings of SVG over a canvas.
"use strict";

const Draw = (() => {
  const DARK = [44, 52, 61];
  const LIGHT = [246, 247, 248];
  const MOST_POINTS = 6000;

  // Grey of a value between low and high, and the colour of readable text on it.
  function grey(value, [low, high]) {
    const t = high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0.5;
    const rgb = DARK.map((v, k) => Math.round(v + (LIGHT[k] - v) * t));
    return { rgb, fill: `rgb(${rgb})`, ink: t > 0.5 ? "#15191e" : "#ffffff" };
  }

  function range(map, channel) {
    let [low, high] = [Infinity, -Infinity];
    for (let k = 0; k < map.height * map.width; k++) {
      const value = map.at(channel, Math.floor(k / map.width), k % map.width);
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    return [low, high];
  }

  // Show a value in a field, unless the user is typing in it.
  function refill(input, value) {
    if (!("edited" in input.dataset)) input.value = value;
  }

  // Format a number with a true minus sign, and with at most one digit after the point from 100 on.
  function number(value, digits = 2) {
    const size = Math.abs(value);
    return value.toFixed(size >= 100 ? Math.min(digits, 1) : digits).replace("-", "−");
  }

  // Converts positions in cells to coordinates of the drawing: f.x(column), f.y(row). f.cell is the side of a cell.
  function frame(view, width, stride) {
    const k = width / view.width;
    return { k, cell: stride * k, x: (c) => (c * stride - view.x) * k, y: (c) => (c * stride - view.y) * k };
  }

  // The picture or the map, on the canvas behind the drawing.
  function background(canvas, scene, f, size) {
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    if (scene.showMap) {
      const image = mapImage(scene.map, scene.channel, scene.range);
      context.imageSmoothingEnabled = false;
      context.drawImage(image, f.x(0), f.y(0), scene.map.width * f.cell, scene.map.height * f.cell);
      return;
    }
    const { picture, view } = scene;
    const left = picture.left + scene.movedPixels - view.x;
    context.beginPath();
    context.rect(-view.x * f.k, -view.y * f.k, picture.width * f.k, picture.height * f.k);
    context.clip();
    context.drawImage(picture.canvas, left * f.k, -view.y * f.k, (picture.width - picture.left) * f.k, picture.height * f.k);
  }

  function mapImage(map, channel, limits) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [map.width, map.height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(map.width, map.height);
    for (let k = 0; k < map.width * map.height; k++) {
      const value = map.at(channel, Math.floor(k / map.width), k % map.width);
      image.data.set([...grey(value, limits).rgb, 255], 4 * k);
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  const rect = (f, x, y, className) => `<rect class="${className}" x="${f.x(x[0])}" y="${f.y(y[0])}"`
    + ` width="${Math.max(f.x(x[1]) - f.x(x[0]), 0)}" height="${Math.max(f.y(y[1]) - f.y(y[0]), 0)}"/>`;

  const path = (f, x, y) => `M${f.x(x[0])} ${f.y(y[0])}H${f.x(x[1])}V${f.y(y[1])}H${f.x(x[0])}Z`;

  function grid(f, map) {
    if (f.cell < 5) return "";
    let d = "";
    for (let c = 0; c <= map.width; c++) d += `M${f.x(c)} ${f.y(0)}V${f.y(map.height)}`;
    for (let r = 0; r <= map.height; r++) d += `M${f.x(0)} ${f.y(r)}H${f.x(map.width)}`;
    return `<path class="grid" d="${d}"/>`;
  }

  function values(f, scene) {
    if (f.cell < 34) return "";
    let text = "";
    for (let k = 0; k < scene.map.height * scene.map.width; k++) {
      const [row, column] = [Math.floor(k / scene.map.width), k % scene.map.width];
      const value = scene.map.at(scene.channel, row, column);
      const ink = scene.showMap ? grey(value, scene.range).ink : "#15191e";
      text += `<text class="value${scene.showMap ? "" : " halo"}" x="${f.x(column + 0.5)}" y="${f.y(row + 1) - 4}" fill="${ink}">${Number.isInteger(value) ? value : number(value)}</text>`;
    }
    return text;
  }

  // The area that the operator adds to the box (tinted) and the area that it leaves out (hatched).
  function area(f, reading, box, hatch) {
    const [x, y] = [reading.extentX, reading.extentY];
    const [bx, by] = [[box[0], box[2]], [box[1], box[3]]];
    const both = [[Math.max(x[0], bx[0]), Math.min(x[1], bx[1])], [Math.max(y[0], by[0]), Math.min(y[1], by[1])]];
    const overlap = both[0][0] < both[0][1] && both[1][0] < both[1][1] ? path(f, ...both) : "";
    return `<path class="gained" d="${path(f, x, y)}${overlap}"/>`
      + `<path class="lost" fill="url(#${hatch})" d="${path(f, bx, by)}${overlap}"/>`;
  }

  function bins(f, reading) {
    return reading.y.bins.map((y) => reading.x.bins.map((x) => rect(f, [x.low, x.high], [y.low, y.high], "bin")).join("")).join("");
  }

  // All points in the order row, column, i, j, with their positions on the drawing in cells.
  function pointsOf(reading) {
    const all = [];
    reading.y.bins.forEach((yBin, row) => reading.x.bins.forEach((xBin, column) =>
      yBin.points.forEach((y, i) => xBin.points.forEach((x, j) =>
        all.push({ row, column, i, j, x: x.x + 0.5, y: y.x + 0.5, inside: x.inside && y.inside })))));
    return all;
  }

  function points(f, reading, all) {
    if (all.length > MOST_POINTS) return "";
    const radius = all.length > 400 ? 1.6 : all.length > 100 ? 2.4 : 3.2;
    const won = (p) => { const w = reading.pooled[p.row][p.column].winner; return w && w[0] === p.i && w[1] === p.j; };
    return all.map((p) => `<circle class="${p.inside ? "point" : "point outside"}${won(p) ? " winner" : ""}" `
      + `cx="${f.x(p.x)}" cy="${f.y(p.y)}" r="${won(p) ? radius + 1.6 : radius}"/>`).join("");
  }

  // The four cells that a sample reads, each with its weight.
  function neighbours(f, cells, at) {
    const marks = cells.map(({ row, column, weight }) => {
      const [x, y] = [f.x(column + 0.5), f.y(row + 0.5)];
      const outward = [column + 0.5 < at.x ? -0.14 : 0.14, row + 0.5 < at.y ? -0.2 : 0.2]; // away from the sample
      const label = f.cell < 34 ? "" : `<text class="weight" x="${x + outward[0] * f.cell}" y="${y + outward[1] * f.cell + Math.sign(outward[1]) * 4 + 4}">${weight.toFixed(2)}</text>`;
      return rect(f, [column, column + 1], [row, row + 1], "neighbour") + `<path class="link" d="M${f.x(at.x)} ${f.y(at.y)}L${x} ${y}"/>`
        + `<circle class="centre" cx="${x}" cy="${y}" r="${2 + 4 * weight}"/>` + label;
    });
    return marks.join("") + `<circle class="chosen" cx="${f.x(at.x)}" cy="${f.y(at.y)}" r="6"/>`;
  }

  // Change of the pooled features against the shift, a line for each panel.
  function curves(width, lines, moved, steps) {
    const height = 190;
    const [left, right, top, bottom] = [42, width - 12, 12, height - 34];
    const finite = lines.flatMap((line) => line.values.filter((v) => v !== null));
    const most = niceTop(Math.max(...finite, 1));
    const x = (k) => left + (right - left) * k / steps;
    const y = (v) => bottom - (bottom - top) * v / most;
    let out = [0, 0.25, 0.5, 0.75, 1].map((t) => `<text class="tick" x="${x(t * steps)}" y="${bottom + 15}">${t}</text>`).join("");
    out += [0, 0.5, 1].map((t) => `<path class="rule" d="M${left} ${y(t * most)}H${right}"/>`
      + `<text class="tick end" x="${left - 6}" y="${y(t * most) + 4}">${number(t * most, most < 4 ? 1 : 0)}</text>`).join("");
    out += `<text class="tick" x="${(left + right) / 2}" y="${height - 4}">image and box moved right, cells</text>`;
    out += `<path class="now" d="M${x(moved)} ${top}V${bottom}"/>`;
    for (const line of lines) {
      const known = line.values.map((v, k) => [v, k]).filter(([v]) => v !== null);
      out += `<polyline class="curve${line.dashed ? " dashed" : ""}" style="--op:${line.colour}" points="${known.map(([v, k]) => `${x(k)},${y(v)}`).join(" ")}"/>`;
      out += `<circle class="mark" style="--op:${line.colour}" cx="${x(moved)}" cy="${y(line.values[moved])}" r="4"/>`;
    }
    return { height, svg: out };
  }

  function niceTop(x) {
    const size = 10 ** Math.floor(Math.log10(x));
    return [1, 2, 4, 6, 8, 10].map((m) => m * size).find((top) => top >= x);
  }

  return { grey, range, refill, number, frame, background, grid, values, area, rect, bins, pointsOf, points, neighbours, curves, MOST_POINTS };
})();
