// One call tree made into another, exactly: whatever the root weighs that a transformation does not leave out by its
// meaning, it weighs afterwards. `frames` (see model.js) tells which frames stand for what is folded away, and the order
// of siblings.
import { Nodes, numbered, Pairs } from "./tree.js";

const MOST_STEPS = 4_000_000; // frames of all stacks together that are turned round one by one
const LIGHTEST = 1 / 200_000; // of all; lighter groups are folded away where there are more than that

// Only stacks that have a frame for which `wanted` is set, with all their frames.
export function focused(tree, frames, wanted) {
  const inside = new Uint8Array(tree.size);
  for (let node = 1; node < tree.size; node++) inside[node] = inside[tree.parent[node]] | wanted[tree.frame[node]];
  const own = tree.own.map((weight, node) => (inside[node] ? weight : 0));
  const beforeOwn = tree.beforeOwn && tree.beforeOwn.map((weight, node) => (inside[node] ? weight : 0));
  return regrown({ ...tree, own, beforeOwn }, frames, () => true);
}

// Frames for which `unwanted` is set are taken out; what they called is called by their callers.
export function without(tree, frames, unwanted) {
  return regrown(tree, frames, (node) => !unwanted[tree.frame[node]]);
}

// A function that calls itself directly, however often, becomes one frame.
export function collapsed(tree, frames) {
  return regrown(tree, frames, (node, holder) => tree.frame[node] !== holder || frames.isFolded[holder]);
}

// The tree of the nodes that stay, in what is left of their stacks; others hand what they weigh on to their callers.
// `stays` is asked for a node and the frame of its nearest caller that stays.
function regrown(tree, frames, stays) {
  const nodes = new Nodes(tree.beforeOwn !== null, tree.size);
  const children = new Pairs(tree.size);
  const heavy = weighty(tree);
  const to = new Int32Array(tree.size).fill(-1);
  to[0] = nodes.add(-1, tree.frame[0], tree.origin[0]);
  nodes.weigh(0, tree.own[0], tree.beforeOwn?.[0]);
  for (let node = 1; node < tree.size; node++) {
    if (!heavy[node]) continue;
    const above = to[tree.parent[node]];
    to[node] = above;
    if (stays(node, nodes.columns.frame[above])) to[node] = childOf(nodes, children, frames, above, tree.frame[node], tree.origin[node]);
    nodes.weigh(to[node], tree.own[node], tree.beforeOwn?.[node]);
  }
  return nodes.tree(frames.rank);
}

// Which nodes weigh anything, with what is below them.
function weighty(tree) {
  const heavy = new Uint8Array(tree.size);
  for (let node = tree.size - 1; node >= 0; node--) {
    heavy[node] |= tree.own[node] > 0 || tree.beforeOwn?.[node] > 0;
    if (node) heavy[tree.parent[node]] |= heavy[node];
  }
  return heavy;
}

// The child of a node that has a frame. Of two that stand for what is folded away, nobody knows how much is the same:
// they become one that does not say how many frames it stands for.
function childOf(nodes, children, frames, parent, frame, origin, side = 1) {
  const isFolded = frames.isFolded[frame];
  const known = children.get(parent, isFolded ? frames.folded : frame);
  if (known >= 0) {
    nodes.columns.origin[known] = -1;
    if (isFolded) nodes.columns.frame[known] = frames.folded;
    return known;
  }
  const child = nodes.add(parent, frame, origin, side);
  children.set(parent, isFolded ? frames.folded : frame, child);
  return child;
}

// Each stack from its leaf on: what is wide at the root is where time is spent, and on it stands who called.
export function reversed(tree, frames) {
  const nodes = new Nodes(tree.beforeOwn !== null, tree.size);
  nodes.add(-1, tree.frame[0], -1);
  nodes.weigh(0, tree.own[0], tree.beforeOwn?.[0]);
  const leaves = [];
  for (let node = 1; node < tree.size; node++) if (tree.own[node] > 0 || tree.beforeOwn?.[node] > 0) leaves.push(node);
  climb(nodes, tree, frames, leaves, tree.own, tree.beforeOwn, 1, (tree.total[0] + (tree.before?.[0] ?? 0)) * LIGHTEST);
  return nodes.tree(frames.rank);
}

