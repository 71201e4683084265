// The bar above the graph: search, buttons, the path to what is zoomed into, and how much of it matched.
import { BUTTON, colour, create, pressable, rove } from "./elements.js";
import { makeCrumbs } from "./crumbs.js";
import { makeSearchBox } from "./searchbox.js";
import { percent, write } from "./words.js";

const ROW = 32;
const GAP = 6;
const NARROW = 700; // pixels: below, buttons that are seldom needed stay away until asked for
const SHAPES_ROW = 22; // the path, and what matched
const COLOURS = ["kind", "module", "hash"];

function buttonsOf(picture, change, act) {
  const { state } = picture;
  const toggle = (name) => () => change({ [name]: !picture.state[name] });
  return [
    { name: "focus", width: 56, text: () => "Focus", hint: "Keep only stacks with a frame that the search matches (f)", off: () => !state.search || Boolean(picture.matches?.error), act: act.focus },
    { name: "hide", width: 48, text: () => "Hide", hint: "Take the frames out that the search matches (h)", off: () => !state.search || Boolean(picture.matches?.error), act: act.hide },
    { name: "sort", width: 96, text: () => (state.byWeight ? "Sort: weight" : "Sort: A–Z"), hint: "Order of siblings (s)", on: () => state.byWeight, act: toggle("byWeight") },
    { name: "icicle", width: 72, text: () => (state.icicle ? "Icicle ↓" : "Flame ↑"), hint: "Root at the bottom or at the top (i)", on: () => state.icicle, act: toggle("icicle") },
    { name: "reverse", width: 78, text: () => "Leaf first", hint: "Merge stacks from where time is spent (r)", on: () => state.reverse && !state.sandwich, act: () => change(state.sandwich ? { sandwich: "", reverse: true } : { reverse: !state.reverse }) },
    { name: "collapse", width: 74, text: () => "Collapse", hint: "A function that calls itself directly is one frame (o)", on: () => state.collapse, act: toggle("collapse") },
    { name: "colour", width: 112, text: () => `Colour: ${picture.diff && state.colour === "kind" ? "change" : state.colour}`, hint: "What colours tell apart (k)", on: () => state.colour !== "kind", act: act.colour },
    { name: "names", width: 94, text: () => `Names: ${state.names}`, hint: "Whole names, or without arguments (n)", on: () => state.names === "full", act: act.names },
    ...(picture.diff && picture.diff.width !== "before" ? [{ name: "vanished", width: 122, text: () => (state.vanished ? "Vanished: shown" : "Vanished: hidden"), hint: "What was before and is no more (v)", on: () => state.vanished, act: toggle("vanished") }] : []),
    { name: "png", width: 46, text: () => "PNG", hint: "Save what is to be seen as an image (p)", act: act.png },
    { name: "reset", width: 88, always: true, text: () => "Reset zoom", hint: "Show everything (Escape)", off: () => picture.zoom === 0, act: () => change({ zoom: 0 }) },
    { name: "more", width: 60, small: true, always: true, text: () => (picture.more ? "Less" : "More"), hint: "Show or hide the other buttons", on: () => picture.more, act: act.more },
  ];
}

export const nextColour = (colour) => COLOURS[(COLOURS.indexOf(colour) + 1) % COLOURS.length];

