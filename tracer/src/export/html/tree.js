// The tree that is drawn, as columns: a node is an index, the root is 0, a child's is above its parent's.

class Tree {
  constructor(samples, grouping) {
    this.parent = [-1];
    this.frame = [-1];
    this.depth = [0];
    this.bytes = [0];
    this.objects = [0];
    this.up = [0];
    this.growth = [0];
    this.estimated = [DATA.sampled];
    this.growthEstimated = [DATA.sampled];
    // Nodes above the first function, which hold all of an owner or a cache.
    this.whole = [true];
    const known = new Map();
    const frames = DATA.frames.length;
    for (const sample of samples) {
      let node = 0;
      let whole = true;
      this.#add(0, sample, true);
      for (const frame of fullPath(sample, grouping)) {
        const key = node * frames + frame;
        whole &&= frameKind(frame) < 3 || (grouping === "cache" && node === 0);
        let child = known.get(key);
        if (child === undefined) {
          child = this.parent.length;
          known.set(key, child);
          this.parent.push(node);
          this.frame.push(frame);
          this.depth.push(this.depth[node] + 1);
          this.bytes.push(0);
          this.objects.push(0);
          this.up.push(0);
          this.growth.push(0);
          this.estimated.push(DATA.sampled);
          this.growthEstimated.push(DATA.sampled);
          this.whole.push(whole);
        }
        node = child;
        this.#add(node, sample, whole);
      }
    }
    this.#link();
  }

  #add(node, sample, whole) {
    this.bytes[node] += sample.bytes;
    this.objects[node] += sample.objects;
    if (sample.growth === null) this.growth[node] = null;
    else {
      if (this.growth[node] !== null) this.growth[node] += sample.growth;
      this.up[node] += Math.max(sample.growth, 0);
    }
    if (!whole && sample.estimated) this.estimated[node] = true;
    if (!whole && sample.growthEstimated) this.growthEstimated[node] = true;
  }

  // Children of each node, one after the other.
  #link() {
    const nodes = this.parent.length;
    this.first = new Int32Array(nodes + 1);
    for (let node = 1; node < nodes; node += 1) this.first[this.parent[node] + 1] += 1;
    for (let node = 0; node < nodes; node += 1) this.first[node + 1] += this.first[node];
    const next = this.first.slice();
    this.child = new Int32Array(Math.max(nodes - 1, 0));
    for (let node = 1; node < nodes; node += 1) this.child[next[this.parent[node]]++] = node;
  }

  // Largest first, by the column shown.
  sort(measure) {
    this.value = this[measure];
    this.doubtful = measure === "up" ? this.growthEstimated : this.estimated;
    for (let node = 0; node < this.parent.length; node += 1) {
      const children = this.child.subarray(this.first[node], this.first[node + 1]);
      if (children.length > 1) children.sort((a, b) => this.value[b] - this.value[a] || a - b);
    }
  }

  children(node) {
    return this.child.subarray(this.first[node], this.first[node + 1]);
  }

  name(node) {
    return node === 0 ? "all" : frameName(this.frame[node]);
  }

  // Nodes from below the root to this one.
  path(node) {
    const path = [];
    for (let at = node; at > 0; at = this.parent[at]) path.push(at);
    return path.reverse();
  }

  // The node at the end of these frames, or the nearest to it.
  find(frames) {
    let node = 0;
    for (const frame of frames) {
      const child = this.children(node).find((child) => this.frame[child] === frame);
      if (child === undefined) break;
      node = child;
    }
    return node;
  }

  // What is below `from` in nodes that match, each byte once.
  matched(from, matches) {
    const stack = [from];
    let sum = 0;
    let estimated = false;
    while (stack.length > 0) {
      const node = stack.pop();
      if (node > 0 && matches(this.frame[node])) {
        sum += this.value[node];
        estimated ||= this.doubtful[node];
      } else {
        for (const child of this.children(node)) stack.push(child);
      }
    }
    return { sum, estimated };
  }
}
