// Outstanding bytes of the largest owners over the window: lines, axes, units.

const LINES = 6;

// Powers of two, which are round in KiB and MiB.
const BYTES = Array.from({ length: 60 }, (_, power) => 2 ** power);
const SECONDS = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
  3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000,
];

// Marks at one of these steps, from nothing to what covers `most`: about as many as wanted.
function ticks(most, wanted, steps) {
  const step = steps.find((step) => step >= most / wanted) ?? most;
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, i) => i * step);
}

function seconds(s) {
  if (s >= 86400) return `${+(s / 86400).toFixed(1)} d`;
  if (s >= 3600) return `${+(s / 3600).toFixed(1)} h`;
  if (s >= 60) return `${+(s / 60).toFixed(1)} min`;
  return `${+s.toFixed(3)} s`;
}

function wholeUnits(bytes) {
  const text = size(bytes);
  return text.replace(".0 ", " ");
}

function chart(holder, rows) {
  const steps = DATA.step_s;
  // By owner: a line a process, whatever caches it holds.
  const owners = new Map();
  for (const row of rows) {
    const line = owners.get(row.owner) ?? { owner: row.owner, bytes: 0, trend: steps.map(() => 0) };
    line.bytes += row.bytes;
    row.trend.forEach((bytes, step) => { line.trend[step] += bytes; });
    owners.set(row.owner, line);
  }
  const lines = [...owners.values()].sort((a, b) => b.bytes - a.bytes);
  const shown = lines.slice(0, LINES);
  const most = Math.max(...shown.map((line) => Math.max(...line.trend, 0)), 0);
  if (steps.length < 2 || most === 0) {
    holder.replaceChildren(element("p", "dim", "Too few points in time for a chart."));
    return;
  }
  const width = Math.max(holder.clientWidth, 320);
  const height = 236;
  const edge = { left: 70, right: 14, top: 10, bottom: 40 };
  // Of a window of no length too.
  const end = Math.max(DATA.window_s, steps[steps.length - 1]) || 1;
  const levels = ticks(most, 4, BYTES);
  const top = levels[levels.length - 1];
  const x = (s) => edge.left + (s / end) * (width - edge.left - edge.right);
  const y = (bytes) => height - edge.bottom - (bytes / top) * (height - edge.top - edge.bottom);
  const label = "Outstanding bytes of the largest owners over the window";
  const svg = drawing("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const level of levels) {
    svg.append(
      drawing("line", { x1: edge.left, x2: width - edge.right, y1: y(level), y2: y(level), class: "grid" }),
      drawing("text", { x: edge.left - 8, y: y(level) + 4, class: "tick end" }, wholeUnits(level)),
    );
  }
  for (const mark of ticks(end, 8, SECONDS).filter((mark) => mark <= end * 1.001)) {
    svg.append(
      drawing("line", { x1: x(mark), x2: x(mark), y1: y(0), y2: y(0) + 4, class: "axis" }),
      drawing("text", { x: x(mark), y: y(0) + 17, class: "tick middle" }, seconds(mark)),
    );
  }
  svg.append(
    drawing("line", { x1: edge.left, x2: width - edge.right, y1: y(0), y2: y(0), class: "axis" }),
    drawing("text", { x: (edge.left + width - edge.right) / 2, y: height - 6, class: "tick middle" }, "time since counting began"),
  );
  shown.forEach((line, i) => {
    // Nothing that is counted was there when counting began.
    const points = [[0, 0], ...line.trend.map((bytes, step) => [steps[step], bytes])]
      .map(([s, bytes]) => `${x(s).toFixed(1)},${y(bytes).toFixed(1)}`);
    const name = ownerName(line.owner);
    const curve = drawing("polyline", { points: points.join(" "), class: `line line-${i}` });
    curve.append(drawing("title", {}, `${name}: ${size(line.bytes)} at the end`));
    svg.append(curve);
  });
  const legend = element("ul", "legend");
  shown.forEach((line, i) => {
    const key = drawing("svg", { width: 26, height: 10, "aria-hidden": "true" },
      drawing("line", { x1: 1, x2: 25, y1: 5, y2: 5, class: `line line-${i}` }));
    legend.append(element("li", "", key, ` ${ownerName(line.owner)} `,
      element("span", "dim", about(DATA.sampled, size(line.bytes)))));
  });
  const rest = lines.length - shown.length;
  if (rest > 0) legend.append(element("li", "dim", `${counted(rest, "smaller owner")} not drawn`));
  holder.replaceChildren(svg, legend);
}
