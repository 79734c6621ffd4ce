/** One confusion pair at a time, as thumbnails: select, decide for all selected in one batch, undo the batch. */

import { get } from "./api.js";
import { inWords } from "./decisions.js";
import { announce, byId, count, h, name, thumb } from "./dom.js";
import { listen } from "./keys.js";

const PAGE = 120;

export class Grid {
  #page; #list = byId("grid"); #cards = []; #selected = new Set(); #active = 0; #anchor = 0; #next = null; #opened = 0;

  constructor(page) {
    this.#page = page;
    this.#list.addEventListener("click", (event) => this.#click(event));
    this.#list.addEventListener("keydown", (event) => this.#move(event));
    byId("pair").addEventListener("change", () => this.open(byId("pair").value));
    byId("grid-more").addEventListener("click", () => this.#fetch());
    for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => this.#do(button.dataset.do));
    page.outbox.addEventListener("saved", () => this.#draw());
    listen((key) => this.#do({ enter: "accept", k: "keep", x: "exclude", a: "all", u: "undo", escape: "none", "?": "help" }[key]));
  }

  /** Fill the list of pairs and show the one of the address, or the most frequent one. */
  async start() {
    const pairs = this.#page.filters.offered.pairs;
    if (this.#page.filters.blind) {
      byId("grid-words").textContent = this.#page.filters.alwaysBlind
        ? "This review is blind: a grid would name the suggestion."
        : "You look blind, and a grid would name the suggestion: switch Blind off in the queue to use it.";
      return;
    }
    byId("pair").append(...pairs.map(({ given, suggested, count: number }) => h("option", { value: `${given}>${suggested}` },
      `\u2068${given}\u2069 → \u2068${suggested}\u2069 (${number.toLocaleString("en")})`)));
    const asked = new URLSearchParams(location.search).get("pair");
    const [first] = pairs;
    await this.open(asked ?? (first ? `${first.given}>${first.suggested}` : ""));
  }

  async open(pair) {
    if (!pair) {
      byId("grid-words").textContent = "No label is in doubt: there is no pair to look at.";
      return;
    }
    byId("pair").value = pair;
    const address = new URL(location.href);
    address.searchParams.set("pair", pair);
    history.replaceState(null, "", address);
    this.#cards = [];
    this.#selected.clear();
    this.#active = 0;
    this.#next = null;
    this.#list.replaceChildren();
    await this.#fetch();
    this.#opened = performance.now();
  }

  async #fetch() {
    try {
      const page = await get("queue", { state: "open", pair: byId("pair").value, after: this.#next, limit: PAGE });
      this.#list.append(...page.items.map((card, i) => tile(card, this.#cards.length + i)));
      this.#cards.push(...page.items);
      this.#next = page.next;
    } catch (error) {
      byId("grid-words").textContent = `The images cannot be loaded: ${error.message}.`;
      return;
    }
    this.#draw();
  }

  #draw() {
    const [card] = this.#cards;
    this.#cards.forEach((one, i) => this.#mark(this.#list.children[i], one, i));
    byId("grid-more").hidden = this.#next === null;
    byId("accept-label").replaceChildren(card ? name(card.suggested ?? "") : "");
    byId("keep-label").replaceChildren(card ? name(card.given) : "");
    const open = this.#cards.filter((one) => !this.#page.decisions.mine(one)).length;
    byId("grid-words").textContent = this.#cards.length ? `${count(open, "image")} to decide, ${this.#selected.size} selected.` : "Nothing of this pair is left.";
    for (const button of document.querySelectorAll("[data-needs]")) button.disabled = !this.#selected.size;
  }

  #mark(element, card, i) {
    const mine = this.#page.decisions.mine(card);
    const selected = this.#selected.has(card.id);
    const words = mine ? inWords({ ...mine, given: card.given }) : selected ? "selected" : "";
    element.tabIndex = i === this.#active ? 0 : -1;
    element.setAttribute("aria-selected", String(selected));
    element.setAttribute("aria-label", `${card.path}${card.split === "test" ? ", test image" : ""}${words ? `, ${words}` : ""}`);
    element.dataset.status = mine?.status ?? "";
    element.querySelector(".tick").textContent = selected ? "✓" : "";
    element.querySelector(".said").textContent = mine ? `${inWords({ ...mine, given: "" })}${mine.status === "waiting" ? " · waiting" : ""}` : "";
  }

  #click(event) {
    const tile = event.target.closest("[data-index]");
    if (!tile) return;
    this.#choose(Number(tile.dataset.index), event.shiftKey);
  }

  #choose(index, range) {
    const [from, to] = range ? [Math.min(this.#anchor, index), Math.max(this.#anchor, index)] : [index, index];
    const add = range || !this.#selected.has(this.#cards[index].id);
    for (let i = from; i <= to; i += 1) {
      if (this.#page.decisions.mine(this.#cards[i])) continue; // decided already
      if (add) this.#selected.add(this.#cards[i].id);
      else this.#selected.delete(this.#cards[i].id);
    }
    this.#anchor = index;
    this.#focus(index);
    announce(`${this.#selected.size} selected`);
  }

  #focus(index) {
    this.#active = Math.max(0, Math.min(index, this.#cards.length - 1));
    this.#draw();
    this.#list.children[this.#active]?.focus();
  }

  #move(event) {
    if (event.altKey || event.metaKey) return;
    const columns = getComputedStyle(this.#list).gridTemplateColumns.split(" ").length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -this.#cards.length, End: this.#cards.length }[event.key];
    if (step !== undefined) {
      const target = Math.max(0, Math.min(this.#active + step, this.#cards.length - 1));
      if (event.shiftKey) this.#choose(target, true);
      else this.#focus(target);
    } else if (event.key === " ") this.#choose(this.#active, event.shiftKey);
    else if (event.key === "a" && event.ctrlKey) this.#do("all");
    else { // the letters and Enter are the page's: the list is one of its own keys' places
      const action = { Enter: "accept", k: "keep", x: "exclude", a: "all", u: "undo", Escape: "none", "?": "help" }[event.key];
      if (!action || event.ctrlKey || !this.#do(action)) return;
    }
    event.preventDefault();
  }

  #do(action) {
    switch (action) {
      case "all": this.#all(true); return true;
      case "none": this.#all(false); return true;
      case "help": byId("help").showModal(); return true;
      case "undo": this.#undo(); return true;
      case "accept": case "keep": case "exclude": this.#decide(action); return true;
      default: return false;
    }
  }

  #all(select) {
    this.#selected = new Set(select ? this.#cards.filter((card) => !this.#page.decisions.mine(card)).map((card) => card.id) : []);
    announce(`${this.#selected.size} selected`);
    this.#draw();
  }

  #decide(action) {
    const cards = this.#cards.filter((card) => this.#selected.has(card.id));
    if (!cards.length) {
      announce("Nothing is selected.");
      return;
    }
    const label = action === "accept" ? cards[0].suggested : "";
    if (action === "accept" && !label) return;
    const now = performance.now();
    this.#page.decisions.decide(cards, { action: action === "accept" ? "relabel" : action, label, seconds: (now - this.#opened) / 1000 });
    this.#opened = now;
    this.#selected.clear();
    this.#draw();
    announce(`${count(cards.length, "image")} ${inWords({ action: action === "accept" ? "relabel" : action, label, given: cards[0].given })}. U takes it back.`);
  }

  async #undo() {
    try {
      const step = await this.#page.decisions.undo();
      announce(step ? `Took back ${count(step.events.length, "decision")}.` : "Nothing to undo.");
      const gone = new Set(step?.events.map((event) => event.item) ?? []);
      for (const card of this.#cards) if (gone.has(card.id)) card.mine = null;
    } catch (error) {
      this.#page.tell(`Undo needs the server for this: ${error.message}.`);
    }
    this.#draw();
  }
}

const tile = (card, i) => h("li", { role: "option", id: `tile-${i}`, class: "pick", data: { index: i } },
  h("img", { src: thumb(card.id, 256), alt: "", loading: i < 40 ? "eager" : "lazy", decoding: "async", draggable: "false" }),
  h("span", { class: "tick", "aria-hidden": "true" }),
  card.split === "test" && h("span", { class: "mark test" }, "Test"),
  h("span", { class: "said" }));
