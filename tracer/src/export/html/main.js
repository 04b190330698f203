// What the reader has chosen, and everything that follows from it.

const get = (id) => document.getElementById(id);

const state = {
  measure: "bytes",
  grouping: "pod",
  icicle: false,
  book: DATA.book,
  // Only this row of the owners' table.
  only: null,
  matches: null,
};

let rows = [];
let tree = null;
let total = new Sums();
let searching = 0;

const inBook = () => SAMPLES.filter((sample) => sample.book === state.book);
const isShown = (sample) =>
  state.only === null || (sample.owner === state.only.owner && sample.cache === state.only.cache);

// The column of the tree that is drawn: of growth only what grows has a width.
const column = () => (state.measure === "growth" ? "up" : state.measure);

function inWords(value) {
  return { bytes: size, objects: (n) => counted(n, "object"), growth: (n) => `${size(n)}/s` }[state.measure](value);
}

// ---- The graph

const tooltip = get("tooltip");
const graph = new Graph(get("graph"), get("ring"), {
  zoomed: () => {
    tooltip.hidden = true;
    crumbs();
    matchedShare();
    get("status").textContent = oneLine(graph.zoom);
    notes();
  },
  pointed: (node, event) => {
    tooltip.hidden = node === null;
    if (node !== null) {
      tooltip.replaceChildren(...facts(node));
      place(event);
    }
  },
  selected: (node) => {
    get("status").textContent = oneLine(node);
  },
});

// Beside the pointer, inside the window.
function place(event) {
  const room = 14;
  const { offsetWidth: w, offsetHeight: h } = tooltip;
  const x = event.clientX + room + w > window.innerWidth ? event.clientX - room - w : event.clientX + room;
  const y = event.clientY + room + h > window.innerHeight ? event.clientY - room - h : event.clientY + room;
  tooltip.style.left = `${Math.max(x, 4)}px`;
  tooltip.style.top = `${Math.max(y, 4)}px`;
}

function growthOf(node) {
  const [net, up] = [tree.growth[node], tree.up[node]];
  if (net === null) return "growth unknown";
  const less = up - net > 0.5 ? ` (${size(up)}/s by what grows, less ${size(up - net)}/s by what shrinks)` : "";
  return `growth ${size(net)}/s${less}`;
}

function shares(node) {
  const whole = tree.value[0];
  const of = { bytes: "", objects: "", growth: " of what grows" }[state.measure];
  const all = `${percent(tree.value[node] / whole)}${of} of ${state.only ? "the owner chosen" : DATA.books[state.book]}`;
  const zoomed = graph.zoom > 0 && node !== graph.zoom;
  return zoomed ? `${all}; ${percent(tree.value[node] / tree.value[graph.zoom])} of the frame zoomed to` : all;
}

function facts(node) {
  const estimated = tree.estimated[node];
  const kind = node === 0 ? DATA.books[state.book] : KIND_NAMES[frameKind(tree.frame[node])];
  const lines = [
    element("b", "", tree.name(node)),
    element("span", "dim", kind),
    element("span", "", `${about(estimated, count(tree.bytes[node]))} bytes (${size(tree.bytes[node])})`),
    element("span", "", about(estimated, counted(tree.objects[node], "object"))),
    element("span", "", about(tree.doubtful[node], shares(node))),
    element("span", "", about(tree.growthEstimated[node], growthOf(node))),
  ];
  if (estimated) {
    const from = DATA.sampled ? "a fraction of the objects" : "a sample of the stacks";
    lines.push(element("span", "warn", `estimated from ${from}`));
  } else if (tree.growthEstimated[node]) {
    lines.push(element("span", "warn", "growth divided among the stacks of a function by what they hold"));
  }
  return lines;
}

function oneLine(node) {
  return facts(node).map((part) => part.textContent).join(" · ");
}

