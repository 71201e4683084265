// What the data of a picture says, and the names by which frames and nodes are known beyond it.
import { ancestors, treeOf } from "./tree.js";

// `frames` has a column for each property of a frame. `isFolded` tells those that stand for what was folded away, and
// `folded` is one more of them, which does not say how many frames it stands for. `rank` is the order of siblings.
export function read(data) {
  const columns = data.frames;
  const count = columns.name.length;
  const frames = {
    ...Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, [...column]])),
    isFolded: Array.from({ length: count }, (_, frame) => Number(frame >= data.elided)),
    lighter: Array.from({ length: count }, (_, frame) => (frame >= data.elided ? data.lighter ?? 0 : 0)),
    rank: Array.from({ length: count }, (_, frame) => frame),
    folded: count,
  };
  const kinds = data.kinds.map(({ label }) => label);
  addFrame(frames, { name: "(folded away)", kind: kinds.length - 1, isFolded: 1, rank: Number.MAX_SAFE_INTEGER });
  const base = treeOf({ children: data.children, own: data.own, frame: data.frame, beforeOwn: data.diff?.beforeOwn });
  return { data, frames, kinds, strings: [...data.strings], base, hashes: [] };
}

export function addFrame(frames, properties) {
  const blank = { name: "", shown: "", shade: 0, kind: 0, reason: 0, binary: 0, file: 0, line: 0, other_lines: 0, isFolded: 0, lighter: 0, rank: 0 };
  for (const [name, value] of Object.entries({ ...blank, ...properties })) frames[name].push(value);
  return frames.name.length - 1;
}

export const nameOf = ({ frames }, frame) => frames.name[frame];
export const shownOf = ({ frames }, frame) => frames.shown[frame] || frames.name[frame]; // with arguments folded
export const kindOf = ({ kinds, frames }, frame) => kinds[frames.kind[frame]];
export const binaryOf = ({ strings, frames }, frame) => strings[frames.binary[frame]];

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});
const utf8 = new TextEncoder();

// Two hashes of a function: CRC-32, which the server can tell as well, and FNV-1a.
function hashOf(model, frame) {
  if (!model.hashes[frame]) {
    let [crc, fnv] = [-1, 0x811c9dc5];
    for (const byte of utf8.encode(`${nameOf(model, frame)}\n${kindOf(model, frame)}\n${binaryOf(model, frame)}`)) {
      crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
      fnv = Math.imul(fnv ^ byte, 0x01000193);
    }
    model.hashes[frame] = [~crc, fnv];
  }
  return model.hashes[frame];
}

const hex = (number) => (number >>> 0).toString(16).padStart(8, "0");

export const functionKey = (model, frame) => hashOf(model, frame).map(hex).join("");

// The frame of a function, or -1.
export const frameOfKey = (model, key) => model.frames.name.findIndex((_, frame) => functionKey(model, frame) === key);

// A node is known by its level and 64 bits that tell the path to it, which still hold after a reload with newer data,
// where its number would not. web/flamegraph/below.py makes the same.
const higher = (high, hash) => Math.imul(high ^ hash, 0x9e3779b1) ^ (high >>> 15);
const lower = (low, hash) => Math.imul(low ^ ((hash << 16) | (hash >>> 16)), 0x85ebca6b) ^ (low >>> 13);
const stepHash = (model, tree, node) => hashOf(model, tree.frame[node])[0] ^ (tree.side?.[node] < 0 ? 0x5bd1e995 : 0);

export function nodeKey(model, tree, node) {
  let [high, low] = [0, 0];
  for (const at of [...ancestors(tree, node), node]) {
    const hash = stepHash(model, tree, at);
    [high, low] = [higher(high, hash), lower(low, hash)];
  }
  return `${tree.level[node]}-${hex(high)}${hex(low)}`;
}

// The node of a key, or 0.
export function nodeOfKey(model, tree, key) {
  const [, level, high, low] = /^(\d{1,6})-([0-9a-f]{8})([0-9a-f]{8})$/.exec(key) ?? [];
  if (!level) return 0;
  const [wantedHigh, wantedLow] = [Number.parseInt(high, 16) | 0, Number.parseInt(low, 16) | 0];
  const [highs, lows] = [new Int32Array(tree.size), new Int32Array(tree.size)];
  for (let node = 0; node < tree.size && tree.level[node] <= level; node++) {
    const above = tree.parent[node];
    const hash = stepHash(model, tree, node);
    highs[node] = higher(node ? highs[above] : 0, hash);
    lows[node] = lower(node ? lows[above] : 0, hash);
    if (highs[node] === wantedHigh && lows[node] === wantedLow && tree.level[node] === Number(level)) return node;
  }
  return 0;
}
