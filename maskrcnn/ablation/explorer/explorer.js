// The page's state, the functions that change it, and the rendering of the page.
"use strict";

const Explorer = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const part = (id) => document.getElementById(id);
  const STEPS = Pictures.SHIFT_STEPS;
  const LAYERS = ["region", "bins", "points", "neighbours", "area"];
  const pictures = {};
  const maps = new Map();
  const state = {
    picture: null, // see Pictures
    unit: 1, // smallest movement of the box, in pixels
    box: null, // x1, y1, x2, y2 in pixels
    object: null, // box that the position-sensitive maps are made for
    map: "brightness", // or "ramp", or the name of a network
    stride: 32,
    bins: 3,
    moved: 0, // image and box, in sixteenths of a cell
    panels: [], // { operator, switches }
    selected: { row: 0, column: 0, i: 0, j: 0 },
    layers: new Set(LAYERS),
    showMap: false,
    zoom: false,
    example: null, // { name, step }
    edited: false, // whether the user changed the example's step
  };
  let panels = [];
  let frozenView = null; // the view while the box is dragged
  let scheduled = false;

  // ---- reading the state ----

  // Maps of the current network at the current stride, one for each position of the image.
  function networkMaps() {
    const entry = data.maps.find(({ name, stride }) => name === state.map && stride === state.stride);
    return entry.decoded ??= Pictures.decode(entry);
  }

  function isNetwork() {
    return !["brightness", "ramp"].includes(state.map);
  }

  // Positions of the slider for which there are maps.
  function positions() {
    const every = isNetwork() ? STEPS / (networkMaps().length - 1) : 1;
    return Array.from({ length: STEPS / every + 1 }, (_, k) => k * every);
  }

  function mapOf(switches, moved) {
    const { picture, stride } = state;
    if (switches.position_sensitive) return Pictures.partMaps(picture, stride, moved / STEPS, state.bins, state.object);
    const key = [picture.name, picture.width, picture.height, state.map, stride, moved].join();
    if (!maps.has(key)) maps.set(key, makeMap(moved));
    return maps.get(key);
  }

  function makeMap(moved) {
    if (state.map === "brightness") return Pictures.brightnessMap(state.picture, state.stride, moved / STEPS);
    if (state.map === "ramp") return Pictures.rampMap(state.picture, state.stride, moved / STEPS);
    const all = networkMaps();
    return all[moved * (all.length - 1) / STEPS];
  }

  function movedBox(moved) {
    const by = moved / STEPS * state.stride;
    return [state.box[0] + by, state.box[1], state.box[2] + by, state.box[3]];
  }

  function read(index, moved) {
    const { switches } = state.panels[index];
    return RoIGeometry.read(mapOf(switches, moved), movedBox(moved), 1 / state.stride, state.bins, switches);
  }

  function values(index, moved) {
    return read(index, moved).pooled.flat().map((bin) => bin.value);
  }

  // Change of the pooled features in percent of the map's range, for every position of the slider; null without a map.
  function curve(index) {
    const still = values(index, 0);
    const range = Draw.range(mapOf(state.panels[index].switches, 0), 0);
    const known = new Set(positions());
    return Array.from({ length: STEPS + 1 }, (_, k) => known.has(k) ? RoIGeometry.change(still, values(index, k), range) : null);
  }

  function view(map) {
    if (frozenView) return frozenView;
    const whole = { x: 0, y: 0, width: map.width * state.stride, height: map.height * state.stride };
    if (!state.zoom) return whole;
    const [x1, y1, x2, y2] = movedBox(state.moved);
    const margin = 1.6 * state.stride;
    return { x: x1 - margin, y: y1 - margin, width: x2 - x1 + 2 * margin, height: y2 - y1 + 2 * margin };
  }

  // Everything that panel `index` shows.
  function seen(index) {
    const { operator, switches } = state.panels[index];
    const map = mapOf(switches, state.moved);
    const [box, scale] = [movedBox(state.moved), 1 / state.stride];
    const reading = read(index, state.moved);
    const channelOf = (row, column) => switches.position_sensitive ? row * state.bins + column : 0;
    const channel = channelOf(state.selected.row, state.selected.column);
    const own = data.operators[operator];
    const all = reading.pooled.flat();
    return {
      operator, switches, map, box, scale, channel, channelOf,
      reading: { ...reading, extentX: RoIGeometry.extent(reading.x, switches.bin_rounding), extentY: RoIGeometry.extent(reading.y, switches.bin_rounding) },
      range: Draw.range(map, channel),
      areas: RoIGeometry.areas(box, scale, reading, switches),
      shift: [RoIGeometry.shift(reading.x, box[0], box[2], scale), RoIGeometry.shift(reading.y, box[1], box[3], scale)],
      vote: all.reduce((sum, bin) => sum + bin.value, 0) / all.length,
      changed: Object.keys(own).filter((name) => own[name] !== switches[name]),
      colour: data.colours[operator],
      view: view(map),
      picture: state.picture,
      movedPixels: state.moved / STEPS * state.stride,
      stride: state.stride,
      bins: state.bins,
      selected: state.selected,
      layers: state.layers,
      showMap: state.showMap,
    };
  }

  // ---- changing the state ----

  // Change parts of the state. An edit by the user ends the current example.
  function set(changes, edit = true) {
    Object.assign(state, changes);
    if (edit && state.example) state.edited = true;
    const { row, column } = state.selected;
    if (Math.max(row, column) >= state.bins) state.selected = { row: 0, column: 0, i: 0, j: 0 };
    if (!positions().includes(state.moved)) state.moved = 0;
    if (!scheduled) requestAnimationFrame(render);
    scheduled = true;
  }

  function panel(operator, changes = {}) {
    return { operator, switches: { ...data.operators[operator], ...changes } };
  }

  function setPanel(index, value) {
    set({ panels: state.panels.map((old, k) => k === index ? value : old) });
  }

  const snap = (value) => Number((Math.round(value / state.unit) * state.unit).toFixed(6));

  // The box with some edges moved by [x, y] pixels, inside the picture and at least one unit large.
  function moveBox(box, edges, by) {
    const limits = [state.picture.width, state.picture.height];
    const step = by.map(snap);
    if (edges.length === 4) {
      step.forEach((d, axis) => { step[axis] = Math.min(Math.max(d, -box[axis]), limits[axis] - box[axis + 2]); });
    }
    const moved = [...box];
    for (const edge of edges) {
      const axis = edge % 2;
      const [low, high] = edge < 2 ? [0, box[edge + 2] - state.unit] : [box[edge - 2] + state.unit, limits[axis]];
      const free = edges.length === 4 ? [-Infinity, Infinity] : [low, high];
      moved[edge] = Number(Math.min(Math.max(box[edge] + step[axis], free[0]), free[1]).toFixed(6));
    }
    set({ box: moved });
  }

  const act = {
    operator: (index, name) => setPanel(index, panel(name)),
    switch: (index, name, value) => setPanel(index, { ...state.panels[index], switches: { ...state.panels[index].switches, [name]: value } }),
    select: ({ row, column, i, j }) => set({ selected: { row, column, i, j } }, false),
    box: () => [...state.box],
    unit: () => state.unit,
    move: moveBox,
    dragging: (on) => { frozenView = on ? panels[0].seen.view : null; set({}, false); },
  };

  function generated(width, height, box) {
    return pictures[[width, height, ...box]] ??= Pictures.generated(width, height, box);
  }

  // The state when the page opens: the user's own box on the photograph or on the generated picture.
  function free() {
    const { start } = data;
    set({
      picture: pictures.photograph ?? generated(start.width, start.height, start.box), unit: 1, box: start.box, object: start.box,
      map: data.maps.length ? data.maps[0].name : "brightness", stride: start.stride, bins: start.bins, moved: 0,
      panels: start.operators.map((name) => panel(name)), layers: new Set(LAYERS), zoom: false, example: null,
      showMap: false, selected: { row: 0, column: 0, i: 0, j: 0 },
    });
  }

  function example(name, step) {
    const e = Examples[name];
    const { show, select, moved } = e.steps[step];
    set({
      picture: generated(...e.picture, e.box), unit: e.unit, box: e.box, object: e.box, map: e.map, stride: e.stride,
      bins: e.bins, moved: Math.round((moved ?? 0) * STEPS), panels: e.panels.map(([operator, changes]) => panel(operator, changes)),
      layers: new Set([...show.split(" "), ...(e.map === "ramp" ? ["values"] : [])]), zoom: Boolean(e.zoom) && step > 0,
      showMap: e.map === "ramp", selected: select ?? { row: 0, column: 0, i: 0, j: 0 }, example: { name, step }, edited: false,
    }, false);
  }

  // ---- rendering ----

  function sentence() {
    const e = Examples[state.example.name];
    if (state.edited) return "You changed the example, so its sentences no longer fit. Press the example's name to start again.";
    const [a, b] = [seen(0), seen(1)];
    const [changeA, changeB] = [curve(0)[state.moved], curve(1)[state.moved]];
    return e.steps[state.example.step].text({
      a: a.reading, b: b.reading, s: state, areaA: a.areas, areaB: b.areas, shiftA: a.shift, shiftB: b.shift, changeA, changeB,
    });
  }

  function renderWalk() {
    for (const button of part("examples").children) button.setAttribute("aria-pressed", (button.dataset.name || null) === (state.example?.name ?? null));
    part("walk").hidden = !state.example;
    if (!state.example) return;
    const { name, step } = state.example;
    const count = Examples[name].steps.length;
    part("about").textContent = Examples[name].about;
    part("step").innerHTML = sentence();
    part("step-count").textContent = `step ${step + 1} of ${count}`;
    part("previous-step").disabled = state.edited || step === 0;
    part("next-step").disabled = state.edited || step === count - 1;
  }

  function strides() {
    const usual = isNetwork() ? data.maps.filter((entry) => entry.name === state.map).map((entry) => entry.stride) : [4, 8, 16, 32];
    return usual.includes(state.stride) ? usual : [state.stride, ...usual];
  }

  function mapNames() {
    const names = [["brightness", "brightness"], ["ramp", "column + 10 row"]];
    return state.picture.name === "photograph" ? [...names, ...new Set(data.maps.map((entry) => entry.name))].map((n) => [n].flat()) : names;
  }

  function renderControls() {
    ["x1", "y1", "x2", "y2"].forEach((id, k) => {
      part(id).step = state.unit;
      Draw.refill(part(id), state.box[k]);
    });
    part("stride").innerHTML = strides().map((s) => `<option value="${s}">${s}</option>`).join("");
    part("stride").value = state.stride;
    Draw.refill(part("bins"), state.bins);
    part("map").innerHTML = mapNames().map(([name, label]) => `<option value="${name}">${label ?? `network ${name}`}</option>`).join("");
    part("map").value = state.map;
    part("show-map").value = state.showMap ? "map" : "picture";
    part("zoom").checked = state.zoom;
    for (const input of document.querySelectorAll("[data-layer]")) input.checked = state.layers.has(input.dataset.layer);
  }

  function renderMoving() {
    const known = positions();
    Object.assign(part("moved"), { step: known[1] - known[0], value: state.moved });
    part("moved-text").textContent = `${Draw.number(state.moved / STEPS)} cells, ${Draw.number(state.moved / STEPS * state.stride)} pixels`;
    const lines = state.panels.map((p, k) => ({ colour: data.colours[p.operator], values: curve(k), dashed: k === 1 && p.operator === state.panels[0].operator }));
    const text = lines.map((line, k) => {
      const value = Draw.number(line.values[state.moved], 1);
      return `<b style="--op:${line.colour}">${state.panels[k].operator}</b> <span data-change="${k}">${value} %</span>`;
    });
    part("change-text").innerHTML = `Change of the pooled features, in percent of the map's range: ${text.join(" and ")}.`;
    const { height, svg } = Draw.curves(part("curves").clientWidth, lines, state.moved, STEPS);
    part("curves").setAttribute("height", height);
    part("curves").innerHTML = svg;
  }

  function render() {
    scheduled = false;
    renderControls();
    panels.forEach((p, index) => p.show(seen(index)));
    renderMoving();
    renderWalk();
  }

  function wire() {
    document.addEventListener("input", ({ target }) => { target.dataset.edited = ""; }, true);
    for (const done of ["change", "focusout"]) {
      document.addEventListener(done, ({ target }) => { delete target.dataset?.edited; }, true);
    }
    part("examples").innerHTML = `<button type="button" data-name="">Your own box</button>`
      + Object.entries(Examples).map(([name, e]) => `<button type="button" data-name="${name}">${e.name}</button>`).join("");
    part("examples").addEventListener("click", ({ target }) => {
      if (target.dataset.name === undefined) return;
      if (target.dataset.name) example(target.dataset.name, 0);
      else free();
    });
    part("next-step").addEventListener("click", () => example(state.example.name, state.example.step + 1));
    part("previous-step").addEventListener("click", () => example(state.example.name, state.example.step - 1));
    ["x1", "y1", "x2", "y2"].forEach((id, edge) => part(id).addEventListener("change", (event) => {
      const by = event.target.value === "" ? 0 : event.target.valueAsNumber - state.box[edge];
      moveBox(act.box(), [edge], [by, by]);
    }));
    const on = (id, changed, edit = true) => part(id).addEventListener(id === "moved" ? "input" : "change", ({ target }) => set(changed(target), edit));
    on("stride", (input) => ({ stride: +input.value }));
    on("bins", (input) => ({ bins: Math.min(Math.max(Math.round(input.value) || 1, 1), 14) }));
    on("map", (input) => chosenMap(input.value));
    on("moved", (input) => ({ moved: +input.value }));
    on("show-map", (input) => ({ showMap: input.value === "map" }), false);
    on("zoom", (input) => ({ zoom: input.checked }), false);
    for (const input of document.querySelectorAll("[data-layer]")) {
      input.addEventListener("change", () => set({ layers: new Set([...document.querySelectorAll("[data-layer]:checked")].map((i) => i.dataset.layer)) }, false));
    }
    new ResizeObserver(() => set({}, false)).observe(part("panels"));
  }

  // If a network has no map at the current stride, its first stride is selected.
  function chosenMap(name) {
    const own = data.maps.filter((entry) => entry.name === name).map((entry) => entry.stride);
    return { map: name, stride: !own.length || own.includes(state.stride) ? state.stride : own[0] };
  }

  async function start() {
    if (data.picture) pictures.photograph = await Pictures.photograph(data.picture);
    panels = [0, 1].map((index) => new Panel(index, Object.keys(data.operators), act));
    part("panels").append(...panels.map((p) => p.root));
    free();
    wire();
  }

  const started = start();
  return { set, seen, curve, started };
})();
