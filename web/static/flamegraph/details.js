// The panel that tells all about the frame that is pointed at: whole name, weight, origin, and shares.
import { bandAt, describeBand, waysInto } from "./bands.js";
import { painter } from "./colours.js";
import { colour, create } from "./elements.js";
import { nameOf } from "./model.js";
import { cardRoom, graphBottom } from "./view.js";
import { originOf, sharesOf, weightOf, widthOf, wrapped, write } from "./words.js";

const LINE = 16;
const MOST_LINES = 8; // of a name

export function makeDetails(picture) {
  const { byId, layout } = picture;
  const details = byId("details");
  details.setAttribute("pointer-events", "none");
  details.setAttribute("fill", colour("ink"));
  const panel = create("rect", { y: 0, rx: 7, fill: colour("card"), "fill-opacity": 0.96, stroke: colour("edge") }, details);
  const swatch = create("rect", { y: 8, width: 5, rx: 2.5 }, details);
  const nameLine = create("text", { y: 17, "font-size": 12.5, "font-weight": 600, id: "fg-details-name" }, details);
  const originLine = create("text", { "font-size": 11.5, fill: colour("soft"), id: "fg-details-origin" }, details);
  const sharesLine = create("text", { "font-size": 11.5, fill: colour("soft"), id: "fg-details-shares" }, details);
  const measured = create("text", { "font-size": 12.5, "font-weight": 600, visibility: "hidden", "aria-hidden": "true" }, details);
  picture.detailsHeight = layout.details;

  function draw() {
    const { hovered, byKeyboard, graph, current, tree, isStill } = picture;
    const message = isStill ? "" : picture.message;
    const node = isStill ? -1 : hovered >= 0 ? hovered : byKeyboard && graph.contains(document.activeElement) ? current : -1;
    const band = node >= 0 ? bandAt(picture, node) : undefined;
    const x = layout.side;
    const room = picture.width - 2 * x - 30;
    panel.setAttribute("x", x);
    panel.setAttribute("width", picture.width - 2 * x);
    swatch.setAttribute("x", x + 9);
    for (const line of [nameLine, originLine, sharesLine]) line.setAttribute("x", x + 22);
    let lines = 1;
    if (node >= 0) {
      lines = band ? writeLines(nameLine, describeBand(picture, band), room, x + 22, 17) : writeName(nameOf(picture.model, tree.frame[node]), ` (${weightOf(picture, node)})`, room, x + 22);
      swatch.setAttribute("fill", band ? colour("narrow") : painter(picture)(node));
    } else {
      lines = writeResting(room, x + 22);
      swatch.setAttribute("fill", colour("edge"));
    }
    const below = 17 + lines * LINE;
    const isHint = node < 0 && !message;
    const origin = isHint ? writeLines(originLine, hint(picture), room, x + 22, below, mostLines() - lines) : writeLines(originLine, message || (band ? waysInto(picture, band) : originOf(picture, node)), room, x + 22, below);
    const words = node >= 0 && !band ? sharesOf(picture, node) + folded(picture, node) : "";
    const shares = writeLines(sharesLine, words, room, x + 22, 17 + (lines + origin) * LINE);
    lines += origin + (words ? shares : 0);
    picture.detailsHeight = Math.max(cardRoom(picture), layout.details + (lines - 3) * LINE);
    panel.setAttribute("height", picture.detailsHeight - 12);
    swatch.setAttribute("height", picture.detailsHeight - 28);
    place();
  }

  function writeOne(element, words, room, y) {
    element.setAttribute("y", y);
    write(element, words, room);
    return 1;
  }

  // How many lines there are where nothing is pointed at, so that the card covers no frames then.
  const mostLines = () => 3 + Math.floor((cardRoom(picture) - layout.details) / LINE);

  // What all of it or the zoomed frame weighs, which is never cut off; a long name is.
  function writeResting(room, x) {
    const { zoom, model, tree } = picture;
    const weight = weightOf(picture, zoom);
    if (!zoom) return writeLines(nameLine, `All: ${weight}`, room, x, 17, mostLines() - 1);
    return writeName(`Zoomed: ${nameOf(model, tree.frame[zoom])}`, ` (${weight})`, room, x, mostLines() - 1);
  }

  // How many lines a text takes, broken between words; what there is no line for is cut off.
  function writeLines(element, words, room, x, y, most = Infinity) {
    let rows = wrapped(element, words, room);
    if (rows.length > most) {
      write(measured, rows.slice(most - 1).join(" "), room);
      rows = [...rows.slice(0, most - 1), measured.textContent];
      measured.textContent = "";
    }
    if (rows.length === 1) writeOne(element, rows[0], room, y);
    else {
      element.setAttribute("y", y);
      const isLast = (i) => i === rows.length - 1;
      element.replaceChildren(...rows.map((row, i) => create("tspan", { x, dy: i ? LINE : 0 }, null, isLast(i) ? row : `${row} `)));
    }
    return rows.length;
  }

  // The name takes as many lines as it needs; what it weighs is never cut off.
  function writeName(name, weight, room, x, most = MOST_LINES) {
    write(nameLine, name + weight, Infinity);
    if (widthOf(nameLine, name + weight) <= room) return 1;
    nameLine.textContent = "";
    let rest = name;
    let lines = 0;
    while (rest && lines < most - 1) {
      write(measured, rest, room);
      const cut = measured.textContent.endsWith("…") && measured.textContent !== rest;
      const taken = cut ? measured.textContent.slice(0, -1) || rest.slice(0, 1) : rest;
      create("tspan", { x, dy: lines ? LINE : 0 }, nameLine, taken);
      rest = rest.slice(taken.length);
      lines++;
    }
    write(measured, weight, room);
    if (rest) {
      const left = create("tspan", { x, dy: lines ? LINE : 0 }, nameLine, "");
      write(measured, rest, Math.max(room - 7.6 * weight.length, 30));
      left.textContent = measured.textContent + weight;
      lines++;
    } else {
      const last = nameLine.lastChild;
      if (widthOf(nameLine, last.textContent + measured.textContent) <= room) last.textContent += weight;
      else {
        create("tspan", { x, dy: LINE }, nameLine, measured.textContent);
        lines++;
      }
    }
    measured.textContent = "";
    return lines;
  }

  // In its place below the graph, or at the edge of the window while that is scrolled out of sight; it grows upwards.
  function place() {
    const bottom = graphBottom(picture) + cardRoom(picture);
    const edge = picture.isStill ? Infinity : picture.scrolledOff + window.innerHeight + 4;
    const y = Math.max(picture.top, Math.min(bottom, edge) - picture.detailsHeight);
    details.setAttribute("transform", `translate(0 ${y.toFixed(1)})`);
  }

  return { draw, place };
}

function folded({ tree, model, data }, node) {
  if (!model.frames.isFolded[tree.frame[node]]) return "";
  if (tree.origin[node] >= 0 && data.source) return " · click or Enter loads them";
  return data.source ? " · they load where stacks are shown from the root" : " · the server's page of a shorter range, or of fewer processes, has them";
}

function hint({ diff, touched }) {
  if (touched) return "Tap a frame for details, tap it again to zoom · tap its caller to zoom out";
  return `Hover for details · click to zoom · / to search · arrow keys to walk, Enter to zoom, Escape to go back · w callers and callees · r leaf first · i icicle${diff ? " · v vanished" : ""} · c copy name`;
}
