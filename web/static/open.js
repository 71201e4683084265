// Sends the chosen or dropped file, and shows what the server makes of it. The file stays here, to be sent again for
// another event or format.
"use strict";

import { showFunctions } from "./tables.js";

const PICTURES = new Set(["svg", "html"]);

const form = document.getElementById("open");
const input = form.querySelector("input[type=file]");
let file = null;
let event = "";
let groupBy = "";
let part = {}; // { since, until } in seconds of the file, where only that is asked for
let partShown = {}; // what is on the page
let shows = 0; // how many files were sent: an answer that comes too late is dropped

const address = (path, parameters) => `${path}?${new URLSearchParams(parameters)}`;

function say(text, isProblem) {
  const line = document.createElement("p");
  line.className = isProblem ? "card problem" : "card note";
  if (isProblem) line.setAttribute("role", "alert");
  line.textContent = text;
  replace([line]);
}

function replace(nodes) {
  const opened = document.getElementById("opened");
  // The picture listens to the whole page: it is told that it goes.
  opened.querySelector("svg")?.dispatchEvent(new Event("pilotlight:close"));
  history.replaceState(history.state, "", location.pathname);
  opened.replaceChildren(...nodes);
  document.getElementById("tables").hidden = true;
}

async function send(path, parameters, signal) {
  if (file.size > Number(form.dataset.limit)) {
    throw new Error(`${file.name} is larger than ${Math.round(form.dataset.limit / 1048576)} MB: render it with pilotlight render.`);
  }
  try {
    return await fetch(address(path, parameters), { method: "POST", body: file, signal });
  } catch {
    throw new Error("The server does not answer, or the file cannot be read any more.");
  }
}

async function show() {
  const number = ++shows;
  if (!document.querySelector(".filetimes")) say(`Reading ${file.name}\u2026`, false);
  try {
    const answer = await send("/open", { name: file.name.slice(0, 200), event, groupBy, ...part });
    const text = await answer.text();
    if (number !== shows) return;
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const opened = fresh.getElementById("opened");
    if (!opened) return say(`The server answered ${answer.status}: log in again, or look at its log.`, true);
    // A part that is not there leaves the map on the page, so that another can be chosen.
    const map = document.querySelector(".filetimes");
    if (!answer.ok && map) {
      part = partShown;
      map.querySelector(".problem")?.remove();
      return map.append(...opened.querySelectorAll(".problem"));
    }
    const scripts = [...opened.querySelectorAll("svg script")];
    partShown = part;
    replace(opened.childNodes);
    document.title = fresh.title;
    showTables({ event, ...part });
    for (const script of scripts) {
      // What a parser made does not run; what a script makes does.
      const alive = document.createElementNS("http://www.w3.org/2000/svg", "script");
      alive.setAttribute("href", script.getAttribute("href"));
      script.replaceWith(alive);
    }
  } catch (error) {
    if (number === shows) say(error.message, true);
  }
}

// The functions of the picture on the page, once its script runs. A difference has two counts of each: no table.
function showTables(of) {
  const svg = document.querySelector("#opened .picture[data-functions] > svg");
  svg?.addEventListener("pilotlight:ready", () => {
    document.getElementById("tables").hidden = false;
    showFunctions({ svg, picture: svg.pilotlight }, (question, signal) => send("/api/v1/render/lines", { ...question, ...of }, signal));
  }, { once: true });
}

async function save(format, button) {
  button.disabled = true;
  try {
    const title = file.name.slice(0, 200);
    const grouped = PICTURES.has(format) && { groupBy };
    const answer = await send("/api/v1/render", { format, event, title, ...grouped, ...part });
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `The server answered ${answer.status}.`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${title.replace(/(\.(gz|json|txt|svg|folded|pb|pprof|speedscope|firefox))+$/, "") || "profile"}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    const problem = document.createElement("p");
    problem.className = "problem";
    problem.setAttribute("role", "alert");
    problem.textContent = error.message;
    button.parentElement.append(problem);
  }
  button.disabled = false;
}

function take(files) {
  if (!files?.length) return;
  [file, event, groupBy, part] = [files[0], "", "", {}];
  replace([]);
  show();
}

input.addEventListener("change", () => take(input.files));
take(input.files); // chosen before this script ran
form.addEventListener("submit", (submitted) => submitted.preventDefault());
document.addEventListener("dragover", (dragged) => {
  dragged.preventDefault();
  form.classList.add("over");
});
document.addEventListener("dragleave", (dragged) => { if (!dragged.relatedTarget) form.classList.remove("over"); });
document.addEventListener("drop", (dropped) => {
  dropped.preventDefault();
  form.classList.remove("over");
  take(dropped.dataTransfer.files);
});
document.getElementById("opened").addEventListener("change", (changed) => {
  const { id, value } = changed.target;
  if (id === "event") [event, groupBy] = [value, ""]; // samples of another event may have other labels
  else if (id === "group") groupBy = value;
  else return;
  show();
});
document.getElementById("opened").addEventListener("click", (clicked) => {
  const button = clicked.target.closest("button[data-format]");
  if (button && file) save(button.dataset.format, button);
  if (clicked.target.id === "all") showPart({});
});

// ---------------------------------------------------------------------------------------------- a part of its time

function showPart(chosen) {
  part = chosen;
  show();
}

document.getElementById("opened").addEventListener("submit", (submitted) => {
  if (submitted.target.id !== "part") return;
  submitted.preventDefault();
  const { since, until } = submitted.target.elements;
  showPart({ since: since.value || 0, ...(until.value && { until: until.value }) });
});

let drag = null; // { from, to } in columns of the map

const columnAt = (map, clientX) => {
  const { left, width } = map.getBoundingClientRect();
  return Math.min(Math.max(((clientX - left) / width) * map.viewBox.baseVal.width, 0), map.viewBox.baseVal.width);
};
const ordered = ({ from, to }) => {
  const first = Math.floor(Math.min(from, to));
  return { first, last: Math.max(Math.ceil(Math.max(from, to)), first + 1) };
};

document.addEventListener("pointerdown", (pressed) => {
  const map = pressed.button === 0 && pressed.target.closest?.("#filemap");
  if (!map) return;
  const at = columnAt(map, pressed.clientX);
  drag = { map, from: at, to: at };
  map.setPointerCapture(pressed.pointerId);
  pressed.preventDefault();
});
document.addEventListener("pointermove", (moved) => {
  if (!drag) return;
  drag.to = columnAt(drag.map, moved.clientX);
  const { first, last } = ordered(drag);
  const span = drag.map.querySelector(".span");
  span.setAttribute("x", first);
  span.setAttribute("width", last - first);
});
document.addEventListener("pointerup", () => {
  if (!drag) return;
  const { first, last } = ordered(drag);
  const { step, start } = drag.map.closest("[data-step]").dataset;
  const at = (column) => Number((Number(start) + column * step).toPrecision(12));
  drag = null;
  // Whole steps, written without the noise of fractions that have no end in binary.
  showPart({ since: at(first), until: at(last) });
});
document.addEventListener("pointercancel", () => { drag = null; });
