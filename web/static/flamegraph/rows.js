// The rows that frames stand in, counted from the root's.

// How many rows from the root's a node is; callers in a sandwich are on the other side of it. A band (see bands.js) is
// where its frames would be.
export function rowOf({ tree, bands }, node) {
  const at = node < tree.size ? node : bands[node - tree.size].first;
  return tree.side?.[at] < 0 ? -tree.level[at] : tree.level[at];
}

export function rowY({ state, layout, rows, top }, row) {
  return top + (state.icicle ? row + rows.down : rows.up - 1 - row) * layout.row;
}

export const heightOf = ({ rows, layout }) => (rows.up + rows.down) * layout.row;

// The first and the last row that are on the screen once the picture is `lower` by so many pixels.
export function rowsInSight({ state, layout, rows, top, sight }, lower = 0) {
  const rowAt = (y) => {
    const fromTop = Math.floor((y + lower - top) / layout.row);
    return state.icicle ? fromTop - rows.down : rows.up - 1 - fromTop;
  };
  const [one, other] = [rowAt(sight.from), rowAt(sight.to)];
  return { from: Math.min(one, other), to: Math.max(one, other) };
}
