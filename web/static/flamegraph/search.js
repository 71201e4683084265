// Which frames an expression means, and what they weigh.
import { ancestors } from "./tree.js";

// A capital letter in the pattern means that the writer cares about case. Raises a sentence as an Error.
function expressionOf(pattern) {
  try {
    return new RegExp(pattern, /[A-Z]/.test(pattern.replace(/\\./g, "")) ? "" : "i");
  } catch (error) {
    throw new Error(`Not a regular expression: ${String(error.message).split(": ").pop()}`);
  }
}

// Full names, and what can be read in the picture; never the root, which is no function.
export function framesThatMatch({ frames }, pattern, root) {
  const expression = expressionOf(pattern);
  const found = Uint8Array.from(frames.name, (name, i) => expression.test(name) || (frames.shown[i] !== "" && expression.test(frames.shown[i])));
  if (root !== undefined) found[root] = 0;
  return found;
}

// `frame` tells which frames match, `within` which nodes do or have one below them. total(node) is what matching stacks
// weigh there, each counted once; of a sandwich it is null for the root, as a stack may match on either side.
export function search(model, tree, weight, pattern) {
  if (!pattern) return null;
  const within = new Uint8Array(tree.size);
  let frame;
  try {
    frame = framesThatMatch(model, pattern, tree.frame[0]);
  } catch (error) {
    return { frame: new Uint8Array(model.frames.name.length), within, total: () => 0, error: error.message };
  }
  // What weighs in below a match is in the match's weight already: only outermost matches count.
  const matched = new Float64Array(tree.size);
  const bySide = { [-1]: 0, 1: 0 };
  for (let node = tree.size - 1; node > 0; node--) {
    const parent = tree.parent[node];
    if (frame[tree.frame[node]]) {
      within[node] = 1;
      matched[node] = weight[node];
    }
    within[parent] |= within[node];
    matched[parent] += matched[node];
    if (tree.side && !parent) bySide[tree.side[node]] += matched[node];
  }
  // Inside a match everything is matched, also when zoomed into a part of it.
  const total = (node) =>
    [node, ...ancestors(tree, node)].some((at) => frame[tree.frame[at]]) ? weight[node] : matched[node];
  return { frame, within, total, bySide: tree.side && bySide, error: "" };
}
