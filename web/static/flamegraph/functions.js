// Functions as rows of a table, of the tree with all that filters leave of it, whichever way it is drawn.
import { binaryOf, frameOfKey, functionKey, kindOf, nameOf, shownOf } from "./model.js";
import { byFunction, grewBy, neighbours } from "./numbers.js";

const told = (model, frame) => ({ key: functionKey(model, frame), name: nameOf(model, frame), shown: shownOf(model, frame), kind: kindOf(model, frame), binary: binaryOf(model, frame) });

// What each function weighs; in a picture of two profiles also before, and by how many standard errors it grew.
export function functionsOf(picture) {
  const { model, forward, diff, all } = picture;
  picture.byFunction ??= byFunction(forward, model.frames.name.length);
  const { self, total, beforeSelf, beforeTotal } = picture.byFunction;
  const rows = [];
  for (let frame = 0; frame < total.length; frame++) {
    if (frame === forward.frame[0] || !(total[frame] || beforeTotal?.[frame])) continue;
    const row = { ...told(model, frame), self: self[frame], total: total[frame] };
    if (diff) {
      Object.assign(row, {
        beforeSelf: beforeSelf[frame],
        beforeTotal: beforeTotal[frame],
        z: grewBy(beforeTotal[frame], total[frame], all.before, all.after, diff),
        selfZ: grewBy(beforeSelf[frame], self[frame], all.before, all.after, diff),
      });
    }
    rows.push(row);
  }
  return rows;
}

// The callers and callees of a function, each { key, name, shown, kind, binary, total }; the root has key "".
export function around({ model, forward }, key) {
  const row = ([frame, total]) => ({ ...told(model, frame), ...(frame === forward.frame[0] && { key: "" }), total });
  const { callers, callees } = neighbours(forward, frameOfKey(model, key));
  return { callers: callers.map(row), callees: callees.map(row) };
}
