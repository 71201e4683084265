// The functions of the flame graph in the page: what each weighs, and of the chosen one who calls it, what it calls, and
// the lines of its source. Both are linked with the picture: what is pointed at or chosen here is there, and vice versa.
"use strict";

import { expressionOf, linkRows, pictureOf } from "./picture.js";

const ROWS = 200; // of functions in the document at a time
const NEIGHBOURS = 50;
const PLACES = new Set(["process", "thread"]); // what stacks stand on; no functions, but where there is no stack

const byId = (id) => document.getElementById(id);
const section = byId("functions");
const table = byId("functions-table");
const body = table.tBodies[0];
const told = byId("functions-told");
const filter = byId("functions-filter");
const back = byId("functions-back");
const more = byId("functions-more");
const chosen = byId("function");

const commas = new Intl.NumberFormat("en-US");
const percent = (part, whole) => `${(whole ? (100 * part) / whole : 0).toFixed(2)} %`;

let picture = null;
let functions = [];
let sort = { by: "self", down: true };
let first = 0; // which of those that the filter lets through is the first row
let rows = new Map(); // function key → row

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const cell = (text) => element("td", { className: "num", textContent: text });

// A function as a button that chooses it.
function nameCell({ key, name, shown, kind, binary }) {
  const header = element("th", { scope: "row" });
  const label = shown || "(no name)";
  if (key) {
    const button = element("button", { type: "button", className: "link", textContent: label, title: name });
    button.addEventListener("click", () => choose(key));
    header.append(button);
  } else header.append(label);
  const folder = binary.slice(0, binary.lastIndexOf("/") + 1); // left out where there is little room
  header.append(element("small", { title: binary }, kind, kind && binary && " · ", element("span", { className: "folder", textContent: folder }), binary.slice(folder.length)));
  return header;
}

// ------------------------------------------------------------------ all functions

function rowOf(row, whole) {
  const find = element("button", { type: "button", className: "link", textContent: "Find", ariaLabel: `Find ${row.shown} in the picture` });
  find.addEventListener("click", () => picture.change({ search: expressionOf(row.name) }));
  const line = element("tr", {}, nameCell(row), cell(commas.format(row.self)), cell(percent(row.self, whole)), cell(commas.format(row.total)), cell(percent(row.total, whole)), element("td", {}, find));
  line.dataset.key = row.key;
  return line;
}

function expression() {
  try {
    filter.setCustomValidity("");
    filter.removeAttribute("aria-invalid");
    // A capital letter means that the writer cares about case, as in the picture's search.
    return filter.value ? new RegExp(filter.value, /[A-Z]/.test(filter.value.replace(/\\./g, "")) ? "" : "i") : null;
  } catch (error) {
    const why = `Not a regular expression: ${String(error.message).split(": ").pop()}`;
    filter.setCustomValidity(why);
    filter.setAttribute("aria-invalid", "true");
    return why;
  }
}

const compare = {
  name: (a, b) => (a.shown < b.shown ? -1 : a.shown > b.shown ? 1 : 0),
  self: (a, b) => a.self - b.self || a.total - b.total,
  total: (a, b) => a.total - b.total || a.self - b.self,
};

function show() {
  const wanted = expression();
  const problem = typeof wanted === "string" ? wanted : "";
  const fitting = problem || !wanted ? functions : functions.filter((row) => wanted.test(row.name) || wanted.test(row.shown));
  const direction = sort.down ? -1 : 1;
  const ordered = [...fitting].sort((a, b) => direction * compare[sort.by](a, b) || compare.name(a, b));
  first = Math.min(first, Math.max(0, Math.floor((ordered.length - 1) / ROWS) * ROWS));
  const part = ordered.slice(first, first + ROWS);
  const whole = picture.total();
  const focused = body.contains(document.activeElement) ? [document.activeElement.closest("tr").dataset.key, document.activeElement.textContent === "Find"] : null;
  rows = new Map(part.map((row) => [row.key, rowOf(row, whole)]));
  body.replaceChildren(...rows.values());
  if (focused) rows.get(focused[0])?.querySelector(focused[1] ? "td button" : "th button")?.focus({ preventScroll: true });
  for (const heading of table.querySelectorAll("th[data-by]")) {
    if (heading.dataset.by === sort.by) heading.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  }
  const range = part.length < ordered.length ? `${commas.format(first + 1)} to ${commas.format(first + part.length)} of ` : "";
  const count = `${range}${commas.format(ordered.length)} function${ordered.length === 1 ? "" : "s"}`;
  told.textContent = problem || (wanted ? `${count} of ${commas.format(functions.length)} match` : count);
  back.hidden = first === 0;
  more.hidden = first + ROWS >= ordered.length;
  markChosen();
}

function markChosen() {
  const { sandwich } = picture.view();
  for (const [key, row] of rows) row.toggleAttribute("data-chosen", key === sandwich);
}

function turn(to) {
  first = Math.max(0, to);
  show();
  section.querySelector(".tall").scrollTop = 0;
}

// ------------------------------------------------------------------ one function

let asked = null; // the function that the lines were asked for last, as one text
let asking = null;
let ask = null; // (what of a function, signal) → the server's answer

