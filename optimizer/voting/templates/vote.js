"use strict";
(() => {
  const SMALL = 192; // pixels of the longer side, up to which pictures are shown with hard edges
  const AGAIN = 3000; // milliseconds until something that failed is tried again
  const at = (id) => document.getElementById(id);
  const pictures = [at("left").querySelector("img"), at("right").querySelector("img")];
  const person = at("person");
  let pair = null; // that is shown, or null
  let asking = 0; // counts requests for a pair: an older answer is dropped

  // Votes that the server has not stored yet. They outlive this page, and a server that is away.
  const KEY = "mergetune-votes" + location.pathname;
  const waiting = JSON.parse(localStorage.getItem(KEY) || "[]");
  const keep = () => localStorage.setItem(KEY, JSON.stringify(waiting));

  async function post(path, body) {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    const read = await answer.json();
    if (!answer.ok) throw new Error(read.reason || answer.statusText);
    return read;
  }

  function say(text) {
    at("message").hidden = !text;
    at("message").textContent = text || "";
  }

  function show(found) {
    pair = found.token ? found : null;
    at("pair").hidden = !pair;
    at("prompt").textContent = pair ? pair.prompt : "";
    if (!pair) { say(found.waiting || found.nothing); return; }
    say("");
    at("progress").textContent = `${pair.own_votes} votes of yours, ${pair.all_votes} in all, on ${pair.trials} trials`;
    ["left", "right"].forEach((side, index) => { pictures[index].src = `image/${pair.token}/${side}.png`; });
  }

  async function next() {
    const own = ++asking;
    try {
      const found = await post("pair", { person: person.value });
      if (own !== asking) return;
      show(found);
      if (found.waiting) setTimeout(() => { if (own === asking) next(); }, AGAIN);
    } catch (error) {
      if (own !== asking) return;
      say(`${error.message}`);
      setTimeout(() => { if (own === asking) next(); }, AGAIN);
    }
  }

  let sending = false;
  async function send() {
    if (sending) return;
    sending = true;
    try {
      while (waiting.length) {
        const answer = await post("vote", waiting[0]);
        waiting.shift();
        keep();
        if (!answer.stored) say("That pair is gone, and its vote with it: its study was deleted.");
      }
    } catch (error) {
      say(`${waiting.length} of your votes wait to be stored: ${error.message}`);
      setTimeout(send, AGAIN);
    }
    sending = false;
  }

  async function vote(verdict) {
    if (!pair) return;
    waiting.push({ token: pair.token, verdict });
    keep();
    pair = null;
    await send();
    next();
  }

  async function undo() {
    await send();
    if (waiting.length) return;
    const own = ++asking;
    try {
      const found = await post("undo", { person: person.value });
      if (own !== asking) return;
      if (found.token) show(found); else say(found.nothing);
    } catch (error) {
      say(error.message);
    }
  }

  function zoom() {
    const on = document.body.classList.toggle("zoomed");
    at("zoom").setAttribute("aria-pressed", String(on));
  }

  person.value = localStorage.getItem("mergetune-person") || document.body.dataset.person;
  person.addEventListener("change", () => {
    localStorage.setItem("mergetune-person", person.value);
    next();
  });
  pictures.forEach((picture) => {
    picture.addEventListener("load", () => {
      document.body.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= SMALL);
    });
    picture.addEventListener("error", () => { // its file is gone: another pair
      if (pair) { pair = null; setTimeout(next, AGAIN); }
    });
  });
  document.querySelectorAll("[data-verdict]").forEach((button) => {
    button.addEventListener("click", () => vote(button.dataset.verdict));
  });
  at("left").addEventListener("click", () => vote("left"));
  at("right").addEventListener("click", () => vote("right"));
  at("undo").addEventListener("click", undo);
  at("zoom").addEventListener("click", zoom);
  const keys = {
    ArrowLeft: () => vote("left"), ArrowRight: () => vote("right"), ArrowDown: () => vote("equal"), e: () => vote("equal"),
    b: () => vote("both_bad"), u: undo, Backspace: undo, z: zoom,
  };
  document.addEventListener("keydown", (event) => {
    if (event.target === person || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) { event.preventDefault(); act(); }
  });
  send().then(next);
})();
