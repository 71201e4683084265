// Sorts the functions of a comparison where they stand, which without it the links of the headings do, by the server; and
// finds them in the picture.
"use strict";

import { expressionOf, pictureOf } from "./picture.js";

const table = document.getElementById("changes");
const headings = table ? [...table.querySelectorAll("a[data-sort]")] : [];

function sort(link) {
  const by = link.dataset.sort;
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => b.dataset[by] - a.dataset[by]);
  body.append(...rows);
  for (const other of headings) {
    const heading = other.closest("th");
    if (other === link) heading.setAttribute("aria-sort", "descending");
    else heading.removeAttribute("aria-sort");
  }
}

for (const link of headings) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    sort(link);
    const address = new URL(link.href);
    address.hash = location.hash; // where the picture keeps what it shows
    history.replaceState(history.state, "", address);
  });
}

pictureOf(document.getElementById("picture"), ({ picture }) => {
  for (const name of table?.querySelectorAll("tbody .name") ?? []) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "link name", textContent: name.textContent, title: "Find in the picture" });
    button.addEventListener("click", () => picture.change({ search: expressionOf(button.closest("th").title) }));
    name.replaceWith(button);
  }
});
