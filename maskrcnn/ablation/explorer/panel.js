// One panel: an operator, its switches, the drawing, the pooled values and the numbers.
"use strict";

const PURPOSES = {
  align: "Mask R-CNN's RoIAlign. Nothing is rounded, and the box moves by half a cell so that places and cell centres agree.",
  align_legacy: "RoIAlign as first released: nothing is rounded, but the half pixel is missing.",
  warp: "RoIWarp as Mask R-CNN describes it: the box is rounded like RoIPool's, then sampled like RoIAlign.",
  warp_mnc: "RoIWarp as MNC released it: rounded box, one sample per cell at its corner, maximum.",
  pool: "Fast R-CNN's RoIPool: the box and then each bin are rounded to whole cells; the largest cell wins.",
  ps_align: "Position-sensitive RoIAlign: bin (i, j) reads only score map i · P + j.",
  ps_pool: "R-FCN's position-sensitive pooling: rounded box and bins, the mean of score map i · P + j.",
  ps_warp: "Position-sensitive RoIWarp: a rounded box, sampled; bin (i, j) reads score map i · P + j.",
};

// Every switch: [label, kind]. The kind is a list of choices, "check" for a checkbox, or the limits of a number.
const SWITCHES = {
  box_rounding: ["Box rounded (round: to cells)", ["none", "round", "pixel"]],
  plus_one: ["+1: include the last cell", "check"],
  offset: ["Offset, cells (half pixel: 0.5)", { min: -1, max: 1, step: 0.25 }],
  min_width: ["Minimum width, cells", ["none", "0", "0.1", "1"]],
  bin_rounding: ["Bins rounded to cells", "check"],
  sampling_ratio: ["Samples per bin and axis (0: one per cell)", { min: 0, max: 8, step: 1 }],
  sample_position: ["Sample position", ["centre", "corner", "thirds"]],
  border: ["Border of the map", ["align", "mnc", "inner"]],
  reduction: ["Reduction", ["avg", "max"]],
};

class Panel {
  // names: the operators to choose from. act: functions that change the page's state (see Explorer).
  constructor(index, names, act) {
    this.act = act;
    this.index = index;
    this.root = document.createElement("section");
    this.root.className = "panel";
    this.root.innerHTML = Panel.markup(index, names);
    this.part = (name) => this.root.querySelector(`[data-part="${name}"]`);
    this.wireChoices();
    new Pointer(this, act);
  }

  static markup(index, names) {
    const side = ["First", "Second"][index];
    const corner = ["top left", "top right", "bottom right", "bottom left"];
    const handles = corner.map((name, k) => `<g class="handle${k % 2 ? " across" : ""}" data-corner="${k}" tabindex="0" role="slider"`
      + ` aria-label="${side} panel: ${name} corner of the box"><circle class="reach" r="18"/><circle class="grip" r="6.5"/></g>`).join("");
    return `<div class="panel-head"><select data-part="operator" aria-label="${side} operator">
      ${names.map((name) => `<option>${name}</option>`).join("")}</select><span class="changed" data-part="changed"></span></div>
      <p class="purpose" data-part="purpose"></p>
      <div class="stage" data-part="stage"><canvas data-part="canvas" aria-hidden="true"></canvas><svg data-part="svg">
        <defs><pattern id="hatch-${index}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect width="6" height="6" class="hatch-ground"/><path d="M0 0V6" class="hatch"/></pattern></defs>
        <g data-part="back"></g><rect class="box-halo" data-part="halo"/>
        <rect class="box-line" data-part="box" tabindex="0" role="slider" aria-label="${side} panel: the box"/>
        <g data-part="front" pointer-events="none"></g>${handles}</svg></div>
      <div class="under"><div><div class="caption">Pooled values, ${"P × P"}</div><div class="heat" data-part="heat"></div></div>
        <table class="facts" data-part="facts"></table></div>
      <div class="sample"><div class="sample-head"><span data-part="sample-name"></span><span><button type="button" data-part="before"
        aria-label="Previous sample">‹</button> <button type="button" data-part="after" aria-label="Next sample">›</button></span></div>
        <div data-part="sample"></div></div>
      <details><summary>Switches</summary><div class="switches" data-part="switches"></div></details>`;
  }

