// Keeps what is not over on a page of captures up to date; without it the pages reload themselves.
"use strict";

const live = document.querySelector("[data-live]");

async function follow() {
  if (!document.hidden) {
    try {
      const answer = await fetch(location.pathname + location.search, { headers: { accept: "text/html" } });
      if (answer.ok && !answer.redirected) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(live.id);
        if (fresh && !fresh.dataset.live && live.dataset.live === "page") {
          location.reload(); // it is over: now there is its picture
          return;
        }
        if (fresh) {
          const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
          live.replaceChildren(...fresh.childNodes);
          window.enhance(live);
          if (focused) live.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
          if (!fresh.dataset.live) return;
        }
      }
      document.body.classList.remove("away");
    } catch {
      document.body.classList.add("away");
    }
  }
  setTimeout(follow, 1000);
}

if (live) setTimeout(follow, 1000);
