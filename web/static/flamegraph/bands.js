// Frames that are not drawn, as they are too narrow or too many: neighbours with the same caller are one hatched band. In
// what is hovered over, focused and walked to, band i has the number that follows those of nodes: tree.size + i.
import { shownOf } from "./model.js";
import { rowOf } from "./rows.js";
import { percent, unitOf, withCommas } from "./words.js";

export const MOST_BANDS = 200; // that can be pointed at

export const bandAt = ({ tree, bands }, node) => (node < tree.size ? undefined : bands[node - tree.size]);

// All of them in the rows that are covered, the widest first. `slots` are those that siblings stand in.
export function bandsOf(picture, { wide, below, covered, scale }, slots) {
  const { tree, weight, layout } = picture;
  const shown = new Set(below);
  const found = [];
  const isCovered = (row, by) => row >= covered.from - by && row <= covered.to + by;
  for (const parent of wide) {
    if (tree.first[parent] === tree.first[parent + 1]) continue;
    // On a band there is nothing, on a frame that is merely out of sight there may be something.
    if (!shown.has(parent) && (isCovered(rowOf(picture, parent), 0) || !isCovered(rowOf(picture, parent), 1))) continue;
    let run = null;
    const close = () => {
      if (run && run.weight * scale >= layout.narrowest && isCovered(rowOf(picture, run.first), 0)) found.push(run);
      run = null;
    };
    for (let slot = tree.first[parent]; slot < tree.first[parent + 1]; slot++) {
      const child = slots[slot];
      if (run && tree.side && tree.side[child] !== tree.side[run.first]) close();
      if (shown.has(child)) close();
      else if (weight[child]) add((run ??= { parent, first: child, count: 0, weight: 0, total: 0, before: 0, matched: false, areTooMany: false }), picture, child, scale);
    }
    close();
  }
  return found.sort((a, b) => b.weight - a.weight || a.first - b.first);
}

function add(run, { tree, weight, layout, matches }, child, scale) {
  run.count++;
  run.weight += weight[child];
  run.total += tree.total[child];
  run.before += tree.before?.[child] ?? 0;
  run.matched ||= Boolean(matches?.within[child]);
  run.areTooMany ||= weight[child] * scale >= layout.narrowest;
}

export function describeBand(picture, { count, total, before, areTooMany }) {
  const { model, diff, all } = picture;
  const what = `${withCommas(count)} ${count === 1 ? "frame" : "frames"} too ${areTooMany ? "many" : "narrow"} to draw`;
  if (diff) return `${what}: before ${percent(before, all.before)}, after ${percent(total, all.after)}; ${withCommas(before)} and ${withCommas(total)} ${unitOf(picture)}`;
  return `${what}: ${withCommas(total)} ${unitOf(picture)}, ${percent(total, model.base.total[0])}`;
}

// How to get to see them.
export function waysInto({ zoom, tree, model, holder, diff }, { parent }) {
  if (parent !== zoom) return `Click or Enter zooms to their caller, ${shownOf(model, tree.frame[parent])}`;
  const below = holder && !diff ? "; the table below lists them, too" : "";
  return `They are too narrow in the whole width as well: search for some of them and keep only these (Focus)${below}`;
}
