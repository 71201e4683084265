// What is said of frames and counts, and how much of it fits.
import { binaryOf, kindOf, nameOf, shownOf } from "./model.js";
import { interval } from "./numbers.js";

// 1234567.5 → "1,234,567.5". Thousands are written for each picture, and Intl.NumberFormat is several times slower.
export function withCommas(number) {
  const [whole, fraction] = String(number).split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (fraction ? `.${fraction}` : "");
}
export const percent = (part, of) => `${(of ? (100 * part) / of : 0).toFixed(2)} %`;
const signed = (number, text) => `${number < 0 ? "−" : "+"}${text}`;

function seconds(value) {
  if (value < 1) return `${Number((1000 * value).toPrecision(3))} ms`;
  if (value < 120) return `${Number(value.toPrecision(3))} s`;
  if (value < 7200) return `${(value / 60).toFixed(1)} min`;
  return `${withCommas(Number((value / 3600).toFixed(1)))} h`;
}

// What is counted; where samples of lower rates count for several, that is no number of samples that were taken.
export function unitOf({ caption, diff }) {
  const each = diff ? diff.perSample ?? [1] : [caption.perSample ?? 1];
  return `${Math.max(...each) > 1 ? "weighed " : ""}${caption.unit}`;
}

// What a frame weighs; its share is of all samples, whatever focus and filters leave of them.
export function weightOf(picture, node) {
  const { tree, model, caption, diff } = picture;
  if (diff) return changeOf(picture, node);
  const total = tree.total[node];
  const parts = [`${withCommas(total)} ${unitOf(picture)}`, percent(total, model.base.total[0])];
  if (caption.secondsPerSample) parts.push(`${seconds(total * caption.secondsPerSample)} ${caption.time}`.trim());
  return parts.join(", ");
}

function changeOf(picture, node) {
  const { tree, diff, change, all } = picture;
  const [old, now] = [tree.before[node], tree.total[node]];
  const told = change[node] || node === 0 ? "" : ", no significant change";
  if (diff.absolute) {
    const share = old ? `, ${signed(now - old, ((100 * Math.abs(now - old)) / old).toFixed(1))} %` : "";
    return `before ${withCommas(old)}, after ${withCommas(now)} ${unitOf(picture)}, ${signed(now - old, withCommas(Math.abs(now - old)))}${share}${told}`;
  }
  const points = (100 * now) / (all.after || 1) - (100 * old) / (all.before || 1);
  return `before ${percent(old, all.before)}, after ${percent(now, all.after)}, ${signed(points, Math.abs(points).toFixed(2))} points; ${withCommas(old)} and ${withCommas(now)} ${unitOf(picture)}${told}`;
}

export const describe = (picture, node) => `${nameOf(picture.model, picture.tree.frame[node])} (${weightOf(picture, node)})`;

export function originOf({ model, tree, data }, node) {
  if (node === 0 && !tree.side) return "";
  const { frames } = model;
  const frame = tree.frame[node];
  const file = model.strings[frames.file[frame]];
  const reason = data.reasons[frames.reason[frame]];
  return [
    kindOf(model, frame) + intoCaller(model, tree, node),
    binaryOf(model, frame),
    file && `${file}${frames.line[frame] ? `:${frames.line[frame]}` : ""}${otherLines(frames.other_lines[frame])}`,
    reason && `no name: ${reason}`,
  ].filter(Boolean).join(" · ");
}

function intoCaller(model, tree, node) {
  const caller = tree.parent[node];
  if (!tree.callersBelow || kindOf(model, tree.frame[node]) !== "inlined" || caller <= 0) return "";
  if (/^(process|thread)$/.test(kindOf(model, tree.frame[caller]))) return "";
  return ` into ${shownOf(model, tree.frame[caller])}`;
}

function otherLines(count) {
  return count ? ` and ${withCommas(count)} other line${count === 1 ? "" : "s"}` : "";
}

// What is its own, its shares of the frame that it stands on and of what is shown, and how sure that of all is.
export function sharesOf(picture, node) {
  const { model, tree, caption, diff } = picture;
  const [shown, whole, parent] = [tree.total[0], model.base.total[0], tree.parent[node]];
  const own = tree.own[node];
  // Turned round, a frame's own are the stacks that begin there, and no time of its function's.
  const isTurned = tree.leafFirst || tree.side?.[node] < 0;
  const self = diff ? `self before ${withCommas(tree.beforeOwn[node])}, after ${withCommas(own)} ${unitOf(picture)}` : `self ${withCommas(own)} ${unitOf(picture)}, ${percent(own, whole)}`;
  const parts = isTurned ? [] : [self];
  if (parent > 0) parts.push(`${diff ? "after " : ""}${percent(tree.total[node], tree.total[parent])} of ${shownOf(model, tree.frame[parent])}`);
  if (!diff && shown < whole && node) parts.push(`${percent(tree.total[node], shown)} of what is shown`);
  if (!diff && caption.unit === "samples" && whole && node) {
    const [least, most] = interval(tree.total[node], whole, caption.perSample);
    parts.push(`${(100 * least).toFixed(2)} to ${percent(most, 1)} of all with 95 % confidence`);
  }
  return parts.join(" · ");
}

// The part of a text that fits, judged by the width of a monospace character.
export function fit(text, width, character) {
  const room = Math.floor(width / character);
  let used = 0;
  let end = 0;
  let lastFit = 0; // where to cut if an ellipsis has to fit as well
  for (const c of text) {
    used += c.codePointAt(0) >= 0x2e80 ? 2 : 1;
    if (used > room) return room < 3 ? "" : `${text.slice(0, lastFit)}…`;
    end += c.length;
    if (used <= room - 1) lastFit = end;
  }
  return text;
}

// How wide a text is in the font of an element that it is to stand in. Asking the element would have everything laid out.
const paper = new OffscreenCanvas(1, 1).getContext("2d");

export function widthOf(element, text) {
  const { fontWeight, fontSize, fontFamily } = fontOf(element);
  paper.font = `${fontWeight} ${fontSize} ${fontFamily}`;
  return paper.measureText(text).width;
}

function fontOf(element) {
  const named = (name) => element.closest(`[${name}]`)?.getAttribute(name);
  return { fontWeight: named("font-weight") ?? 400, fontSize: `${named("font-size") ?? 16}px`, fontFamily: named("font-family") ?? "sans-serif" };
}

// The part of a text in a proportional font that fits, which is shown.
export function write(element, text, room) {
  let shown = text;
  let length = widthOf(element, shown);
  // Letters differ in width, so what is left may still be too long, by little.
  for (let character = length / [...shown].length; length > Math.max(room, 0); character *= 1.05) {
    shown = fit(shown, room, character);
    length = widthOf(element, shown);
  }
  if (element.textContent !== shown || element.firstElementChild) element.textContent = shown;
  return length;
}

// A text in lines that fit, broken between words where it can be.
export function wrapped(element, text, room) {
  const lines = [];
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line ? `${line} ${word}` : word;
    if (!line || widthOf(element, longer) <= room) line = longer;
    else {
      lines.push(line);
      line = word;
    }
  }
  return [...lines, line];
}
