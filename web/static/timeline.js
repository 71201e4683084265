// The time around a picture: its heat map, the range that is shown, and the one to compare with. Both are chosen by
// dragging, by touch, or by keyboard; the picture follows.
import { address, away, moment, show } from "./following.js";
import { AXIS, draw, peakOf, ROW, STRIP, valueAt } from "./heatmap.js";
import { isWaiting, shownRange, told } from "./waiting.js";
import { clock, rangeWords, visible } from "./words.js";

const LEAST_S = 10; // a window
const MOST_MARKS = 200;
const NEAREST_S = 60;
const FARTHEST_S = 400 * 86400;

const section = document.getElementById("timeline");
const [plot, canvas, labels, marks, cursor, reading] = [".plot", "canvas", ".rowlabels", ".marks", ".cursor", ".reading"].map((name) => section.querySelector(name));
const spans = { chosen: section.querySelector(".span.chosen"), base: section.querySelector(".span.base") };
const [rows, values, scale] = ["#rows", "#values", ".scale"].map((name) => section.querySelector(name));
const action = (name) => section.querySelector(`[data-do="${name}"]`);

let map = null; // the last answer
let view = null; // { since, until } in seconds
let drag = null; // { kind, from, to, x, edge }
let cell = null; // { column, row }, what the keyboard is on; row -1 is all
let marked = null; // where a range begins that the keyboard is choosing
let choosesBase = false;
let loading = null;
let pending = 0;

const chosen = () => ({ since: Number(section.dataset.since), until: Number(section.dataset.until) });
const base = () => (section.dataset.baseSince ? { since: Number(section.dataset.baseSince), until: Number(section.dataset.baseUntil) } : null);
const now = () => Math.ceil(Date.now() / 1000);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const stepOf = () => map?.step ?? 10;

// ---------------------------------------------------------------------------------------------- what is in view

function fitted() {
  const { since, until } = chosen();
  const beside = Math.max((until - since) / 2, NEAREST_S);
  return { since: since - beside, until: Math.min(until + beside, Math.max(until, now())) };
}

function look(next, isOwn = true) {
  const span = clamp(next.until - next.since, NEAREST_S, FARTHEST_S);
  const until = Math.min((next.since + next.until + span) / 2, now() + span / 20, 2 ** 32 - 1);
  view = { since: Math.max(Math.floor(until - span), 0), until: Math.ceil(until) };
  const kept = isOwn ? { viewFrom: view.since, viewUntil: view.until } : { viewFrom: null, viewUntil: null };
  const url = address(kept);
  if (url.href !== location.href) history.replaceState(history.state, "", url);
  redraw();
  clearTimeout(pending);
  pending = setTimeout(load, map ? 150 : 0);
}

function zoom(factor, at = (view.since + view.until) / 2) {
  look({ since: at - (at - view.since) * factor, until: at + (view.until - at) * factor });
}

function pan(share) {
  const by = (view.until - view.since) * share;
  look({ since: view.since + by, until: view.until + by });
}

async function load() {
  loading?.abort();
  const { signal } = (loading = new AbortController());
  const asked = (path, more) => {
    const url = new URL(path, location.href);
    for (const [name, value] of Object.entries({ from: view.since, until: view.until, ...more })) url.searchParams.append(name, value);
    return fetch(url, { signal, headers: { accept: "application/json" } });
  };
  const columns = clamp(Math.floor(plot.clientWidth / 4), 30, 400);
  try {
    const answers = await Promise.all([asked(section.dataset.heatmap, { by: rows.value, columns }), asked(section.dataset.annotations, { limit: MOST_MARKS })]);
    if (answers.some((answer) => answer.status >= 500)) throw new TypeError("the server cannot answer");
    const [found, notes] = await Promise.all(answers.map((answer) => answer.json()));
    if (document.body.classList.contains("away")) away(false);
    if (!answers[0].ok) return tell(found.error);
    map = found.rows.length ? found : { ...found, start: view.since, step: view.until - view.since, columns: 0, total: [], covered: [], online: [] };
    name();
    mark(answers[1].ok ? notes : []);
    redraw();
    if (!found.rows.length) tell("There are no windows in this time.");
    else if (reading.dataset.of !== "cell") tell("");
  } catch {
    if (signal.aborted) return;
    away(true);
    setTimeout(() => { if (!signal.aborted) load(); }, 2000);
  }
}

// ---------------------------------------------------------------------------------------------- drawing

const x = (at) => ((at - view.since) / (view.until - view.since)) * plot.clientWidth;
const timeAt = (clientX) => view.since + ((clientX - plot.getBoundingClientRect().left) / plot.clientWidth) * (view.until - view.since);

