// What everything drawn beside the frames is made of.

export function create(name, attributes, parent, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
}

export const colour = (name) => `var(--fg-${name})`;
export const BUTTON = { y: 0, height: 26, rx: 6, fill: colour("card"), stroke: colour("edge") };

// Enter and Space do what a click does.
export function pressable(group, act) {
  group.addEventListener("click", act);
  group.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    act(event);
  });
}

// A group of buttons is one stop of the Tab key; the arrow keys go from one to the next.
export function rove(group) {
  const stops = () => [...group.querySelectorAll("[role=button]")].filter((stop) => stop.getAttribute("display") !== "none");
  const settle = () => {
    const all = stops();
    const chosen = all.find((stop) => stop.getAttribute("tabindex") === "0") ?? all[0];
    for (const stop of group.querySelectorAll("[role=button]")) stop.setAttribute("tabindex", stop === chosen ? 0 : -1);
  };
  group.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const all = stops();
    const at = all.indexOf(event.target);
    if (!step || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const next = all[(at + step + all.length) % all.length];
    for (const stop of all) stop.setAttribute("tabindex", stop === next ? 0 : -1);
    next.focus({ preventScroll: true });
  });
  return settle;
}
