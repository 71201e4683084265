// The viewer of a pilotlight flame graph. It runs inside the SVG that web/flamegraph/svg.py writes:
// reads the whole call tree from <metadata>, and keeps only those frames in the document that are wide
// enough to be seen. Names come from strangers, so text is only ever set as textContent or attributes.
(() => {
  "use strict";

  const svg = document.currentScript?.closest("svg") ?? document.documentElement;
  const byId = (id) => svg.querySelector(`#fg-${id}`);
  const data = JSON.parse(byId("data").textContent);
  const { caption, layout, frames } = data;
  const standalone = svg === document.documentElement;

  // A page that holds the picture and takes it away tells it so, and it stops listening to the page.
  const closing = new AbortController();
  const { signal } = closing;
  svg.addEventListener("pilotlight:close", () => closing.abort());

  // Shown by a page of the same origin, the picture keeps its state in that page's address, so that
  // what people bookmark and send around is what they see.
  const holder = window.frameElement;
  const page = holder ? window.parent : window;

  // ---------------------------------------------------------------- the tree

  const tree = readTree();
  const size = tree.parent.length;
  let whole = tree.total[0];

  // In a picture of two profiles, widths are what there is after, which `own` says; what was before has counts of
  // its own. Shares are of either side's total, unless the picture is of counts.
  const diff = data.diff ?? null;
  const after = tree.total;
  const before = diff && totalsOf(diff.beforeOwn, tree.parent);
  const perBefore = diff && !diff.absolute && before[0] && after[0] ? after[0] / before[0] : 1;
  const withVanished = diff && totalsOf(data.own.map((own, node) => own + (after[node] ? 0 : perBefore * diff.beforeOwn[node])), tree.parent);

  // Nodes are in level order, so the children of node i are first[i] .. first[i + 1] - 1.
  function readTree() {
    const { children, own } = data;
    const count = children.length;
    const parent = new Int32Array(count).fill(-1);
    const level = new Int32Array(count);
    const first = new Int32Array(count + 1);
    let next = 1;
    for (let node = 0; node < count; node++) {
      first[node] = next;
      for (const end = next + children[node]; next < end; next++) {
        parent[next] = node;
        level[next] = level[node] + 1;
      }
    }
    first[count] = next;
    return { parent, level, first, total: totalsOf(own, parent), frame: data.frame };
  }

  function totalsOf(own, parent) {
    const total = Float64Array.from(own);
    for (let node = total.length - 1; node > 0; node--) total[parent[node]] += total[node];
    return total;
  }

  // Left edges, in counts, with siblings in the given order: slots first[i] .. hold i's children.
  function place(slots) {
    const start = new Float64Array(size);
    for (let node = 0; node < size; node++) {
      let x = start[node];
      for (let slot = tree.first[node]; slot < tree.first[node + 1]; slot++) {
        start[slots[slot]] = x;
        x += tree.total[slots[slot]];
      }
    }
    return { slots, start };
  }

  let alphabetical = place(Int32Array.from({ length: size }, (_, node) => node));
  let heaviestFirst = null; // made when first asked for

  // Widths with what vanished, or without.
  function weighAnew() {
    tree.total = state.vanished ? withVanished : after;
    whole = tree.total[0];
    alphabetical = place(Int32Array.from({ length: size }, (_, node) => node));
    heaviestFirst = null;
    rowsSeen.clear();
  }

  function order() {
    if (!state.byWeight) return alphabetical;
    if (!heaviestFirst) {
      const slots = alphabetical.slots.slice();
      for (let node = 0; node < size; node++) {
        const [from, to] = [tree.first[node], tree.first[node + 1]];
        if (to - from > 1) slots.subarray(from, to).sort((a, b) => tree.total[b] - tree.total[a] || a - b);
      }
      heaviestFirst = place(slots);
    }
    return heaviestFirst;
  }

  function ancestors(node) {
    const found = [];
    for (let at = tree.parent[node]; at >= 0; at = tree.parent[at]) found.push(at);
    return found.reverse();
  }

  // ---------------------------------------------------------------- words

  const nameOf = (node) => frames.name[tree.frame[node]];
  const shownName = (node) => frames.shown[tree.frame[node]] || nameOf(node); // with arguments folded
  const kindOf = (node) => data.kinds[frames.kind[tree.frame[node]]];
  const colourOf = (node) => (diff ? changeColour(diff.change[node]) : kindOf(node).shades[frames.shade[tree.frame[node]]]);
  const changeColour = (step) => (step > 0 ? diff.grew[step - 1] : step < 0 ? diff.shrank[-step - 1] : diff.unchanged);
  const percent = (part, of) => `${(of ? (100 * part) / of : 0).toFixed(2)} %`;
  const commas = new Intl.NumberFormat("en-US");
  const withCommas = (number) => commas.format(number);

  function seconds(value) {
    if (value < 1) return `${Number((1000 * value).toPrecision(3))} ms`;
    if (value < 120) return `${Number(value.toPrecision(3))} s`;
    if (value < 7200) return `${(value / 60).toFixed(1)} min`;
    return `${withCommas(Number((value / 3600).toFixed(1)))} h`;
  }

  const signed = (number, text) => `${number < 0 ? "−" : "+"}${text}`;

  function changeOf(node) {
    const [old, now] = [before[node], after[node]];
    const told = diff.change[node] || node === 0 ? "" : ", no significant change";
    if (diff.absolute) {
      const share = old ? `, ${signed(now - old, ((100 * Math.abs(now - old)) / old).toFixed(1))} %` : "";
      return `before ${withCommas(old)}, after ${withCommas(now)} ${caption.unit}, ${signed(now - old, withCommas(Math.abs(now - old)))}${share}${told}`;
    }
    const points = (100 * now) / (after[0] || 1) - (100 * old) / (before[0] || 1);
    return `before ${percent(old, before[0])}, after ${percent(now, after[0])}, ${signed(points, Math.abs(points).toFixed(2))} points; ${withCommas(old)} and ${withCommas(now)} ${caption.unit}${told}`;
  }

  function weightOf(node) {
    if (diff) return changeOf(node);
    const total = tree.total[node];
    const parts = [`${withCommas(total)} ${caption.unit}`, percent(total, whole)];
    if (caption.secondsPerSample) {
      parts.push(`${seconds(total * caption.secondsPerSample)} ${caption.time}`.trim());
    }
    return parts.join(", ");
  }

  const describe = (node) => `${nameOf(node)} (${weightOf(node)})`;

  function originOf(node) {
    if (node === 0) return "";
    const frame = tree.frame[node];
    const file = data.strings[frames.file[frame]];
    const reason = data.reasons[frames.reason[frame]];
    return [
      kindOf(node).label + intoCaller(node),
      data.strings[frames.binary[frame]],
      file && `${file}${frames.line[frame] ? `:${frames.line[frame]}` : ""}${otherLines(frames.other_lines[frame])}`,
      reason && `no name: ${reason}`,
    ].filter(Boolean).join(" · ");
  }

  function intoCaller(node) {
    const caller = tree.parent[node];
    if (kindOf(node).label !== "inlined" || caller <= 0 || /^(process|thread)$/.test(kindOf(caller).label)) return "";
    return ` into ${shownName(caller)}`;
  }

  function otherLines(count) {
    return count ? ` and ${withCommas(count)} other line${count === 1 ? "" : "s"}` : "";
  }

  // The part of a text that fits, judged by the width of a monospace character.
  function fit(text, width, character = layout.character) {
    const room = Math.floor(width / character);
    let used = 0;
    let end = 0;
    let lastFit = 0; // where to cut if an ellipsis has to fit as well
    for (const c of text) {
      used += c.codePointAt(0) >= 0x2e80 ? 2 : 1;
      if (used > room) return room < 3 ? "" : `${text.slice(0, lastFit)}…`;
      end += c.length;
      if (used <= room - 1) lastFit = end;
    }
    return text;
  }

  // The same for text in a proportional font, which has to be measured.
  function write(element, text, room) {
    if (element.textContent !== text) element.textContent = text;
    let length = element.getComputedTextLength();
    // Letters differ in width, so what is left may still be too long, by little.
    for (let character = length / [...text].length; length > Math.max(room, 0); character *= 1.05) {
      element.textContent = fit(text, room, character);
      length = element.getComputedTextLength();
    }
  }

  // ---------------------------------------------------------------- drawing

  const state = { zoom: 0, byWeight: false, icicle: false, vanished: false, search: "" };
  let matches = null; // while searching: { frame, within, total, error }
  let drawn = []; // the nodes in the document, in level order, the narrowest included
  let elements = new Map(); // node → its rect
  let current = 0; // the node that the keyboard is on
  let byKeyboard = false; // whether the last thing touched was the keyboard
  let width = 0;
  let rows = 1;
  let toolbarBelow = false;
  const rowsSeen = new Map(); // width → rows of the picture of everything, below which it never shrinks

  function create(name, attributes, parent, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    parent?.append(element);
    return element;
  }

  const graph = byId("frames");
  const ring = create("rect", { fill: "none", stroke: "#1d4ed8", "stroke-width": 2, rx: 2, "pointer-events": "none", display: "none" });
  graph.after(ring);
  graph.setAttribute("role", "tree");
  graph.setAttribute("aria-label", caption.title);

  const notes = [...byId("notes").children].map((line) => [line, line.textContent]);

  const top = () => layout.top + (toolbarBelow ? 40 : 0);
  const rowY = (level) => top() + (state.icicle ? level : rows - 1 - level) * layout.row;

  // The frames below `zoom` that are wide enough, at most layout.mostFrames of them, callers first.
  function pick(zoom, scale) {
    const least = layout.narrowest / scale;
    let found = [zoom];
    for (let i = 0; i < found.length; i++) {
      for (let child = tree.first[found[i]]; child < tree.first[found[i] + 1]; child++) {
        if (tree.total[child] >= least) found.push(child);
      }
    }
    if (found.length > layout.mostFrames) {
      found.sort((a, b) => tree.total[b] - tree.total[a] || a - b);
      found = found.slice(0, layout.mostFrames).sort((a, b) => a - b);
    }
    return found;
  }

  function draw() {
    performance.clearMeasures("pilotlight:draw");
    const began = performance.now();
    const focused = graph.contains(document.activeElement);
    const rootBefore = rowY(0);
    resize();
    const room = width - 2 * layout.side;
    const scale = room / (tree.total[state.zoom] || 1);
    const above = ancestors(state.zoom);
    const below = pick(state.zoom, scale);
    drawn = [...above, ...below];
    if (!rowsSeen.has(width)) rowsSeen.set(width, rowsOf(state.zoom ? pick(0, room / (whole || 1)) : below));
    rows = Math.max(rowsSeen.get(width), rowsOf(drawn));

    const { slots, start } = order();
    const left = (node) => layout.side + (start[node] - start[state.zoom]) * scale;
    const paper = document.createDocumentFragment();
    elements = new Map();
    for (const node of above) drawFrame(paper, node, layout.side, room, true);
    for (const node of below) drawFrame(paper, node, left(node), node === state.zoom ? room : tree.total[node] * scale, false);

    drawNarrow(paper, below, slots, left, scale);
    graph.replaceChildren(paper);

    if (!elements.has(current)) current = state.zoom;
    elements.get(current).setAttribute("tabindex", "0");
    if (focused) elements.get(current).focus({ preventScroll: true });
    drawRing();
    drawSurroundings();
    // The root stays where it was on the screen when the picture grows or shrinks above it.
    if (standalone && !state.icicle && rowY(0) !== rootBefore && drawnOnce) window.scrollBy(0, rowY(0) - rootBefore);
    drawnOnce = true;
    performance.measure("pilotlight:draw", { start: began });
  }

  const MATCH = "#c026d3";
  const NARROW = "#b9b3a1";
  const blankFrame = create("rect", { height: layout.row - 1, role: "treeitem", tabindex: -1 });
  blankFrame.style.outline = "none"; // the ring is drawn instead, which neighbours do not cover
  const blankLabel = create("text", { "pointer-events": "none", "aria-hidden": "true" });
  let drawnOnce = false;
  // With a row for what is too narrow to be drawn above the topmost frames.
  const rowsOf = (nodes) =>
    nodes.reduce((most, node) => Math.max(most, tree.level[node] + (tree.first[node + 1] > tree.first[node])), 0) + 1;

  function drawFrame(paper, node, x, wide, faded) {
    const y = rowY(tree.level[node]);
    const found = matches?.frame[tree.frame[node]];
    const rect = blankFrame.cloneNode();
    rect.setAttribute("x", x.toFixed(2));
    rect.setAttribute("y", y);
    rect.setAttribute("width", (wide > 2 ? wide - 0.6 : wide).toFixed(2)); // the gap would eat narrow frames up
    rect.setAttribute("fill", found ? MATCH : colourOf(node));
    rect.setAttribute("aria-level", tree.level[node] + 1);
    rect.setAttribute("aria-label", describe(node));
    rect.setAttribute("data-node", node);
    paper.append(rect);
    if (wide > 8) rect.setAttribute("rx", 2);
    if (tree.first[node + 1] > tree.first[node]) rect.setAttribute("aria-expanded", opensUp(node, wide));
    if (node === state.zoom && node) rect.setAttribute("aria-current", "true");
    if (faded) rect.setAttribute("opacity", 0.45);
    else if (matches && !matches.error && !found) rect.setAttribute("opacity", matches.within[node] ? 0.75 : 0.4);
    elements.set(node, rect);
    const label = wide > 26 ? fit(shownName(node), wide - 7) : "";
    if (label) {
      const text = blankLabel.cloneNode();
      text.setAttribute("x", (x + 3.5).toFixed(2));
      text.setAttribute("y", y + 11.2);
      text.textContent = label;
      paper.append(text);
      if (faded) text.setAttribute("opacity", 0.7);
      else if (found) text.setAttribute("fill", "#fff");
    }
  }

  // What is not drawn is at least seen to be there: neighbours run together, in one path for all of them.
  function drawNarrow(paper, nodes, slots, left, scale) {
    const shown = new Set(nodes);
    const paths = { [NARROW]: "", [MATCH]: "" };
    for (const node of nodes) {
      const y = rowY(tree.level[node] + 1);
      let run = null;
      const close = () => {
        const wide = run ? run.total * scale : 0;
        if (wide >= layout.narrowest) {
          const x = left(run.first);
          paths[run.matched ? MATCH : NARROW] += `M${x.toFixed(1)} ${y}h${wide.toFixed(1)}v${layout.row - 1}h${(-wide).toFixed(1)}z`;
        }
        run = null;
      };
      for (let slot = tree.first[node]; slot < tree.first[node + 1]; slot++) {
        const child = slots[slot];
        if (shown.has(child)) {
          close();
          continue;
        }
        run ??= { first: child, total: 0, matched: false };
        run.total += tree.total[child];
        run.matched ||= Boolean(matches?.within[child]);
      }
      close();
    }
    for (const [fill, path] of Object.entries(paths)) {
      if (!path) continue;
      const run = create("path", { d: path, fill, opacity: 0.4 }, paper);
      create("title", {}, run, "Frames too narrow, or too many, to draw. Zoom in to see them.");
    }
  }

  // Whether any child of a frame `wide` pixels wide is wide enough to be seen.
  function opensUp(node, wide) {
    for (let child = tree.first[node]; child < tree.first[node + 1]; child++) {
      if ((tree.total[child] / tree.total[node]) * wide >= layout.narrowest) return true;
    }
    return false;
  }

  function drawRing() {
    const rect = elements.get(current);
    const on = byKeyboard && document.activeElement === rect;
    ring.setAttribute("display", on ? "inline" : "none");
    if (on) for (const key of ["x", "y", "width", "height"]) ring.setAttribute(key, rect.getAttribute(key));
  }

  // How much of the picture is above the edge of the window; less than nothing while it begins below that.
  const scrolledOff = () => -svg.getBoundingClientRect().top;

  // Scrolls as little as brings a row into sight, between what stays at the edges of the window.
  function reveal(level) {
    const from = scrolledOff();
    const y = rowY(level);
    const first = y - shelfHeight() - 2;
    const last = y + layout.row + layout.details - window.innerHeight;
    if (from > first) window.scrollBy(0, first - from);
    else if (from < last) window.scrollBy(0, last - from);
  }

  // Scrolls to the widest frames: those at the root, or what is zoomed into where that is far from it.
  function showRoot() {
    if (!standalone) return;
    const from = scrolledOff();
    const root = rowY(0);
    if (state.icicle ? from > root : from + window.innerHeight < root + layout.row) {
      window.scrollBy(0, (state.icicle ? 0 : Number(svg.getAttribute("height")) - window.innerHeight) - from);
    }
    if (!state.zoom) return;
    // What stands on the frame is to be seen as well.
    const away = rowY(tree.level[state.zoom]) - window.innerHeight * (state.icicle ? 0.4 : 0.6) - scrolledOff();
    if (state.icicle ? away > 0 : away < 0) window.scrollBy(0, away);
  }

  function resize() {
    width = Math.max(360, standalone ? document.documentElement.clientWidth || window.innerWidth : svg.getBoundingClientRect().width);
    toolbarBelow = width < (diff ? 990 : 860);
  }

  // Everything that is not a frame: how high the picture is, and what hangs on its width.
  function drawSurroundings() {
    const below = top() + rows * layout.row + 12;
    let height = below + layout.details + caption.notes * layout.note + 14;
    svg.setAttribute("height", height);
    if (standalone && holder) fitHolder(height);
    else if (standalone) svg.setAttribute("height", height = Math.max(height, window.innerHeight));
    byId("background").setAttribute("height", height);
    const left = toolbarBelow ? width - 2 * layout.side : width - toolbarWidth - 3 * layout.side;
    for (const [line, text] of notes) write(line, text, width - 2 * layout.side);
    write(byId("title"), caption.title, left);
    write(byId("subtitle"), caption.subtitle, left);
    byId("legend").setAttribute("transform", `translate(${layout.side} ${top() - 22})`);
    byId("notes").setAttribute("transform", `translate(${layout.side} ${below + layout.details})`);
    drawToolbar();
    drawDetails();
  }

  // ---------------------------------------------------------------- toolbar

  // What toolbar and status lie on while they stay in the window, and what hides the frames behind them.
  const shelf = create("path", { fill: "#fff", stroke: "#ddd6c3", display: "none" });
  const shelfTitle = create("text", { x: layout.side, "font-family": layout.sans, "font-size": 14, "font-weight": 600, fill: "#2b2a26", display: "none" });
  const uncovered = create("rect", { x: 0, width: "100%" }, create("clipPath", { id: "fg-below-shelf" }, svg));
  byId("legend").after(shelf, shelfTitle);
  const toolbar = create("g", { "font-family": layout.sans, "font-size": 12, fill: "#2b2a26", role: "toolbar", "aria-label": "Flame graph" });
  shelfTitle.after(toolbar);
  const SEARCH_WIDTH = 236; // where there is room for it
  const buttons = [
    { width: 96, text: () => (state.byWeight ? "Sort: weight" : "Sort: A–Z"), hint: "Order of siblings (s)", on: () => state.byWeight, act: () => change({ byWeight: !state.byWeight }) },
    { width: 78, text: () => (state.icicle ? "Icicle ↓" : "Flame ↑"), hint: "Root at the bottom or at the top (i)", on: () => state.icicle, act: () => change({ icicle: !state.icicle }) },
    { width: 92, text: () => "Reset zoom", hint: "Show everything (Escape)", off: () => state.zoom === 0, act: () => change({ zoom: 0 }) },
  ];
  if (diff) buttons.splice(2, 0, { width: 122, text: () => (state.vanished ? "Vanished: shown" : "Vanished: hidden"), hint: "What was before and is no more (v)", on: () => state.vanished, act: () => change({ vanished: !state.vanished }) });
  const buttonsWidth = buttons.reduce((sum, button) => sum + button.width + 8, 0);
  const toolbarWidth = SEARCH_WIDTH + buttonsWidth;
  const BUTTON = { y: 0, height: 26, rx: 6, fill: "#fff", stroke: "#cfc9b8" };

  for (const button of buttons) {
    const group = create("g", { role: "button", tabindex: 0, cursor: "pointer" }, toolbar);
    create("title", {}, group, button.hint);
    button.box = create("rect", { ...BUTTON, width: button.width }, group);
    button.label = create("text", { x: button.width / 2, y: 17.5, "text-anchor": "middle", "pointer-events": "none" }, group);
    button.group = group;
    group.addEventListener("click", button.act);
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      button.act();
    });
  }

  // An input drawn in SVG: a foreign <input> is not shown by every program that shows SVG.
  const box = { value: "", caret: 0, all: false };
  box.group = create("g", { role: "searchbox", tabindex: 0, "aria-label": "Search functions by regular expression", cursor: "text" });
  toolbar.prepend(box.group); // first in the order of the Tab key, as it is on the screen
  create("title", {}, box.group, "Search by regular expression (/, Ctrl-F or F3)");
  box.rect = create("rect", BUTTON, box.group);
  create("path", { d: "M14 10.2a4 4 0 1 1-.01 0M17 16l4 4", transform: "translate(0 -1.5)", fill: "none", stroke: "#8a8574", "stroke-width": 1.6, "stroke-linecap": "round", "pointer-events": "none" }, box.group);
  box.selection = create("rect", { x: 28, y: 5, height: 16, fill: "#bfdbfe", "pointer-events": "none" }, box.group);
  box.text = create("text", { x: 28, y: 17.5, "pointer-events": "none" }, box.group);
  box.line = create("path", { stroke: "#1d4ed8", "stroke-width": 1.3, "pointer-events": "none" }, box.group);
  box.clear = create("text", { y: 18, "font-size": 14, fill: "#8a8574", cursor: "pointer", "aria-hidden": "true" }, box.group, "×");
  for (const element of toolbar.querySelectorAll("[tabindex]")) element.style.outline = "none";
  const status = create("text", { "font-family": layout.sans, "font-size": 12, "font-weight": 600, "text-anchor": "end", role: "status" });
  toolbar.after(status);

  function drawToolbar() {
    const searchWidth = Math.min(SEARCH_WIDTH, Math.max(100, width - 2 * layout.side - buttonsWidth));
    box.rect.setAttribute("width", searchWidth);
    box.clear.setAttribute("x", searchWidth - 16);
    let buttonX = searchWidth + 8;
    for (const { group, box: rect, label, text, hint, on, off, width: buttonWidth } of buttons) {
      group.setAttribute("transform", `translate(${buttonX} 0)`);
      buttonX += buttonWidth + 8;
      label.textContent = text();
      group.setAttribute("aria-label", `${text()}: ${hint}`);
      if (on) group.setAttribute("aria-pressed", on());
      if (off) group.setAttribute("aria-disabled", off());
      label.setAttribute("fill", off?.() ? "#aaa595" : "#2b2a26");
      rect.setAttribute("fill", on?.() ? "#f3e3b0" : "#fff");
      rect.setAttribute("stroke", byKeyboard && document.activeElement === group ? "#1d4ed8" : BUTTON.stroke);
    }
    const focused = document.activeElement === box.group;
    const character = layout.character * 12 / 11;
    const room = Math.floor((searchWidth - 52) / character);
    const from = Math.max(0, box.caret - room);
    const shown = box.value.slice(from, from + room);
    box.rect.setAttribute("stroke", matches?.error ? "#dc2626" : focused ? "#1d4ed8" : BUTTON.stroke);
    box.text.setAttribute("fill", shown ? "#2b2a26" : "#9b9686");
    box.text.setAttribute("font-family", shown ? layout.mono : layout.sans);
    write(box.text, shown || (focused ? "" : "Search (regular expression)"), searchWidth - 34);
    box.selection.setAttribute("width", box.all ? shown.length * character : 0);
    box.line.setAttribute("d", focused && !box.all ? `M${(28.5 + (box.caret - from) * character).toFixed(1)} 6v14` : "");
    box.clear.setAttribute("display", box.value ? "inline" : "none");
    box.group.setAttribute("aria-valuetext", box.value);
    placeToolbar();
    drawStatus();
  }

  // In a page the picture takes the rest of its window, or less if it is lower; a taller one scrolls in its frame,
  // so that what the page has above the picture stays in sight.
  function fitHolder(height) {
    const above = holder.getBoundingClientRect().top + page.scrollY;
    holder.style.height = `${Math.min(height, Math.max(420, page.innerHeight - above - 16))}px`;
  }

  let legendWidth = 0;

  // In its place above the graph, or at the edge of the window while that is scrolled out of sight.
  let stays = false;
  function placeToolbar() {
    const x = toolbarBelow ? layout.side : width - layout.side - toolbarWidth;
    const place = toolbarBelow ? 64 : 18;
    const edge = scrolledOff();
    stays = edge > place - 8;
    const y = stays ? edge + 8 : place;
    toolbar.setAttribute("transform", `translate(${x} ${y})`);
    status.setAttribute("x", stays && !toolbarBelow ? x - layout.side : width - layout.side);
    status.setAttribute("y", !stays ? top() - 12 : toolbarBelow ? y + 43 : y + 17.5);
    shelf.setAttribute("display", stays ? "inline" : "none");
    shelfTitle.setAttribute("y", y + 17.5);
    for (const element of [graph, ring]) {
      if (stays) element.setAttribute("clip-path", "url(#fg-below-shelf)");
      else element.removeAttribute("clip-path");
    }
    if (!stays) return;
    const end = edge + shelfHeight();
    shelf.setAttribute("d", `M-2 ${edge - 2}V${end}H${width + 2}V${edge - 2}z`);
    uncovered.setAttribute("y", end);
    uncovered.setAttribute("height", rows * layout.row + end);
  }

  const shelfHeight = () => (toolbarBelow ? 58 : 42);

  function drawStatus() {
    status.setAttribute("fill", matches?.error ? "#b91c1c" : "#a21caf");
    let text = "";
    if (matches?.error) {
      text = matches.error;
    } else if (matches) {
      text = `Matched: ${percent(matches.total(0), whole)}`;
      if (state.zoom) text += ` of all, ${percent(matches.total(state.zoom), tree.total[state.zoom])} of the zoomed frame`;
    }
    const beside = stays && !toolbarBelow ? toolbarWidth + layout.side : 0;
    const room = width - beside - 2 * layout.side;
    write(status, text, room);
    // What is left of the row that the toolbar stays in says what the picture is of.
    const titleRoom = room - (text ? status.getComputedTextLength() + 2 * layout.side : 0);
    shelfTitle.setAttribute("display", beside && titleRoom > 100 ? "inline" : "none");
    if (beside) write(shelfTitle, caption.title, Math.max(titleRoom, 0));
    const crowded = text && status.getComputedTextLength() + legendWidth + 3 * layout.side > width;
    byId("legend").setAttribute("display", crowded ? "none" : "inline");
  }

  // ---------------------------------------------------------------- details

  const details = byId("details");
  details.setAttribute("pointer-events", "none");
  const panel = create("rect", { y: 0, height: layout.details - 12, rx: 7, fill: "#fff", "fill-opacity": 0.94, stroke: "#ddd6c3" }, details);
  const swatch = create("rect", { y: 8, width: 5, height: layout.details - 28, rx: 2.5 }, details);
  const nameLine = create("text", { y: 17, "font-size": 12.5, "font-weight": 600, id: "fg-details-name" }, details);
  const originLine = create("text", { y: 33, "font-size": 11.5, fill: "#6b675c", id: "fg-details-origin" }, details);
  let hovered = -1;
  let message = ""; // said once, until the next thing is pointed at

  function drawDetails() {
    const node = hovered >= 0 ? hovered : byKeyboard && graph.contains(document.activeElement) ? current : -1;
    const x = layout.side;
    const room = width - 2 * x - 30;
    panel.setAttribute("x", x);
    panel.setAttribute("width", width - 2 * x);
    swatch.setAttribute("x", x + 9);
    nameLine.setAttribute("x", x + 22);
    originLine.setAttribute("x", x + 22);
    if (node >= 0) {
      const weight = ` (${weightOf(node)})`; // never cut off
      write(nameLine, nameOf(node), room - 7.6 * weight.length);
      nameLine.textContent += weight;
      swatch.setAttribute("fill", colourOf(node));
    } else {
      write(nameLine, state.zoom ? `Zoomed: ${describe(state.zoom)}` : `All: ${weightOf(0)}`, room);
      swatch.setAttribute("fill", "#e5dfcd");
    }
    write(originLine, message || (node > 0 ? originOf(node) : HINT), room);
    placeDetails();
  }

  const HINT = `Hover for details · click to zoom · / to search · arrow keys to walk, Enter to zoom, Escape to go back · s sort · i icicle${diff ? " · v vanished" : ""} · c copy name`;

  // In its place below the graph, or at the edge of the window while that is scrolled out of sight.
  function placeDetails() {
    const place = top() + rows * layout.row + 12;
    const y = Math.max(top(), Math.min(place, scrolledOff() + window.innerHeight - layout.details + 4));
    details.setAttribute("transform", `translate(0 ${y.toFixed(1)})`);
  }

  function hover(node) {
    if (node === hovered) return;
    elements.get(hovered)?.removeAttribute("stroke");
    hovered = node;
    message = "";
    const rect = elements.get(node);
    if (rect) {
      rect.setAttribute("stroke", "#3f3a2c");
      // Made only now: a <title> for each frame would double the document.
      if (!rect.firstChild) create("title", {}, rect, `${describe(node)}\n${originOf(node)}`.trim());
    }
    drawDetails();
  }

  // ---------------------------------------------------------------- search

  function search(pattern) {
    if (!pattern) return null;
    const none = { frame: new Uint8Array(frames.name.length), within: new Uint8Array(size), total: () => 0 };
    let expression;
    try {
      // A capital letter in the pattern means that the writer cares about case.
      expression = new RegExp(pattern, /[A-Z]/.test(pattern.replace(/\\./g, "")) ? "" : "i");
    } catch (error) {
      const why = String(error.message).split(": ").pop();
      return { ...none, error: `Not a regular expression: ${why}` };
    }
    // Full names, and what can be read in the picture.
    const frame = Uint8Array.from(frames.name, (name, i) => expression.test(name) || (frames.shown[i] !== "" && expression.test(frames.shown[i])));
    frame[tree.frame[0]] = 0; // the root is no function
    const within = new Uint8Array(size);
    // What weighs in below a match is in the match's weight already: only outermost matches count.
    const matched = new Float64Array(size);
    for (let node = size - 1; node > 0; node--) {
      const parent = tree.parent[node];
      if (frame[tree.frame[node]]) {
        within[node] = 1;
        matched[node] = tree.total[node];
      }
      within[parent] |= within[node];
      matched[parent] += matched[node];
    }
    // Inside a match everything is matched, also when zoomed into a part of it.
    const total = (node) =>
      [node, ...ancestors(node)].some((at) => frame[tree.frame[at]]) ? tree.total[node] : matched[node];
    return { frame, within, total, error: "" };
  }

  function typed(value, caret) {
    Object.assign(box, { value, caret, all: false });
    change({ search: value });
  }

  function openSearch() {
    byKeyboard = true;
    window.focus(); // the key may have been pressed in the page around the picture
    box.all = box.value !== "";
    box.caret = box.value.length;
    box.group.focus({ preventScroll: scrolledOff() > 0 }); // the toolbar is in sight then
    drawToolbar();
  }

  function insert(text) {
    const clean = text.replace(/[\x00-\x1f\x7f]/g, "");
    if (box.all) typed(clean, clean.length);
    else typed(box.value.slice(0, box.caret) + clean + box.value.slice(box.caret), box.caret + clean.length);
  }

  box.group.addEventListener("click", (event) => {
    if (event.target === box.clear) typed("", 0);
    // Where there is no keyboard, the drawn input cannot call one up.
    if (event.pointerType === "touch") typed(window.prompt("Search by regular expression", box.value) ?? box.value, 0);
    openSearch();
  });
  box.group.addEventListener("keydown", (event) => {
    const { key } = event;
    const modified = event.ctrlKey || event.metaKey;
    const { value, caret } = box;
    if (modified && key.toLowerCase() === "a") box.all = value !== "";
    else if (key.length === 1 && (!modified || (event.ctrlKey && event.altKey))) insert(key);
    else if (key === "Backspace" && box.all) typed("", 0);
    else if (key === "Backspace") typed(value.slice(0, Math.max(0, caret - 1)) + value.slice(caret), Math.max(0, caret - 1));
    else if (key === "Delete" && box.all) typed("", 0);
    else if (key === "Delete") typed(value.slice(0, caret) + value.slice(caret + 1), caret);
    else if (key === "ArrowLeft") Object.assign(box, { caret: Math.max(0, caret - 1), all: false });
    else if (key === "ArrowRight") Object.assign(box, { caret: Math.min(value.length, caret + 1), all: false });
    else if (key === "Home") Object.assign(box, { caret: 0, all: false });
    else if (key === "End") Object.assign(box, { caret: value.length, all: false });
    else if (key === "Escape" && value) typed("", 0);
    else if (key === "Escape" || key === "Enter") focusNode(current);
    else return;
    event.preventDefault();
    event.stopPropagation();
    drawToolbar();
  });
  document.addEventListener("paste", (event) => {
    if (document.activeElement !== box.group) return;
    event.preventDefault();
    insert(event.clipboardData.getData("text/plain"));
  }, { signal });
  box.group.addEventListener("focusout", () => { box.all = false; });

  // ---------------------------------------------------------------- what people do

  function change(next) {
    Object.assign(state, next);
    if ("vanished" in next) {
      if (!state.vanished && !after[state.zoom]) state.zoom = 0; // it is not there any more
      weighAnew();
    }
    if ("search" in next || "vanished" in next) matches = search(state.search);
    if ("zoom" in next) current = state.zoom;
    hovered = -1;
    message = "";
    draw();
    if ("icicle" in next) showRoot();
    remember();
  }

  const nodeAt = (target) => {
    const number = target instanceof Element ? target.getAttribute("data-node") : null;
    return number === null ? -1 : Number(number);
  };

  graph.addEventListener("pointerover", (event) => hover(nodeAt(event.target)));
  graph.addEventListener("pointerleave", () => hover(-1));
  graph.addEventListener("click", (event) => {
    const node = nodeAt(event.target);
    if (node >= 0) change({ zoom: node });
  });
  document.addEventListener("pointerdown", () => { byKeyboard = false; drawRing(); }, { capture: true, signal });
  document.addEventListener("keydown", () => { byKeyboard = true; }, { capture: true, signal });
  svg.addEventListener("focusin", (event) => {
    const node = nodeAt(event.target);
    if (node >= 0) {
      elements.get(current)?.setAttribute("tabindex", "-1");
      current = node;
      elements.get(current)?.setAttribute("tabindex", "0");
    }
    drawRing();
    drawToolbar();
    drawDetails();
  });
  svg.addEventListener("focusout", () => requestAnimationFrame(() => { drawRing(); drawToolbar(); drawDetails(); }));

  function focusNode(node) {
    if (!elements.has(node)) return;
    byKeyboard = true;
    hover(-1);
    elements.get(node).focus({ preventScroll: true });
    reveal(tree.level[node]);
  }

  // The nearest frame in a row: the next one to the left or right of the current.
  function beside(direction) {
    const { start } = order();
    const row = drawn.filter((node) => tree.level[node] === tree.level[current]).sort((a, b) => start[a] - start[b]);
    return row[row.indexOf(current) + direction] ?? current;
  }

  function heaviestChild(node) {
    let best = -1;
    for (let child = tree.first[node]; child < tree.first[node + 1]; child++) {
      if (elements.has(child) && (best < 0 || tree.total[child] > tree.total[best])) best = child;
    }
    return best;
  }

  function deepest(node) {
    for (let child = heaviestChild(node); child >= 0; child = heaviestChild(node)) node = child;
    return node;
  }

  const away = () => { const child = heaviestChild(current); return child < 0 ? current : child; };
  const back = () => Math.max(0, tree.parent[current]);
  const walk = {
    ArrowUp: () => (state.icicle ? back() : away()),
    ArrowDown: () => (state.icicle ? away() : back()),
    ArrowLeft: () => beside(-1),
    ArrowRight: () => beside(1),
    Home: () => 0,
    End: () => deepest(current),
  };

  graph.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (walk[event.key]) focusNode(walk[event.key]());
    else if (event.key === "Enter" || event.key === " ") change({ zoom: current });
    else return;
    event.preventDefault();
  });

  const BESIDE = new Set(["ArrowLeft", "ArrowRight"]); // the arrows that scroll nothing here

  function shortcut(event) {
    const key = event.key;
    const surrounding = event.currentTarget !== document; // the page around the picture, which has keys of its own
    // Keys that someone types into an input of the surrounding page are none of ours.
    if (event.target instanceof page.Element && event.target.closest("input, textarea, select, [contenteditable]")) return;
    if (key === "F3" || ((event.ctrlKey || event.metaKey) && key.toLowerCase() === "f")) openSearch();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (key === "/") openSearch();
    else if (surrounding) return;
    else if (key === "Escape" && state.zoom) change({ zoom: 0 });
    else if (key === "Escape" && state.search) typed("", 0);
    else if (BESIDE.has(key) && !graph.contains(event.target)) focusNode(current);
    else if (key === "s") change({ byWeight: !state.byWeight });
    else if (key === "i") change({ icicle: !state.icicle });
    else if (key === "v" && diff) change({ vanished: !state.vanished });
    else if (key === "c") copyName();
    else return;
    event.preventDefault();
  }
  document.addEventListener("keydown", shortcut, { signal });
  if (holder) page.document.addEventListener("keydown", shortcut);

  const pointedAt = () => (hovered >= 0 ? hovered : current);

  async function copyName() {
    const name = nameOf(pointedAt());
    try {
      await navigator.clipboard.writeText(name);
      message = `Copied: ${name}`;
    } catch {
      message = "The browser does not let this page copy by itself: press Ctrl-C instead.";
    }
    drawDetails();
  }
  document.addEventListener("copy", (event) => {
    if (String(document.getSelection())) return;
    event.clipboardData.setData("text/plain", document.activeElement === box.group ? box.value : nameOf(pointedAt()));
    event.preventDefault();
  }, { signal });

  // ---------------------------------------------------------------- the address

  // A node is known by its level and a hash of the path to it, which still holds after a reload with
  // newer data, where its number would not.
  const hashes = new Map();
  function frameHash(frame) {
    if (!hashes.has(frame)) {
      let hash = 0x811c9dc5;
      const text = `${frames.name[frame]}\n${data.kinds[frames.kind[frame]].label}\n${data.strings[frames.binary[frame]]}`;
      for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
      hashes.set(frame, hash);
    }
    return hashes.get(frame);
  }
  const extend = (hash, node) => Math.imul((hash ^ frameHash(tree.frame[node])) >>> 0, 0x9e3779b1) ^ (hash >>> 15);
  const written = (level, hash) => `${level}-${(hash >>> 0).toString(16)}`;

  function nodeKey(node) {
    return written(tree.level[node], [...ancestors(node), node].reduce(extend, 0));
  }

  function nodeOfKey(key) {
    const level = Number.parseInt(key, 10);
    const hash = new Int32Array(size);
    for (let node = 0; node < size && tree.level[node] <= level; node++) {
      hash[node] = extend(node ? hash[tree.parent[node]] : 0, node);
      if (tree.level[node] === level && written(level, hash[node]) === key) return node;
    }
    return 0;
  }

  const fragment = () => new URLSearchParams(page.location.hash.slice(1));

  function remember() {
    const parameters = fragment();
    const values = {
      zoom: state.zoom ? nodeKey(state.zoom) : "",
      search: state.search,
      sort: state.byWeight ? "weight" : "",
      view: state.icicle ? "icicle" : "",
      vanished: state.vanished ? "shown" : "",
    };
    for (const [key, value] of Object.entries(values)) {
      if (value) parameters.set(key, value);
      else parameters.delete(key);
    }
    const { pathname, search: query } = page.location;
    const hash = parameters.toString();
    if (hash === fragment().toString()) return;
    try {
      page.history.replaceState(page.history.state, "", hash ? `#${hash}` : pathname + query);
    } catch {
      page.location.replace(`#${hash}`); // a file, or a document that may not touch its history
    }
  }

  function restore() {
    const parameters = fragment();
    state.zoom = parameters.has("zoom") ? nodeOfKey(parameters.get("zoom")) : 0;
    state.search = parameters.get("search") ?? "";
    state.byWeight = parameters.get("sort") === "weight";
    state.icicle = parameters.get("view") === "icicle";
    state.vanished = diff !== null && parameters.get("vanished") === "shown";
    if (diff) weighAnew();
    Object.assign(box, { value: state.search, caret: state.search.length });
    matches = search(state.search);
    current = state.zoom;
    draw();
  }

  page.addEventListener("hashchange", restore, { signal });
  window.addEventListener("scroll", () => { placeToolbar(); drawStatus(); placeDetails(); }, { passive: true, signal });
  let pending = 0;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(draw);
  }, { signal });

  // The markup could only guess how wide the words of the legend are.
  for (const text of byId("legend").querySelectorAll("text")) {
    text.previousElementSibling.setAttribute("x", legendWidth);
    text.setAttribute("x", legendWidth + 16);
    legendWidth += 16 + text.getComputedTextLength() + 16;
  }

  // Else Chromium makes the whole document a stop of the Tab key.
  if (standalone) svg.setAttribute("tabindex", "-1");
  svg.style.outline = "none"; // a click beside the frames focuses all of it
  svg.style.overflowAnchor = "none"; // else the browser scrolls after the toolbar, and that after the browser
  svg.removeAttribute("viewBox");
  svg.setAttribute("width", "100%");
  restore();
  if (window.scrollY === 0) showRoot();
})();