function redraw() {
  if (!map) return;
  const asShare = isShare();
  draw(canvas, map, view, asShare);
  place(spans.chosen, drag && drag.kind === "chosen" ? ordered(drag) : chosen());
  place(spans.base, drag && drag.kind === "base" ? ordered(drag) : base());
  action("clear").hidden = !base();
  marks.style.setProperty("--tall", `${canvas.clientHeight - AXIS + 2}px`);
  for (const note of marks.children) {
    const [at, until] = [Number(note.dataset.at), Number(note.dataset.until)];
    note.style.left = `${x(at)}px`;
    note.style.setProperty("--wide", `${Math.max(x(until) - x(at), 0)}px`);
    note.hidden = until < view.since || at > view.until;
  }
  edges();
  for (const link of labels.querySelectorAll("a")) link.href = onlyRow(link.dataset.row);
  const peak = peakOf(map, asShare);
  scale.parentElement.hidden = !map.rows.length;
  scale.textContent = `0 – ${figure(peak, asShare)}`;
  placeCursor();
}

function place(element, range) {
  element.hidden = !range || range.until < view.since || range.since > view.until;
  if (element.hidden) return;
  const [from, to] = [clamp(x(range.since), 0, plot.clientWidth), clamp(x(range.until), 0, plot.clientWidth)];
  element.style.left = `${from}px`;
  element.style.width = `${Math.max(to - from, 2)}px`;
}

function edges() {
  const range = drag && drag.kind === "chosen" ? ordered(drag) : chosen();
  for (const edge of spans.chosen.querySelectorAll(".edge")) {
    edge.setAttribute("aria-valuemin", Math.floor(view.since));
    edge.setAttribute("aria-valuemax", Math.ceil(view.until));
    edge.setAttribute("aria-valuenow", range[edge.dataset.edge]);
    edge.setAttribute("aria-valuetext", clock(range[edge.dataset.edge]));
  }
}

function name() {
  labels.replaceChildren(...map.rows.map((row) => {
    const label = document.createElement("li");
    const isOthers = row.others > 0 || (row.name === "" && map.by !== "host");
    const text = row.others ? `${row.others + 1} others` : visible(row.name) || `no ${map.by}`;
    const link = document.createElement(isOthers || map.by === "share" ? "span" : "a");
    if (link.localName === "a") link.dataset.row = row.name;
    link.textContent = text;
    link.title = link.localName === "a" ? `Only ${text}` : text;
    label.append(link);
    return label;
  }));
}

function onlyRow(value) {
  const url = map.by === "host" ? address({ host: value, follow: null }) : address({});
  if (map.by !== "host" && !url.searchParams.getAll("q").includes(`${map.by}=${value}`)) url.searchParams.append("q", `${map.by}=${value}`);
  return url.href;
}

function mark(notes) {
  marks.replaceChildren(...notes.map((note) => {
    const flag = document.createElement("button");
    flag.type = "button";
    const at = Date.parse(note.at) / 1000, until = note.until ? Date.parse(note.until) / 1000 : at;
    const whose = Object.entries(note.labels).map(([label, value]) => `${label}=${value}`).join(", ");
    const words = visible(`${note.text}${whose ? ` (${whose})` : ""}`);
    flag.title = `${clock(at)}: ${words}`;
    flag.setAttribute("aria-label", flag.title);
    Object.assign(flag.dataset, { at, until });
    const say = () => tell(flag.title, "note");
    for (const kind of ["pointerenter", "focus", "click"]) flag.addEventListener(kind, say);
    return flag;
  }));
}

function placeCursor() {
  cursor.hidden = !cell || !map.columns;
  if (cursor.hidden) return;
  const column = map.start + cell.column * map.step;
  const [from, to] = marked === null ? [column, column + map.step] : [Math.min(marked, column), Math.max(marked, column) + map.step];
  Object.assign(cursor.style, { left: `${x(from)}px`, width: `${Math.max(x(to) - x(from), 2)}px`, top: `${cell.row < 0 ? 0 : STRIP + cell.row * ROW}px`, height: `${cell.row < 0 ? STRIP : ROW}px` });
}

// ---------------------------------------------------------------------------------------------- words

const isShare = () => values.value === "share";

function figure(value, asShare, row = 0) {
  if (map.counts && row >= 0) return `${Math.round(value)} ${value === 1 ? map.counts.slice(0, -1) : map.counts}`;
  if (asShare) return `${(value * 100).toFixed(1)} % of the CPUs`;
  return map.unit === "CPU-seconds" ? `${value.toFixed(2)} CPUs` : `${value.toPrecision(3)} ${map.unit} a second`;
}

