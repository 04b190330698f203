// The flame graph, or icicle: one canvas, of which only frames that can be seen are drawn.

const ROW = 18;
// Pixels below which a frame is not drawn.
const NARROW = 0.3;
// Rows drawn before anything is zoomed to, and the most that a canvas can be high.
const ROWS_AT_FIRST = 72;
const ROWS_AT_MOST = 1500;

class Graph {
  constructor(canvas, ring, events) {
    this.canvas = canvas;
    this.ring = ring;
    this.events = events;
    this.zoom = 0;
    this.selected = null;
    this.hovered = null;
    this.rows = [];
    canvas.addEventListener("mousemove", (event) => this.#hover(this.#at(event), event));
    canvas.addEventListener("mouseleave", () => this.#hover(null, null));
    canvas.addEventListener("click", (event) => {
      const node = this.#at(event);
      if (node !== null) this.zoomTo(node);
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#mark());
    canvas.addEventListener("focus", () => this.#mark());
  }

  show({ tree, icicle, matches }) {
    const path = this.tree ? this.tree.path(this.zoom).map((node) => this.tree.frame[node]) : [];
    if (tree !== this.tree) {
      this.tree = tree;
      this.zoom = tree.find(path);
      this.selected = null;
      this.hovered = null;
    }
    this.icicle = icicle;
    this.matches = matches;
    this.layOut();
    this.draw();
  }

  zoomTo(node) {
    this.zoom = node;
    this.selected = node;
    this.hovered = null;
    this.layOut();
    this.draw();
    this.events.zoomed(node);
  }

  // Where each frame goes, row by row, left to right.
  layOut() {
    performance.mark("kleak:layout");
    const { tree, zoom } = this;
    const width = Math.max(this.canvas.parentElement.clientWidth, 200);
    const most = zoom === 0 ? ROWS_AT_FIRST : ROWS_AT_MOST;
    const rows = [];
    this.deeper = 0;
    const total = tree.value[zoom];
    const waiting = total > 0 ? [[zoom, 0, width]] : [];
    while (waiting.length > 0) {
      const [node, x, w] = waiting.pop();
      const row = tree.depth[node] - tree.depth[zoom];
      if (row >= most) {
        this.deeper += 1;
        continue;
      }
      (rows[row] ??= []).push({ node, x, w });
      let left = x;
      const below = [];
      for (const child of tree.children(node)) {
        const part = (tree.value[child] / tree.value[node]) * w;
        // The others are no wider: they are sorted.
        if (part < NARROW) break;
        below.push([child, left, part]);
        left += part;
      }
      for (let i = below.length - 1; i >= 0; i -= 1) waiting.push(below[i]);
    }
    this.rows = rows;
    this.width = width;
  }

  // Sizes the canvas, which empties it, and draws all rows.
  draw() {
    if (!this.tree) return;
    const scale = window.devicePixelRatio || 1;
    const height = Math.max(this.rows.length, 1) * ROW + 1;
    const { canvas } = this;
    canvas.width = Math.round(this.width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${this.width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const colours = KINDS.map((kind) => colour(`frame-${kind}`));
    const ink = colour("frame-ink");
    const [hit, hitInk] = [colour("hit"), colour("hit-ink")];
    pen.font = `11.5px ${colour("mono")}`;
    pen.textBaseline = "middle";
    const letter = pen.measureText("0123456789").width / 10;
    let drawn = 0;
    this.rows.forEach((frames, row) => {
      const y = this.#y(row);
      for (const { node, x, w } of frames) {
        const frame = this.tree.frame[node];
        const matches = node > 0 && this.matches !== null && this.matches(frame);
        pen.globalAlpha = this.matches !== null && !matches ? 0.35 : 1;
        pen.fillStyle = matches ? hit : node === 0 ? colours[0] : colours[frameKind(frame)];
        pen.fillRect(x, y, Math.max(w - (w > 3 ? 1 : 0), NARROW), ROW - 1);
        drawn += 1;
        if (w < 6 * letter) continue;
        pen.fillStyle = matches ? hitInk : ink;
        pen.globalAlpha = this.matches !== null && !matches ? 0.6 : 1;
        pen.fillText(this.#fit(this.tree.name(node), Math.floor((w - 9) / letter)), x + 4, y + ROW / 2);
      }
    });
    pen.globalAlpha = 1;
    this.#mark();
    canvas.dataset.frames = drawn;
    performance.measure("kleak:draw", "kleak:layout");
  }

  // A ring around what is pointed at, else around what the keyboard has reached. Of its own, since to draw
  // all frames again takes too long for each move of a pointer.
  #mark() {
    const focused = document.activeElement === this.canvas ? this.selected : null;
    const node = this.hovered ?? focused;
    const box = node === null || !this.tree ? null : this.#box(node);
    this.ring.hidden = box === null;
    if (box === null) return;
    const { style } = this.ring;
    style.left = `${box.x}px`;
    style.top = `${this.#y(box.row)}px`;
    style.width = `${Math.max(box.w - 1, 2)}px`;
    style.height = `${ROW - 1}px`;
  }

  #fit(name, letters) {
    if (letters < 2) return "";
    return name.length <= letters ? name : `${name.slice(0, letters - 1)}…`;
  }

  #y(row) {
    return (this.icicle ? row : this.rows.length - 1 - row) * ROW;
  }

  #box(node) {
    const row = this.tree.depth[node] - this.tree.depth[this.zoom];
    const found = this.rows[row]?.find((frame) => frame.node === node);
    return found ? { ...found, row } : null;
  }

  #at(event) {
    const rectangle = this.canvas.getBoundingClientRect();
    const line = Math.floor((event.clientY - rectangle.top) / ROW);
    const frames = this.rows[this.icicle ? line : this.rows.length - 1 - line] ?? [];
    const x = event.clientX - rectangle.left;
    let [low, high] = [0, frames.length - 1];
    while (low <= high) {
      const middle = (low + high) >> 1;
      const frame = frames[middle];
      if (x < frame.x) high = middle - 1;
      else if (x >= frame.x + frame.w) low = middle + 1;
      else return frame.node;
    }
    return null;
  }

  #hover(node, event) {
    this.hovered = node;
    this.#mark();
    this.events.pointed(node, event);
  }

  select(node) {
    this.selected = node;
    this.#mark();
    const box = this.#box(node);
    if (box !== null) {
      const top = this.canvas.getBoundingClientRect().top + this.#y(box.row);
      if (top < 60) window.scrollBy(0, top - 80);
      else if (top + ROW > window.innerHeight) window.scrollBy(0, top + ROW - window.innerHeight + 20);
    }
    this.events.selected(node);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = this.selected !== null && this.#box(this.selected) !== null ? this.selected : this.zoom;
    const { row } = this.#box(from) ?? { row: 0 };
    const line = this.rows[row] ?? [];
    const place = line.findIndex((frame) => frame.node === from);
    const outwards = () => this.rows[row + 1]?.find((frame) => this.tree.parent[frame.node] === from)?.node;
    const inwards = () => (from === this.zoom ? undefined : this.tree.parent[from]);
    const to = {
      ArrowUp: () => (this.icicle ? inwards() : outwards()),
      ArrowDown: () => (this.icicle ? outwards() : inwards()),
      ArrowLeft: () => line[place - 1]?.node,
      ArrowRight: () => line[place + 1]?.node,
      Home: () => this.zoom,
    }[event.key];
    if (to) {
      event.preventDefault();
      this.select(this.selected === null && event.key !== "Home" ? from : to() ?? from);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.zoomTo(from);
    }
  }
}
