// Another range, or the newest windows, on the page that is open: the picture and all that is said of it follow, without
// a reload. While the server is away the page keeps what it has, says so, and goes on once it is back.
import { takeParts } from "./parts.js";
import { renew } from "./picture.js";
import { arrived, isWaiting, told, waitFor } from "./waiting.js";

const AGAIN_MS = 2000;
const WINDOW_MS = 10_000;

let ongoing = null; // what is being fetched, so that something newer can take its place
let shown = location.search;
let seen = Date.now(); // when what is shown was fetched

const frame = document.getElementById("picture");
const status = document.getElementById("status");
const button = document.getElementById("follow");

// The page's address with some parameters changed; null leaves one out.
export function address(changes) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  url.search = url.search.replaceAll("%3A", ":");
  return url;
}

export const moment = (seconds) => new Date(seconds * 1000).toISOString().replace(/\.\d+/, "");

export function away(isAway) {
  document.body.classList.toggle("away", isAway);
  tellState();
}

function tellState() {
  const isAway = document.body.classList.contains("away");
  const isLoading = isWaiting() && !isAway;
  status.classList.toggle("unseen", isLoading); // for screen readers: the timeline and the picture show it
  if (isWaiting()) say(isAway ? `${told()} It goes on once the server is back.` : told());
  else if (isAway) say(`The server does not answer. This is of ${new Date(seen).toLocaleTimeString()}; it goes on once the server is back.`);
  else say(isFollowing() ? "following" : "");
  document.dispatchEvent(new CustomEvent("pilotlight:state"));
}

function say(text) {
  if (status.textContent !== text) status.textContent = text;
}

// Shows what `url` asks for; `entry` says how it becomes the page's address: "pushState", "replaceState", or "" for not.
export async function show(url, entry = "pushState") {
  if (entry) history[entry](null, "", url);
  shown = location.search;
  waitFor(url);
  followAsAddressed();
  ongoing?.abort();
  const mine = (ongoing = new AbortController());
  let found = null;
  while (!found) {
    try {
      found = await ask(url, mine.signal);
    } catch {
      if (mine.signal.aborted) return;
      away(true);
      await new Promise((resume) => { setTimeout(resume, AGAIN_MS); });
      if (mine.signal.aborted) return;
    }
  }
  if (found.isAnother) return location.reload();
  seen = Date.now();
  ongoing = null;
  take(found.page);
  found.showPicture();
  away(false);
}

// The page of an address and its picture. Raises an error where the server is away.
async function ask(url, signal) {
  const answer = await fetch(url, { headers: { accept: "text/html" }, signal });
  if (answer.status >= 500) throw new Error(answer.statusText);
  if (answer.redirected || !answer.ok) return { isAnother: true }; // to log in, or to be told what is wrong
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const picture = page.getElementById("picture");
  if (!frame !== !picture) return { isAnother: true };
  return { page, showPicture: await fetchPicture(picture?.getAttribute("src"), signal) };
}

// Fetches the picture of an address; what is returned shows it.
async function fetchPicture(src, signal) {
  if (!frame || src === (frame.dataset.shown ?? frame.getAttribute("src"))) return () => {};
  const answer = await fetch(src, { signal });
  if (!answer.ok) throw new Error(answer.statusText);
  const text = await answer.text();
  return () => {
    frame.dataset.shown = src;
    renew(frame, text, src);
  };
}

function take(fresh) {
  document.title = fresh.title;
  takeParts(fresh);
  // What others have taken hold of stays, and leads elsewhere.
  for (const part of document.querySelectorAll("[data-links]")) {
    const linked = (root) => root.querySelectorAll("a, input");
    const next = linked(fresh.querySelector(`[data-links="${part.dataset.links}"]`));
    [...linked(part)].forEach((element, i) => {
      if (element.href) element.setAttribute("href", next[i].getAttribute("href"));
      else element.value = next[i].value;
    });
  }
  const lines = document.querySelector("[data-lines]");
  if (lines) lines.dataset.lines = fresh.querySelector("[data-lines]").dataset.lines;
  for (const name of ["from", "until"]) {
    const field = document.querySelector(`form.filters input[name=${name}]`);
    if (field && field !== document.activeElement) field.value = fresh.querySelector(`form.filters input[name=${name}]`).value;
  }
  const [old, now] = [document.getElementById("timeline"), fresh.getElementById("timeline")];
  for (const name of Object.keys({ ...old.dataset, ...now.dataset })) {
    if (name in now.dataset) old.dataset[name] = now.dataset[name];
    else delete old.dataset[name];
  }
  arrived();
  document.dispatchEvent(new CustomEvent("pilotlight:page", { detail: { search: shown } }));
}

window.addEventListener("popstate", () => {
  if (location.search !== shown) show(new URL(location.href), "");
});

// Browsers that come back to a page, or load it again, may put an earlier picture into its frame than it asks for.
function correct() {
  if (frame.contentDocument?.readyState !== "complete" || frame.contentWindow.location.href === "about:blank") return;
  frame.removeEventListener("load", correct);
  const asked = new URL(frame.getAttribute("src"), location.href);
  if (frame.contentWindow.location.search !== asked.search) frame.contentWindow.location.replace(asked);
}

frame?.addEventListener("load", correct);
if (frame) correct();

// ---------------------------------------------------------------------------------------------- following the present

let timer = 0;

const isFollowing = () => new URLSearchParams(location.search).get("follow") === "1";

function followAsAddressed() {
  const follows = isFollowing();
  button.setAttribute("aria-pressed", String(follows));
  button.textContent = follows ? "Pause" : "Follow";
  button.title = follows ? "Keep what is shown" : "Show the newest windows as they come";
  clearTimeout(timer);
  if (follows) timer = setTimeout(goOn, WINDOW_MS);
  tellState();
}

function goOn() {
  if (document.hidden || ongoing) timer = setTimeout(goOn, WINDOW_MS); // what takes longer than a window is waited for
  else show(new URL(location.href), "");
}

button.addEventListener("click", () => {
  if (isFollowing()) {
    show(address({ follow: null }), "replaceState");
    return;
  }
  const { since, until } = document.getElementById("timeline").dataset;
  const url = new URLSearchParams(location.search);
  const ends = (url.get("until") ?? "now") === "now" && /^now-/.test(url.get("from") ?? "now-15m");
  show(address({ ...(ends ? {} : { from: `now-${Math.max(until - since, 10)}s` }), until: null, follow: "1", viewFrom: null, viewUntil: null }));
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && isFollowing()) goOn();
});
for (const hidden of document.querySelectorAll(".live.scripted")) hidden.hidden = false;
followAsAddressed();
