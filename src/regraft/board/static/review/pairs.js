/** Near-duplicates, two at a time: side by side or blinking, which one survives, or that they are two pictures. */

import { get } from "./api.js";
import { inWords } from "./decisions.js";
import { announce, byId, h, name, percent } from "./dom.js";
import { listen } from "./keys.js";
import { Pictures } from "./pictures.js";

const BLINK = 500; // ms a picture: two changes a second, below the three that WCAG 2.3.1 allows
const PAGE = 20;

export class Pairs {
  #page; #pictures = new Pictures(); #pairs = []; #index = 0; #next = null; #since = 0; #timer = 0; #ticket = 0; #shown = null; #second = false; #left = 0; #state = byId("pair-state");

  constructor(page) {
    this.#page = page;
    for (const button of document.querySelectorAll("[data-do]")) {
      button.addEventListener("click", (event) => {
        this.#do(button.dataset.do);
        if (event.detail > 0) byId("stage").focus({ preventScroll: true });
      });
    }
    page.outbox.addEventListener("saved", () => this.#mark());
    this.#state.value = new URLSearchParams(location.search).get("state") ?? "open";
    if (!this.#state.value) this.#state.value = "open";
    this.#state.addEventListener("change", () => {
      history.replaceState(null, "", `?state=${this.#state.value}`);
      byId("stage").focus({ preventScroll: true });
      this.#do("reload");
    });
    listen((key) => this.#do({ 1: "first", 2: "second", d: "distinct", b: "blink", s: "skip", u: "undo", left: "back", right: "forward", "?": "help" }[key]));
  }

  async start() {
    byId("review").dataset.state = "loading";
    try {
      await this.#fetch();
    } catch (error) {
      this.#failed(error);
      return;
    }
    await this.#show();
  }

  async #fetch() {
    const page = await get("pairs", { state: this.#state.value, after: this.#next, limit: PAGE, blind: this.#page.filters.blind ? 1 : "" });
    this.#pairs.push(...page.items);
    this.#next = page.next ?? null;
    this.#left = this.#state.value === "open" ? page.left : page.total;
  }

  #failed(error) {
    byId("problem").textContent = `The next pairs cannot be loaded: ${error.message}. Your decisions are kept.`;
    byId("review").dataset.state = "failed";
  }

  #do(action) {
    switch (action) {
      case "help": byId("help").showModal(); return true;
      case "undo": this.#undo(); return true;
      case "back": this.#go(-1); return true;
      case "forward": this.#go(1); return true;
      case "reload": this.#pairs = []; this.#index = 0; this.#next = null; this.start(); return true;
      case "blink": this.#blink(); return true;
      case "first": case "second": case "distinct": case "skip": this.#decide(action); return true;
      default: return false;
    }
  }