function crumbs() {
  const path = [0, ...tree.path(graph.zoom)];
  // The root, and the end of a long way.
  const shown = path.length > 7 ? [path[0], null, ...path.slice(-5)] : path;
  get("crumbs").replaceChildren(...shown.map((node) => {
    if (node === null) return element("li", "dim", "…");
    if (node === graph.zoom) {
      const here = element("li", "", tree.name(node));
      here.setAttribute("aria-current", "true");
      return here;
    }
    const button = element("button", "", tree.name(node));
    button.type = "button";
    button.addEventListener("click", () => graph.zoomTo(node));
    return element("li", "", button);
  }));
  get("reset").hidden = graph.zoom === 0;
  const sum = about(tree.doubtful[graph.zoom], inWords(tree.value[graph.zoom]));
  get("sum").textContent = sum;
}

// What the picture does not show, said beside it.
function notes() {
  const said = [];
  if (state.measure === "growth") {
    const shrinks = tree.growth[0] === null ? null : tree.growth[0] - tree.up[0];
    if (tree.growth[0] === null) said.push("Growth of some or all is unknown: too few points in time.");
    else if (shrinks < -0.5) said.push(`Only what grows has a width; what shrinks, by ${size(-shrinks)}/s, has none.`);
  }
  if (tree.value[graph.zoom] === 0) said.push("Nothing to draw by this measure.");
  if (graph.deeper > 0) said.push(`${counted(graph.deeper, "frame")} further out: zoom in to see them.`);
  if (DATA.folded_stacks > 0) {
    said.push(`${counted(DATA.folded_stacks, "small stack")} folded into “[… more stacks]”, to bound the size of this file.`);
  }
  get("notes").textContent = said.join(" ");
  get("notes").hidden = said.length === 0;
}

// ---- Search

// A test of names: a regular expression between slashes, else a part of the name in any case.
function compile(query) {
  const pattern = /^\/(.*)\/(i?)$/s.exec(query);
  if (pattern) {
    const expression = new RegExp(pattern[1], `${pattern[2]}u`);
    return (name) => expression.test(name);
  }
  const lower = query.toLowerCase();
  return (name) => name.toLowerCase().includes(lower);
}

function search() {
  const query = get("search").value;
  const problem = get("problem");
  problem.textContent = "";
  get("search").removeAttribute("aria-invalid");
  state.matches = null;
  // A pattern that is still being written is none yet.
  if (query !== "" && query !== "/") {
    try {
      const test = compile(query);
      const strings = DATA.strings.map(test);
      const frames = DATA.frames.map(([, name]) => strings[name]);
      // A call path matches by any of its frames: those above it come first.
      const nodes = DATA.nodes.frame.map(() => false);
      for (let node = 1; node < nodes.length; node += 1) {
        nodes[node] = nodes[DATA.nodes.parent[node]] || frames[DATA.nodes.frame[node]];
      }
      const owners = DATA.owners.map((owner) =>
        strings[owner.name] || strings[owner.place ?? -1] || frames[owner.cgroup] || owner.roots.some((f) => frames[f]));
      const caches = DATA.caches.map((cache) => frames[cache.frame]);
      state.matches = {
        frame: (frame) => frames[frame],
        sample: (sample) => owners[sample.owner] || caches[sample.cache] || nodes[sample.node],
      };
    } catch (error) {
      problem.textContent = error.message;
      get("search").setAttribute("aria-invalid", "true");
    }
  }
  refresh();
  tables();
}

function matchedShare() {
  const { matches } = state;
  if (matches === null) {
    get("matched").textContent = "";
    return;
  }
  const { sum, estimated } = tree.matched(graph.zoom, matches.frame);
  const part = tree.value[graph.zoom] > 0 ? sum / tree.value[graph.zoom] : 0;
  get("matched").textContent = `matched ${about(estimated, `${percent(part)} · ${inWords(sum)}`)}`;
}

// ---- Tables

