// Keeps what is not over on a page of captures up to date; without it the pages reload themselves.
"use strict";

import { takeParts } from "./parts.js";
import { renew } from "./picture.js";

const AGAIN_MS = 1000;

const live = document.querySelector("[data-live]");
const frame = document.getElementById("picture");

async function follow() {
  let isOver = false;
  if (!document.hidden) {
    try {
      isOver = await look();
      document.body.classList.remove("away");
    } catch {
      document.body.classList.add("away");
    }
  }
  if (!isOver) setTimeout(follow, AGAIN_MS);
}

// Shows what is new; gives whether that was the last of it.
async function look() {
  const answer = await fetch(location.pathname + location.search, { headers: { accept: "text/html" } });
  if (!answer.ok || answer.redirected) return false;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const picture = fresh.getElementById("picture");
  if (picture && !frame) {
    location.reload(); // its first samples: there is all that belongs to a picture now
    return true;
  }
  if (picture) await followPicture(picture);
  takeParts(fresh);
  return !fresh.getElementById(live.id)?.dataset.live;
}

async function followPicture({ src, dataset }) {
  if (dataset.of === frame.dataset.of) return;
  const answer = await fetch(src, { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.statusText);
  renew(frame, await answer.text(), src);
  frame.dataset.of = dataset.of;
}

if (live) setTimeout(follow, AGAIN_MS);
