// The menu of a flame graph: saves and shares what is to be seen. Without it the links of the menu work all the same.
"use strict";

import { pictureOf } from "./picture.js";

const menu = document.getElementById("export");
const said = menu?.querySelector(".said");

function say(sentence) {
  said.textContent = ""; // so that what is said again is read again
  requestAnimationFrame(() => { said.textContent = sentence; });
}

// Where the server's part of an address ends, what the picture shows follows: in the fragment, or in a parameter.
function follow() {
  const view = location.hash.slice(1);
  for (const element of menu.querySelectorAll("[data-view]")) {
    if (element instanceof HTMLInputElement) {
      const address = new URL(element.value);
      element.value = new URL(`${address.pathname}${address.search}${view && `#${view}`}`, location.origin).href;
    } else {
      const address = new URL(element.href);
      if (view) address.searchParams.set("view", view);
      else address.searchParams.delete("view");
      element.href = address.pathname + address.search;
    }
  }
}

async function copy(input, what) {
  follow();
  try {
    await navigator.clipboard.writeText(input.value);
    say(`Copied: ${what.toLowerCase()}.`);
  } catch {
    // Browsers let pages write to the clipboard only where the connection is safe.
    input.select();
    say(document.execCommand("copy") ? `Copied: ${what.toLowerCase()}.` : "The browser does not let this page copy by itself: press Ctrl-C.");
  }
}

async function savePng(picture) {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await picture.png());
    link.download = `${picture.caption.title.replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 80) || "flamegraph"}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say("Saved as PNG.");
  } catch (error) {
    say(`The image could not be made: ${error.message}`);
  }
}

if (menu) {
  for (const button of menu.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.setAttribute("aria-label", `Copy: ${button.dataset.copy}`);
    button.addEventListener("click", () => copy(button.parentElement.querySelector("input"), button.dataset.copy));
  }
  menu.querySelector("summary").addEventListener("click", follow);
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    event.stopPropagation();
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("pointerdown", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  window.addEventListener("blur", () => { if (document.activeElement instanceof HTMLIFrameElement) menu.open = false; });
  pictureOf(document.getElementById("picture"), ({ svg, picture }) => {
    const png = menu.querySelector("#png");
    png.parentElement.hidden = false;
    png.onclick = () => savePng(picture);
    svg.addEventListener("pilotlight:change", () => { if (menu.open) follow(); });
  });
}
