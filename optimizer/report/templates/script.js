"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll(".shots")].filter((row) => row.querySelector("img"));
  if (!rows.length) return;
  const pictures = (row) => [...row.querySelectorAll("img")];
  const small = Math.max(...rows.map((row) => Number(pictures(row)[0].getAttribute("width")))) <= 192;
  document.body.classList.toggle("pixels", small);
  const rowAt = (index) => rows[(index + rows.length) % rows.length];
  let current = 0;

  const option = (text, value) => new Option(text, value);
  const textOf = (row) => row.closest(".prompt").querySelector(".words").textContent;
  const describe = (row) => `${row.dataset.prompt} · ${textOf(row).slice(0, 80)} · seed ${row.dataset.seed}`;
  rows.forEach((row, index) => byId("which").add(option(describe(row), index)));

  const zoomable = (picture) => {
    const figure = document.createElement("figure");
    const button = document.createElement("button");
    const image = document.createElement("img");
    const caption = document.createElement("figcaption");
    button.type = "button";
    button.className = "shot";
    button.setAttribute("aria-label", "zoom");
    image.src = picture.src;
    image.alt = picture.alt;
    caption.textContent = picture.dataset.column;
    button.append(image);
    button.addEventListener("click", () => zoom(current, picture.dataset.column));
    figure.append(button, caption);
    return figure;
  };

  const pair = ["left", "right"].map(byId);
  const fillPair = (row) => {
    const names = pictures(row).map((picture) => picture.dataset.column);
    pair.forEach((select, side) => {
      const wanted = names.includes(select.value) ? select.value : names[side ? names.length - 1 : Math.max(0, names.length - 2)];
      select.replaceChildren(...names.map((name) => option(name, name)));
      select.value = wanted;
    });
  };
  const named = (row, name) => pictures(row).find((picture) => picture.dataset.column === name);
  const slide = () => {
    const share = Number(byId("share").value);
    byId("over").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    byId("handle").style.left = `${share}%`;
  };
  const showPair = () => {
    const [left, right] = pair.map((select) => named(rowAt(current), select.value));
    byId("over").src = left.src;
    byId("over").alt = left.alt;
    byId("under").src = right.src;
    byId("under").alt = right.alt;
    slide();
  };
  const show = (index) => {
    current = (index + rows.length) % rows.length;
    const row = rowAt(current);
    byId("which").value = String(current);
    byId("columns").replaceChildren(...pictures(row).map(zoomable));
    fillPair(row);
    showPair();
  };
  const asSlider = (on) => {
    byId("slider").hidden = !on;
    byId("columns").hidden = on;
    byId("as-slider").setAttribute("aria-pressed", String(on));
    byId("as-columns").setAttribute("aria-pressed", String(!on));
  };

  let zoomed = { row: 0, column: "" };
  const zoom = (index, column) => {
    const row = rowAt(index);
    const found = pictures(row);
    const picture = named(row, column) ?? found[0];
    zoomed = { row: (index + rows.length) % rows.length, column: picture.dataset.column };
    byId("zoomed").src = picture.src;
    byId("zoomed").alt = picture.alt;
    byId("zoom-caption").textContent = `${picture.dataset.column} · ${textOf(row)} · seed ${row.dataset.seed}`;
    if (!byId("zoom").open) byId("zoom").showModal();
  };
  const step = (by) => {
    const names = pictures(rowAt(zoomed.row)).map((picture) => picture.dataset.column);
    zoom(zoomed.row, names[(names.indexOf(zoomed.column) + by + names.length) % names.length]);
  };
  const wholeSize = (on) => {
    byId("zoom").classList.toggle("whole", on);
    byId("zoom-size").setAttribute("aria-pressed", String(on));
  };

  rows.forEach((row, index) =>
    pictures(row).forEach((picture) =>
      picture.closest("button").addEventListener("click", () => zoom(index, picture.dataset.column))));
  document.querySelectorAll(".compare").forEach((button) => {
    const row = button.closest(".seed").previousElementSibling;
    button.hidden = !rows.includes(row);
    button.addEventListener("click", () => {
      show(rows.indexOf(row));
      byId("side").scrollIntoView({ behavior: "smooth" });
    });
  });
  byId("which").addEventListener("change", (event) => show(Number(event.target.value)));
  byId("before").addEventListener("click", () => show(current - 1));
  byId("after").addEventListener("click", () => show(current + 1));
  byId("as-columns").addEventListener("click", () => asSlider(false));
  byId("as-slider").addEventListener("click", () => asSlider(true));
  byId("share").addEventListener("input", slide);
  pair.forEach((select) => select.addEventListener("change", showPair));
  byId("zoom-before").addEventListener("click", () => step(-1));
  byId("zoom-after").addEventListener("click", () => step(1));
  byId("zoom-size").addEventListener("click", () => wholeSize(!byId("zoom").classList.contains("whole")));
  byId("zoomed").addEventListener("click", () => wholeSize(!byId("zoom").classList.contains("whole")));
  byId("zoom-close").addEventListener("click", () => byId("zoom").close());
  byId("zoom").addEventListener("click", (event) => { if (event.target === byId("zoom")) byId("zoom").close(); });
  byId("zoom").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: () => step(-1), ArrowRight: () => step(1) };
    const rowsBy = { ArrowUp: -1, ArrowDown: 1 };
    if (event.key in steps) steps[event.key]();
    else if (event.key in rowsBy) zoom(zoomed.row + rowsBy[event.key], zoomed.column);
    else return;
    event.preventDefault();
  });
  show(0);
  byId("side").hidden = false;
})();