  wireChoices() {
    this.part("operator").addEventListener("change", (event) => this.act.operator(this.index, event.target.value));
    this.part("before").addEventListener("click", () => this.step(-1));
    this.part("after").addEventListener("click", () => this.step(1));
    const select = (event) => {
      const { row, column } = event.target.dataset;
      if (row !== undefined) this.act.select({ row: +row, column: +column, i: 0, j: 0 });
    };
    this.part("heat").addEventListener("pointerover", select);
    this.part("heat").addEventListener("click", select);
    for (const [name, [label, kind]] of Object.entries(SWITCHES)) this.part("switches").append(this.control(name, label, kind));
  }

  control(name, label, kind) {
    const holder = document.createElement("label");
    holder.className = kind === "check" ? "check" : "field";
    let input = document.createElement("input");
    if (Array.isArray(kind)) {
      input = document.createElement("select");
      input.innerHTML = kind.map((value) => `<option>${value}</option>`).join("");
    } else if (kind === "check") input.type = "checkbox";
    else Object.assign(input, { type: "number", ...kind });
    input.dataset.switch = name;
    holder.append(...(kind === "check" ? [input, label] : [label, input]));
    input.addEventListener("change", () => this.act.switch(this.index, name, this.valueOf(input, name, kind)));
    return holder;
  }

  valueOf(input, name, kind) {
    if (kind === "check") return input.checked;
    if (name === "min_width") return input.value === "none" ? null : +input.value;
    return Array.isArray(kind) ? input.value : Math.min(Math.max(+input.value, kind.min), kind.max);
  }

  // Select the sample before or after the selected one.
  step(by) {
    const all = this.points;
    const at = all.findIndex((p) => Panel.same(p, this.seen.selected));
    if (all.length) this.act.select(all[(at + by + all.length) % all.length]);
  }

  static same(p, q) {
    return q !== null && p.row === q.row && p.column === q.column && p.i === q.i && p.j === q.j;
  }

  // Draw everything. seen: the result of Explorer.seen(index).
  show(seen) {
    this.seen = seen;
    this.root.style.setProperty("--op", seen.colour);
    this.part("operator").value = seen.operator;
    this.part("changed").textContent = seen.changed.length ? `changed: ${seen.changed.join(", ")}` : "";
    this.part("purpose").textContent = PURPOSES[seen.operator] ?? "";
    this.points = Draw.pointsOf(seen.reading);
    this.draw(seen);
    this.heat(seen);
    this.facts(seen);
    this.sample(seen);
    for (const input of this.part("switches").querySelectorAll("[data-switch]")) this.fill(input, seen.switches);
  }

  fill(input, switches) {
    const value = switches[input.dataset.switch];
    if (input.type === "checkbox") input.checked = value;
    else Draw.refill(input, value === null ? "none" : value);
    const unused = switches.bin_rounding ? ["sampling_ratio", "sample_position"] : [];
    input.disabled = unused.includes(input.dataset.switch) || (switches.position_sensitive && input.dataset.switch === "reduction");
  }

  draw(seen) {
    const available = this.part("stage").parentElement.clientWidth - 2 * parseFloat(getComputedStyle(this.root).paddingLeft);
    const width = Math.round(Math.min(available, 600 * seen.view.width / seen.view.height));
    const size = { width, height: Math.round(width * seen.view.height / seen.view.width) };
    const f = Draw.frame(seen.view, width, seen.stride);
    this.frame = f;
    Object.assign(this.part("stage").style, { width: `${size.width}px` });
    Object.assign(this.part("canvas").style, { height: `${size.height}px` });
    Draw.background(this.part("canvas"), seen, f, size);
    const on = (layer) => seen.layers.has(layer);
    const box = seen.box.map((edge) => edge * seen.scale);
    const { reading } = seen;
    const clip = `<clipPath id="frame-${this.index}"><rect width="${size.width}" height="${size.height}"/></clipPath>`;
    this.part("back").innerHTML = `${clip}<g clip-path="url(#frame-${this.index})">${Draw.grid(f, seen.map)}${on("values") ? Draw.values(f, seen) : ""}`
      + (on("area") ? Draw.area(f, reading, box, `hatch-${this.index}`) : "")
      + (on("bins") ? Draw.bins(f, reading) : "")
      + (on("region") ? Draw.rect(f, reading.extentX, reading.extentY, "region") : "") + "</g>";
    this.part("front").innerHTML = (on("points") ? Draw.points(f, reading, this.points) : "") + this.chosen(seen, f, on("neighbours"));
    this.placeBox(f, box, seen.box);
  }

