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
