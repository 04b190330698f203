// What is embedded in the page, see data.rs, and sums over it.

const DATA = JSON.parse(document.getElementById("data").textContent);

const KINDS = ["ledger", "group", "owner", "user", "kernel", "module", "cache", "more"];
const KIND_NAMES = [
  "books", "pod, unit or cgroup", "owner", "user function", "kernel function", "function of a module",
  "cache", "stacks folded together",
];

const frameName = (frame) => DATA.strings[DATA.frames[frame][1]];
const frameKind = (frame) => DATA.frames[frame][0];
const ownerName = (owner) => DATA.strings[DATA.owners[owner].name];
const ownerPlace = (owner) => {
  const { place } = DATA.owners[owner];
  return place === null ? "" : DATA.strings[place];
};
const cacheName = (cache) => DATA.strings[DATA.caches[cache].name];

const SAMPLES = DATA.samples.map((row) => ({
  owner: row[0], cache: row[1], node: row[2], objects: row[3], bytes: row[4],
  growth: row[5], unfollowed: row[6], estimated: (row[7] & 1) === 1, growthEstimated: (row[7] & 2) === 2,
  // Not a stack but several, with a frame in the place of their paths.
  folded: row[8]?.[0] ?? 0, more: row[8]?.[1] ?? null,
  trend: row[9],
  book: DATA.caches[row[1]].book,
}));

const ALLOCATORS = new Set(DATA.allocators);

// Frames of a call path, root first.
function pathOf(sample) {
  if (sample.more !== null) return [sample.more];
  const path = [];
  for (let node = sample.node; node !== 0; node = DATA.nodes.parent[node]) path.push(DATA.nodes.frame[node]);
  return path.reverse();
}

// Functions of a stack, innermost first, as the text report has them.
function stackLines(sample) {
  return pathOf(sample).reverse().map(frameName);
}

// What a stack is about: past the allocator, nearest first.
function subject(sample) {
  const path = pathOf(sample).reverse();
  const past = path.findIndex((frame) => !ALLOCATORS.has(frame));
  const shown = path.slice(Math.max(past, 0), Math.max(past, 0) + 3).map(frameName);
  return shown.length === 0 ? "[unknown]" : shown.join(" < ");
}

// Frames above and below the functions, by what the graph is grouped by.
const GROUPINGS = {
  pod: (owner) => owner.roots,
  process: (owner) => owner.roots.slice(-1),
  cgroup: (owner) => [owner.cgroup, ...owner.roots.slice(-1)],
  cache: (owner, cache) => [cache.frame, ...owner.roots],
};

function fullPath(sample, grouping) {
  const cache = DATA.caches[sample.cache];
  const path = [...GROUPINGS[grouping](DATA.owners[sample.owner], cache), ...pathOf(sample)];
  if (grouping !== "cache") path.push(cache.frame);
  return path;
}

// Sums of samples. Growth is unknown as soon as any part of it is; `up` is what grows alone.
class Sums {
  constructor() {
    this.objects = 0;
    this.bytes = 0;
    this.growth = 0;
    this.up = 0;
    this.unfollowed = 0;
    this.estimated = false;
    this.growthEstimated = false;
    this.trend = [];
  }

  add(sample) {
    this.objects += sample.objects;
    this.bytes += sample.bytes;
    this.unfollowed += sample.unfollowed;
    this.estimated ||= sample.estimated;
    this.growthEstimated ||= sample.growthEstimated;
    if (sample.growth === null) this.growth = null;
    else {
      if (this.growth !== null) this.growth += sample.growth;
      this.up += Math.max(sample.growth, 0);
    }
    const each = sample.objects > 0 ? sample.bytes / sample.objects : DATA.caches[sample.cache].object_bytes;
    sample.trend.forEach((objects, step) => {
      this.trend[step] = (this.trend[step] ?? 0) + objects * each;
    });
    return this;
  }
}

// Rows of the owners' table: the stacks of an owner add up to a figure that was counted, and is exact
// unless only a fraction of the objects was followed.
function ownerRows(samples) {
  const rows = new Map();
  for (const sample of samples) {
    const key = `${sample.owner} ${sample.cache}`;
    let row = rows.get(key);
    if (!row) {
      row = Object.assign(new Sums(), { owner: sample.owner, cache: sample.cache, stacks: 0 });
      rows.set(key, row);
    }
    row.add(sample);
    row.stacks += sample.folded || 1;
  }
  for (const row of rows.values()) row.estimated = row.growthEstimated = DATA.sampled;
  return [...rows.values()];
}
