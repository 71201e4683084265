// Which frames are drawn: those wide enough to be seen, and where these are too many for the document, what is on the
// screen before everything else.
import { heightOf, rowOf, rowsInSight, rowY } from "./rows.js";
import { ancestors } from "./tree.js";

export const LABELLED = 26; // pixels: a narrower frame has no room for a word
const MOST_CALLERS = 800; // of the zoomed frame: of a longer path the nearest are drawn, and the root
const MARGIN = 8; // rows beyond those on the screen, so that not each row scrolled has all drawn anew
const MOST_IN_IMAGE = 40_000; // elements: nobody scrolls an image, so it has all rows

// What is below a frame and wide enough, in the order of nodes.
function wideEnough({ tree, weight, layout }, zoom, scale) {
  const least = layout.narrowest / scale;
  const found = [zoom];
  for (let i = 0; i < found.length; i++) {
    for (let child = tree.first[found[i]]; child < tree.first[found[i] + 1]; child++) {
      if (weight[child] >= least) found.push(child);
    }
  }
  return found;
}

// With a row for what is too narrow to be drawn above the topmost frames.
function rowsOf({ tree }, nodes) {
  const rows = { up: 1, down: 0 };
  for (const node of nodes) {
    const deep = tree.level[node] + (tree.first[node + 1] > tree.first[node]);
    if (tree.side?.[node] < 0) rows.down = Math.max(rows.down, deep);
    else rows.up = Math.max(rows.up, deep + 1);
  }
  return rows;
}

const larger = (a, b) => ({ up: Math.max(a.up, b.up), down: Math.max(a.down, b.down) });
const EVERYWHERE = { from: -Infinity, to: Infinity };

// Sets how many rows the picture has, and gives what of it is to be drawn: the zoomed frame's callers `above`, frames
// `below`, of all that are `wide` enough, and the rows that are `covered`.
export function choose(picture, inImage = false) {
  const { tree, weight, layout, zoom, width, rowsSeen } = picture;
  const room = width - 2 * layout.side;
  const scale = room / (weight[zoom] || 1);
  const path = ancestors(tree, zoom);
  const above = path.length > MOST_CALLERS ? [0, ...path.slice(-MOST_CALLERS)] : path;
  const wide = wideEnough(picture, zoom, scale);
  // The picture never gets lower than that of everything, so that a zoom moves nothing.
  if (!rowsSeen.has(width)) rowsSeen.set(width, rowsOf(picture, zoom ? wideEnough(picture, 0, room / (weight[0] || 1)) : wide));
  picture.rows = larger(rowsSeen.get(width), larger(rowsOf(picture, above), rowsOf(picture, wide)));
  const elements = (node) => (weight[node] * scale > LABELLED ? 2 : 1);
  const most = inImage ? MOST_IN_IMAGE : Math.max(400, layout.mostElements - 2 * above.length);
  let needed = 0;
  for (const node of wide) needed += elements(node);
  const chosen = { above, wide, room, scale };
  if (needed <= most) return { ...chosen, below: wide, covered: EVERYWHERE };
  if (inImage) return { ...chosen, ...nearest(picture, wide, elements, most, EVERYWHERE) };
  const { from, to } = rowsInSight(picture, picture.rootBefore === null ? scrolledAtFirst(picture) : rootMoves(picture));
  return { ...chosen, ...nearest(picture, wide, elements, most, { from: from - MARGIN, to: to + MARGIN }) };
}

// By how much the picture is going to be scrolled, so that its root stays where it is on the screen.
export function rootMoves(picture) {
  const { standalone, state, rootBefore } = picture;
  return standalone && !state.icicle && rootBefore !== null ? rowY(picture, 0) - rootBefore : 0;
}

// By how much a picture that is opened is scrolled, about, until its root is seen, see showRoot() in view.js.
function scrolledAtFirst(picture) {
  const { standalone, state, zoom, scrolledOff, top, layout } = picture;
  if (!standalone || state.icicle || zoom || scrolledOff) return 0;
  return Math.max(0, top + heightOf(picture) + layout.details - window.innerHeight);
}

// No more frames than `room` elements can be made of: the widest of some rows, then all of the rows next to these.
function nearest(picture, wide, elements, room, { from, to }) {
  const { weight, zoom, current } = picture;
  const kept = new Set([zoom]);
  const near = [];
  const others = new Map(); // row → its frames
  for (const node of wide) {
    const row = rowOf(picture, node);
    if (row >= from && row <= to) near.push(node);
    else if (others.has(row)) others.get(row).push(node);
    else others.set(row, [node]);
    if (node === current) kept.add(node); // where the keyboard is, wherever that is
  }
  let used = 0;
  let isRoom = true;
  for (const node of kept) used += elements(node);
  near.sort((a, b) => weight[b] - weight[a] || a - b);
  for (const node of near) {
    if (kept.has(node)) continue;
    used += elements(node);
    isRoom = used <= room;
    if (!isRoom) break;
    kept.add(node);
  }
  // One row further on either side for as long as it fits.
  while (isRoom && (others.has(from - 1) || others.has(to + 1))) {
    const next = [...(others.get(from - 1) ?? []), ...(others.get(to + 1) ?? [])];
    for (const node of next) used += elements(node);
    isRoom = used <= room;
    if (!isRoom) break;
    for (const node of next) kept.add(node);
    from--;
    to++;
  }
  const covered = { from: others.has(from - 1) ? from : -Infinity, to: others.has(to + 1) ? to : Infinity };
  return { below: wide.filter((node) => kept.has(node)), covered };
}
