// Numbers as people read them: the same rules as report/human.rs.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

function size(n) {
  if (!Number.isFinite(n)) return "?";
  let value = Math.abs(n);
  let unit = 0;
  while (unit + 1 < UNITS.length && value >= (unit === 0 ? 1023.5 : 1023.95)) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit > 0 && value < 99.95 ? 1 : 0;
  return `${n <= -0.5 ? "-" : ""}${value.toFixed(digits)} ${UNITS[unit]}`;
}

function count(n) {
  return Math.round(n).toLocaleString("en-US");
}

function counted(n, noun) {
  return `${count(n)} ${noun}${Math.round(n) === 1 ? "" : "s"}`;
}

// What is not quite all is never rounded up to it, nor what is not quite nothing down to it.
function percent(fraction) {
  if (!Number.isFinite(fraction)) return "? %";
  const p = fraction * 100;
  if (p === 0) return "0 %";
  if (Math.abs(p) < 0.1) return "<0.1 %";
  if (p >= 99 && p < 100) return `${(Math.floor(p * 10) / 10).toFixed(1)} %`;
  return `${p.toFixed(Math.abs(p) < 9.95 ? 1 : 0)} %`;
}

function rate(bytesPerSecond) {
  return bytesPerSecond === null ? "unknown" : `${size(bytesPerSecond)}/s`;
}

function about(estimated, text) {
  return estimated ? `~${text}` : text;
}

// An element with its class and its content: strings become text, never markup.
function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.filter((part) => part !== null));
  return made;
}

function drawing(name, attributes, ...content) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}