export function makeToolbar(picture, change, act) {
  const { layout, svg, byId } = picture;
  // What the bar lies on while it stays in the window, and what hides the frames behind it.
  const shelf = create("path", { fill: colour("card"), stroke: colour("edge"), display: "none" });
  const uncovered = create("rect", { x: 0, width: "100%" }, create("clipPath", { id: "fg-below-shelf" }, svg.querySelector("defs")));
  const bar = create("g", { "font-family": layout.sans, "font-size": 12, fill: colour("ink") });
  const legend = create("g", {}); // in it, for what hides frames hides it in the same coordinates
  byId("legend").before(shelf, bar, legend);
  legend.append(byId("legend"));
  const toolbar = create("g", { role: "toolbar", "aria-label": "Flame graph" }, bar);
  const box = makeSearchBox(picture, toolbar, change);
  const group = create("g", {}, toolbar);
  const buttons = buttonsOf(picture, change, act);
  for (const button of buttons) makeButton(button, group);
  const settle = rove(group);
  const crumbs = makeCrumbs(picture, bar, change);
  const status = create("text", { "font-weight": 600, "text-anchor": "end", role: "status" }, bar);
  let rows = 1;

  // How high all of it is hangs on its width alone, so it is known before anything is drawn.
  function arrange() {
    const small = picture.width < NARROW;
    const room = picture.width - 2 * layout.side;
    const shown = buttons.filter((button) => (small ? button.always || picture.more : !button.small));
    const wide = shown.reduce((sum, button) => sum + button.width + GAP, 0);
    const inOneRow = room - wide >= 130;
    box.resize(inOneRow ? Math.min(236, room - wide) : Math.min(room, small ? room : 236));
    let [x, y] = [box.width() + GAP, 0];
    for (const button of buttons) {
      const isShown = shown.includes(button);
      button.group.setAttribute("display", isShown ? "inline" : "none");
      if (!isShown) continue;
      if (x > 0 && x + button.width > room) [x, y] = [0, y + ROW];
      button.group.setAttribute("transform", `translate(${x} ${y})`);
      x += button.width + GAP;
    }
    rows = y / ROW + 1;
    settle();
    picture.barHeight = rows * ROW + SHAPES_ROW;
    picture.shelfHeight = picture.barHeight + 12;
    picture.top = 64 + picture.barHeight + 10 + picture.legendHeight;
  }

  function draw() {
    for (const { group: element, box: rect, label, text, hint, on, off } of buttons) {
      if (label.textContent !== text()) label.textContent = text();
      element.setAttribute("aria-label", `${text()}: ${hint}`);
      if (on) element.setAttribute("aria-pressed", on());
      if (off) element.setAttribute("aria-disabled", off());
      label.setAttribute("opacity", off?.() ? 0.5 : 1);
      rect.setAttribute("fill", on?.() ? colour("on") : colour("card"));
      rect.setAttribute("stroke", picture.byKeyboard && document.activeElement === element ? colour("accent") : BUTTON.stroke);
      rect.setAttribute("stroke-width", picture.byKeyboard && document.activeElement === element ? 2 : 1);
    }
    box.draw();
    drawStatus();
  }

  function drawStatus() {
    const room = picture.width - 2 * layout.side;
    const y = rows * ROW + 14;
    status.setAttribute("x", room);
    status.setAttribute("y", y);
    status.setAttribute("fill", picture.matches?.error ? colour("bad") : colour("found"));
    const used = write(status, matched(picture), room);
    crumbs.draw(y, room - (used ? used + 2 * layout.side : 0));
  }

  // In its place above the graph, or at the edge of the window while that is scrolled out of sight.
  function settlePlace() {
    const edge = picture.isStill ? 0 : picture.scrolledOff;
    const stays = edge > 64 - 8;
    if (stays !== picture.barStays) {
      picture.barStays = stays;
      drawStatus();
    }
    const y = stays ? edge + 8 : 64;
    bar.setAttribute("transform", `translate(${layout.side} ${y})`);
    shelf.setAttribute("display", stays ? "inline" : "none");
    for (const element of [legend, picture.graph, picture.ring]) {
      if (stays) element.setAttribute("clip-path", "url(#fg-below-shelf)");
      else element.removeAttribute("clip-path");
    }
    if (!stays) return;
    const end = edge + picture.shelfHeight;
    shelf.setAttribute("d", `M-2 ${edge - 2}V${end}H${picture.width + 2}V${edge - 2}z`);
    uncovered.setAttribute("y", end);
    uncovered.setAttribute("height", Number(svg.getAttribute("height")));
  }

  for (const element of bar.querySelectorAll("[tabindex]")) element.style.outline = "none";
  return { arrange, draw, settlePlace, box };
}

function makeButton(button, parent) {
  const group = create("g", { role: "button", tabindex: -1, cursor: "pointer" }, parent);
  create("title", {}, group, button.hint);
  button.box = create("rect", { ...BUTTON, width: button.width }, group);
  button.label = create("text", { x: button.width / 2, y: 17.5, "text-anchor": "middle", "pointer-events": "none" }, group);
  button.group = group;
  pressable(group, () => { if (!button.off?.()) button.act(); });
}

function matched({ matches, zoom, weight }) {
  if (!matches) return "";
  if (matches.error) return matches.error;
  if (matches.bySide && !zoom) {
    return `Matched: ${percent(matches.bySide[1], weight[0])} in what it calls, ${percent(matches.bySide[-1], weight[0])} in its callers`;
  }
  const text = `Matched: ${percent(matches.total(0), weight[0])}`;
  return zoom && !matches.bySide ? `${text} of all, ${percent(matches.total(zoom), weight[zoom])} of the zoomed frame` : text;
}
