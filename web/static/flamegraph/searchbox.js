// An input drawn in SVG: a foreign <input> is not shown by every program that shows SVG.
import { BUTTON, colour, create } from "./elements.js";
import { write } from "./words.js";

export function makeSearchBox(picture, parent, change) {
  const { layout, signal } = picture;
  let [value, caret, all, width] = ["", 0, false, 200];
  const group = create("g", { role: "searchbox", tabindex: 0, "aria-label": "Search functions by regular expression", cursor: "text" }, parent);
  create("title", {}, group, "Search by regular expression (/, Ctrl-F or F3)");
  const rect = create("rect", BUTTON, group);
  create("path", { d: "M14 10.2a4 4 0 1 1-.01 0M17 16l4 4", transform: "translate(0 -1.5)", fill: "none", stroke: colour("faint"), "stroke-width": 1.6, "stroke-linecap": "round", "pointer-events": "none" }, group);
  const selection = create("rect", { x: 28, y: 5, height: 16, fill: colour("selection"), "pointer-events": "none" }, group);
  const text = create("text", { x: 28, y: 17.5, "pointer-events": "none" }, group);
  const line = create("path", { stroke: colour("accent"), "stroke-width": 1.3, "pointer-events": "none" }, group);
  const clear = create("text", { y: 18, "font-size": 14, fill: colour("faint"), cursor: "pointer", "aria-hidden": "true" }, group, "×");

  function draw() {
    const focused = document.activeElement === group;
    const character = (layout.character * 12) / 11;
    const room = Math.floor((width - 52) / character);
    const from = Math.max(0, caret - room);
    const shown = value.slice(from, from + room);
    rect.setAttribute("stroke", picture.matches?.error ? colour("bad") : focused ? colour("accent") : BUTTON.stroke);
    rect.setAttribute("stroke-width", focused ? 2 : 1);
    text.setAttribute("fill", shown ? colour("ink") : colour("faint"));
    text.setAttribute("font-family", shown ? layout.mono : layout.sans);
    write(text, shown || (focused ? "" : "Search (regular expression)"), width - 34);
    selection.setAttribute("width", all ? shown.length * character : 0);
    line.setAttribute("d", focused && !all ? `M${(28.5 + (caret - from) * character).toFixed(1)} 6v14` : "");
    clear.setAttribute("display", value ? "inline" : "none");
    group.setAttribute("aria-description", value);
  }

  function resize(wide) {
    width = wide;
    rect.setAttribute("width", width);
    clear.setAttribute("x", width - 16);
  }

  // What is searched for came from somewhere else.
  function set(pattern) {
    if (pattern !== value) [value, caret, all] = [pattern, pattern.length, false];
  }

  function typed(pattern, at) {
    [value, caret, all] = [pattern, at, false];
    change({ search: pattern });
  }

  function open() {
    picture.byKeyboard = true;
    window.focus(); // the key may have been pressed in the page around the picture
    [all, caret] = [value !== "", value.length];
    group.focus({ preventScroll: picture.svg.getBoundingClientRect().top < 0 }); // the bar is in sight then
    draw();
  }

  function insert(typedText) {
    const clean = typedText.replace(/[\x00-\x1f\x7f]/g, "");
    if (all) typed(clean, clean.length);
    else typed(value.slice(0, caret) + clean + value.slice(caret), caret + clean.length);
  }

  group.addEventListener("click", (event) => {
    if (event.target === clear) typed("", 0);
    // Where there is no keyboard, the drawn input cannot call one up.
    else if (event.pointerType === "touch") typed(window.prompt("Search by regular expression", value) ?? value, 0);
    open();
  });
  group.addEventListener("keydown", (event) => {
    const { key } = event;
    const modified = event.ctrlKey || event.metaKey;
    if (modified && key.toLowerCase() === "a") all = value !== "";
    else if (key.length === 1 && (!modified || (event.ctrlKey && event.altKey))) insert(key);
    else if (key === "Backspace" && all) typed("", 0);
    else if (key === "Backspace") typed(value.slice(0, Math.max(0, caret - 1)) + value.slice(caret), Math.max(0, caret - 1));
    else if (key === "Delete" && all) typed("", 0);
    else if (key === "Delete") typed(value.slice(0, caret) + value.slice(caret + 1), caret);
    else if (key === "ArrowLeft") [caret, all] = [Math.max(0, caret - 1), false];
    else if (key === "ArrowRight") [caret, all] = [Math.min(value.length, caret + 1), false];
    else if (key === "Home") [caret, all] = [0, false];
    else if (key === "End") [caret, all] = [value.length, false];
    else if (key === "Escape" && value) typed("", 0);
    else if (key === "Escape" || key === "Enter") picture.focusNode(picture.current);
    else return;
    event.preventDefault();
    event.stopPropagation();
    draw();
  });
  document.addEventListener("paste", (event) => {
    if (document.activeElement !== group) return;
    event.preventDefault();
    insert(event.clipboardData.getData("text/plain"));
  }, { signal });
  group.addEventListener("focusout", () => { all = false; });
  return { group, draw, resize, set, open, width: () => width, value: () => value };
}
