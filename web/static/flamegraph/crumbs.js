// The path to what is zoomed into, each step of it a button, and what is filtered, each a button that ends it.
import { colour, create, pressable, rove } from "./elements.js";
import { shownOf, frameOfKey } from "./model.js";
import { ancestors } from "./tree.js";
import { fit, widthOf, write } from "./words.js";

const LONGEST = 28; // characters of one step
const CHARACTER = 6.4; // about, of 12 pixels' proportional text: measured where it matters

export function makeCrumbs(picture, bar, change) {
  const group = create("g", { role: "navigation", "aria-label": "Path to the zoomed frame" }, bar);
  const settle = rove(group);
  let drawnFor = "";

  function draw(y, room) {
    const chips = chipsOf(picture);
    const path = picture.zoom ? [...ancestors(picture.tree, picture.zoom), picture.zoom] : [];
    const steps = path.map((node) => ({ node, text: fit(shownOf(picture.model, picture.tree.frame[node]), LONGEST * 7, 7) }));
    // While the head of the picture is out of sight, the row says what it is of.
    const title = picture.barStays && !chips.length && !steps.length ? picture.caption.title : "";
    const key = JSON.stringify([y, Math.round(room), chips.map(({ text }) => text), steps, title]);
    if (key === drawnFor) return mark();
    drawnFor = key;
    group.replaceChildren();
    if (title) write(create("text", { x: 0, y, "font-weight": 600 }, group), title, room);
    let x = chips.length ? 3 : 0;
    for (const chip of chips) x += drawStep(chip.text, x, y, `${chip.text}: end this`, () => change(chip.without), true) + 12;
    for (const [i, step] of fitting(steps, room - x).entries()) {
      if (i) x += widthOf(create("text", { x, y, fill: colour("faint"), "aria-hidden": "true" }, group, "›"), "›") + 6;
      const text = step.skipped ? `… ${step.skipped} more` : step.text;
      x += drawStep(text, x, y, step.skipped ? `Zoom to the caller of the ${step.skipped} frames that are not named here` : `Zoom to ${step.text}`, () => change({ zoom: step.node }), false) + 6;
    }
    settle();
    mark();
  }

  function drawStep(text, x, y, label, act, isChip) {
    const step = create("g", { role: "button", tabindex: -1, cursor: "pointer", "aria-label": label }, group);
    step.style.outline = "none";
    create("title", {}, step, label);
    const word = create("text", { x, y, fill: colour(isChip ? "ink" : "accent") }, step, text);
    const wide = widthOf(word, text);
    word.before(create("rect", { x: x - 3, y: y - 13, width: wide + 6, height: 18, rx: 4, fill: isChip ? colour("on") : "transparent" }));
    pressable(step, act);
    return wide;
  }

  // Where the keyboard is.
  function mark() {
    for (const step of group.querySelectorAll("[role=button]")) {
      step.querySelector("rect").setAttribute("stroke", picture.byKeyboard && document.activeElement === step ? colour("accent") : "none");
    }
  }

  return { draw };
}

// The steps that have room: the first, the last ones, and between them how many are left out.
function fitting(steps, room) {
  const wide = (text) => text.length * CHARACTER + 20;
  const all = steps.reduce((sum, { text }) => sum + wide(text), 0);
  if (all <= room || steps.length < 3) return steps;
  let left = room - wide(steps[0].text) - wide("… 1000 more");
  let from = steps.length;
  while (from > 1 && (left -= wide(steps[from - 1].text)) > 0) from--;
  from = Math.min(from, steps.length - 1);
  if (from <= 1) return steps;
  return [steps[0], { node: steps[from - 1].node, skipped: from - 1 }, ...steps.slice(from)];
}

function chipsOf({ state, told, model }) {
  const chips = [];
  if (state.focus) chips.push({ text: `focus: ${fit(state.focus, 210, 7)} (${told.focus}) ×`, without: { focus: "" } });
  if (state.hide) chips.push({ text: `hidden: ${fit(state.hide, 210, 7)}${told.hide ? ` (${told.hide})` : ""} ×`, without: { hide: "" } });
  if (state.sandwich) {
    const frame = frameOfKey(model, state.sandwich);
    const name = frame < 0 ? "" : `${fit(shownOf(model, frame), 210, 7)} `;
    chips.push({ text: `callers and callees: ${name}(${told.sandwich}) ×`, without: { sandwich: "" } });
  }
  return chips;
}
