// Which colour is which kind of code; a click on a kind takes its frames out, and brings them back.
import { isDark } from "./colours.js";
import { colour, create, pressable, rove } from "./elements.js";
import { widthOf } from "./words.js";

export function makeLegend(picture, change) {
  const { byId, layout } = picture;
  const legend = byId("legend");
  const settle = rove(legend);
  const fixed = picture.diff && [...legend.querySelectorAll("text")].map((text) => ({ label: text.textContent, fill: text.previousElementSibling.getAttribute("fill") }));
  let drawnFor = null;

  function entries() {
    if (fixed) return fixed;
    const used = new Set(picture.model.base.frame.subarray(1));
    const kinds = new Set([...used].map((frame) => picture.model.frames.kind[frame]));
    return picture.data.kindsInOrder.filter((kind) => kinds.has(kind)).map((kind) => ({ label: picture.data.kinds[kind].label, fill: picture.data.kinds[kind].shades[5], isKind: true }));
  }

  function draw() {
    legend.setAttribute("transform", `translate(${layout.side} ${picture.top - 20})`);
    const { colour: by, kinds } = picture.state;
    const key = JSON.stringify([kinds, by, isDark(), picture.width]);
    if (picture.model === drawnFor?.model && key === drawnFor.key) return mark();
    drawnFor = { model: picture.model, key };
    const focused = legend.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    legend.replaceChildren();
    let x = 0;
    for (const { label, fill, isKind } of entries()) {
      const off = kinds.includes(label);
      const entry = create("g", isKind ? { role: "button", tabindex: -1, cursor: "pointer", "aria-pressed": !off, "aria-label": `${label}: frames of this kind are ${off ? "taken out" : "shown"}` } : {}, legend);
      entry.style.outline = "none";
      create("rect", { x, y: 0, width: 11, height: 11, rx: 2, fill: off || (by !== "kind") ? "none" : fill, stroke: off || by !== "kind" ? colour("edge") : "none" }, entry);
      const text = create("text", { x: x + 16, y: 9.5, fill: colour("soft"), "text-decoration": off ? "line-through" : "none" }, entry, label);
      const wide = 16 + widthOf(text, label);
      if (x && x + wide > picture.width - 2 * layout.side) {
        entry.remove(); // no room on this screen
        continue;
      }
      if (isKind) {
        create("title", {}, entry, off ? "Click to show frames of this kind" : "Click to take frames of this kind out");
        create("rect", { x: x - 3, y: -4, width: wide + 6, height: 18, rx: 4, fill: "transparent", class: "ring" }, entry);
        pressable(entry, () => change({ kinds: off ? kinds.filter((kind) => kind !== label) : [...kinds, label] }));
      }
      x += wide + 16;
      if (focused?.startsWith(`${label}:`)) entry.focus({ preventScroll: true });
    }
    settle();
    mark();
  }

  function mark() {
    for (const entry of legend.querySelectorAll("[role=button]")) {
      entry.querySelector(".ring").setAttribute("stroke", picture.byKeyboard && document.activeElement === entry ? colour("accent") : "none");
    }
  }

  return { draw };
}
