// The flame graph in a page's frame.
"use strict";

// The expression that finds a function by its whole name.
export const expressionOf = (name) => `^${name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")}$`;

// Calls `ready` with the SVG element and its `pilotlight` object, now or as soon as there is one, and again whenever the
// frame shows another picture.
export function pictureOf(frame, ready) {
  let known = null;
  const look = () => {
    const svg = frame.contentDocument?.documentElement;
    if (!svg?.pilotlight || svg === known) return;
    known = svg;
    ready({ svg, picture: svg.pilotlight });
  };
  if (!frame) return;
  frame.addEventListener("pilotlight:ready", look);
  look();
}

// A newer picture of the same question in a page's frame, where what people chose in it stays; `src` is where it is from.
export function renew(frame, text, src) {
  const shown = frame.contentDocument?.documentElement?.pilotlight;
  if (shown) shown.update(text);
  else frame.contentWindow.location.replace(src); // it is not ready yet, or an error
}

// Links rows of tables with the picture: the row of what is pointed at there is marked, and the frames of the row (by its
// data-key, a function's) that is pointed at or focused here. Gives what has to be called with each new picture.
export function linkRows(tables, rowOf) {
  let picture = null;
  let marked = null;
  const mark = (key) => {
    marked?.classList.remove("pointed");
    marked = key === null ? null : rowOf(key) ?? null;
    marked?.classList.add("pointed");
  };
  for (const table of tables) {
    const point = (event) => picture?.highlight(event.target.closest?.("tr[data-key]")?.dataset.key ?? null);
    table.addEventListener("pointerover", point);
    table.addEventListener("focusin", point);
    table.addEventListener("pointerleave", () => picture?.highlight(null));
    table.addEventListener("focusout", () => picture?.highlight(null));
  }
  return (svg, found) => {
    picture = found;
    svg.addEventListener("pilotlight:point", (event) => mark(event.detail));
  };
}
