/** The queue, one image at a time: show, decide, advance. */

import { get } from "./api.js";
import { choices, evidence, spoken } from "./card.js";
import { ClassSearch } from "./combobox.js";
import { inWords } from "./decisions.js";
import { announce, byId, count, h, name } from "./dom.js";
import { listen } from "./keys.js";
import { Pictures } from "./pictures.js";
import { Queue } from "./queue.js";

const AHEAD = 6; // pictures decoded before they are wanted
const SMALL = 128; // pixels; smaller originals are shown with hard edges
const TRAIL = 5;

export class Looking {
  #page; #queue = new Queue(); #pictures = new Pictures(); #search = new ClassSearch();
  #ticket = 0; #since = 0; #pressed = 0; #note = ""; #measured = 0; #trail = [];

  /** @param page outbox, decisions, filters, issue: the word that decisions of this view carry, or null for the card's own */
  constructor(page) {
    this.#page = page;
    page.outbox.addEventListener("saved", () => { this.#marks(); this.#showTrail(); });
    page.filters.addEventListener("change", () => this.open());
    page.standing.addEventListener("news", ({ detail }) => this.#page.filters.query.state === "open" && this.#queue.drop(detail));
    listen((key, event) => this.#key(key, event));
    for (const button of document.querySelectorAll("[data-do]")) {
      button.addEventListener("click", (event) => {
        this.#pressed = event.timeStamp;
        this.#do(button.dataset.do);
        if (event.detail > 0) byId("stage").focus({ preventScroll: true }); // a click by mouse leaves the keys to the queue
      });
    }
    byId("note").addEventListener("close", () => this.#keepNote());
    byId("note-text").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && byId("note").close());
    swiped(byId("stage"), (steps) => this.#go(steps));
  }

  async open() {
    this.#state("loading");
    try {
      await this.#queue.open(this.#page.filters.query);
    } catch (error) {
      this.#state("failed", error.message);
      return;
    }
    while (this.#queue.current && this.#page.decisions.mine(this.#queue.current)?.status === "waiting") { // decided, on its way
      if (!(await this.#queue.go(1))) break;
    }
    await this.#show();
  }

  #key(key, event) {
    this.#pressed = event.timeStamp;
    const action = {
      space: "keep", enter: "accept", x: "exclude", a: "ambiguous", s: "skip", u: "undo", left: "back", right: "forward", "/": "search",
      n: "note", "?": "help", g: "grid",
    }[key];
    if (action) return this.#do(action);
    return /^[1-9]$/.test(key) ? this.#number(Number(key)) : false;
  }

  #do(action) {
    const card = this.#queue.current;
    switch (action) {
      case "back": this.#go(-1); return true;
      case "forward": this.#go(1); return true;
      case "undo": this.#undo(); return true;
      case "help": byId("help").showModal(); return true;
      case "reload": this.open(); return true;
    }
    if (!card) return false;
    switch (action) {
      case "accept":
        if (card.suggested) this.#decide("relabel", card.suggested);
        else announce("There is no suggestion to accept.");
        return true;
      case "search": this.#ask(); return true;
      case "note": this.#writeNote(); return true;
      case "grid":
        if (card.given && card.suggested) location.assign(`/review/grid?pair=${encodeURIComponent(`${card.given}>${card.suggested}`)}`);
        return true;
      default: this.#decide(action); return true;
    }
  }

  #number(digit) {
    const card = this.#queue.current;
    const chosen = card && choices(card, this.#page.filters.classNames)[digit - 1];
    if (chosen) this.#decide("relabel", chosen.label);
    return Boolean(chosen);
  }

  async #ask() {
    const card = this.#queue.current;
    const chosen = await this.#search.ask(this.#page.filters.classNames);
    this.#pressed = performance.now();
    if (chosen !== null && card === this.#queue.current) this.#decide("relabel", chosen);
    byId("stage").focus({ preventScroll: true });
  }

  #decide(action, label = "") {
    const card = this.#queue.current;
    if (byId("stage").dataset.shown !== card.id) { // never about a picture that was not seen
      announce("The picture is still loading.");
      return;
    }
    const same = action === "relabel" && label === card.given;
    const decision = { action: same ? "keep" : action, label: same ? "" : label };
    const seconds = (performance.now() - this.#since) / 1000;
    const [event] = this.#page.decisions.decide([card], { ...decision, issue: this.#page.issue, note: this.#note, seconds });
    this.#trail.unshift({ card, event });
    this.#trail.length = Math.min(this.#trail.length, TRAIL);
    this.#showTrail();
    this.#go(1, `${inWords({ ...decision, given: card.given })}. `);
  }

  async #undo() {
    let step;
    try {
      step = await this.#page.decisions.undo();
    } catch (error) {
      announce(`Undo needs the server for this: ${error.message}.`);
      this.#page.tell(`Undo needs the server for this: ${error.message}.`);
      return;
    }
    if (!step) {
      announce("Nothing to undo.");
      return;
    }
    const ids = new Set(step.events.map((event) => event.event_id));
    this.#trail = this.#trail.filter(({ event }) => !ids.has(event.event_id));
    this.#showTrail();
    const [{ item, other }] = step.events;
    const known = this.#queue.cards.find((card) => card.id === item);
    if (!other) {
      const card = known ?? (await get(`item/${item}`, { blind: this.#page.filters.query.blind }).catch(() => null));
      if (card) this.#queue.place(card);
    }
    await this.#show(step.events.length > 1 ? `Took back ${count(step.events.length, "decision")}. ` : "Took it back. ");
  }

  async #go(steps, before = "") {
    if (steps > 0) this.#queue.topUp();
    try {
      if (!(await this.#queue.go(steps))) {
        announce(`${before}${steps < 0 ? "This is the first image." : "This is the end of the queue."}`);
        return;
      }
    } catch (error) { // the next page cannot be had: stay, and say so
      this.#queue.index = this.#queue.cards.length;
      this.#state("failed", error.message);
      return;
    }
    await this.#show(before);
  }

  async #show(before = "") {
    const ticket = ++this.#ticket;
    const pressed = this.#pressed;
    this.#note = "";
    byId("note-text").value = "";
    const card = this.#queue.current;
    if (!card) {
      this.#end(before);
      return;
    }
    const stage = byId("stage");
    const side = Pictures.side(Math.max(stage.clientWidth, stage.clientHeight));
    const ahead = this.#pictures.has(card.id, side);
    const ready = this.#pictures.get(card.id, side);
    delete stage.dataset.shown;
    this.#state("loading");
    this.#fill(card);
    const picture = await ready;
    if (ticket !== this.#ticket) return;
    if (picture) {
      picture.alt = `Image under review: given ${card.given || "no label"}${card.suggested ? `, suggested ${card.suggested}` : ""}`;
      picture.classList.toggle("tiny", Math.max(card.width ?? SMALL, card.height ?? SMALL) < SMALL);
    }
    byId("picture").replaceChildren(picture ?? h("p", { class: "no-picture" }, "This picture cannot be shown. It can still be skipped or excluded."));
    this.#state("showing");
    stage.dataset.shown = card.id;
    this.#since = performance.now();
    announce(before + spoken(card, this.#queue.index + 1, this.#page.left));
    this.#prefetch(side);
    afterPaint(() => this.#measure(pressed, { id: card.id, ahead }));
  }

  #fill(card) {
    const { classNames, query } = this.#page.filters;
    byId("evidence").replaceChildren(...evidence(card, {
      classNames, blind: Boolean(query.blind), mine: this.#page.decisions.mine(card), choose: (label) => this.#decide("relabel", label),
    }));
    byId("evidence").scrollTop = 0;
    byId("path").replaceChildren(name(card.path, "path"), h("a", { href: `/pictures/${encodeURIComponent(card.id)}/original`, target: "_blank", rel: "noopener" }, "original"));
    const accept = document.querySelector('[data-do="accept"]');
    accept.disabled = !card.suggested;
    byId("accept-label").replaceChildren(card.suggested ? name(card.suggested) : "no suggestion");
    byId("keep-label").replaceChildren(name(card.given || "no label"));
    byId("stage").classList.toggle("is-test", card.split === "test");
  }

  #marks() {
    const card = this.#queue.current;
    const shown = document.querySelector("#evidence .decided");
    if (card && shown) this.#fill(card);
  }

  #prefetch(side) {
    for (const card of this.#queue.cards.slice(this.#queue.index + 1, this.#queue.index + 1 + AHEAD)) {
      this.#pictures.get(card.id, side, { urgent: false });
    }
    const next = this.#queue.cards[this.#queue.index + 1];
    if (!next) return;
    const small = [...(next.neighbours ?? []).map(({ id }) => id), ...(next.prototypes?.given ?? []), ...(next.prototypes?.suggested ?? [])];
    for (const id of small.slice(0, 16)) this.#pictures.get(id, 256, { urgent: false });
  }

  #measure(pressed, detail) { // read by benchmarks/review_latency.py
    if (!pressed) return;
    if (++this.#measured % 500 === 0) performance.clearMeasures("review:next");
    performance.measure("review:next", { start: pressed, end: performance.now(), detail });
    this.#pressed = 0;
  }

  #showTrail() {
    const { decisions } = this.#page;
    byId("trail").replaceChildren(...this.#trail.map(({ card, event }) => {
      const status = decisions.mine(card)?.event_id === event.event_id ? decisions.mine(card).status : "saved";
      return h("li", { data: { status } }, h("button", { type: "button", on: { click: () => { this.#queue.place(card); this.#show(); } } },
        h("span", { class: "status" }, { saved: "Saved", waiting: "Waiting", refused: "Refused" }[status]),
        h("span", {}, inWords({ ...event, given: card.given })), name(card.path.split("/").at(-1), "path")));
    }));
  }

  #writeNote() {
    byId("note").showModal();
    byId("note-text").focus();
  }

  #keepNote() {
    this.#note = byId("note-text").value.trim();
    announce(this.#note ? "The note goes with your decision." : "No note.");
    byId("stage").focus({ preventScroll: true });
  }

  #end(before) {
    delete byId("stage").dataset.shown;
    this.#state("end");
    byId("end-words").textContent = this.#page.filters.active ? "Nothing is left that these filters show."
      : this.#page.issue === "conflict" ? "Reviewers disagree on no image." : "Nothing is left in the queue.";
    announce(`${before}${byId("end-words").textContent}`);
  }

  #state(state, problem = "") {
    byId("review").dataset.state = state;
    if (problem) byId("problem").textContent = `The next images cannot be loaded: ${problem}. Your decisions are kept.`;
  }
}

function afterPaint(work) {
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = work;
    port2.postMessage(null);
  });
}

function swiped(element, go) {
  let from = null;
  element.addEventListener("pointerdown", (event) => { from = event.pointerType === "touch" ? event : null; });
  element.addEventListener("pointerup", (event) => {
    if (!from) return;
    const across = event.clientX - from.clientX, down = event.clientY - from.clientY;
    from = null;
    if (Math.abs(across) > 60 && Math.abs(across) > 2 * Math.abs(down)) go(across < 0 ? 1 : -1);
  });
  element.addEventListener("pointercancel", () => { from = null; });
}