  #decide(choice) {
    const pair = this.#pairs[this.#index];
    if (!pair) return;
    if (this.#shown !== pair) {
      announce("The pictures are still loading.");
      return;
    }
    const [item, other] = choice === "second" ? [pair.b, pair.a] : [pair.a, pair.b];
    const action = { first: "duplicate", second: "duplicate", distinct: "distinct", skip: "skip" }[choice];
    this.#page.decisions.decide([item], { action, other: other.id, issue: pair.conflict ? "conflict" : "near_duplicate", seconds: (performance.now() - this.#since) / 1000 });
    const words = action === "duplicate" ? `${choice === "first" ? "Left" : "Right"} one stays. ` : `${inWords({ action })}. `;
    this.#go(1, words);
  }

  async #go(steps, before = "") {
    const wanted = this.#index + steps;
    if (wanted < 0) {
      announce("This is the first pair.");
      return;
    }
    try {
      if (wanted >= this.#pairs.length && this.#next !== null) await this.#fetch();
    } catch (error) {
      this.#failed(error);
      return;
    }
    this.#index = Math.min(wanted, this.#pairs.length);
    await this.#show(before);
  }

  async #undo() {
    let step;
    try {
      step = await this.#page.decisions.undo();
    } catch (error) {
      this.#page.tell(`Undo needs the server for this: ${error.message}.`);
      return;
    }
    if (!step) {
      announce("Nothing to undo.");
      return;
    }
    const [{ item, other }] = step.events;
    const found = this.#pairs.findIndex(({ a, b }) => (a.id === item && b.id === other) || (b.id === item && a.id === other));
    if (found >= 0) this.#index = found;
    else await this.#reopen();
    await this.#show("Took it back. ");
  }

  async #reopen() { // undone after a reload: the pair is open again, and the list of before does not have it
    await this.#page.outbox.flush();
    this.#pairs = [];
    this.#index = 0;
    this.#next = null;
    await this.#fetch().catch((error) => this.#failed(error));
  }

  async #show(before = "") {
    const ticket = ++this.#ticket;
    this.#stop();
    this.#shown = null;
    const pair = this.#pairs[this.#index];
    const review = byId("review");
    if (!pair) {
      review.dataset.state = "end";
      announce(`${before}No pair is left.`);
      return;
    }
    review.dataset.state = "loading";
    const side = Pictures.side(Math.max(byId("stage").clientWidth / 2, 320));
    const ready = [pair.a, pair.b].map((card) => this.#pictures.get(card.id, side));
    this.#words(pair);
    const pictures = await Promise.all(ready);
    if (ticket !== this.#ticket) return;
    for (const [place, card, picture] of [["first", pair.a, pictures[0]], ["second", pair.b, pictures[1]]]) {
      if (picture) picture.alt = `${place === "first" ? "Left" : "Right"} picture, labelled ${card.given}`;
      byId(`picture-${place}`).replaceChildren(picture ?? h("p", { class: "no-picture" }, "This picture cannot be shown."));
    }
    review.dataset.state = "showing";
    this.#shown = pair;
    this.#since = performance.now();
    announce(`${before}Pair ${this.#index + 1}. Left: ${pair.a.given}. Right: ${pair.b.given}. ${pair.why ?? ""}`);
    for (const { a, b } of this.#pairs.slice(this.#index + 1, this.#index + 4)) {
      for (const card of [a, b]) this.#pictures.get(card.id, side, { urgent: false });
    }
  }

  #words(pair) {
    for (const [place, card] of [["first", pair.a], ["second", pair.b]]) {
      byId(`about-${place}`).replaceChildren(
        h("p", { class: "marks" }, card.split === "test" ? h("span", { class: "mark test" }, "Test image") : card.split && h("span", { class: "mark" }, card.split),
          h("span", { class: "mark" }, `${card.width} × ${card.height}`)),
        h("p", { class: "class-name" }, name(card.given || "no label")), h("p", { class: "quiet" }, name(card.path, "path")));
    }
    byId("why").textContent = `${pair.why ?? ""}${pair.why ? " · " : ""}similarity ${percent(pair.similarity)}`;
    byId("differ").hidden = pair.a.given === pair.b.given;
    byId("pair-others").replaceChildren(...(pair.others ?? []).map(({ reviewer, action, survivor, note }) => h("span", { class: "mark" }, name(reviewer, "person"),
      `: ${action === "duplicate" ? `${survivor === pair.a.id ? "left" : "right"} one stays` : inWords({ action })}`, note && [" — ", name(note, "said")])));
    this.#mark();
  }

  #mark() {
    const pair = this.#pairs[this.#index];
    const mine = pair && (this.#page.decisions.mine({ ...pair.a, mine: pair.mine }, pair.b.id) ?? null);
    byId("pair-mine").hidden = !mine;
    byId("pair-mine").textContent = mine ? `You: ${inWords(mine)} · ${mine.status}` : "";
    byId("pair-left").textContent = this.#pairs.length ? `Pair ${Math.min(this.#index + 1, this.#pairs.length)} of ${this.#left.toLocaleString("en")}` : "";
  }

  #blink() {
    const stage = byId("stage");
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { // one change a press
      if (!stage.classList.contains("blink")) stage.classList.add("blink");
      else this.#turn();
      return;
    }
    if (this.#timer) {
      this.#stop();
      return;
    }
    stage.classList.add("blink");
    byId("blink").setAttribute("aria-pressed", "true");
    this.#timer = setInterval(() => this.#turn(), BLINK);
  }

  #turn() {
    this.#second = !this.#second;
    byId("stage").classList.toggle("second", this.#second);
  }

  #stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#second = false;
    byId("stage").classList.remove("blink", "second");
    byId("blink").setAttribute("aria-pressed", "false");
  }
}
