// Answers questions, one of JSON in each line, with what the viewer's modules beside it make of them.
import { createInterface } from "node:readline";
import { alphabetical, heaviestFirst, place, treeOf } from "./tree.js";
import { collapsed, focused, grafted, reversed, sandwich, without } from "./transforms.js";
import { byFunction, grewBy, interval, neighbours, stepOfChange } from "./numbers.js";
import { search } from "./search.js";

const made = {
  same: (tree) => tree,
  focus: (tree, frames, wanted) => focused(tree, frames, wanted),
  hide: (tree, frames, unwanted) => without(tree, frames, unwanted),
  collapse: (tree, frames) => collapsed(tree, frames),
  reverse: (tree, frames) => reversed(tree, frames),
  sandwich: (tree, frames, frame) => sandwich(tree, frames, frame),
  graft: (tree, frames, { node, part }) => grafted(tree, frames, node, treeOf(part), part.frameOf),
};
const plain = (tree) => Object.fromEntries(Object.entries(tree).map(([name, value]) => [name, value?.length === undefined ? value : [...value]]));
for await (const line of createInterface({ input: process.stdin })) {
  const { tree: columns, names, isFolded, op, argument, call } = JSON.parse(line);
  let answer;
  if (call) {
    answer = { interval, grewBy, stepOfChange }[call](...argument);
  } else {
    const frames = { name: names, shown: names.map(() => ""), isFolded, rank: names.map((_, i) => i), folded: names.length - 1 };
    const tree = made[op](treeOf(columns), frames, argument);
    const placed = [alphabetical(tree), heaviestFirst(tree, tree.total)].map((slots) => [...place(tree, tree.total, slots)]);
    const found = search({ frames }, tree, tree.total, "^f1$");
    answer = { ...plain(tree), placed, functions: plain(byFunction(tree, names.length)), neighbours: names.map((_, frame) => neighbours(tree, frame)), matched: Array.from(tree.parent, (_, node) => found.total(node)) };
  }
  console.log(JSON.stringify(answer));
}
