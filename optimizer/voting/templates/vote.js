"use strict";
(() => {
  const SMALL = 192; // pixels of the longer side, up to which pictures are shown with hard edges
  const AGAIN = 3000; // milliseconds until something that failed is tried again
  const at = (id) => document.getElementById(id);
  const sides = [...document.querySelectorAll(".side")];
  const pictures = sides.map((side) => side.querySelector("img"));
  const person = at("person");
  let question = null; // that is shown, or null
  let asking = 0; // counts requests for a question: an older one that comes late is dropped

  // Answers that the server has not stored yet. They outlive this page, and a server that is away. Each has an entry of
  // its own, so that tabs do not overwrite each other's, under a key of what it is about: another study may be served at
  // this address later.
  const identity = document.body.dataset.identity;
  const PREFIX = `mergetune-answer-${identity}-`;
  const keep = (token, given) => {
    localStorage.setItem(PREFIX + token, JSON.stringify({ token, answer: given, at: Date.now() }));
  };
  const kept = () => Object.keys(localStorage).filter((key) => key.startsWith(PREFIX))
    .map((key) => localStorage.getItem(key)).filter((entry) => entry !== null);
  const oldest = () => kept().map((entry) => ({ entry, ...JSON.parse(entry) })).sort((one, other) => one.at - other.at)[0];
  const forget = ({ token, entry }) => { // unless it was answered anew meanwhile
    if (localStorage.getItem(PREFIX + token) === entry) localStorage.removeItem(PREFIX + token);
  };

  async function post(path, body) {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ identity, ...body }),
    });
    const read = await answer.json();
    if (!answer.ok) throw new Error(read.reason || answer.statusText);
    return read;
  }

  function say(text) {
    at("message").hidden = !text;
    at("message").textContent = text || "";
  }

  function sayWhy(error) {
    const waiting = kept().length;
    say(waiting ? `${waiting} of your answers wait to be stored: ${error.message}` : error.message);
  }

  function show(found) {
    question = found.token ? found : null;
    at("pictures").hidden = !question;
    at("prompt").textContent = question ? question.prompt : "";
    if (!question) { say(found.waiting || found.nothing); return; }
    say("");
    at("progress").textContent = question.progress;
    sides.forEach((side, index) => { pictures[index].src = `image/${question.token}/${side.id}.png`; });
  }

  async function next() {
    const own = ++asking;
    try {
      const found = await post("next", { person: person.value });
      if (own !== asking) return;
      show(found);
      if (found.waiting) setTimeout(() => { if (own === asking) next(); }, AGAIN);
    } catch (error) {
      if (own !== asking) return;
      sayWhy(error);
      setTimeout(() => { if (own === asking) next(); }, AGAIN);
    }
  }

  let sending = false;
  async function send() {
    if (sending) return;
    sending = true;
    try {
      let first;
      while ((first = oldest())) {
        const answer = await post("answer", { token: first.token, answer: first.answer });
        forget(first);
        if (!answer.stored) say("That question is gone, and your answer with it.");
      }
    } catch (error) {
      sayWhy(error);
      setTimeout(send, AGAIN);
    }
    sending = false;
  }

  async function answer(given) {
    if (!question) return;
    keep(question.token, given);
    question = null;
    await send();
    next();
  }

  async function undo() {
    await send();
    if (kept().length) return;
    const own = ++asking;
    try {
      const found = await post("undo", { person: person.value });
      if (own !== asking) return;
      if (found.token) show(found); else say(found.nothing);
    } catch (error) {
      sayWhy(error);
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
    picture.addEventListener("error", () => { // its file is gone: another question
      if (question) { question = null; setTimeout(next, AGAIN); }
    });
  });
  document.querySelectorAll("[data-answer]").forEach((button) => {
    button.addEventListener("click", () => answer(button.dataset.answer));
  });
  at("undo").addEventListener("click", undo);
  at("zoom").addEventListener("click", zoom);
  const keys = {};
  document.querySelectorAll("[data-keys]").forEach((button) => {
    button.dataset.keys.split(" ").forEach((key) => { keys[key] = button; });
  });
  document.addEventListener("keydown", (event) => {
    if (event.target === person || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const button = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (button) { event.preventDefault(); button.click(); }
  });
  send().then(next);
})();
