// Worked examples from articles about RoI operators. Every number in the sentences is computed from what the page draws.
"use strict";

const Examples = (() => {
  const n = (x, digits = 2) => `<b>${x.toFixed(digits).replace("-", "−")}</b>`;
  const whole = (x) => n(x, 0);
  const width = (axis) => axis.high - axis.low;
  const percent = (x) => `<b>${(100 * x).toFixed(1)} %</b>`;
  // A sample's place on the drawing, where the centre of cell c is at c + 0.5.
  const place = (point) => point.x + 0.5;
  const list = (values) => values.length < 2 ? values.join("") : `${values.slice(0, -1).join(", ")} and ${values.at(-1)}`;
  const cells = (bin) => `${bin.low}–${bin.high - 1}`;
  const first = { row: 0, column: 0, i: 0, j: 0 };

  // An example zooms to the box from its second step if `zoom` is set. A step has `show` (layers), `select` (a sample),
  // `moved` (shift of the image in cells) and `text`, a function of the readings a and b of the two panels, their areas,
  // shifts and changes, and the state s.
  const article665 = {
    name: "665 px at stride 32",
    about: "An 800 × 800 image and a box of 665 × 665 pixels, pooled to 7 × 7 from a map of stride 32.",
    picture: [800, 800], unit: 1, map: "brightness", stride: 32, bins: 7, box: [0, 0, 665, 665],
    panels: [["pool", {}], ["align", {}]],
    steps: [
      { show: "box", text: ({ s }) => `The box is 665 pixels wide. One cell of the map is ${whole(s.stride)} pixels, so the box is 665 / 32 = ${n(665 / s.stride)} cells wide: it ends inside a cell.` },
      { show: "box region area", text: ({ a }) => `First rounding of RoIPool: the ends become whole cells, round(0) = 0 and round(${(665 / 32).toFixed(2)}) = ${whole(a.x.high - 1)}. Both ends count, so it reads ${whole(width(a.x))} cells. The articles round down instead and read ${whole(Math.floor(665 / 32))}; released code rounds to the nearest.` },
      { show: "box bins", text: ({ a }) => `Second rounding: a bin is ${whole(width(a.x))} / 7 = ${n(a.x.bin)} cells. It reads every cell it touches: cells ${list(a.x.bins.map(cells))}. Neighbouring bins share a cell. (In the articles 20 / 7 = ${n(20 / 7)} is rounded down to 2.)` },
      { show: "box region area", text: ({ a, areaA, shiftA }) => `The effect here: ${whole(width(a.x))} cells are ${whole(width(a.x) * 32)} pixels instead of 665. The region gains ${percent(areaA.gained)} of the box's area, and the mean position it reads is ${n(shiftA[0], 1)} pixels right of the box's middle. With the articles' 20 cells, ${n(665 / 32 - 20)} of a cell or ${whole(665 - 640)} pixels would be lost.` },
      { show: "box region bins points", text: ({ b }) => `RoIAlign rounds nothing: the region is ${n(width(b.x))} cells wide, a bin ${n(b.x.bin)} cells, with 2 × 2 samples each. The first lie at x = ${list(b.x.bins[0].points.map((p) => n(place(p))))}.` },
      { show: "box region points neighbours", select: first, text: ({ b }) => { const p = b.x.bins[0].points[0]; return `A sample between cell centres is interpolated. Along x, the first one at ${n(place(p))} lies between the centres ${n(p.low + 0.5, 1)} and ${n(p.high + 0.5, 1)} and takes ${n(1 - p.weight)} of the first and ${n(p.weight)} of the second.`; } },
      { show: "box region", moved: 0.5, text: ({ changeA, changeB }) => `Now image and box move right by half a cell (16 pixels). The content of the box is the same, so the pooled features should be too: RoIPool's change by ${percent(changeA / 100)} of the map's range, RoIAlign's by ${percent(changeB / 100)}.` },
    ],
  };

  const thirds = {
    name: "200 × 145 px, samples at thirds",
    about: "A 512 × 512 image and a box of 200 × 145 pixels at (296, 192), pooled to 3 × 3 from the 16 × 16 map of VGG-16.",
    picture: [512, 512], unit: 1, map: "brightness", stride: 32, bins: 3, box: [296, 192, 496, 337], zoom: true,
    panels: [["align", { sample_position: "thirds" }], ["pool", {}]],
    steps: [
      { show: "box", text: ({ a }) => `Divided by 32, the box starts at (${n(a.x.low)}, ${n(a.y.low)}) on the map and is ${n(width(a.x))} × ${n(width(a.y))} cells large. RoIAlign keeps these numbers.` },
      { show: "box region bins", text: ({ a }) => `A third of that is one bin: ${n(a.x.bin)} × ${n(a.y.bin)} cells.` },
      { show: "box region bins points", text: ({ a }) => `This article puts the samples at 1/3 and 2/3 of a bin. In the first bin they are at x = ${list(a.x.bins[0].points.map((p) => n(place(p))))} and y = ${list(a.y.bins[0].points.map((p) => n(place(p))))}.` },
      { show: "box region bins points neighbours", select: first, text: ({ a }) => { const [x, y] = [a.x.bins[0].points[0], a.y.bins[0].points[0]]; return `The four cells around the first sample are weighted by how near their centres are: ${n((1 - x.weight) * (1 - y.weight), 3)}, ${n(x.weight * (1 - y.weight), 3)}, ${n((1 - x.weight) * y.weight, 3)} and ${n(x.weight * y.weight, 3)}. The lower two hardly count because row ${n(place(y))} is almost the centre of a row. Code counts from the first cell's centre, so it calls this place (${n(x.x)}, ${n(y.x)}).`; } },
      { show: "box region bins points", select: first, text: ({ a }) => `The bin's value is the mean of its four samples: ${n(a.pooled[0][0].value, 3)}.` },
      { show: "box region bins area", text: ({ b, areaB }) => `RoIPool makes ${whole(width(b.x))} × ${whole(width(b.y))} cells of the box. That loses ${percent(areaB.lost)} of its area and gains ${percent(areaB.gained)}.` },
    ],
  };

  const small = {
    name: "7 × 5 cells to 2 × 2, maximum",
    about: "A region of 7 × 5 cells pooled to 2 × 2, four samples per bin. The map is the ramp column + 10 row.",
    picture: [8, 8], unit: 0.125, map: "ramp", stride: 1, bins: 2, box: [0, 0, 7, 5],
    panels: [["align", { reduction: "max" }], ["align", {}]],
    steps: [
      { show: "box bins", text: ({ a }) => `7 × 5 cells do not divide by 2. RoIAlign allows bins of ${n(a.x.bin, 1)} × ${n(a.y.bin, 1)} cells.` },
      { show: "box bins points", text: ({ a }) => `Each bin has 2 × 2 samples at 1/4 and 3/4. Along x they lie at ${list(a.x.bins.flatMap((bin) => bin.points.map((p) => n(place(p), 3))))}.` },
      { show: "box bins points neighbours", select: { row: 0, column: 0, i: 1, j: 1 }, text: ({ a }) => { const [x, y] = [a.x.bins[0].points[1], a.y.bins[0].points[1]]; return `On this ramp a sample's value is its place in the code's coordinates, x + 10 y. The selected one is at (${n(x.x, 3)}, ${n(y.x, 3)}) and reads ${n(x.x + 10 * y.x, 3)}.`; } },
      { show: "box bins points", text: ({ a }) => `With the maximum (left), each bin keeps its largest sample, here always the last: ${list(a.pooled.flat().map((bin) => n(bin.value, 3)))}.` },
      { show: "box bins points", text: ({ b }) => `With the mean (right), each bin gives the ramp at its middle: ${list(b.pooled.flat().map((bin) => n(bin.value, 3)))}. Public code uses the mean.` },
    ],
  };

  const scaleFive = {
    name: "8 × 8 map, spatial_scale 5",
    about: "torchvision's RoIAlign(2, spatial_scale=5, sampling_ratio=2) with the box (0, 0.375, 0.875, 0.625). The map is the ramp column + 10 row.",
    picture: [1.6, 1.6], unit: 0.025, map: "ramp", stride: 0.2, bins: 2, box: [0, 0.375, 0.875, 0.625],
    panels: [["align_legacy", {}], ["align", {}]],
    steps: [
      { show: "box", text: ({ b }) => `Times 5, the box runs from x = ${n(b.x.low)} to ${n(b.x.high, 3)} and from y = ${n(b.y.low, 3)} to ${n(b.y.high, 3)} on the map: ${n(width(b.x), 3)} × ${n(width(b.y))} cells.` },
      { show: "box region bins", text: ({ a }) => `Two bins per side: ${n(a.x.bin, 3)} × ${n(a.y.bin, 3)} cells each.` },
      { show: "box region bins points", text: ({ a }) => `By default, torchvision does not subtract half a pixel (left, align_legacy). The first sample gets x = 0 + ${n(a.x.bin, 3)} / 4 = ${n(a.x.bins[0].points[0].x, 3)}, counted from the first cell's centre. On the drawing that is ${n(place(a.x.bins[0].points[0]), 3)}: half a cell too far right and down.` },
      { show: "box region bins points neighbours", select: first, text: ({ a }) => { const [x, y] = [a.x.bins[0].points[0], a.y.bins[0].points[0]]; return `Its four neighbours are columns ${x.low}, ${x.high} and rows ${y.low}, ${y.high}. It reads ${n(x.x + 10 * y.x, 3)} on the ramp.`; } },
      { show: "box region bins points", text: ({ a }) => `The pooled values are ${list(a.pooled.flat().map((bin) => n(bin.value, 3)))}.` },
      { show: "box region bins points area", text: ({ a, b, shiftA }) => `With aligned=True (right) the region covers the box and the first value is ${n(b.pooled[0][0].value, 3)} instead of ${n(a.pooled[0][0].value, 3)}. Without it, the mean position read is off by ${n(shiftA[0] * 5, 2)} cells along x and ${n(shiftA[1] * 5, 2)} along y.` },
    ],
  };

  return { article665, thirds, small, scaleFive };
})();
