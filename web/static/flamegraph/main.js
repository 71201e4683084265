// The viewer of a pilotlight flame graph. It runs inside the SVG that web/flamegraph/svg.py writes: reads the whole call
// tree from <metadata>, and keeps only those frames in the document that are wide enough to be seen. Names come from
// strangers, so text is only ever set as textContent or attributes.
import { remember, remembered } from "./address.js";
import { load } from "./below.js";
import { bandAt, describeBand, waysInto } from "./bands.js";
import { dress } from "./colours.js";
import { derive, PLAIN, SHAPES, weigh } from "./derive.js";
import { makeDetails } from "./details.js";
import { choose, rootMoves } from "./choose.js";
import { drawFrames, drawRing, highlight, makeFrames } from "./draw.js";
import { create } from "./elements.js";
import { listenToKeys } from "./keys.js";
import { makeLegend } from "./legend.js";
import { around, functionsOf } from "./functions.js";
import { functionKey, nodeKey, nodeOfKey, read } from "./model.js";
import { save, toPng } from "./png.js";
import { rowY } from "./rows.js";
import { search } from "./search.js";
import { makeStrip } from "./strip.js";
import { makeToolbar, nextColour } from "./toolbar.js";
import { cardRoom, graphBottom, isCovered, look, measure, reveal, scroll, setHeight, showRoot } from "./view.js";
import { step } from "./walk.js";
import { describe, originOf, write } from "./words.js";

// What the back button undoes; other choices only change what the address says.
const UNDOABLE = new Set(["zoom", ...SHAPES]);

