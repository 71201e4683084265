// Sorts the functions of a comparison where they stand, which without it the links of the headings do, by the server; and
// links them with the picture.
"use strict";

import { expressionOf, linkRows, pictureOf } from "./picture.js";

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

const rows = new Map(); // function key → row
const link = linkRows(table ? [table.tBodies[0]] : [], (key) => rows.get(key));

// Says of each row which function of the picture it is.
function tell(picture) {
  const keys = new Map(picture.functions().map(({ key, name, kind, binary }) => [`${name}\n${kind}\n${binary}`, key]));
  for (const row of table?.tBodies[0].rows ?? []) {
    const key = keys.get(`${row.cells[0].title}\n${row.dataset.kind}\n${row.dataset.binary}`);
    if (!key) continue; // what the picture folded away, or what its filters leave out
    row.dataset.key = key;
    rows.set(key, row);
  }
}

pictureOf(document.getElementById("picture"), ({ svg, picture }) => {
  link(svg, picture);
  tell(picture);
  svg.addEventListener("pilotlight:change", () => setTimeout(() => tell(picture))); // once it is drawn
  for (const name of table?.querySelectorAll("tbody .name") ?? []) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "link name", textContent: name.textContent, title: "Find in the picture" });
    button.addEventListener("click", () => picture.change({ search: expressionOf(button.closest("th").title) }));
    name.replaceWith(button);
  }
});
