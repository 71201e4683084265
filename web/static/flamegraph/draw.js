// Draws frames: only those wide enough to be seen are in the document.
import { MATCH, painter } from "./colours.js";
import { order } from "./derive.js";
import { colour, create } from "./elements.js";
import { functionKey, nameOf, shownOf } from "./model.js";
import { ancestors } from "./tree.js";
import { describe, fit } from "./words.js";

const LABELLED = 26; // pixels: a narrower frame has no room for a word
const DIMMED = "0.4"; // the opacity of what does not match, and of the zoomed frame's callers
const MOST_CALLERS = 800; // of the zoomed frame: of a longer path the nearest are drawn, and the root

export function makeFrames(picture) {
  const { byId, layout } = picture;
  const graph = byId("frames");
  const ring = create("rect", { id: "fg-ring", fill: "none", stroke: colour("accent"), "stroke-width": 2, rx: 2, "pointer-events": "none", display: "none" });
  graph.after(ring);
  graph.setAttribute("role", "tree");
  graph.setAttribute("fill", colour("label"));
  const hatch = create("pattern", { id: "fg-hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, picture.svg.querySelector("defs"));
  create("rect", { width: 5, height: 5, fill: "#d9dde1" }, hatch);
  create("rect", { width: 2, height: 5, fill: "#b4bac1" }, hatch);
  const blank = {
    frame: create("rect", { height: layout.row - 1, role: "treeitem", tabindex: -1 }),
    label: create("text", { "pointer-events": "none", "aria-hidden": "true" }),
  };
  blank.frame.style.outline = "none"; // the ring is drawn instead, which neighbours do not cover
  Object.assign(picture, { graph, ring, blank, elements: new Map(), drawn: [], rows: { up: 1, down: 0 } });
}

// How many rows from the root's a node is; callers in a sandwich are on the other side of it.
export const rowOf = ({ tree }, node) => (tree.side?.[node] < 0 ? -tree.level[node] : tree.level[node]);

export function rowY({ state, layout, rows, top }, row) {
  return top + (state.icicle ? row + rows.down : rows.up - 1 - row) * layout.row;
}

export const heightOf = ({ rows, layout }) => (rows.up + rows.down) * layout.row;

// The frames below `zoom` that are wide enough, callers first, and no more than `room` elements can be made of.
function pick({ tree, weight, layout }, zoom, scale, room) {
  const least = layout.narrowest / scale;
  const found = [zoom];
  for (let i = 0; i < found.length; i++) {
    for (let child = tree.first[found[i]]; child < tree.first[found[i] + 1]; child++) {
      if (weight[child] >= least) found.push(child);
    }
  }
  const elements = (node) => (weight[node] * scale > LABELLED ? 2 : 1);
  let needed = 0;
  for (const node of found) needed += elements(node);
  if (needed <= room) return found;
  found.sort((a, b) => weight[b] - weight[a] || a - b);
  let kept = 0;
  for (let used = elements(found[0]); kept < found.length && used <= room; used += elements(found[kept] ?? 0)) kept++;
  return found.slice(0, Math.max(kept, 1)).sort((a, b) => a - b);
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

// Which nodes are to be drawn, and how many rows that takes.
export function choose(picture) {
  const { tree, weight, layout, zoom, width, rowsSeen } = picture;
  const room = width - 2 * layout.side;
  const scale = room / (weight[zoom] || 1);
  const path = ancestors(tree, zoom);
  const above = path.length > MOST_CALLERS ? [0, ...path.slice(-MOST_CALLERS)] : path;
  const below = pick(picture, zoom, scale, Math.max(400, layout.mostElements - 2 * above.length));
  // The picture never gets lower than that of everything, so that a zoom moves nothing.
  if (!rowsSeen.has(width)) rowsSeen.set(width, rowsOf(picture, zoom ? pick(picture, 0, room / (weight[0] || 1), layout.mostElements) : below));
  picture.drawn = [...above, ...below];
  picture.rows = larger(rowsSeen.get(width), rowsOf(picture, picture.drawn));
  return { above, below, room, scale };
}

export function drawFrames(picture, { above, below, room, scale }) {
  const { graph, layout, weight, zoom, matches } = picture;
  const { slots, start } = order(picture);
  const left = (node) => layout.side + (start[node] - start[zoom]) * scale;
  const paper = document.createDocumentFragment();
  const paint = painter(picture);
  picture.elements = new Map();
  for (const node of above) drawFrame(picture, paper, paint, node, layout.side, room, true);
  for (const node of below) drawFrame(picture, paper, paint, node, left(node), node === zoom ? room : weight[node] * scale, false);
  drawNarrow(picture, paper, below, slots, left, scale, matches);
  graph.replaceChildren(paper);
}

function drawFrame(picture, paper, paint, node, x, wide, faded) {
  const { tree, model, matches, layout, blank, zoom, state } = picture;
  const frame = tree.frame[node];
  const y = rowY(picture, rowOf(picture, node));
  const found = matches?.frame[frame];
  const rect = blank.frame.cloneNode();
  rect.setAttribute("x", x.toFixed(2));
  rect.setAttribute("y", y);
  rect.setAttribute("width", (wide > 2 ? wide - 0.6 : wide).toFixed(2)); // the gap would eat narrow frames up
  rect.setAttribute("fill", found ? MATCH : model.frames.isFolded[frame] ? "url(#fg-hatch)" : paint(node));
  rect.setAttribute("aria-level", tree.level[node] + 1);
  rect.setAttribute("aria-label", describe(picture, node));
  rect.node = node;
  paper.append(rect);
  if (wide > 8) rect.setAttribute("rx", 2);
  if (tree.first[node + 1] > tree.first[node]) rect.setAttribute("aria-expanded", opensUp(picture, node, wide));
  if (node === zoom && node) rect.setAttribute("aria-current", "true");
  if (faded) rect.setAttribute("opacity", DIMMED);
  else if (matches && !matches.error && !found) rect.setAttribute("opacity", matches.within[node] ? 0.75 : DIMMED);
  picture.elements.set(node, rect);
  const name = state.names === "full" ? nameOf(model, frame) : shownOf(model, frame);
  const label = wide > LABELLED ? fit(name, wide - 7, layout.character) : "";
  if (label) {
    const text = blank.label.cloneNode();
    text.setAttribute("x", (x + 3.5).toFixed(2));
    text.setAttribute("y", y + 11.2);
    text.textContent = label;
    paper.append(text);
    if (found && !faded) text.setAttribute("fill", "#fff");
    else if (faded || rect.getAttribute("opacity") === DIMMED) text.setAttribute("fill", colour("dimmed"));
    if (tree.side && node === 0) text.setAttribute("font-weight", 700);
  }
}

// What is not drawn is at least seen to be there: neighbours run together, in one path for all of them.
function drawNarrow(picture, paper, nodes, slots, left, scale, matches) {
  const { tree, weight, layout } = picture;
  const shown = new Set(nodes);
  const paths = { [colour("narrow")]: "", [MATCH]: "" };
  for (const node of nodes) {
    let run = null;
    const close = () => {
      const wide = run ? run.total * scale : 0;
      if (wide >= layout.narrowest) {
        const y = rowY(picture, rowOf(picture, run.first));
        paths[run.matched ? MATCH : colour("narrow")] += `M${left(run.first).toFixed(1)} ${y}h${wide.toFixed(1)}v${layout.row - 1}h${(-wide).toFixed(1)}z`;
      }
      run = null;
    };
    for (let slot = tree.first[node]; slot < tree.first[node + 1]; slot++) {
      const child = slots[slot];
      if (run && tree.side && tree.side[child] !== tree.side[run.first]) close();
      if (shown.has(child)) {
        close();
        continue;
      }
      run ??= { first: child, total: 0, matched: false };
      run.total += weight[child];
      run.matched ||= Boolean(matches?.within[child]);
    }
    close();
  }
  for (const [fill, path] of Object.entries(paths)) {
    if (!path) continue;
    const run = create("path", { d: path, fill, opacity: 0.4 }, paper);
    create("title", {}, run, "Frames too narrow, or too many, to draw. Zoom in to see them.");
  }
}

// Whether any child of a frame `wide` pixels wide is wide enough to be seen.
function opensUp({ tree, weight, layout }, node, wide) {
  for (let child = tree.first[node]; child < tree.first[node + 1]; child++) {
    if ((weight[child] / weight[node]) * wide >= layout.narrowest) return true;
  }
  return false;
}

export function drawRing({ elements, current, byKeyboard, ring }) {
  const rect = elements.get(current);
  const on = byKeyboard && document.activeElement === rect;
  ring.setAttribute("display", on ? "inline" : "none");
  if (on) for (const key of ["x", "y", "width", "height"]) ring.setAttribute(key, rect.getAttribute(key));
}

// Marks all frames of a function; none where there is no key.
export function highlight({ model, tree, elements, svg }, key) {
  for (const rect of svg.querySelectorAll("[data-marked]")) {
    rect.removeAttribute("data-marked");
    rect.removeAttribute("stroke");
    rect.removeAttribute("stroke-width");
  }
  if (!key) return;
  for (const [node, rect] of elements) {
    if (functionKey(model, tree.frame[node]) !== key) continue;
    rect.setAttribute("data-marked", "");
    rect.setAttribute("stroke", colour("accent"));
    rect.setAttribute("stroke-width", 2);
  }
}
