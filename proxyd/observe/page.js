"use strict";

// A click on a table's head sorts by that column; a number is compared as what it is, and not as it is spelt.
const key = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
};

const compare = (one, other) => {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
};

const sort = (table, column) => {
  const head = table.tHead.rows[0].cells[column];
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const before = head.getAttribute("aria-sort");
  const numbers = rows.some((row) => row.cells[column].dataset.value !== undefined);
  const down = before === null ? numbers : before === "ascending";
  rows.sort((one, other) => (down ? -1 : 1) * compare(key(one, column), key(other, column)));
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
};

for (const table of document.querySelectorAll("table.sorts")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
  });
}

// Whoever points at a step of time, with whatever, reads its figures below.
for (const figure of document.querySelectorAll("figure.time")) {
  const readout = figure.querySelector(".readout");
  readout.hidden = false;
  readout.textContent = "Point at a step to read its figures.";
  figure.addEventListener("pointerover", (event) => {
    const step = event.target.closest(".step");
    if (step) readout.textContent = step.textContent;
  });
}
