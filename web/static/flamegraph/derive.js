// From what was read and what people chose to the tree that is drawn.
import { stepOfChange } from "./numbers.js";
import { frameOfKey } from "./model.js";
import { framesThatMatch } from "./search.js";
import { alphabetical, heaviestFirst, place, totalsOf } from "./tree.js";
import { collapsed, focused, reversed, sandwich, without } from "./transforms.js";

// What makes another tree, and what makes the same tree look another way.
export const SHAPES = ["focus", "hide", "kinds", "collapse", "sandwich", "reverse"];
export const PLAIN = { search: "", icicle: false, byWeight: false, reverse: false, collapse: false, focus: "", hide: "", sandwich: "", colour: "kind", names: "short", kinds: [], vanished: false };

// Sets `forward`, the tree with callers at the root, `tree`, what of it is drawn, and what is said of them (`told`: a
// sentence for each filter that is on).
export function derive(picture) {
  const { model, state } = picture;
  const { frames, base } = model;
  const told = {};
  let tree = base;
  if (state.focus) {
    tree = filtered(told, "focus", () => focused(tree, frames, framesThatMatch(model, state.focus, base.frame[0])), tree);
    told.focus ??= `${share(tree, base)} of all ${picture.caption.unit}`;
  }
  if (state.hide) tree = filtered(told, "hide", () => without(tree, frames, framesThatMatch(model, state.hide, base.frame[0])), tree);
  if (state.kinds.length) {
    const unwanted = model.frames.kind.map((kind, frame) => Number(frame !== base.frame[0] && state.kinds.includes(model.kinds[kind])));
    tree = without(tree, frames, unwanted);
  }
  if (state.collapse) tree = collapsed(tree, frames);
  picture.forward = tree;
  const frame = state.sandwich ? frameOfKey(model, state.sandwich) : -1;
  if (frame >= 0) {
    tree = sandwich(tree, frames, frame);
    told.sandwich = `${share(tree, picture.forward)} of all ${picture.caption.unit}`;
  } else if (state.sandwich) {
    told.sandwich = "this function is not in the picture";
  } else if (state.reverse) tree = reversed(tree, frames);
  picture.tree = { ...tree, leafFirst: frame < 0 && state.reverse, callersBelow: frame < 0 && !state.reverse && !state.hide && !state.kinds.length };
  picture.told = told;
  picture.byFunction = null;
  weigh(picture);
}

function filtered(told, name, make, otherwise) {
  try {
    return make();
  } catch (error) {
    told[name] = error.message;
    return otherwise;
  }
}

function share(tree, of) {
  const [part, whole] = [tree.total[0], of.total[0]];
  return `${(whole ? (100 * part) / whole : 0).toFixed(2)} %`;
}

// Widths are what there is after, or what was before where the picture is of that; with `vanished`, also what was before and is no more, in shares of either side unless
// the picture is of counts.
export function weigh(picture) {
  const { tree, forward, diff, state } = picture;
  picture.all = { before: forward.before?.[0], after: forward.total[0] };
  picture.weight = tree.total;
  picture.change = null;
  if (diff) {
    const { before, after } = picture.all;
    const perBefore = !diff.absolute && before && after ? after / before : 1;
    if (diff.width === "before") picture.weight = tree.before;
    else if (state.vanished) picture.weight = totalsOf(tree, tree.own.map((own, node) => own + (tree.total[node] ? 0 : perBefore * tree.beforeOwn[node])));
    picture.change = new Int8Array(tree.size);
    for (let node = 0; node < tree.size; node++) picture.change[node] = stepOfChange(tree.before[node], tree.total[node], before, after, diff);
  }
  picture.rowsSeen = new Map();
  picture.placed = {};
}

// The slots that siblings stand in, and the left edges that follow.
export function order(picture) {
  const { tree, weight, placed, state } = picture;
  const name = state.byWeight ? "byWeight" : "byName";
  if (!placed[name]) {
    const slots = state.byWeight ? heaviestFirst(tree, weight) : alphabetical(tree);
    placed[name] = { slots, start: place(tree, weight, slots) };
  }
  return placed[name];
}
