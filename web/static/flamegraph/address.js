// What people chose is in the address, so that what they bookmark and send around is what they see. Shown by a page of
// the same origin, a picture keeps it in that page's address.
import { PLAIN } from "./derive.js";
import { nodeKey } from "./model.js";

// name in the address → what it says of the state, and how it is read
const FLAGS = { sort: ["byWeight", "weight"], view: ["icicle", "icicle"], order: ["reverse", "leaf-first"], recursion: ["collapse", "collapsed"] };
const TEXTS = ["search", "focus", "hide", "sandwich"];
const CHOICES = { colour: ["kind", "module", "hash"], names: ["short", "full"] };

// A file of its own shows at first what the picture that it was saved from did.
const fragment = ({ page, standalone, data }) => new URLSearchParams(page.location.hash.slice(1) || (standalone && data.view) || "");

const vanishedAtFirst = ({ diff }) => diff?.width === "union";

export function remember(picture, undoable) {
  const { page, state, model, tree, zoom } = picture;
  const parameters = fragment(picture);
  const values = { zoom: zoom ? nodeKey(model, tree, zoom) : "", kinds: state.kinds.join(",") };
  for (const name of TEXTS) values[name] = state[name];
  for (const [name, [key, value]] of Object.entries(FLAGS)) values[name] = state[key] ? value : "";
  values.vanished = state.vanished === vanishedAtFirst(picture) ? "" : state.vanished ? "shown" : "hidden";
  for (const name of Object.keys(CHOICES)) values[name] = state[name] === PLAIN[name] ? "" : state[name];
  for (const [name, value] of Object.entries(values)) {
    if (value) parameters.set(name, value);
    else parameters.delete(name);
  }
  const { pathname, search: query } = page.location;
  const hash = parameters.toString();
  if (hash === fragment(picture).toString()) return;
  try {
    page.history[undoable ? "pushState" : "replaceState"](page.history.state, "", hash ? `#${hash}` : pathname + query);
  } catch {
    page.location.replace(`#${hash}`); // a document that may not touch its history
  }
}

// The state that the address tells, and the key of the zoomed node.
export function remembered(picture) {
  const { diff, model } = picture;
  const parameters = fragment(picture);
  const state = { ...PLAIN };
  for (const name of TEXTS) state[name] = parameters.get(name) ?? "";
  for (const [name, [key, value]] of Object.entries(FLAGS)) state[key] = parameters.get(name) === value;
  for (const [name, known] of Object.entries(CHOICES)) if (known.includes(parameters.get(name))) state[name] = parameters.get(name);
  state.kinds = (parameters.get("kinds") ?? "").split(",").filter((kind) => model.kinds.includes(kind));
  state.vanished = diff !== null && (parameters.get("vanished") ?? (vanishedAtFirst(picture) ? "shown" : "")) === "shown";
  return { state, zoom: parameters.get("zoom") ?? "" };
}