// Who calls a function, and what it calls: two trees with one root. A stack that has it more than once counts once, and
// is cut at the first, as seen from the root.
export function sandwich(tree, frames, frame) {
  const nodes = new Nodes(tree.beforeOwn !== null);
  const children = new Pairs();
  const to = new Int32Array(tree.size).fill(-1);
  const outermost = [];
  nodes.add(-1, frame, -1);
  for (let node = 1; node < tree.size; node++) {
    const above = to[tree.parent[node]];
    if (above >= 0) to[node] = childOf(nodes, children, frames, above, tree.frame[node], tree.origin[node]);
    else if (tree.frame[node] === frame) {
      outermost.push(node);
      to[node] = 0;
    } else continue;
    nodes.weigh(to[node], tree.own[node], tree.beforeOwn?.[node]);
  }
  const callers = outermost.map((node) => tree.parent[node]);
  const column = (weights) => weights && Float64Array.from(outermost, (node) => weights[node]);
  climb(nodes, tree, frames, callers, column(tree.total), column(tree.before), -1, tree.total[0] * LIGHTEST, true);
  return nodes.tree(frames.rank, true);
}

// Adds the paths from each of `at` to the root, which end before it, merged level by level from their beginnings. The
// weights are those of the nodes, or of their places in the list.
function climb(nodes, tree, frames, at, own, beforeOwn, side, lightest, byPlace = false) {
  let entries = [];
  let steps = 0;
  for (let place = 0; place < at.length; place++) {
    const node = at[place];
    if (node <= 0) continue;
    const from = byPlace ? place : node;
    entries.push({ at: node, into: 0, own: own[from], beforeOwn: beforeOwn ? beforeOwn[from] : 0 });
    steps += tree.level[node];
  }
  const least = steps > MOST_STEPS ? lightest : 0;
  const children = new Pairs(2 * entries.length);
  while (entries.length) {
    const weight = new Map();
    for (const entry of entries) {
      entry.into = childOf(nodes, children, frames, entry.into, tree.frame[entry.at], -1, side);
      entry.at = tree.parent[entry.at];
      if (least) weight.set(entry.into, (weight.get(entry.into) ?? 0) + entry.own + entry.beforeOwn);
    }
    const rest = [];
    for (const entry of entries) {
      if (entry.at > 0 && (!least || weight.get(entry.into) >= least)) rest.push(entry);
      else {
        if (entry.at > 0) entry.into = childOf(nodes, children, frames, entry.into, frames.folded, -1, side);
        nodes.weigh(entry.into, entry.own, entry.beforeOwn);
      }
    }
    entries = rest;
  }
}

// The tree as it was read with what was folded away into one of its nodes: `part` is what the node's parent holds there.
export function grafted(tree, frames, node, part, frameOf) {
  const nodes = new Nodes(tree.beforeOwn !== null, tree.size + part.size);
  const to = new Int32Array(tree.size);
  for (let at = 0; at < tree.size; at++) {
    if (at === node) continue;
    to[at] = nodes.add(at ? to[tree.parent[at]] : -1, tree.frame[at], at);
    nodes.weigh(to[at], tree.own[at], tree.beforeOwn?.[at]);
  }
  const into = new Int32Array(part.size);
  into[0] = to[tree.parent[node]];
  for (let at = 1; at < part.size; at++) {
    into[at] = nodes.add(into[part.parent[at]], frameOf[part.frame[at]], -1);
    nodes.weigh(into[at], part.own[at], part.beforeOwn?.[at]);
  }
  const grown = nodes.tree(frames.rank);
  return { ...grown, origin: numbered(grown.size) };
}
