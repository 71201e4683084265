// Where the arrow keys lead.
import { order } from "./derive.js";
import { rowOf } from "./draw.js";

// The nearest frame in a row: the next one to the left or right of the current.
function beside(picture, direction) {
  const { drawn, current } = picture;
  const { start } = order(picture);
  const here = rowOf(picture, current);
  const row = drawn.filter((node) => rowOf(picture, node) === here).sort((a, b) => start[a] - start[b]);
  return row[row.indexOf(current) + direction] ?? current;
}

function heaviestChild({ tree, weight, elements }, node, side) {
  let best = -1;
  for (let child = tree.first[node]; child < tree.first[node + 1]; child++) {
    if (tree.side && node === 0 && tree.side[child] !== side) continue;
    if (elements.has(child) && (best < 0 || weight[child] > weight[best])) best = child;
  }
  return best;
}

function deepest(picture, node) {
  for (let child = heaviestChild(picture, node, 1); child >= 0; child = heaviestChild(picture, child, 1)) node = child;
  return node;
}

// One row up or down: to the heaviest frame on that side, or back towards the root.
function along(picture, direction) {
  const { tree, current } = picture;
  const side = tree.side?.[current] < 0 ? -1 : 1;
  if (current && direction !== side) return tree.parent[current];
  const child = heaviestChild(picture, current, direction);
  if (child < 0 || (!tree.side && direction < 0)) return current;
  return child;
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
