// What keys do anywhere in the picture and in the page around it, and what is copied.
import { bandAt } from "./bands.js";
import { functionKey, nameOf } from "./model.js";

const BESIDE = new Set(["ArrowLeft", "ArrowRight"]); // the arrows that scroll nothing here

export function listenToKeys(picture, box, change, act, say) {
  const { page, holder, signal, graph, focusNode } = picture;

  // Of a band it is the caller.
  function pointedAt() {
    const node = picture.hovered >= 0 ? picture.hovered : picture.current;
    return bandAt(picture, node)?.parent ?? node;
  }
  const exactly = (node) => `^${nameOf(picture.model, picture.tree.frame[node]).replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")}$`;
  const wanted = () => picture.state.search || (pointedAt() ? exactly(pointedAt()) : "");

  const keys = {
    s: () => change({ byWeight: !picture.state.byWeight }),
    i: () => change({ icicle: !picture.state.icicle }),
    r: () => change({ reverse: !picture.state.reverse, sandwich: "" }),
    o: () => change({ collapse: !picture.state.collapse }),
    k: act.colour,
    n: act.names,
    p: act.png,
    c: copyName,
    f: () => { if (wanted()) change({ focus: wanted(), search: "" }); },
    h: () => { if (wanted()) change({ hide: wanted(), search: "" }); },
    w: () => change({ sandwich: picture.state.sandwich || !pointedAt() ? "" : functionKey(picture.model, picture.tree.frame[pointedAt()]) }),
    v: () => { if (picture.diff && picture.diff.width !== "before") change({ vanished: !picture.state.vanished }); },
  };

  function shortcut(event) {
    const { key } = event;
    const surrounding = event.currentTarget !== document; // the page around the picture, which has keys of its own
    // Keys that someone types into an input of the surrounding page are none of ours.
    if (event.target instanceof page.Element && event.target.closest("input, textarea, select, [contenteditable]")) return;
    if (key === "F3" || ((event.ctrlKey || event.metaKey) && key.toLowerCase() === "f")) box.open();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (key === "/") box.open();
    else if (surrounding) return;
    else if (key === "Escape") escape();
    else if (BESIDE.has(key) && !graph.contains(event.target)) focusNode(picture.current);
    else if (keys[key]) keys[key]();
    else return;
    event.preventDefault();
  }

  // Takes back one thing after the other: the zoom, the search, what is left out, the shape.
  function escape() {
    const { state, zoom } = picture;
    if (zoom) change({ zoom: 0 });
    else if (state.search) change({ search: "" });
    else if (state.sandwich) change({ sandwich: "" });
    else if (state.focus || state.hide || state.kinds.length) change({ focus: "", hide: "", kinds: [] });
  }
  document.addEventListener("keydown", shortcut, { signal });
  if (holder) page.document.addEventListener("keydown", shortcut, { signal });

  async function copyName() {
    const name = nameOf(picture.model, picture.tree.frame[pointedAt()]);
    try {
      await navigator.clipboard.writeText(name);
      say(`Copied: ${name}`);
    } catch {
      say("The browser does not let this page copy by itself: press Ctrl-C instead.");
    }
  }
  document.addEventListener("copy", (event) => {
    if (String(document.getSelection())) return;
    const searching = document.activeElement === box.group;
    event.clipboardData.setData("text/plain", searching ? box.value() : nameOf(picture.model, picture.tree.frame[pointedAt()]));
    event.preventDefault();
  }, { signal });
}