  placeBox(f, box, pixels) {
    const [x1, y1, x2, y2] = [f.x(box[0]), f.y(box[1]), f.x(box[2]), f.y(box[3])];
    for (const name of ["halo", "box"]) {
      const element = this.part(name);
      for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) element.setAttribute(key, value);
    }
    const corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];
    const edges = [[0, 1], [2, 1], [2, 3], [0, 3]];
    this.root.querySelectorAll(".handle").forEach((handle, k) => {
      handle.setAttribute("transform", `translate(${corners[k]})`);
      handle.setAttribute("aria-valuenow", pixels[edges[k][0]]);
      handle.setAttribute("aria-valuetext", `x ${pixels[edges[k][0]]}, y ${pixels[edges[k][1]]} pixels`);
    });
    this.part("box").setAttribute("aria-valuenow", pixels[0]);
    this.part("box").setAttribute("aria-valuetext", `from ${pixels[0]}, ${pixels[1]} to ${pixels[2]}, ${pixels[3]} pixels`);
  }

  // The selected sample (or bin) with its neighbours.
  chosen(seen, f, shown) {
    const point = this.points.find((p) => Panel.same(p, seen.selected));
    if (!shown || !seen.selected) return "";
    const { row, column } = seen.selected;
    const [x, y] = [seen.reading.x.bins[column], seen.reading.y.bins[row]];
    const bin = Draw.rect(f, [x.low, x.high], [y.low, y.high], "bin selected");
    return bin + (point && point.inside && !seen.switches.bin_rounding ? Draw.neighbours(f, this.cells(point), point) : "");
  }

  // The four cells that a sample reads, with their weights and values.
  cells(point) {
    const { reading, map, channelOf } = this.seen;
    const x = reading.x.bins[point.column].points[point.j];
    const y = reading.y.bins[point.row].points[point.i];
    const channel = channelOf(point.row, point.column);
    const four = [[y.low, x.low, (1 - y.weight) * (1 - x.weight)], [y.low, x.high, (1 - y.weight) * x.weight],
      [y.high, x.low, y.weight * (1 - x.weight)], [y.high, x.high, y.weight * x.weight]];
    return four.map(([row, column, weight]) => ({ row, column, weight, value: map.at(channel, row, column) }));
  }

  heat(seen) {
    const heat = this.part("heat");
    const bins = seen.reading.pooled.length;
    heat.style.setProperty("--n", bins);
    heat.classList.toggle("dense", bins > 5);
    const digits = bins > 5 ? 1 : 2;
    heat.innerHTML = seen.reading.pooled.map((line, row) => line.map(({ value }, column) => {
      const { fill, ink } = Draw.grey(value, seen.range);
      const selected = seen.selected && seen.selected.row === row && seen.selected.column === column;
      const short = Draw.number(value, seen.range[1] > 2 ? digits : 2);
      const text = bins > 8 ? "" : bins > 5 ? short.replace("0.", ".") : short;
      return `<span data-row="${row}" data-column="${column}" data-value="${value}" class="${selected ? "selected" : ""}"`
        + ` style="background:${fill};color:${ink}" title="bin (${row}, ${column}): ${value.toFixed(4)}">${text}</span>`;
    }).join("")).join("");
  }

  facts(seen) {
    const { reading, areas, shift, switches } = seen;
    const n = Draw.number;
    const signed = (v) => v === null ? "–" : `${v > 0.005 ? "+" : ""}${n(v)}`.replace(/^−0\.00$/, "0.00");
    const size = (axis) => Math.max(axis.high - axis.low, 0);
    const samples = switches.bin_rounding ? "whole cells" : `${reading.y.samples} × ${reading.x.samples}`;
    const rows = [
      ["region, columns", `${n(reading.x.low)} to ${n(reading.x.high)}`, "region-x"],
      ["region, rows", `${n(reading.y.low)} to ${n(reading.y.high)}`, "region-y"],
      ["region, cells", `${n(size(reading.x))} × ${n(size(reading.y))}`, "size"],
      ["one bin, cells", `${n(reading.x.bin)} × ${n(reading.y.bin)}`, "bin"],
      ["samples per bin", samples, "samples"],
      ["area lost", `${n(100 * areas.lost, 1)} %`, "lost"],
      ["area gained", `${n(100 * areas.gained, 1)} %`, "gained"],
      ["shift, pixels", `${signed(shift[0])}, ${signed(shift[1])}`, "shift"],
    ];
    if (switches.position_sensitive) rows.push(["mean of the bins (vote)", n(seen.vote), "vote"]);
    this.part("facts").innerHTML = rows.map(([name, value, key]) => `<tr><th>${name}</th><td data-fact="${key}">${value}</td></tr>`).join("");
  }

  sample(seen) {
    const [name, body] = [this.part("sample-name"), this.part("sample")];
    if (!seen.selected) {
      name.textContent = "Samples";
      body.innerHTML = '<p class="quiet">Point at a sample or a bin to see what it reads.</p>';
      return;
    }
    const { row, column } = seen.selected;
    const many = this.points.length > Draw.MOST_POINTS ? ` (${this.points.length} samples in all: too many to draw)` : "";
    const map = seen.switches.position_sensitive ? `, score map ${seen.channelOf(row, column)}` : "";
    const point = this.points.find((p) => Panel.same(p, seen.selected));
    if (seen.switches.bin_rounding) {
      name.textContent = `Bin (${row}, ${column})${map}`;
      body.innerHTML = this.wholeCells(seen, row, column);
    } else if (!point) {
      name.textContent = `Bin (${row}, ${column})${map}`;
      body.innerHTML = `<p class="quiet">This bin has no sample with the selected index.</p>`;
    } else {
      name.textContent = `Bin (${row}, ${column}), sample (${point.i}, ${point.j})${map}${many}`;
      body.innerHTML = this.interpolation(seen, point);
    }
  }

  wholeCells(seen, row, column) {
    const [x, y] = [seen.reading.x.bins[column], seen.reading.y.bins[row]];
    const bin = seen.reading.pooled[row][column];
    const count = x.points.length * y.points.length;
    if (!count) return "<p>The bin contains no cell of the map, so its value is 0.</p>";
    const where = `<p>Reads columns ${x.low} to ${x.high - 1} and rows ${y.low} to ${y.high - 1}: ${count} whole cells.</p>`;
    if (!bin.winner) return `${where}<p>The mean is <b>${Draw.number(bin.value, 3)}</b>.</p>`;
    return `${where}<p>The largest is <b>${Draw.number(bin.value, 3)}</b>, in column ${x.low + bin.winner[1]}, row ${y.low + bin.winner[0]}.</p>`;
  }

  interpolation(seen, point) {
    const n = Draw.number;
    const place = `<p>At column ${n(point.x)}, row ${n(point.y)} on the map; ${n(point.x - 0.5)}, ${n(point.y - 0.5)} in code.</p>`;
    if (!point.inside) return `${place}<p>This is outside the map, so the sample is 0.</p>`;
    const cells = this.cells(point);
    const lines = cells.map((c) => `<tr><td>${c.column}, ${c.row}</td><td>${c.weight.toFixed(3)}</td><td>${n(c.value, 3)}</td><td>${n(c.weight * c.value, 3)}</td></tr>`);
    const sum = cells.reduce((total, c) => total + c.weight * c.value, 0);
    return `${place}<table><tr><th>column, row</th><th>weight</th><th>value</th><th>product</th></tr>${lines.join("")}`
      + `<tr class="sum"><td></td><td></td><td></td><td data-fact="sample-value">${n(sum, 3)}</td></tr></table>`;
  }
}
