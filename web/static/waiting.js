// A range that was chosen and is not there yet: what to say of it, and the sign on the picture that it is to replace.
import { rangeWords } from "./words.js";

const CALM_MS = 200; // what takes less needs no sign

const section = document.getElementById("timeline");
const picture = document.getElementById("picture");

let shown = current();
let wanted = ""; // the chosen range in words
let timer = 0;

function current() {
  const { since, until } = section.dataset;
  return { range: { since: Number(since), until: Number(until) }, typed: typed(new URL(location.href)).join() };
}

function typed(url) {
  return [url.searchParams.get("from") ?? "now-15m", url.searchParams.get("until") ?? "now"];
}

function words(url) {
  const ends = typed(url);
  const [since, until] = ends.map((end) => (/^\d{4}-.*Z$/.test(end) ? Date.parse(end) / 1000 : NaN));
  return until > since ? rangeWords({ since, until }) : ends.join(" – ");
}

export const isWaiting = () => wanted !== "";
export const shownRange = () => shown.range;

// `url` is being asked for. The newest windows of the same range are nothing to wait for.
export function waitFor(url) {
  wanted = typed(url).join() === shown.typed ? "" : words(url);
  mark();
}

export function arrived() {
  shown = current();
  wanted = "";
  mark();
}

// What is shown, in words, or why it is not what was chosen.
export function told() {
  if (!wanted) return `Shown: ${rangeWords(shown.range)}.`;
  if (document.body.classList.contains("away")) return `The server does not answer; shown is still ${rangeWords(shown.range)}.`;
  return `Loading: ${wanted}…`;
}

function mark() {
  clearTimeout(timer);
  if (!picture) return;
  if (wanted) picture.setAttribute("aria-busy", "true");
  else picture.removeAttribute("aria-busy");
  const sign = () => picture.parentElement.classList.toggle("busy", isWaiting());
  if (wanted) timer = setTimeout(sign, CALM_MS);
  else sign();
}
