// Makes pages livelier; without it they work all the same.
"use strict";

const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function enhance(root) {
  for (const time of root.querySelectorAll("time[data-at]")) {
    time.title = time.textContent;
    time.textContent = local.format(new Date(Number(time.dataset.at) * 1000));
  }
}

enhance(document);

// How many hosts are ticked, to be looked at together.
const boxes = () => [...document.querySelectorAll("td input[type=checkbox][form=together]")];

function count() {
  const words = document.querySelector("[data-chosen]");
  if (!words) return;
  const number = new Set(boxes().filter((box) => box.checked).map((box) => box.value)).size;
  words.textContent = number ? ` of ${number} ${number === 1 ? "host" : "hosts"}` : " of all hosts";
}

document.addEventListener("change", count);
count();

const main = document.querySelector("main[data-refresh]");
if (main) {
  const again = async () => {
    const isTyped = [...main.querySelectorAll("input[name=q]")].some((field) => field.value || field === document.activeElement);
    if (!document.hidden && !isTyped && !main.contains(document.getSelection().anchorNode?.parentElement?.closest("td") ?? null)) {
      try {
        const answer = await fetch(location.href, { headers: { accept: "text/html" } });
        if (answer.ok && !answer.redirected) {
          const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
          if (fresh) {
            const path = main.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
            const box = document.activeElement.matches("td input[type=checkbox]") ? document.activeElement.value : null;
            const ticked = new Set(boxes().filter((one) => one.checked).map((one) => one.value));
            main.replaceChildren(...fresh.childNodes);
            enhance(main);
            for (const one of boxes()) {
              one.checked = ticked.has(one.value);
              if (one.value === box) one.focus();
            }
            count();
            if (path) main.querySelector(`a[href="${CSS.escape(path)}"]`)?.focus();
          }
          document.body.classList.remove("away");
        }
      } catch {
        document.body.classList.add("away"); // the server is away; the page keeps what it last knew
      }
    }
    setTimeout(again, Number(main.dataset.refresh) * 1000);
  };
  setTimeout(again, Number(main.dataset.refresh) * 1000);
}

// A field left empty asks for nothing: keep it out of the address.
for (const form of document.querySelectorAll("form.filters")) {
  form.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData.entries()]) {
      if (value === "") event.formData.delete(name);
    }
    for (const hidden of form.querySelectorAll("input[type=hidden]")) {
      if (!event.formData.getAll(hidden.name).includes(hidden.value)) event.formData.append(hidden.name, hidden.value);
    }
  });
  for (const select of form.querySelectorAll("select")) {
    select.addEventListener("change", () => form.requestSubmit());
  }
}
