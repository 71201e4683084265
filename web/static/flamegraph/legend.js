// Which colour is which kind of code, or which module; a click on a kind takes its frames out, and brings them back.
import { isDark, moduleColour } from "./colours.js";
import { colour, create, pressable, rove } from "./elements.js";
import { fit, widthOf } from "./words.js";

const LEGEND_LINE = 18;
const BESIDE_ENTRIES = 16;
const MOST_MODULES = 40;
const MEANINGLESS = "Colours tell names apart; they mean nothing else.";
const OTHERS = { label: "others", title: "Each other module has a colour of its own: point at a frame for its name" };

export function makeLegend(picture, change) {
  const { byId, layout } = picture;
  const legend = byId("legend");
  const settle = rove(legend);
  const fixed = picture.diff && [...legend.querySelectorAll("text")].map((text) => ({ label: text.textContent, fill: text.previousElementSibling.getAttribute("fill") }));
  let drawnFor = null;
  let placed = []; // what it has, and where
  let known = null; // what is in the tree that was last drawn

  // What colours mean, which fits in any case; where they tell modules, `modules` are those with most frames in the picture.
  function entries() {
    const { base } = picture.model;
    if (known?.base !== base) known = { base, ...read() };
    const { colour: by, kinds } = picture.state;
    if (by === "kind") return { first: fixed ?? known.kinds, modules: [] };
    const off = known.kinds.filter(({ label }) => kinds.includes(label)); // else nothing would bring them back
    if (by === "hash") return { first: [...off, { label: MEANINGLESS }], modules: [] };
    const plain = known.kinds.filter((kind) => kind.hasNoModule && !off.includes(kind)).map((kind) => ({ ...kind, isKind: !fixed }));
    return { first: [...plain, ...off], modules: known.modules };
  }

  function read() {
    const { base, frames, strings } = picture.model;
    const used = new Set(base.frame.subarray(1));
    const kinds = new Set([...used].map((frame) => frames.kind[frame]));
    const withoutModule = new Set([...used].filter((frame) => !frames.binary[frame]).map((frame) => frames.kind[frame]));
    const areas = new Float64Array(strings.length);
    for (let node = 1; node < base.size; node++) areas[frames.binary[base.frame[node]]] += base.total[node];
    return {
      kinds: picture.data.kindsInOrder.filter((kind) => kinds.has(kind)).map((kind) => ({ label: picture.data.kinds[kind].label, fill: picture.data.kinds[kind].shades[5], isKind: true, hasNoModule: withoutModule.has(kind) })),
      modules: strings.map((_, binary) => binary).filter((binary) => binary && areas[binary]).sort((a, b) => areas[b] - areas[a]).slice(0, MOST_MODULES).map((binary) => moduleOf(strings[binary])),
    };
  }

  // How many rows it takes: known before anything is drawn, as what is below hangs on it.
  function arrange() {
    const room = picture.width - 2 * layout.side;
    const wideOf = ({ label, fill }) => (fill ? 16 : 0) + widthOf(legend, label);
    let [x, row] = [0, 0];
    placed = [];
    const put = (entry) => {
      const wide = wideOf(entry);
      if (x && x + wide > room) [x, row] = [0, row + 1];
      placed.push({ ...entry, x, y: row * LEGEND_LINE, wide });
      x += wide + BESIDE_ENTRIES;
    };
    const { first, modules } = entries();
    first.forEach(put);
    const last = row + (room - x < 360 ? 1 : 0); // on a small screen a line of their own, too
    for (const [i, module] of modules.entries()) {
      const reserved = i < modules.length - 1 ? BESIDE_ENTRIES + wideOf(OTHERS) : 0;
      if (row === last && x && x + wideOf(module) + reserved > room) {
        put(OTHERS);
        break;
      }
      put(module);
    }
    picture.legendHeight = (row + 1) * LEGEND_LINE;
  }

  function draw() {
    legend.setAttribute("transform", `translate(${layout.side} ${picture.top - 4 - picture.legendHeight})`);
    const { colour: by, kinds } = picture.state;
    const key = JSON.stringify([kinds, by, isDark(), picture.width]);
    const { base } = picture.model;
    if (base === drawnFor?.base && key === drawnFor.key) return mark();
    drawnFor = { base, key };
    const focused = legend.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    legend.replaceChildren();
    for (const { label, title, fill, binary, isKind, x, y, wide } of placed) {
      const off = kinds.includes(label);
      const entry = create("g", isKind ? { role: "button", tabindex: -1, cursor: "pointer", "aria-pressed": !off, "aria-label": `${label}: frames of this kind are ${off ? "taken out" : "shown"}` } : {}, legend);
      entry.style.outline = "none";
      if (fill) create("rect", { x, y, width: 11, height: 11, rx: 2, fill: off ? "none" : binary ? moduleColour(binary) : fill, stroke: off ? colour("edge") : "none" }, entry);
      if (title) create("title", {}, entry, title);
      create("text", { x: x + (fill ? 16 : 0), y: y + 9.5, fill: colour("soft"), "text-decoration": off ? "line-through" : "none" }, entry, label);
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

// Without its folders, which are told when it is pointed at.
function moduleOf(binary) {
  return { label: fit(binary.split("/").pop() || binary, 24, 1), title: binary, binary, fill: "module" };
}
