// Call trees as columns, in level order: node 0 is the root, and the children of node i are first[i] .. first[i + 1] - 1.
// `own` is what a node weighs without its children, `total` with them; in a picture of two profiles both are of what is
// after, and `beforeOwn` and `before` of what was before. `origin` is the node of the tree as it was read that a node
// is, or -1. In a sandwich, `side` is -1 for callers, which grow the other way, and 1 for callees.

export function treeOf({ children, own, frame, beforeOwn = null }) {
  const size = children.length;
  const parent = new Int32Array(size).fill(-1);
  const level = new Int32Array(size);
  const first = new Int32Array(size + 1);
  let next = 1;
  for (let node = 0; node < size; node++) {
    first[node] = next;
    for (const end = next + children[node]; next < end; next++) {
      parent[next] = node;
      level[next] = level[node] + 1;
    }
  }
  first[size] = next;
  const origin = numbered(size);
  return weighed({ size, parent, level, first, frame: Int32Array.from(frame), own: Float64Array.from(own), beforeOwn: beforeOwn && Float64Array.from(beforeOwn), origin, side: null });
}

// The tree with the totals that follow from what its nodes weigh themselves.
function weighed(tree) {
  return { ...tree, total: totalsOf(tree, tree.own), before: tree.beforeOwn && totalsOf(tree, tree.beforeOwn) };
}

// Whatever is on the callers' side of a sandwich is on the callees' side as well: the root counts it once.
export function totalsOf({ parent, side }, own) {
  const total = Float64Array.from(own);
  for (let node = total.length - 1; node > 0; node--) {
    if (parent[node] || !side || side[node] > 0) total[parent[node]] += total[node];
  }
  return total;
}

export function ancestors(tree, node) {
  const found = [];
  for (let at = tree.parent[node]; at >= 0; at = tree.parent[at]) found.push(at);
  return found.reverse();
}

// The slots that siblings stand in: those of node i's children are first[i] .. first[i + 1] - 1.
export const alphabetical = (tree) => numbered(tree.size);

// 0, 1, 2, …: made by Int32Array.from, it would take ten times as long.
export function numbered(size) {
  const numbers = new Int32Array(size);
  for (let i = 0; i < size; i++) numbers[i] = i;
  return numbers;
}

export function heaviestFirst(tree, weight) {
  const slots = alphabetical(tree);
  const side = tree.side ?? new Int8Array(tree.size);
  for (let node = 0; node < tree.size; node++) {
    const [from, to] = [tree.first[node], tree.first[node + 1]];
    if (to - from > 1) slots.subarray(from, to).sort((a, b) => side[b] - side[a] || weight[b] - weight[a] || a - b);
  }
  return slots;
}

// Left edges, in counts, of nodes in these slots. Both sides of a sandwich begin at the left.
export function place(tree, weight, slots) {
  const start = new Float64Array(tree.size);
  for (let node = 0; node < tree.size; node++) {
    let x = start[node];
    for (let slot = tree.first[node]; slot < tree.first[node + 1]; slot++) {
      const child = slots[slot];
      if (tree.side && node === 0 && slot > tree.first[0] && tree.side[child] !== tree.side[slots[slot - 1]]) x = start[0];
      start[child] = x;
      x += weight[child];
    }
  }
  return start;
}

// Nodes as they are made, parents before their children but in no other order.
export class Nodes {
  constructor(hasBefore, capacity = 1024) {
    this.size = 0;
    this.columns = {
      parent: new Int32Array(capacity),
      frame: new Int32Array(capacity),
      origin: new Int32Array(capacity),
      side: new Int8Array(capacity),
      own: new Float64Array(capacity),
      ...(hasBefore && { beforeOwn: new Float64Array(capacity) }),
    };
  }

  add(parent, frame, origin, side = 1) {
    if (this.size === this.columns.parent.length) {
      for (const [name, column] of Object.entries(this.columns)) {
        this.columns[name] = new column.constructor(2 * column.length);
        this.columns[name].set(column);
      }
    }
    const { columns, size } = this;
    columns.parent[size] = parent;
    columns.frame[size] = frame;
    columns.origin[size] = origin;
    columns.side[size] = side;
    return this.size++;
  }

  weigh(node, own, beforeOwn) {
    this.columns.own[node] += own;
    if (this.columns.beforeOwn) this.columns.beforeOwn[node] += beforeOwn;
  }

  // The tree of them, siblings by side and then in the order of `rank` of their frames.
  tree(rank, hasSides = false) {
    const { size, columns } = this;
    const begins = new Int32Array(size + 1); // where the children of each begin in `kin`
    for (let node = 1; node < size; node++) begins[columns.parent[node] + 1]++;
    for (let node = 0; node < size; node++) begins[node + 1] += begins[node];
    const kin = new Int32Array(size);
    const next = begins.slice();
    for (let node = 1; node < size; node++) kin[next[columns.parent[node]]++] = node;
    const order = new Int32Array(size);
    const parent = new Int32Array(size).fill(-1);
    const level = new Int32Array(size);
    const first = new Int32Array(size + 1);
    let filled = 1;
    for (let at = 0; at < size; at++) {
      first[at] = filled;
      const children = kin.subarray(begins[order[at]], begins[order[at] + 1]);
      if (children.length > 1) {
        children.sort((a, b) => columns.side[b] - columns.side[a] || rank[columns.frame[a]] - rank[columns.frame[b]] || a - b);
      }
      for (const child of children) {
        parent[filled] = at;
        level[filled] = level[at] + 1;
        order[filled++] = child;
      }
    }
    first[size] = filled;
    const taken = (column) => {
      const arranged = new column.constructor(size);
      for (let at = 0; at < size; at++) arranged[at] = column[order[at]];
      return arranged;
    };
    return weighed({
      size,
      parent,
      level,
      first,
      frame: taken(columns.frame),
      own: taken(columns.own),
      beforeOwn: columns.beforeOwn ? taken(columns.beforeOwn) : null,
      origin: taken(columns.origin),
      side: hasSides ? taken(columns.side) : null,
    });
  }
}

// A table of pairs of whole numbers, each with a number of its own: open addressing, as a Map is several times slower.
export class Pairs {
  constructor(capacity = 1024) {
    this.clear(capacity);
  }

  clear(capacity) {
    let slots = 16;
    while (slots < 2 * capacity) slots *= 2;
    this.mask = slots - 1;
    this.used = 0;
    this.left = new Int32Array(slots);
    this.right = new Int32Array(slots);
    this.value = new Int32Array(slots).fill(-1);
  }

  // Where the pair is, or where it is to be put.
  slot(left, right) {
    let at = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 7 & this.mask;
    while (this.value[at] >= 0 && (this.left[at] !== left || this.right[at] !== right)) at = (at + 1) & this.mask;
    return at;
  }

  get(left, right) {
    return this.value[this.slot(left, right)];
  }

  set(left, right, value) {
    if (2 * ++this.used > this.mask) this.grow();
    const at = this.slot(left, right);
    this.left[at] = left;
    this.right[at] = right;
    this.value[at] = value;
  }

  grow() {
    const { left, right, value, used } = this;
    this.clear(2 * value.length);
    for (let at = 0; at < value.length; at++) {
      if (value[at] < 0) continue;
      const to = this.slot(left[at], right[at]);
      this.left[to] = left[at];
      this.right[to] = right[at];
      this.value[to] = value[at];
    }
    this.used = used;
  }
}