function choose(key) {
  picture.change({ sandwich: key, search: "" });
  byId("function-title").focus({ preventScroll: true });
  chosen.scrollIntoView({ block: "nearest" });
}

function showChosen() {
  const key = picture.view().sandwich;
  const row = key && functions.find((one) => one.key === key);
  chosen.hidden = !row;
  if (!row) {
    asking?.abort();
    asked = null;
    return;
  }
  byId("function-title").textContent = row.shown;
  byId("function-title").title = row.name;
  const whole = picture.total();
  byId("function-told").textContent = `${[row.kind, row.binary].filter(Boolean).join(" · ")}: itself ${commas.format(row.self)} ${picture.unit}, ${percent(row.self, whole)} of all; with all that it calls ${commas.format(row.total)}, ${percent(row.total, whole)}.`;
  const { callers, callees } = picture.neighbours(key);
  list("callers", callers, row.total, "It is the root of its stacks.");
  const rest = row.total - callees.reduce((sum, one) => sum + one.total, 0);
  list("callees", [...callees, ...(rest > 0 && callees.length ? [{ key: "", name: "", shown: "(itself)", kind: "", binary: "", total: rest }] : [])].sort((a, b) => b.total - a.total), row.total, "It calls nothing.");
  showLines(row);
}

function list(id, found, whole, none) {
  const shown = found.slice(0, NEIGHBOURS);
  byId(id).tBodies[0].replaceChildren(...shown.map((row) => {
    const line = element("tr", {}, nameCell(row), cell(commas.format(row.total)), cell(percent(row.total, whole)));
    if (row.key) line.dataset.key = row.key;
    return line;
  }));
  const rest = found.length - shown.length;
  byId(id).closest(".scroll").nextElementSibling.textContent = found.length === 0 ? none : rest ? `${commas.format(rest)} more weigh less.` : "";
  byId(id).hidden = found.length === 0;
}

async function showLines({ name, kind, binary }) {
  const question = { function: name, kind, binary };
  if (asked === JSON.stringify(question)) return;
  asked = JSON.stringify(question);
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const lines = byId("lines");
  const note = lines.closest(".scroll").nextElementSibling;
  lines.hidden = true;
  note.textContent = "Loading…";
  try {
    const answer = await ask(question, signal);
    const found = await answer.json().catch(() => ({}));
    if (signal.aborted) return;
    if (!answer.ok) throw new Error(found.error ?? `The server answered ${answer.status}.`);
    note.textContent = linesTold(found);
    const known = found.by_line.some((row) => row.line);
    lines.hidden = !known;
    lines.tBodies[0].replaceChildren(...(known ? found.by_line : []).map((row) =>
      element("tr", {}, element("th", { scope: "row", textContent: row.line ? `${row.file}:${row.line}` : "(no line)" }), cell(commas.format(row.self)), cell(commas.format(row.total)), cell(percent(row.total, found.total)))));
  } catch (error) {
    if (signal.aborted) return;
    asked = null;
    note.textContent = error instanceof TypeError ? "The server does not answer: choose the function again when it is back." : error.message;
  }
}

function linesTold(found) {
  if (!found.by_line.some((row) => row.line)) return "No lines are known: its binary has no debug information that was found.";
  const rest = found.lines - found.by_line.length;
  const many = rest ? ` ${commas.format(rest)} more lines weigh less.` : "";
  return `Of all ${commas.format(found.total)} ${picture.unit} that have it, whatever is hidden in the picture.${many}`;
}

// ------------------------------------------------------------------ the picture

let pending = 0;

// Not at once: the picture is drawn first.
function refresh() {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(() => setTimeout(() => {
    functions = picture.functions().filter((row) => row.self || !PLACES.has(row.kind));
    show();
    showChosen();
  }));
}

const link = linkRows([body, byId("callers"), byId("callees")], (key) => rows.get(key));

// The functions of this picture from now on; `askLines` fetches the lines of one.
export function showFunctions({ svg, picture: found }, askLines) {
  picture = found;
  ask = askLines;
  link(svg, picture);
  asked = null;
  section.querySelector(".tall").hidden = false;
  filter.parentElement.hidden = false;
  svg.addEventListener("pilotlight:change", refresh);
  refresh();
}

pictureOf(byId("picture"), (shown) => showFunctions(shown, (question, signal) => {
  const address = new URL(chosen.dataset.lines, location.origin);
  for (const [parameter, value] of Object.entries(question)) address.searchParams.set(parameter, value);
  return fetch(address, { signal, headers: { accept: "application/json" } });
}));

filter.addEventListener("input", () => { first = 0; if (picture) show(); });
table.tHead.addEventListener("click", (event) => {
  const by = event.target.closest("th[data-by]")?.dataset.by;
  if (!by || !picture) return;
  sort = { by, down: sort.by === by ? !sort.down : by !== "name" };
  turn(0);
});
back.addEventListener("click", () => turn(first - ROWS));
more.addEventListener("click", () => turn(first + ROWS));
byId("function-close").addEventListener("click", () => picture.change({ sandwich: "" }));
byId("function-find").addEventListener("click", () => {
  picture.change({ sandwich: "", search: expressionOf(byId("function-title").title) });
});
