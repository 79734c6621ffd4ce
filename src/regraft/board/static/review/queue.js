/** Cards in the queue's order, with a place in them; topped up before the end is reached. */

import { get } from "./api.js";

const PAGE = 20;
const LOW = 12; // cards ahead; fewer, and the next page is fetched

export class Queue {
  #next = null; #fetching = null; #generation = 0; #query = {};
  cards = [];
  index = 0;
  total = 0;
  left = 0;

  /** Begin anew with these filters. */
  async open(query) {
    this.#generation += 1;
    this.#query = query;
    this.#fetching = null;
    this.cards = [];
    this.index = 0;
    this.#next = null;
    await this.#fetch(null);
  }

  get current() {
    return this.cards[this.index] ?? null;
  }

  get ended() {
    return this.#next === null;
  }

  /** Go by `steps`; one past the last card is the end. False where there is nothing that way. */
  async go(steps) {
    const wanted = this.index + steps;
    if (wanted < 0) return false;
    if (wanted >= this.cards.length && !this.ended) await this.#fetch(this.#next);
    if (wanted > this.cards.length) return false;
    this.index = wanted;
    this.topUp();
    return true;
  }

  /** Show this card now: where it is in the list, or put before the current one. */
  place(card) {
    const found = this.cards.findIndex((one) => one.id === card.id);
    if (found >= 0) this.index = found;
    else this.cards.splice(this.index, 0, card);
  }

  /** Leave out cards ahead that others have decided meanwhile. */
  drop(ids) {
    this.cards = this.cards.filter((card, i) => i <= this.index || !ids.has(card.id));
    this.topUp();
  }

  topUp() {
    if (!this.ended && this.cards.length - this.index < LOW) this.#fetch(this.#next).catch(() => { /* tried again at the next card */ });
  }

  #fetch(after) {
    this.#fetching ??= this.#page(after, this.#generation).finally(() => { this.#fetching = null; });
    return this.#fetching;
  }

  async #page(after, generation) {
    const page = await get("queue", { ...this.#query, after, limit: PAGE });
    if (generation !== this.#generation) return;
    const known = new Set(this.cards.map((card) => card.id));
    this.cards.push(...page.items.filter((card) => !known.has(card.id)));
    this.total = page.total;
    this.left = page.left;
    this.#next = page.next;
  }
}
