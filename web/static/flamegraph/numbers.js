// What counts say, and how sure.

// The 95 % interval of a share of `count` in `of`: E. B. Wilson, Probable inference, the law of succession, and statistical
// inference, Journal of the American Statistical Association 22 (1927). A sample counts for `perSample` at the most; that
// all do makes the interval too wide rather than too narrow.
export function interval(count, of, perSample = 1, z = 1.96) {
  const drawn = of / perSample;
  if (!drawn) return [0, 1];
  const share = count / of;
  const middle = (share + (z * z) / (2 * drawn)) / (1 + (z * z) / drawn);
  const half = (z / (1 + (z * z) / drawn)) * Math.sqrt((share * (1 - share)) / drawn + (z * z) / (4 * drawn * drawn));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

// By how many standard errors something grew, as web/flamegraph/diff.py's z_scores() has it.
export function grewBy(before, after, allBefore, allAfter, { absolute, fewest, perSample: [old, now] = [1, 1] }) {
  const drawn = before / old + after / now;
  if (drawn < fewest) return 0;
  if (absolute) return (after - before) / Math.sqrt(old * now * drawn);
  if (!allBefore || !allAfter) return 0;
  const pooled = drawn / (allAfter / now + allBefore / old);
  const variance = pooled * (1 - pooled) * (now / allAfter + old / allBefore);
  return variance > 0 ? (after / allAfter - before / allBefore) / Math.sqrt(variance) : 0;
}

// From -4 (shrank to less than half) to 4, 0 where that may be chance; as web/flamegraph/diff_svg.py's changes().
export function stepOfChange(before, after, allBefore, allAfter, diff) {
  const z = grewBy(before, after, allBefore, allAfter, diff);
  if (Math.abs(z) < diff.significant) return 0;
  const [old, now] = diff.absolute ? [before, after] : [before / (allBefore || 1), after / (allAfter || 1)];
  const relative = Math.abs(now - old) / Math.max(old, now);
  return Math.sign(z) * (1 + diff.steps.filter((step) => step <= relative).length);
}

// What each frame's function weighs in a tree: itself where it is the leaf, in total where it is anywhere on the stack,
// once however often it is there.
export function byFunction(tree, frameCount) {
  const zeros = () => new Float64Array(frameCount);
  const sums = { self: zeros(), total: zeros(), ...(tree.before && { beforeSelf: zeros(), beforeTotal: zeros() }) };
  const open = new Int32Array(frameCount); // how often each function is on the path to the node that the walk is at
  const next = tree.first.slice(0, tree.size);
  let node = 0;
  const enter = () => {
    const frame = tree.frame[node];
    sums.self[frame] += tree.own[node];
    if (tree.before) sums.beforeSelf[frame] += tree.beforeOwn[node];
    if (open[frame]++) return;
    sums.total[frame] += tree.total[node];
    if (tree.before) sums.beforeTotal[frame] += tree.before[node];
  };
  enter();
  while (node >= 0) {
    if (next[node] < tree.first[node + 1]) {
      node = next[node]++;
      enter();
    } else {
      open[tree.frame[node]]--;
      node = tree.parent[node];
    }
  }
  return sums;
}

// Who calls a function, and what it calls, by frame: [frame, total] with what they weigh, the heaviest first. A stack
// that has the function more than once counts once, and is cut at the first, as seen from the root; as in a sandwich.
export function neighbours(tree, frame) {
  const inside = new Uint8Array(tree.size);
  const sums = { callers: new Map(), callees: new Map() };
  const add = (sum, of, weight) => { if (weight) sum.set(of, (sum.get(of) ?? 0) + weight); };
  for (let node = 1; node < tree.size; node++) {
    const parent = tree.parent[node];
    if (inside[parent]) {
      if (tree.frame[parent] === frame && !inside[tree.parent[parent]]) add(sums.callees, tree.frame[node], tree.total[node]);
      inside[node] = 1;
    } else if (tree.frame[node] === frame) {
      add(sums.callers, tree.frame[parent], tree.total[node]);
      inside[node] = 1;
    }
  }
  const rows = (sum) => [...sum].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return { callers: rows(sums.callers), callees: rows(sums.callees) };
}