function open(svg) {
  performance.clearMeasures("pilotlight:open");
  const opened = performance.now();
  const byId = (id) => svg.querySelector(`#fg-${id}`);
  const standalone = svg === document.documentElement;
  const holder = window.frameElement;
  const page = holder ? window.parent : window;
  // A page that holds the picture and takes it away tells it so, and it stops listening to the page.
  const closing = new AbortController();
  const { signal } = closing;
  svg.addEventListener("pilotlight:close", () => closing.abort());
  window.addEventListener("pagehide", (event) => { if (!event.persisted) closing.abort(); });

  const picture = {
    svg, byId, standalone, holder, page, signal,
    state: { ...PLAIN },
    zoom: 0, // the node that is as wide as the picture
    current: 0, // the node that the keyboard is on
    hovered: -1, // the node that is pointed at
    byKeyboard: false, // whether the last thing touched was the keyboard
    touched: false, // or a screen
    matches: null, // see search.js
    message: "", // said once, until the next thing is pointed at
    isLoading: false, // see below.js
    isStill: false, // whether it is drawn as if nothing were scrolled, pointed at or focused
    more: false, // whether all buttons are shown where there is little room
    width: 0,
    focusNode,
  };
  take(JSON.parse(byId("data").textContent));

  function take(data) {
    Object.assign(picture, { data, model: read(data), caption: data.caption, layout: data.layout, diff: data.diff ?? null });
  }

  const paper = [...svg.querySelectorAll("#fg-paper stop")].map((stop, i) => {
    const light = stop.getAttribute("stop-color");
    stop.setAttribute("stop-color", `var(--fg-paper${i})`);
    return light;
  });
  byId("title").setAttribute("fill", "var(--fg-ink)");
  byId("subtitle").setAttribute("fill", "var(--fg-soft)");
  makeFrames(picture);
  const { graph } = picture;
  const act = {
    focus: () => change({ focus: picture.state.search, search: "" }),
    hide: () => change({ hide: picture.state.search, search: "" }),
    colour: () => change({ colour: nextColour(picture.state.colour) }),
    names: () => change({ names: picture.state.names === "full" ? "short" : "full" }),
    png: () => save(picture, drawSurroundings).catch((error) => say(`The image could not be made: ${error.message}`)),
    more: () => { picture.more = !picture.more; draw(); },
  };
  const toolbar = makeToolbar(picture, change, act);
  const legend = makeLegend(picture, change);
  const details = makeDetails(picture);
  const strip = makeStrip(picture, () => {
    drawSurroundings();
    if (strip.isOpen()) scroll(picture, 10_000);
  });

  // ---------------------------------------------------------------- drawing

  let drawnOnce = false;

  function draw() {
    performance.clearMeasures("pilotlight:draw");
    const began = performance.now();
    const focused = graph.contains(document.activeElement);
    picture.rootBefore = drawnOnce ? rowY(picture, 0) : null;
    measure(picture);
    legend.arrange();
    toolbar.arrange();
    drawFrames(picture, choose(picture));
    picture.elements.get(picture.current).setAttribute("tabindex", "0");
    if (focused) picture.elements.get(picture.current).focus({ preventScroll: true });
    drawRing(picture);
    drawSurroundings();
    // The root stays where it was on the screen when the picture grows or shrinks above it.
    const moved = rootMoves(picture);
    if (moved) scroll(picture, moved);
    drawnOnce = true;
    performance.measure("pilotlight:draw", { start: began });
  }

  // Of very many frames those on the screen are drawn: others are once they are scrolled to.
  function cover() {
    if (!isCovered(picture)) draw();
  }

  // Everything that is not a frame.
  function drawSurroundings() {
    const { caption, layout, width } = picture;
    picture.bottom = graphBottom(picture) + cardRoom(picture) + strip.height();
    setHeight(picture);
    graph.setAttribute("aria-label", caption.title);
    write(byId("title"), caption.title, width - 2 * layout.side);
    write(byId("subtitle"), caption.subtitle, width - 2 * layout.side);
    legend.draw();
    strip.draw();
    toolbar.draw();
    toolbar.settlePlace();
    details.draw();
  }

  function hover(node) {
    const { elements } = picture;
    if (node === picture.hovered) return;
    const last = elements.get(picture.hovered);
    if (last && !last.hasAttribute("data-marked")) last.removeAttribute("stroke");
    picture.hovered = node;
    picture.message = "";
    const rect = elements.get(node);
    if (rect) {
      rect.setAttribute("stroke", "var(--fg-outline)");
      // Made only now: a <title> for each frame would double the document.
      if (!rect.firstChild) create("title", {}, rect, wordsOf(node).join("\n").trim());
    }
    details.draw();
    tell("point", keyOf(node));
  }

  function wordsOf(node) {
    const band = bandAt(picture, node);
    return band ? [describeBand(picture, band), waysInto(picture, band)] : [describe(picture, node), originOf(picture, node)];
  }

  const keyOf = (node) => (node >= 0 && !bandAt(picture, node) ? functionKey(picture.model, picture.tree.frame[node]) : null);

  function tell(name, detail) {
    svg.dispatchEvent(new CustomEvent(`pilotlight:${name}`, { detail }));
  }

  // ---------------------------------------------------------------- what people do

  function change(next) {
    const { state } = picture;
    const { zoom, ...rest } = next;
    const undoable = Object.keys(next).some((name) => UNDOABLE.has(name));
    const reshaped = SHAPES.some((name) => name in next);
    const key = reshaped && picture.zoom ? nodeKey(picture.model, picture.tree, picture.zoom) : "";
    Object.assign(state, rest);
    if (reshaped) {
      derive(picture);
      picture.zoom = key ? nodeOfKey(picture.model, picture.tree, key) : 0;
      picture.current = picture.zoom;
    }
    if ("vanished" in next) weigh(picture);
    if (zoom !== undefined) picture.current = picture.zoom = zoom;
    if (!picture.weight[picture.zoom]) picture.current = picture.zoom = 0; // it is not there any more
    if (reshaped || "search" in next || "vanished" in next) lookUp();
    picture.hovered = -1;
    picture.message = "";
    draw();
    if ("icicle" in next || "sandwich" in next) {
      showRoot(picture);
      cover();
    }
    remember(picture, undoable);
    tell("change", view());
  }

  function lookUp() {
    performance.clearMeasures("pilotlight:search");
    const start = performance.now();
    toolbar.box.set(picture.state.search);
    picture.matches = search(picture.model, picture.tree, picture.weight, picture.state.search);
    performance.measure("pilotlight:search", { start });
  }

  // Zooms to a frame; one that stands for what was folded away is replaced by that, where a server has it.
  async function enter(node) {
    const { model, tree } = picture;
    const band = bandAt(picture, node);
    if (band) return band.parent === picture.zoom ? say(waysInto(picture, band)) : change({ zoom: band.parent });
    if (!model.frames.isFolded[tree.frame[node]]) return change({ zoom: node });
    if (!model.data.source || tree.origin[node] < 0) return change({ zoom: node });
    if (picture.isLoading) return; // what comes takes the place of what is pointed at
    picture.isLoading = true;
    say("Loading…");
    try {
      const caller = nodeKey(model, tree, tree.parent[node]);
      await load(model, tree.origin[node]);
      if (signal.aborted || picture.model !== model) return;
      const zoom = picture.zoom ? nodeKey(model, picture.tree, picture.zoom) : "";
      derive(picture);
      picture.zoom = zoom ? nodeOfKey(model, picture.tree, zoom) : 0;
      lookUp();
      change({ zoom: nodeOfKey(model, picture.tree, caller) });
    } catch (error) {
      say(error.message);
    } finally {
      picture.isLoading = false;
    }
  }

  function say(sentence) {
    picture.message = sentence;
    details.draw();
  }

  const nodeAt = (target) => target?.node ?? -1;

  graph.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") hover(nodeAt(event.target)); });
  graph.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hover(-1); });
  graph.addEventListener("click", (event) => {
    const node = nodeAt(event.target);
    if (node < 0) return;
    // A finger cannot hover: the first tap tells, the second zooms.
    if (event.pointerType === "touch" && node !== picture.hovered) hover(node);
    else enter(node);
  });
  document.addEventListener("pointerdown", (event) => {
    picture.byKeyboard = false;
    picture.touched = event.pointerType === "touch";
    drawRing(picture);
  }, { capture: true, signal });
  document.addEventListener("keydown", () => { picture.byKeyboard = true; }, { capture: true, signal });
  const drawFocus = () => { drawRing(picture); toolbar.draw(); legend.draw(); strip.draw(); details.draw(); };
  svg.addEventListener("focusin", (event) => {
    const node = nodeAt(event.target);
    if (node >= 0) {
      picture.elements.get(picture.current)?.setAttribute("tabindex", "-1");
      picture.current = node;
      picture.elements.get(node)?.setAttribute("tabindex", "0");
      if (picture.byKeyboard) tell("point", keyOf(node));
    }
    drawFocus();
  });
  svg.addEventListener("focusout", () => requestAnimationFrame(drawFocus));

  function focusNode(node) {
    picture.byKeyboard = true;
    hover(-1);
    picture.elements.get(picture.current)?.setAttribute("tabindex", "-1");
    picture.current = node; // which has it drawn, if it is not
    reveal(picture, node);
    if (!picture.elements.has(node) || !isCovered(picture)) draw();
    picture.elements.get(picture.current).focus({ preventScroll: true });
  }

  graph.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const to = step(picture, event.key);
    if (to >= 0) focusNode(to);
    else if (event.key === "Enter" || event.key === " ") enter(picture.current);
    else return;
    event.preventDefault();
  });

  listenToKeys(picture, toolbar.box, change, act, say);

  // ---------------------------------------------------------------- the address, and what pages ask for

  function restore() {
    const { state, zoom } = remembered(picture);
    const reshaped = !picture.tree || JSON.stringify(SHAPES.map((name) => state[name])) !== JSON.stringify(SHAPES.map((name) => picture.state[name]));
    const reweighed = state.vanished !== picture.state.vanished;
    Object.assign(picture.state, state);
    if (reshaped) derive(picture);
    else if (reweighed) weigh(picture);
    picture.zoom = zoom ? nodeOfKey(picture.model, picture.tree, zoom) : 0;
    if (!picture.weight[picture.zoom]) picture.zoom = 0;
    lookUp();
    picture.current = picture.zoom;
    picture.hovered = -1;
    picture.message = "";
    const isGone = zoom && !picture.zoom;
    if (isGone) picture.message = "The frame that the link zooms to is not in this picture";
    draw();
    if (isGone) remember(picture, false); // it would be sent on
    tell("change", view());
  }

  function view() {
    const { state, model, tree, zoom } = picture;
    return { ...state, kinds: [...state.kinds], zoom: zoom ? nodeKey(model, tree, zoom) : "" };
  }

  // A newer picture of the same question: its data takes the place of ours, and all that people chose stays.
  function update(text) {
    const fresh = new DOMParser().parseFromString(text, "image/svg+xml");
    const data = fresh.querySelector("#fg-data");
    if (!data) throw new Error("This is no picture of pilotlight's.");
    const { model, tree } = picture;
    const current = bandAt(picture, picture.current)?.parent ?? picture.current;
    const kept = tree && current ? nodeKey(model, tree, current) : "";
    const zoom = picture.zoom ? nodeKey(model, tree, picture.zoom) : "";
    take(JSON.parse(data.textContent));
    byId("notes").replaceChildren(...[...fresh.querySelectorAll("#fg-notes text")].map((line) => document.importNode(line, true)));
    svg.querySelector("title").textContent = picture.caption.title;
    strip.read();
    derive(picture);
    picture.zoom = zoom ? nodeOfKey(picture.model, picture.tree, zoom) : 0;
    picture.current = kept ? nodeOfKey(picture.model, picture.tree, kept) : 0;
    picture.hovered = -1;
    lookUp();
    draw();
    remember(picture, false);
    tell("change", view());
  }

  svg.pilotlight = {
    view,
    change(next) {
      const { zoom, ...rest } = next;
      const asked = Object.fromEntries(Object.entries(rest).filter(([name]) => name in PLAIN));
      if (Object.keys(asked).length) change(asked);
      if (zoom !== undefined) change({ zoom: zoom ? nodeOfKey(picture.model, picture.tree, zoom) : 0 });
    },
    functions: () => functionsOf(picture),
    neighbours: (key) => around(picture, key),
    total: () => picture.model.base.total[0],
    get unit() { return picture.caption.unit; },
    get secondsPerSample() { return picture.caption.secondsPerSample; },
    get caption() { return picture.caption; },
    highlight: (key) => highlight(picture, key),
    update,
    png: () => toPng(picture, drawSurroundings),
  };

  page.addEventListener("hashchange", restore, { signal });
  let pending = 0;
  let covering = 0;
  const coverSoon = () => {
    cancelAnimationFrame(covering);
    covering = requestAnimationFrame(() => { look(picture); cover(); });
  };
  window.addEventListener("scroll", () => { look(picture); toolbar.settlePlace(); details.place(); coverSoon(); }, { passive: true, signal });
  if (holder) page.addEventListener("scroll", coverSoon, { passive: true, signal });
  const drawSoon = () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(draw);
  };
  window.addEventListener("resize", drawSoon, { signal });
  // A page that gets higher makes its frame no other size: the picture does, see view.js.
  if (holder) page.addEventListener("resize", drawSoon, { signal });
  const dressed = () => dress(svg, paper);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { dressed(); draw(); }, { signal });
  dressed();

  // Else Chromium makes the whole document a stop of the Tab key.
  if (standalone) svg.setAttribute("tabindex", "-1");
  svg.style.outline = "none"; // a click beside the frames focuses all of it
  svg.style.overflowAnchor = "none"; // else the browser scrolls after the toolbar, and that after the browser
  svg.removeAttribute("viewBox");
  svg.setAttribute("width", "100%");
  restore();
  if (picture.scrolledOff === 0 && window.scrollY === 0) showRoot(picture);
  cover();
  performance.measure("pilotlight:open", { start: opened });
  for (const target of [svg, holder]) target?.dispatchEvent(new Event("pilotlight:ready"));
}

open(document.currentScript?.closest("svg") ?? document.documentElement);
