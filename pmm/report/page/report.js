// The report's page: tables sorted by their headers, charts that answer to the pointer and to keys.
// All is there without this script, too; texts are set as text only.

const tip = document.getElementById("tip");

// --- Tables.

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.order === undefined ? cell.textContent.trim() : Number(cell.dataset.order);
}

function compare(one, other) {
  const numbers = typeof one === "number" && typeof other === "number";
  return numbers ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
}

function sortBy(table, column) {
  const headers = [...table.tHead.rows[0].cells];
  const before = headers[column].getAttribute("aria-sort");
  const first = headers[column].classList.contains("number") ? "descending" : "ascending";
  const now = before === null ? first : before === "ascending" ? "descending" : "ascending";
  headers.forEach((each) => each.removeAttribute("aria-sort"));
  headers[column].setAttribute("aria-sort", now);
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => ({ row, place, value: valueOf(row, column) }));
  rows.sort((a, b) => {
    // What is empty stays last, whichever way.
    if ((a.value === "") !== (b.value === "")) return a.value === "" ? 1 : -1;
    const found = compare(a.value, b.value);
    return (now === "ascending" ? found : -found) || a.place - b.place;
  });
  body.append(...rows.map((each) => each.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, column));
    header.append(button);
  });
}

// --- Charts.

const NEAR = 28; // pixels of the screen from a point at which it still answers

function show(point, chart) {
  for (const each of document.querySelectorAll(".point.now")) each.classList.remove("now");
  point.classList.add("now");
  tip.textContent = point.dataset.said;
  tip.hidden = false;
  const at = point.getBoundingClientRect();
  const box = tip.getBoundingClientRect();
  const left = at.left + at.width / 2 - box.width / 2;
  const above = at.top - box.height - 8;
  tip.style.left = `${Math.max(4, Math.min(left, window.innerWidth - box.width - 4))}px`;
  tip.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  chart.dataset.at = [...chart.querySelectorAll(".point")].indexOf(point);
}

function hide() {
  for (const each of document.querySelectorAll(".point.now")) each.classList.remove("now");
  tip.hidden = true;
}

function nearest(chart, event) {
  const box = chart.getBoundingClientRect();
  const scale = box.width / chart.viewBox.baseVal.width;
  let best = null;
  let least = NEAR;
  for (const point of chart.querySelectorAll(".point")) {
    const x = box.left + Number(point.dataset.x) * scale - event.clientX;
    const y = box.top + Number(point.dataset.y) * scale - event.clientY;
    const away = Math.hypot(x, y);
    if (away < least) [best, least] = [point, away];
  }
  return best;
}

function step(chart, event) {
  const points = [...chart.querySelectorAll(".point")];
  const at = chart.dataset.at === undefined ? -1 : Number(chart.dataset.at);
  const to = {
    ArrowRight: at + 1,
    ArrowDown: at + 1,
    ArrowLeft: Math.max(at - 1, 0),
    ArrowUp: Math.max(at - 1, 0),
    Home: 0,
    End: points.length - 1,
  }[event.key];
  if (event.key === "Escape") hide();
  if (to === undefined || !points.length) return;
  event.preventDefault();
  show(points[Math.min(to, points.length - 1)], chart);
}

for (const chart of document.querySelectorAll("svg.chart")) {
  for (const point of chart.querySelectorAll(".point")) {
    const title = point.querySelector("title"); // of its own the browser would show a second one
    point.dataset.said = title.textContent;
    title.remove();
  }
  const follow = (event) => {
    const point = nearest(chart, event);
    if (point) show(point, chart);
    else hide();
  };
  chart.addEventListener("pointermove", follow);
  chart.addEventListener("pointerdown", follow);
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => step(chart, event));
}
const stay = () => {
  const point = document.querySelector(".point.now");
  if (point) show(point, point.closest("svg"));
};
document.addEventListener("scroll", stay, { passive: true, capture: true });
window.addEventListener("resize", stay);

// --- Paper: what is folded is printed, too.

let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const each of opened) each.open = true;
});
window.addEventListener("afterprint", () => {
  for (const each of opened) each.open = false;
  opened = [];
});

document.documentElement.dataset.ready = "yes";