function tell(text, of = "") {
  reading.dataset.of = of;
  const words = text || rest();
  if (reading.textContent !== words) reading.textContent = words;
}

function rest() {
  if (choosesBase) return "Drag over the time to compare with.";
  if (isWaiting()) return told();
  const other = base();
  return `${told()}${other ? ` Baseline: ${rangeWords(other)}.` : ""} Drag to choose another time.`;
}

function tellCell({ column, row }) {
  if (!map?.columns) return;
  const value = valueAt(map, row < 0 ? map.total : map.rows[row].values, column, isShare());
  const whose = row < 0 ? "all" : map.rows[row].others ? `${map.rows[row].others + 1} others` : visible(map.rows[row].name) || `no ${map.by}`;
  const online = map.online[column];
  const what = value === null ? "nothing is known" : figure(value, isShare(), row) + (map.by !== "share" && !isShare() && online && (row < 0 || map.by !== "host") ? ` of ${Math.round(online)}` : "");
  const at = map.start + column * map.step;
  tell(`${whose}: ${what}, ${clock(at, false)} – ${clock(at + map.step)}`, "cell");
}

// ---------------------------------------------------------------------------------------------- choosing

const ordered = ({ from, to }) => {
  const step = Math.max(Math.min(stepOf(), (view.until - view.since) / 20), LEAST_S);
  const whole = (at, round) => Math[round](at / step) * step;
  const [first, last] = [Math.min(from, to), Math.max(from, to)];
  const since = Math.round(whole(first, "floor"));
  return { since: Math.max(since, 0), until: Math.max(Math.round(whole(last, "ceil")), since + LEAST_S) };
};

function choose(kind, range) {
  drag = null;
  marked = null;
  setChoosesBase(false);
  const [since, until] = [moment(range.since), moment(range.until)];
  if (kind === "base") {
    Object.assign(section.dataset, { baseSince: range.since, baseUntil: range.until });
    show(address({ baseFrom: since, baseUntil: until }));
  } else {
    Object.assign(section.dataset, range);
    reading.setAttribute("aria-live", "off"); // what is being loaded is said once, beside the heading
    show(address({ from: since, until, follow: null, viewFrom: Math.floor(view.since), viewUntil: Math.ceil(view.until) }));
  }
  redraw();
  tell("");
}

function setChoosesBase(value) {
  choosesBase = value;
  action("baseline").setAttribute("aria-pressed", String(value));
  tell("");
}

function cancel() {
  drag = null;
  marked = null;
  setChoosesBase(false);
  redraw();
}

plot.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || event.target.closest(".marks button") || !map) return;
  const edge = event.target.closest(".edge");
  const at = timeAt(event.clientX);
  const kind = !edge && (event.shiftKey || choosesBase) ? "base" : "chosen";
  drag = edge ? { kind, from: chosen()[edge.dataset.edge === "since" ? "until" : "since"], to: chosen()[edge.dataset.edge], edge: true } : { kind, from: at, to: at };
  drag.x = event.clientX;
  plot.setPointerCapture(event.pointerId);
});
plot.addEventListener("pointermove", (event) => {
  if (drag) {
    drag.to = clamp(timeAt(event.clientX), view.since, view.until);
    if (drag.moved || Math.abs(event.clientX - drag.x) >= 4) {
      drag.moved = true;
      redraw();
      tell(`${drag.kind === "base" ? "Baseline: " : ""}${rangeWords(ordered(drag))}`, "drag");
    }
  } else if (map?.columns && !event.target.closest(".marks button")) {
    reading.setAttribute("aria-live", "off");
    const found = cellAt(event);
    if (found) tellCell(found);
  }
});
plot.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const done = drag;
  if (done.moved) return choose(done.kind, ordered(done));
  drag = null;
  if (done.edge) return;
  const column = Math.floor((timeAt(event.clientX) - map.start) / map.step); // a click chooses the step that it is on
  if (column >= 0 && column < map.columns) choose(done.kind, { since: map.start + column * map.step, until: map.start + (column + 1) * map.step });
});
plot.addEventListener("pointercancel", cancel);
plot.addEventListener("pointerleave", () => { if (!drag && document.activeElement !== plot) tell(""); });
plot.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
  event.preventDefault();
  if (event.ctrlKey) zoom(clamp(1.0025 ** event.deltaY, 0.5, 2), timeAt(event.clientX));
  else pan(event.deltaX / plot.clientWidth);
}, { passive: false });

