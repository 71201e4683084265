// Which colour is which kind of code; a click on a kind takes its frames out, and brings them back.
import { isDark } from "./colours.js";
import { colour, create, pressable, rove } from "./elements.js";
import { widthOf } from "./words.js";

const LEGEND_LINE = 18;

export function makeLegend(picture, change) {
  const { byId, layout } = picture;
  const legend = byId("legend");
  const settle = rove(legend);
  const fixed = picture.diff && [...legend.querySelectorAll("text")].map((text) => ({ label: text.textContent, fill: text.previousElementSibling.getAttribute("fill") }));
  let drawnFor = null;

  let known = null; // the entries of the model that was last drawn

  function entries() {
    if (fixed) return fixed;
    if (known?.base !== picture.model.base) known = { base: picture.model.base, entries: entriesOf() };
    return known.entries;
  }

  function entriesOf() {
    const used = new Set(picture.model.base.frame.subarray(1));
    const kinds = new Set([...used].map((frame) => picture.model.frames.kind[frame]));
    return picture.data.kindsInOrder.filter((kind) => kinds.has(kind)).map((kind) => ({ label: picture.data.kinds[kind].label, fill: picture.data.kinds[kind].shades[5], isKind: true }));
  }

  // How many rows it takes: known before anything is drawn, as what is below hangs on it.
  function arrange() {
    let [x, row] = [0, 0];
    picture.legendPlaces = entries().map(({ label }) => {
      const wide = 16 + widthOf(legend, label);
      if (x && x + wide > picture.width - 2 * layout.side) [x, row] = [0, row + 1];
      const place = { x, y: row * LEGEND_LINE, wide };
      x += wide + 16;
      return place;
    });
    picture.legendHeight = (row + 1) * LEGEND_LINE;
  }

  function draw() {
    legend.setAttribute("transform", `translate(${layout.side} ${picture.top - 4 - picture.legendHeight})`);
    const { colour: by, kinds } = picture.state;
    const key = JSON.stringify([kinds, by, isDark(), picture.width]);
    if (picture.model === drawnFor?.model && key === drawnFor.key) return mark();
    drawnFor = { model: picture.model, key };
    const focused = legend.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    legend.replaceChildren();
    for (const [i, { label, fill, isKind }] of entries().entries()) {
      const { x, y, wide } = picture.legendPlaces[i];
      const off = kinds.includes(label);
      const entry = create("g", isKind ? { role: "button", tabindex: -1, cursor: "pointer", "aria-pressed": !off, "aria-label": `${label}: frames of this kind are ${off ? "taken out" : "shown"}` } : {}, legend);
      entry.style.outline = "none";
      create("rect", { x, y, width: 11, height: 11, rx: 2, fill: off || by !== "kind" ? "none" : fill, stroke: off || by !== "kind" ? colour("edge") : "none" }, entry);
      create("text", { x: x + 16, y: y + 9.5, fill: colour("soft"), "text-decoration": off ? "line-through" : "none" }, entry, label);
      if (isKind) {
        create("title", {}, entry, off ? "Click to show frames of this kind" : "Click to take frames of this kind out");
        create("rect", { x: x - 3, y: y - 4, width: wide + 6, height: 18, rx: 4, fill: "transparent", class: "ring" }, entry);
        pressable(entry, () => change({ kinds: off ? kinds.filter((kind) => kind !== label) : [...kinds, label] }));
      }
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

  return { arrange, draw };
}
