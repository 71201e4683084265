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

const main = document.querySelector("main[data-refresh]");
if (main) {
  const again = async () => {
    if (!document.hidden && !main.contains(document.getSelection().anchorNode?.parentElement?.closest("td") ?? null)) {
      try {
        const answer = await fetch(location.href, { headers: { accept: "text/html" } });
        if (answer.ok && !answer.redirected) {
          const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
          if (fresh) {
            const path = main.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
            main.replaceChildren(...fresh.childNodes);
            enhance(main);
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
