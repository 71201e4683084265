// What the picture is worth, in one line below it: where every tick went, what has no name, what was cut short. The lines
// of the account are below it when asked for.
import { colour, create, pressable } from "./elements.js";
import { cardRoom, graphBottom } from "./view.js";
import { percent, widthOf, withCommas, wrapped, write } from "./words.js";

const HEIGHT = 30;
const UNKNOWN = "Nothing is known of how this was measured";

export function makeStrip(picture, redraw) {
  const { byId, layout } = picture;
  const notes = byId("notes");
  let open = false;
  let account = []; // what stands in the markup, where it is to be read without scripts as well
  let rows = []; // what is below the line when it is open
  const rest = create("g", { id: "fg-account", fill: colour("soft") });
  const strip = create("g", { role: "button", tabindex: 0, cursor: "pointer", "aria-expanded": false });
  strip.style.outline = "none";
  create("title", {}, strip, "Click for the whole account");
  const box = create("rect", { x: 0, y: 0, height: HEIGHT - 8, rx: 6, fill: colour("card"), "fill-opacity": 0.75 }, strip);
  const bar = create("g", { "pointer-events": "none" }, strip);
  const text = create("text", { x: 10, y: 15, fill: colour("soft"), "pointer-events": "none" }, strip);
  pressable(strip, () => {
    open = !open;
    redraw();
  });

  function read() {
    account = [...notes.querySelectorAll("text")].map((line) => line.textContent);
    notes.replaceChildren(strip, rest);
  }

  // Known before anything is drawn, as what is above hangs on it in a page's frame.
  function height() {
    const parts = summary(picture);
    const room = picture.width - 2 * layout.side - 20;
    const isCut = widthOf(text, said(parts)) > room;
    rows = open ? [...(isCut ? parts : []), ...account].flatMap((line) => wrapped(text, line, room)) : [];
    return HEIGHT + rows.length * layout.note;
  }

  const said = (parts) => `${parts.join(" · ") || UNKNOWN}  ${open ? "▾" : "▸"}`;

  function draw() {
    const y = graphBottom(picture) + cardRoom(picture);
    notes.setAttribute("transform", `translate(${layout.side} ${y})`);
    const room = picture.width - 2 * layout.side;
    box.setAttribute("width", room);
    const focused = picture.byKeyboard && document.activeElement === strip;
    box.setAttribute("stroke", focused ? colour("accent") : colour("edge"));
    box.setAttribute("stroke-width", focused ? 2 : 1);
    strip.setAttribute("aria-expanded", open);
    const parts = summary(picture);
    strip.setAttribute("aria-label", parts.join(", ") || UNKNOWN);
    write(text, said(parts), room - 20);
    rest.replaceChildren(...rows.map((row, i) => create("text", { x: 10, y: HEIGHT + 8 + i * layout.note }, null, row)));
    drawBar(room);
  }

  // Where the ticks went, in proportion; of several accounts each has its part of the line.
  function drawBar(room) {
    bar.replaceChildren();
    const accounts = picture.data.accounts.filter(({ ticks }) => ticks > 0);
    let x = 1;
    for (const { ticks, idle, filtered, shown, lost } of accounts) {
      for (const [count, fill] of [[idle, colour("edge")], [filtered, colour("narrow")], [shown, "#2f9e44"], [lost, "#e03131"]]) {
        const wide = (count / ticks) * ((room - 2) / accounts.length);
        create("rect", { x: x.toFixed(1), y: HEIGHT - 11, width: wide.toFixed(1), height: 2, fill }, bar);
        x += wide;
      }
    }
  }

  read();
  return { draw, height, read, isOpen: () => open };
}

// What each of its parts says in few words.
function summary(picture) {
  const { accounts, caption } = picture.data;
  const parts = accounts.map(({ name, ticks, idle, filtered, shown, lost }) =>
    `${name && `${name}: `}${withCommas(ticks)} ticks = ${withCommas(idle)} idle + ${withCommas(filtered)} filtered + ${withCommas(shown)} shown + ${withCommas(lost)} lost`);
  for (const { name, expected, missed } of accounts) {
    if (expected && missed > 0) parts.push(`${name && `${name}: `}${percent(missed, expected)} missed`);
  }
  parts.push(unknown(picture));
  for (const { name, stacks, cut } of accounts) {
    if (stacks) parts.push(`${name && `${name}: `}${percent(cut, stacks)} of user stacks cut short`);
  }
  parts.push(caption.rate, caption.gaps);
  return parts.filter(Boolean);
}

// The share of all frames on all stacks of the picture that have no name, by reason; whatever focus and filters leave, as
// the account beside it is of all, too.
function unknown({ model, data }) {
  if (!known.has(model.base)) known.set(model.base, namelessOf(model, data));
  return known.get(model.base);
}

const known = new WeakMap(); // what is said of each tree

function namelessOf(model, data) {
  const { frames, base } = model;
  const isCode = model.kinds.map((kind) => !/^(process|thread)$/.test(kind));
  const byReason = new Map();
  let all = 0;
  for (let node = 1; node < base.size; node++) {
    const frame = base.frame[node];
    if (frames.isFolded[frame] || !isCode[frames.kind[frame]]) continue;
    all += base.total[node];
    const reason = data.reasons[frames.reason[frame]];
    if (reason) byReason.set(reason, (byReason.get(reason) ?? 0) + base.total[node]);
  }
  if (!all) return "";
  const reasons = [...byReason].sort((a, b) => b[1] - a[1]);
  const told = reasons.slice(0, 3).map(([reason, weight]) => `${reason} ${percent(weight, all)}`).join(", ");
  const nameless = reasons.reduce((sum, [, weight]) => sum + weight, 0);
  return `${percent(nameless, all)} of frames without a name${told && ` (${told}${reasons.length > 3 ? ", …" : ""})`}`;
}
