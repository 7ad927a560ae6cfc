"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const pictures = [...document.querySelectorAll(".cells img")];
  if (!pictures.length) return;
  let current = 0;
  const zoom = (index) => {
    current = (index + pictures.length) % pictures.length;
    const picture = pictures[current];
    const lines = [...picture.closest(".cell").querySelectorAll(".below")].map((line) => line.textContent);
    byId("zoomed").src = picture.src;
    byId("zoomed").alt = picture.alt;
    byId("zoom-caption").textContent = [picture.alt, ...lines].join(" · ");
    byId("zoom-recipe").textContent = picture.dataset.recipe;
    if (!byId("zoom").open) byId("zoom").showModal();
  };
  const press = (button, on) => byId(button).setAttribute("aria-pressed", String(on));
  const wholeSize = (on) => {
    byId("zoom").classList.toggle("whole", on);
    press("zoom-size", on);
  };
  const inRow = (by) => {
    const row = pictures[current].closest("tr");
    if (!row) return;
    const column = [...row.children].indexOf(pictures[current].closest("td"));
    const next = by > 0 ? row.nextElementSibling : row.previousElementSibling;
    const found = next && next.children[column] && next.children[column].querySelector("img");
    if (found) zoom(pictures.indexOf(found));
  };
  pictures.forEach((picture, index) => picture.closest("button").addEventListener("click", () => zoom(index)));
  byId("zoom-before").addEventListener("click", () => zoom(current - 1));
  byId("zoom-after").addEventListener("click", () => zoom(current + 1));
  byId("zoom-size").addEventListener("click", () => wholeSize(!byId("zoom").classList.contains("whole")));
  byId("zoomed").addEventListener("click", () => wholeSize(!byId("zoom").classList.contains("whole")));
  byId("recipe").addEventListener("click", () => {
    byId("zoom-recipe").hidden = !byId("zoom-recipe").hidden;
    press("recipe", !byId("zoom-recipe").hidden);
  });
  byId("zoom-close").addEventListener("click", () => byId("zoom").close());
  byId("zoom").addEventListener("click", (event) => { if (event.target === byId("zoom")) byId("zoom").close(); });
  byId("zoom").addEventListener("keydown", (event) => {
    const steps = {
      ArrowLeft: () => zoom(current - 1), ArrowRight: () => zoom(current + 1),
      ArrowUp: () => inRow(-1), ArrowDown: () => inRow(1),
    };
    if (!(event.key in steps)) return;
    steps[event.key]();
    event.preventDefault();
  });
})();