function small(main, detail) {
  return element("span", "name", main, detail ? element("small", "dim", detail) : null);
}

function copyButton(text) {
  const button = element("button", "copy", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      // Where a page from a file may not use the clipboard.
      const area = element("textarea");
      area.value = text();
      document.body.append(area);
      area.select();
      copied = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = copied ? "Copied" : "Cannot copy";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

const figures = [
  {
    key: "objects", title: "Objects", value: (row) => row.objects,
    cell: (row) => about(row.estimated, count(row.objects)),
  },
  {
    key: "bytes", title: "Bytes", value: (row) => row.bytes,
    cell: (row) => about(row.estimated, size(row.bytes)),
    exact: (row) => `${about(row.estimated, count(row.bytes))} bytes`,
  },
  {
    key: "growth", title: "Growth", value: (row) => row.growth,
    cell: (row) => (row.growth === null ? element("span", "dim", "unknown") : about(row.growthEstimated, rate(row.growth))),
    exact: (row) => (row.growth === null ? "too few points in time" : `${about(row.growthEstimated, count(row.growth))} bytes a second`),
  },
  {
    key: "share", title: "Share", value: (row) => row.bytes,
    cell: (row) => about(row.estimated, percent(total.bytes > 0 ? row.bytes / total.bytes : 0)),
    exact: () => `of the bytes of ${DATA.books[state.book]}`,
  },
  { key: "trend", title: "Over the window", text: true, cell: (row) => sparkline(row.trend) },
];

const owners = new Table(get("owners"), [
  {
    key: "owner", title: "Owner", text: true, value: (row) => ownerName(row.owner),
    cell: (row) => {
      const button = element("button", "link", ownerName(row.owner));
      button.type = "button";
      button.title = "Draw only this owner";
      button.setAttribute("aria-pressed", String(row.chosen === true));
      button.addEventListener("click", () => choose(row));
      const doubt = row.unfollowed > 0 ? `‡ ${count(row.unfollowed)} may have been freed unseen` : "";
      return small(button, [ownerPlace(row.owner), doubt].filter(Boolean).join(" · "));
    },
  },
  { key: "cache", title: "Cache", text: true, value: (row) => cacheName(row.cache), cell: (row) => cacheName(row.cache) },
  ...figures,
], "bytes");

const stacks = new Table(get("stacks"), [
  {
    key: "stack", title: "Stack, innermost function first", text: true, value: (row) => row.subject,
    cell: (row) => {
      const full = element("details", "stack", element("summary", "", row.subject));
      // Made when it is opened: there may be thousands.
      full.addEventListener("toggle", () => {
        if (full.childElementCount === 1) full.append(element("pre", "", stackLines(row.sample).join("\n")));
      });
      return full;
    },
  },
  {
    key: "owner", title: "Owner", text: true, value: (row) => ownerName(row.sample.owner),
    cell: (row) => small(ownerName(row.sample.owner), cacheName(row.sample.cache)),
  },
  ...figures,
  {
    key: "copy", title: "", text: true,
    cell: (row) => copyButton(() => `${ownerName(row.sample.owner)} ${cacheName(row.sample.cache)} ` +
      `${about(row.estimated, `${row.bytes} bytes`)}\n${stackLines(row.sample).join("\n")}\n`),
  },
], "bytes");

function choose(row) {
  const same = state.only !== null && state.only.owner === row.owner && state.only.cache === row.cache;
  state.only = same ? null : { owner: row.owner, cache: row.cache };
  graph.zoom = 0;
  rebuild();
  tables();
}

const stackRow = (sample) => {
  sample.row ??= Object.assign(new Sums().add(sample), { sample, subject: subject(sample) });
  return sample.row;
};

function tables() {
  const { matches, only } = state;
  const samples = inBook();
  total = samples.reduce((sum, sample) => sum.add(sample), new Sums());
  const matching = matches === null ? samples : samples.filter(matches.sample);
  const found = new Set(matching.map((sample) => `${sample.owner} ${sample.cache}`));
  rows = ownerRows(samples);
  for (const row of rows) row.chosen = only !== null && row.owner === only.owner && row.cache === only.cache;
  owners.show(rows.filter((row) => found.has(`${row.owner} ${row.cache}`)));
  const shown = matching.filter(isShown);
  stacks.show(shown.map(stackRow));
  get("owners-count").textContent = counted(found.size, "row");
  get("stacks-count").textContent = counted(shown.reduce((sum, sample) => sum + (sample.folded || 1), 0), "stack");
}

// ---- All of it

// After another selection or grouping: the tree is another one.
function rebuild() {
  performance.mark("kleak:start");
  tree = new Tree(inBook().filter(isShown), state.grouping);
  performance.measure("kleak:build", "kleak:start");
  const { only } = state;
  get("only").hidden = only === null;
  if (only !== null) get("only-name").textContent = `${ownerName(only.owner)} · ${cacheName(only.cache)}`;
  refresh();
}

function refresh() {
  tree.sort(column());
  graph.show({ tree, icicle: state.icicle, matches: state.matches?.frame ?? null });
  crumbs();
  matchedShare();
  notes();
}

// A row of buttons of which one is pressed.
function choice(id, set) {
  const buttons = [...get(id).querySelectorAll("button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      set(button.value);
    });
  }
}

function start() {
  document.documentElement.classList.add("live");
  choice("measures", (value) => { state.measure = value; refresh(); });
  choice("groupings", (value) => { state.grouping = value; graph.zoom = 0; rebuild(); });
  choice("layouts", (value) => { state.icicle = value === "icicle"; refresh(); });
  // Books are never added up: one is shown at a time.
  const present = DATA.books.map((name, book) => ({ name, book }))
    .filter(({ book }) => SAMPLES.some((sample) => sample.book === book));
  for (const { name, book } of present) {
    const button = element("button", "", name);
    button.type = "button";
    button.value = book;
    button.setAttribute("aria-pressed", String(book === state.book));
    get("books").append(button);
  }
  get("books").parentElement.hidden = present.length < 2;
  const drawn = new Set(DATA.frames.map(([kind]) => KINDS[kind]));
  for (const key of document.querySelectorAll(".kinds [data-kind]")) key.hidden = !drawn.has(key.dataset.kind);
  choice("books", (value) => {
    state.book = Number(value);
    state.only = null;
    graph.zoom = 0;
    rebuild();
    tables();
    chart(get("chart"), rows);
  });
  get("search").addEventListener("input", () => {
    clearTimeout(searching);
    searching = setTimeout(search, SAMPLES.length > 2000 ? 150 : 0);
  });
  get("reset").addEventListener("click", () => graph.zoomTo(0));
  get("only").addEventListener("click", () => choose(state.only));
  document.addEventListener("keydown", (event) => {
    const writing = event.target === get("search");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      get("search").select();
    } else if (event.key === "Escape") {
      tooltip.hidden = true;
      if (get("search").value !== "") {
        get("search").value = "";
        search();
      } else if (graph.zoom !== 0) graph.zoomTo(0);
      else if (state.only !== null) choose(state.only);
    }
  });
  let width = 0;
  const resized = () => {
    if (get("graph").parentElement.clientWidth === width) return;
    width = get("graph").parentElement.clientWidth;
    graph.layOut();
    graph.draw();
    chart(get("chart"), rows);
  };
  rebuild();
  // What is too high for the window begins with its roots.
  if (graph.rows.length > 30) get("layouts").querySelector("[value=icicle]").click();
  tables();
  resized();
  window.addEventListener("resize", resized);
  window.addEventListener("beforeprint", resized);
  for (const media of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(media).addEventListener("change", () => graph.draw());
  }
}

if (SAMPLES.length > 0) start();
