// Where the picture is on the screen: its size, and what of it is in sight.
import { heightOf, rowOf, rowsInSight, rowY } from "./rows.js";

// Notes how much of the picture is above the edge of the window, less than nothing while it begins below that: asked for
// in the midst of drawing, it would have everything laid out.
export function look(picture) {
  const { svg, holder, page } = picture;
  picture.scrolledOff = -svg.getBoundingClientRect().top;
  // Of a frame as high as the picture, the page shows a part, and it is the page that is scrolled.
  const frame = holder ? holder.getBoundingClientRect().top : 0;
  const [first, last] = [Math.max(0, -frame), Math.min(window.innerHeight, page.innerHeight - frame)];
  picture.sight = { from: picture.scrolledOff + first, to: picture.scrolledOff + Math.max(first, last) };
}

// Whether all that is on the screen is drawn.
export function isCovered(picture) {
  const { from, to } = rowsInSight(picture);
  return from >= picture.covered.from && to <= picture.covered.to;
}

export function scroll(picture, by) {
  window.scrollBy(0, by);
  look(picture);
}

export function measure(picture) {
  look(picture);
  const { svg, standalone } = picture;
  picture.width = Math.max(360, standalone ? document.documentElement.clientWidth || window.innerWidth : svg.getBoundingClientRect().width);
}

// Scrolls as little as brings a node's row into sight, between what stays at the edges of the window.
export function reveal(picture, node) {
  const from = picture.scrolledOff;
  const y = rowY(picture, rowOf(picture, node));
  const first = y - picture.shelfHeight - 2;
  const last = y + picture.layout.row + picture.detailsHeight - window.innerHeight;
  if (from > first) scroll(picture, first - from);
  else if (from < last) scroll(picture, last - from);
}

// Scrolls to the widest frames: those at the root, or what is zoomed into where that is far from it.
export function showRoot(picture) {
  const { svg, standalone, state, layout, zoom, rows } = picture;
  if (!standalone) return;
  const from = picture.scrolledOff;
  const root = rowY(picture, 0);
  const hasCallers = rows.down > 0; // a sandwich: its root is somewhere in the middle
  if (state.icicle || hasCallers ? from > root - picture.shelfHeight : from + window.innerHeight < root + layout.row) {
    scroll(picture, (state.icicle ? 0 : hasCallers ? root - window.innerHeight / 2 : Number(svg.getAttribute("height")) - window.innerHeight) - from);
  } else if (hasCallers && from + window.innerHeight < root + layout.row + picture.detailsHeight) {
    scroll(picture, root - window.innerHeight / 2 - from);
  }
  if (!zoom) return;
  // What stands on the frame is to be seen as well.
  const upwards = state.icicle === rowOf(picture, zoom) < 0;
  const away = rowY(picture, rowOf(picture, zoom)) - window.innerHeight * (upwards ? 0.6 : 0.4) - picture.scrolledOff;
  if (upwards ? away < 0 : away > 0) scroll(picture, away);
}

// In a page the picture takes the rest of its window, or less if it is lower; a taller one scrolls in its frame, so that
// what the page has above the picture stays in sight. One that is only a little taller is shown whole.
function fitHolder({ holder, page }, height) {
  const above = holder.getBoundingClientRect().top + page.scrollY;
  const room = Math.max(420, page.innerHeight - above - 16);
  holder.style.height = `${height <= 1.25 * room ? height : room}px`;
}

// How high all of it is.
export function setHeight(picture) {
  const { svg, byId, standalone, holder, bottom } = picture;
  let height = bottom + 14;
  svg.setAttribute("height", height);
  if (standalone && holder) fitHolder(picture, height);
  else if (standalone) svg.setAttribute("height", (height = Math.max(height, window.innerHeight)));
  byId("background").setAttribute("height", height);
}

// What is kept free for the card: on a small screen it has more lines.
export const cardRoom = ({ layout, width }) => layout.details + (width < 700 ? 32 : 0);

export const graphBottom = (picture) => picture.top + heightOf(picture) + 12;
