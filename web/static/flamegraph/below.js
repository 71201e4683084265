// Loads what was folded away below a frame, where a server has it.
import { addFrame, binaryOf, kindOf, nameOf, nodeKey } from "./model.js";
import { grafted } from "./transforms.js";
import { treeOf } from "./tree.js";

// Replaces a node of the tree as it was read, which stands for what was folded away, by what it stands for. Raises a
// sentence as an Error.
export async function load(model, node) {
  const { base, frames, data } = model;
  const { frame } = base;
  const address = new URL(data.source, document.baseURI);
  address.searchParams.set("below", nodeKey(model, base, base.parent[node]));
  address.searchParams.set("lighter", frames.lighter[frame[node]]);
  let answer;
  try {
    answer = await fetch(address, { headers: { accept: "application/json" } });
  } catch {
    throw new Error("The server does not answer: try again when it is back.");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ?? `The server answered ${answer.status}.`);
  const part = treeOf(found.tree);
  if (part.total[0] !== base.total[node] || part.before?.[0] !== base.before?.[node]) throw new Error("The server has other samples by now: reload the picture.");
  const frameOf = taken(model, found.tree);
  model.base = grafted(base, frames, node, part, frameOf);
}

// Which of the picture's frames each frame of an answer is; those that it did not have are added to it.
function taken(model, answer) {
  const { frames } = model;
  const known = new Map(frames.name.map((name, frame) => [identity(name, kindOf(model, frame), binaryOf(model, frame)), frame]));
  const strings = new Map(model.strings.map((text, place) => [text, place]));
  const stringAt = (text) => {
    if (!strings.has(text)) strings.set(text, model.strings.push(text) - 1);
    return strings.get(text);
  };
  const { reasons } = model.data;
  const reasonAt = (reason) => (reasons.includes(reason) ? reasons.indexOf(reason) : reasons.push(reason) - 1);
  const kindAt = answer.kinds.map(({ label }) => label);
  const columns = answer.frames;
  const frameOf = columns.name.map((name, i) => {
    const isFolded = i >= answer.elided;
    const kind = kindAt[columns.kind[i]];
    const binary = answer.strings[columns.binary[i]];
    const found = isFolded ? undefined : known.get(identity(name, kind, binary));
    return found ?? addFrame(frames, {
      ...Object.fromEntries(Object.keys(columns).map((column) => [column, columns[column][i]])),
      kind: kindOfLabel(model, answer, columns.kind[i]),
      binary: stringAt(binary),
      file: stringAt(answer.strings[columns.file[i]]),
      reason: reasonAt(answer.reasons[columns.reason[i]]),
      isFolded: Number(isFolded),
      lighter: isFolded ? answer.lighter : 0,
    });
  });
  ranked(model);
  return frameOf;
}

const identity = (name, kind, binary) => `${name}\n${kind}\n${binary}`;

// The kinds of the picture, with one more where it did not have it: the last stays that of what is folded away.
function kindOfLabel(model, answer, kind) {
  const { label } = answer.kinds[kind];
  const known = model.kinds.indexOf(label);
  if (known >= 0) return known;
  model.kinds.push(label);
  model.data.kinds.push(answer.kinds[kind]);
  model.data.kindsInOrder.push(model.kinds.length - 1);
  return model.kinds.length - 1;
}

// Siblings are in alphabetical order, what is folded away last.
function ranked(model) {
  const { frames } = model;
  const root = model.base.frame[0];
  const key = (frame) => `${kindOf(model, frame)}\n${binaryOf(model, frame)}`;
  const order = frames.name.map((_, frame) => frame).sort((a, b) =>
    (b === root) - (a === root) || frames.isFolded[a] - frames.isFolded[b] || compare(nameOf(model, a), nameOf(model, b)) || compare(key(a), key(b)) || a - b);
  order.forEach((frame, place) => { frames.rank[frame] = place; });
}

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