function cellAt(event) {
  const column = Math.floor((timeAt(event.clientX) - map.start) / map.step);
  const row = Math.floor((event.clientY - plot.getBoundingClientRect().top - STRIP) / ROW);
  return column >= 0 && column < map.columns && row < map.rows.length ? { column, row: Math.max(row, -1) } : null;
}

// ---------------------------------------------------------------------------------------------- keyboard and buttons

const DO = {
  in: () => zoom(0.5),
  out: () => zoom(2),
  fit: () => look(fitted(), false),
  back: () => pan(-0.5),
  forth: () => pan(0.5),
  baseline: () => setChoosesBase(!choosesBase),
  clear: () => {
    delete section.dataset.baseSince;
    delete section.dataset.baseUntil;
    show(address({ baseFrom: null, baseUntil: null }));
    redraw();
    tell("");
  },
};
for (const [name_, act] of Object.entries(DO)) action(name_).addEventListener("click", act);

const KEYS = { "+": "in", "=": "in", "-": "out", 0: "fit", PageUp: "back", PageDown: "forth", b: "baseline" };

plot.addEventListener("keydown", (event) => {
  if (event.target !== plot || event.ctrlKey || event.metaKey || event.altKey || !map) return;
  const by = event.shiftKey ? 10 : 1;
  const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-Infinity, 0], End: [Infinity, 0] };
  reading.setAttribute("aria-live", "polite");
  if (event.key in moves && map.columns) {
    const [across, down] = moves[event.key];
    const middle = Math.floor(((chosen().since + chosen().until) / 2 - map.start) / map.step);
    const column = cell || !Number.isFinite(across) ? (cell?.column ?? 0) + across : middle;
    cell = { column: clamp(column, 0, map.columns - 1), row: cell ? clamp(cell.row + down, -1, map.rows.length - 1) : -1 };
    placeCursor();
    tellCell(cell);
  } else if ((event.key === "Enter" || event.key === " ") && cell) {
    const at = map.start + cell.column * map.step;
    if (marked === null) {
      marked = at;
      tell(`The range begins at ${clock(at)}: go to its end and press Enter.`, "cell");
    } else {
      choose(choosesBase ? "base" : "chosen", { since: Math.min(marked, at), until: Math.max(marked, at) + map.step });
    }
  } else if (event.key === "Escape") {
    cell = null;
    cancel();
  } else if (event.key in KEYS) {
    DO[KEYS[event.key]]();
  } else {
    return;
  }
  event.preventDefault();
});
plot.addEventListener("blur", () => { cell = null; marked = null; if (map) placeCursor(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && (drag || choosesBase)) cancel(); });

let settling = 0;
for (const edge of spans.chosen.querySelectorAll(".edge")) {
  edge.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (!by) return;
    event.preventDefault();
    const range = chosen(), step = Math.max(Math.min(stepOf(), range.until - range.since), LEAST_S);
    range[edge.dataset.edge] += by * step;
    if (range.until - range.since < LEAST_S) return;
    Object.assign(section.dataset, range);
    reading.setAttribute("aria-live", "polite");
    tell(rangeWords(range), "drag");
    redraw();
    clearTimeout(settling);
    settling = setTimeout(() => choose("chosen", chosen()), 500);
  });
}

rows.addEventListener("change", () => {
  history.replaceState(history.state, "", address({ rows: rows.value === "host" ? null : rows.value }));
  load();
});
values.addEventListener("change", () => {
  history.replaceState(history.state, "", address({ values: values.value || null }));
  redraw();
});

// Back from a range that never came.
window.addEventListener("popstate", () => {
  Object.assign(section.dataset, shownRange());
  redraw();
});
document.addEventListener("pilotlight:state", () => { if (!drag && !reading.dataset.of) tell(""); });

// The range was changed by a link, the back button, or time.
document.addEventListener("pilotlight:page", () => {
  const { since, until } = chosen();
  const own = new URLSearchParams(location.search).has("viewFrom");
  if (!drag && (!own || until < view.since || since > view.until)) look(fitted(), false);
  else redraw();
  if (own && !drag) load();
  if (!drag) tell("");
});
window.addEventListener("resize", redraw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

for (const part of section.querySelectorAll(".scripted, .map")) part.hidden = false;
const typed = new URLSearchParams(location.search);
values.value = typed.get("values") === "share" ? "share" : "";
const [from, until] = [Number(typed.get("viewFrom")), Number(typed.get("viewUntil"))];
look(from > 0 && until > from ? { since: from, until } : fitted(), from > 0 && until > from);
tell("");
