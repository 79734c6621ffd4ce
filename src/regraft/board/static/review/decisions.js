/** What this reviewer decided on this page: events out, undo in, and what is known of each image. */

import { get } from "./api.js";
import { uuid } from "./dom.js";

const LONGEST_LOOK = 600; // seconds; longer is a break, not a look

export class Decisions {
  #outbox; #session = uuid(); #steps = []; #known = new Map();

  constructor(outbox) {
    this.#outbox = outbox;
    for (const event of outbox.waiting) this.#remember(event, "waiting"); // of before a reload
    outbox.addEventListener("saved", ({ detail }) => {
      for (const mine of this.#known.values()) {
        if (detail.saved.has(mine.event_id)) mine.status = "saved";
        if (detail.refused.has(mine.event_id)) mine.status = "refused";
      }
    });
  }

  /**
   * Decide about cards (more than one: as one batch that is undone together).
   *
   * @param {object} how `action`, and where they apply `label`, `other` (hash), `issue`, `note`, `seconds`.
   */
  decide(cards, { action, label = "", other = "", issue = null, note = "", seconds = 0 }) {
    const batch = cards.length > 1 ? uuid() : "";
    const events = cards.map((card) => ({
      event_id: uuid(), session: this.#session, item: card.id, other, issue: issue ?? card.issues?.[0]?.kind ?? "", action, label,
      duration: Math.round(10 * Math.min(seconds, LONGEST_LOOK) / cards.length) / 10, supersedes: "", batch, note,
    }));
    for (const event of events) this.#remember(event, "waiting");
    this.#steps.push({ batch, events });
    this.#outbox.add(events);
    return events;
  }

  /** Take back the last step: of this page, else the last that the server has of this reviewer. Null: there is none. */
  async undo() {
    const step = this.#steps.pop() ?? this.#stepBeforeReload() ?? (await this.#stepOfServer());
    if (!step) return null;
    const [first] = step.events;
    const event = {
      event_id: uuid(), session: this.#session, item: first.item, other: first.other ?? "", issue: first.issue ?? "", action: "undo",
      label: "", duration: 0, supersedes: step.batch ? "" : first.event_id, batch: step.batch, note: "",
    };
    for (const { item, other } of step.events) this.#remember({ ...event, item, other, batch: "" }, "waiting");
    this.#outbox.add([event]);
    return step;
  }

  /** What I said of this image: what the page knows, else what the card says. Null: nothing that holds. */
  mine(card, other = "") {
    const known = this.#known.get(key(card.id, other));
    if (known) return known.action === "undo" ? null : known;
    return card.mine ? { ...card.mine, status: "saved" } : null;
  }

  #stepBeforeReload() { // decided, not sent, and the page was loaded again: the server knows nothing of it yet
    const waiting = this.#outbox.waiting;
    const undone = new Set(waiting.filter((event) => event.action === "undo").map((event) => event.supersedes || event.batch));
    const last = waiting.findLast((event) => event.action !== "undo" && !undone.has(event.event_id) && !undone.has(event.batch));
    if (!last) return null;
    return { batch: last.batch, events: last.batch ? waiting.filter((event) => event.batch === last.batch) : [last] };
  }

  async #stepOfServer() {
    await this.#outbox.flush();
    if (this.#outbox.waiting.length) throw new Error("decisions are still waiting to be sent"); // it would answer with an old one
    const { event } = await get("last");
    return event ? { batch: event.batch ?? "", events: [event] } : null;
  }

  #remember(event, status) {
    const { event_id, action, label, batch } = event;
    if (action === "undo" && batch) {
      for (const mine of this.#known.values()) if (mine.batch === batch) Object.assign(mine, { event_id, action, status });
    }
    this.#known.set(key(event.item, event.other), { event_id, action, label, batch, status });
  }
}

const key = (item, other) => (other ? [item, other].sort().join(" ") : item);

/** "kept as cat", "excluded": what was done, in the past. */
export function inWords({ action, label, given }) {
  return {
    keep: given ? `kept as ${given}` : "kept", relabel: `changed to ${label}`, exclude: "excluded", ambiguous: "marked ambiguous",
    skip: "skipped", distinct: "two different pictures", duplicate: "duplicate settled", undo: "taken back",
  }[action] ?? action;
}
