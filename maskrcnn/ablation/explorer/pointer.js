// Mouse, touch and keyboard input on the drawing of a panel.
"use strict";

class Pointer {
  static EDGES = [[0, 1], [2, 1], [2, 3], [0, 3]]; // the edges of the box that each corner moves
  static ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  constructor(panel, act) {
    this.panel = panel;
    this.act = act;
    this.drag = null;
    const svg = panel.part("svg");
    svg.addEventListener("pointermove", (event) => this.moved(event));
    svg.addEventListener("pointerdown", (event) => this.pressed(event));
    for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => this.released());
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  // The edges that an element moves: those of its corner, or all four of the box.
  edgesOf(element) {
    const corner = element.closest("[data-corner]");
    if (corner) return Pointer.EDGES[corner.dataset.corner];
    return element === this.panel.part("box") ? [0, 1, 2, 3] : null;
  }

  pressed(event) {
    this.selectNear(event);
    const edges = this.edgesOf(event.target);
    if (!edges || event.button !== 0) return;
    event.preventDefault();
    (event.target.closest("[data-corner]") ?? event.target).focus({ focusVisible: false });
    event.target.setPointerCapture(event.pointerId);
    this.drag = { edges, x: event.clientX, y: event.clientY, box: this.act.box(), k: this.panel.frame.k };
    this.act.dragging(true);
  }

  moved(event) {
    if (!this.drag) {
      this.selectNear(event);
      return;
    }
    const { edges, box, k } = this.drag;
    const by = [(event.clientX - this.drag.x) / k, (event.clientY - this.drag.y) / k];
    this.act.move(box, edges, by);
  }

  released() {
    if (!this.drag) return;
    this.drag = null;
    this.act.dragging(false);
  }

  key(event) {
    const arrow = Pointer.ARROWS[event.key];
    const edges = this.edgesOf(event.target);
    if (!arrow || !edges) return;
    event.preventDefault();
    const unit = this.act.unit();
    this.act.move(this.act.box(), event.shiftKey ? [2, 3] : edges, arrow.map((step) => step * unit));
  }

  // Select the sample under the pointer.
  selectNear(event) {
    const { panel } = this;
    const area = panel.part("svg").getBoundingClientRect();
    const [px, py] = [event.clientX - area.left, event.clientY - area.top];
    let [best, found] = [14 ** 2, null];
    for (const point of panel.points) {
      const distance = (panel.frame.x(point.x) - px) ** 2 + (panel.frame.y(point.y) - py) ** 2;
      if (distance < best) [best, found] = [distance, point];
    }
    if (found) this.act.select(found);
  }
}
