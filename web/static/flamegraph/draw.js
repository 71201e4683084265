// Draws frames: only those wide enough to be seen are in the document.
import { bandAt, bandsOf, describeBand, MOST_BANDS } from "./bands.js";
import { choose, LABELLED } from "./choose.js";
import { MATCH, painter } from "./colours.js";
import { order } from "./derive.js";
import { colour, create } from "./elements.js";
import { functionKey, nameOf, shownOf } from "./model.js";
import { rowOf, rowY } from "./rows.js";
import { describe, fit } from "./words.js";

const DIMMED = "0.4"; // the opacity of what does not match, and of the zoomed frame's callers

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
  Object.assign(picture, { graph, ring, blank, elements: new Map(), bands: [], drawn: [], wide: [], rows: { up: 1, down: 0 } });
}

// Draws what was chosen in the place of what was drawn before.
export function drawFrames(picture, chosen) {
  const { graph, tree } = picture;
  const band = picture.current < tree.size ? null : bandAt(picture, picture.current);
  const { paper, elements, bands } = framesOf(picture, chosen);
  Object.assign(picture, { elements, bands, covered: chosen.covered, wide: chosen.wide, drawn: [...chosen.above, ...chosen.below] });
  // The band that the keyboard is on may have another number now.
  const again = band ? bands.findIndex(({ parent, first }) => parent === band.parent && first === band.first) : -1;
  if (again >= 0) picture.current = tree.size + again;
  if (!elements.has(picture.current)) picture.current = picture.zoom;
  if (!elements.has(picture.hovered) || picture.hovered >= tree.size) picture.hovered = -1;
  graph.replaceChildren(paper);
  if (picture.marked) highlight(picture, picture.marked);
  elements.get(picture.hovered)?.setAttribute("stroke", colour("outline"));
}

// All rows of the picture, for an image of it.
export const allFrames = (picture) => framesOf(picture, choose(picture, true)).paper;

function framesOf(picture, chosen) {
  const { layout, weight, zoom, tree } = picture;
  const { above, below, room, scale } = chosen;
  const { slots, start } = order(picture);
  const left = (node) => layout.side + (start[node] - start[zoom]) * scale;
  const paper = document.createDocumentFragment();
  const paint = painter(picture);
  const elements = new Map();
  for (const node of above) drawFrame(picture, paper, elements, paint, node, layout.side, room, true);
  for (const node of below) drawFrame(picture, paper, elements, paint, node, left(node), node === zoom ? room : weight[node] * scale, false);
  const all = bandsOf(picture, chosen, slots);
  const bands = all.slice(0, MOST_BANDS);
  for (const [i, band] of bands.entries()) drawBand(picture, paper, elements, band, tree.size + i, left(band.first), scale);
  drawLesser(picture, paper, all.slice(MOST_BANDS), left, scale);
  return { paper, elements, bands };
}

function drawFrame(picture, paper, elements, paint, node, x, wide, faded) {
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
  elements.set(node, rect);
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

// What is not drawn is at least seen to be there.
function drawBand(picture, paper, elements, band, node, x, scale) {
  const { tree, layout, blank } = picture;
  const rect = blank.frame.cloneNode();
  rect.setAttribute("x", x.toFixed(2));
  rect.setAttribute("y", rowY(picture, rowOf(picture, band.first)));
  rect.setAttribute("width", (band.weight * scale).toFixed(2));
  rect.setAttribute("aria-level", tree.level[band.first] + 1);
  rect.setAttribute("aria-label", describeBand(picture, band));
  for (const [name, value] of Object.entries(lookOf(picture, band))) rect.setAttribute(name, value);
  rect.node = node;
  paper.append(rect);
  elements.set(node, rect);
}

function lookOf({ matches }, { matched }) {
  if (!matches || matches.error) return { fill: "url(#fg-hatch)" };
  return matched ? { fill: MATCH, opacity: 0.4 } : { fill: "url(#fg-hatch)", opacity: DIMMED };
}

// The narrowest of very many bands are too many themselves: they can be seen, and no more.
function drawLesser(picture, paper, bands, left, scale) {
  const paths = new Map();
  for (const band of bands) {
    const look = JSON.stringify(lookOf(picture, band));
    const wide = band.weight * scale;
    const shape = `M${left(band.first).toFixed(1)} ${rowY(picture, rowOf(picture, band.first))}h${wide.toFixed(1)}v${picture.layout.row - 1}h${(-wide).toFixed(1)}z`;
    paths.set(look, (paths.get(look) ?? "") + shape);
  }
  for (const [look, d] of paths) {
    const run = create("path", { d, ...JSON.parse(look) }, paper);
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
export function highlight(picture, key) {
  const { model, tree, elements, svg } = picture;
  picture.marked = key;
  for (const rect of svg.querySelectorAll("[data-marked]")) {
    rect.removeAttribute("data-marked");
    rect.removeAttribute("stroke");
    rect.removeAttribute("stroke-width");
  }
  if (!key) return;
  for (const [node, rect] of elements) {
    if (node >= tree.size || functionKey(model, tree.frame[node]) !== key) continue;
    rect.setAttribute("data-marked", "");
    rect.setAttribute("stroke", colour("accent"));
    rect.setAttribute("stroke-width", 2);
  }
}
