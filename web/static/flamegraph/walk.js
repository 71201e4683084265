// Where the arrow keys lead.
import { order } from "./derive.js";
import { bandAt } from "./bands.js";
import { rowOf } from "./rows.js";

// The nearest frame in a row: the next one to the left or right of the current.
function beside(picture, direction) {
  const { elements, current } = picture;
  const { start } = order(picture);
  const here = rowOf(picture, current);
  const left = (node) => start[bandAt(picture, node)?.first ?? node];
  const row = [...elements.keys()].filter((node) => rowOf(picture, node) === here).sort((a, b) => left(a) - left(b));
  return row[row.indexOf(current) + direction] ?? current;
}

// Whether a frame is wide enough: of very many, not all are drawn that are.
function isWide({ elements, wide }, node) {
  if (elements.has(node)) return true;
  let [low, high] = [0, wide.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (wide[middle] < node) low = middle + 1;
    else high = middle;
  }
  return wide[low] === node;
}

function heaviestChild(picture, node, side) {
  const { tree, weight } = picture;
  let best = -1;
  for (let child = tree.first[node]; child < tree.first[node + 1]; child++) {
    if (tree.side && node === 0 && tree.side[child] !== side) continue;
    if ((best < 0 || weight[child] > weight[best]) && isWide(picture, child)) best = child;
  }
  return best;
}

function deepest(picture, node) {
  if (bandAt(picture, node)) return node;
  for (let child = heaviestChild(picture, node, 1); child >= 0; child = heaviestChild(picture, child, 1)) node = child;
  return node;
}

// One row up or down: to the heaviest frame on that side, or back towards the root.
function along(picture, direction) {
  const { tree, current } = picture;
  const band = bandAt(picture, current);
  const at = band?.first ?? current;
  const side = tree.side?.[at] < 0 ? -1 : 1;
  if (at && direction !== side) return tree.parent[at];
  if (band || (!tree.side && direction < 0)) return current;
  const child = heaviestChild(picture, current, direction);
  return child >= 0 ? child : widestBand(picture, current, direction) ?? current;
}

// The number of the widest band on a frame.
function widestBand({ tree, bands }, node, side) {
  const found = bands.findIndex(({ parent, first }) => parent === node && (!tree.side || tree.side[first] === side));
  return found < 0 ? undefined : tree.size + found;
}

export function step(picture, key) {
  const up = picture.state.icicle ? -1 : 1; // which way from the root a row further up is
  switch (key) {
    case "ArrowUp": return along(picture, up);
    case "ArrowDown": return along(picture, -up);
    case "ArrowLeft": return beside(picture, -1);
    case "ArrowRight": return beside(picture, 1);
    case "Home": return 0;
    case "End": return deepest(picture, picture.current);
    default: return -1;
  }
}
