/**
 * Decisions on their way. Each is written to localStorage before it is sent and removed when the server has said that
 * it is committed, so a lost connection, a killed server or a closed tab loses nothing; its UUID makes sending it again
 * harmless. One key a decision, in the order of deciding: two tabs never write over each other.
 *
 * Events: `change` (waiting, reachable, refused, problem), `saved` (detail: Set of event ids), `progress` (detail).
 */

import { ApiError, post } from "./api.js";

const SMALL = 50; // decisions a call; a batch of the grid goes as a whole, up to what the server takes
const MOST = 1000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

export class Outbox extends EventTarget {
  #prefix; #refusedPrefix; #reviewer; #memory = new Map(); #last = 0; #sending = null; #pause = FIRST_PAUSE; #timer = 0;

  constructor({ project, reviewer }) {
    super();
    this.#prefix = `regraft:outbox:${project}:`;
    this.#refusedPrefix = `regraft:refused:${project}:`;
    this.#reviewer = reviewer;
    this.reachable = true;
    this.problem = "";
    this.kept = true; // false where this browser keeps nothing: then only the page itself remembers
    const retry = () => { this.#pause = FIRST_PAUSE; this.flush(); };
    addEventListener("online", retry);
    addEventListener("offline", () => { this.reachable = false; this.#changed(); });
    addEventListener("storage", (event) => event.key?.startsWith(this.#prefix) && this.#changed());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && retry());
    addEventListener("beforeunload", (event) => { if (this.waiting.length) event.preventDefault(); });
  }

  /** Keep, then send. Returns at once; `saved` tells when the server has committed them. */
  add(events) {
    for (const event of events) {
      this.#last = Math.max(Date.now(), this.#last + 1); // later than all before, even when the clock is set back
      const key = `${this.#prefix}${String(this.#last).padStart(15, "0")}:${event.event_id}`;
      this.#store(key, JSON.stringify({ reviewer: this.#reviewer, event }));
    }
    this.#changed();
    this.flush();
  }

  /** Decisions of this reviewer that the server has not acknowledged, oldest first. */
  get waiting() {
    return this.#entries().filter((entry) => entry.reviewer === this.#reviewer).map((entry) => entry.event);
  }

  /** Others' decisions that were made in this browser and have to be sent under their name. */
  get strangers() {
    const names = this.#entries().map((entry) => entry.reviewer).filter((name) => name !== this.#reviewer);
    return [...new Set(names)];
  }

  /** Decisions that the server would not take, with its reasons; they stay until someone dismisses them. */
  get refused() {
    return this.#stored(this.#refusedPrefix).map(([, value]) => value);
  }

  dismissRefused() {
    for (const [key] of this.#stored(this.#refusedPrefix)) this.#remove(key);
    this.#changed();
  }

  /** Send what waits, oldest first; resolves when nothing waits or nothing can be sent now. */
  flush() {
    clearTimeout(this.#timer);
    this.#sending ??= this.#alone(() => this.#drain()).finally(() => { this.#sending = null; });
    return this.#sending;
  }

  async #alone(work) { // one tab sends at a time; without locks (plain http off loopback) sending twice is harmless
    return navigator.locks ? navigator.locks.request(`${this.#prefix}send`, work) : work();
  }

  async #drain() {
    for (;;) {
      const batch = this.#next();
      if (!batch.length) return;
      try {
        await this.#send(batch);
        this.#pause = FIRST_PAUSE;
      } catch (error) {
        this.reachable = !(error instanceof ApiError) || ![0, 502, 504].includes(error.status);
        this.problem = error.message;
        this.#timer = setTimeout(() => this.flush(), this.#pause * (0.8 + 0.4 * Math.random()));
        this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
        this.#changed();
        return;
      }
    }
  }

  #next() {
    const mine = this.#entries().filter((entry) => entry.reviewer === this.#reviewer);
    let end = Math.min(SMALL, mine.length);
    while (end < mine.length && end < MOST && mine[end].event.batch && mine[end].event.batch === mine[end - 1].event.batch) end += 1;
    return mine.slice(0, end);
  }

  async #send(batch) {
    let answer;
    try {
      answer = await post("decisions", { events: batch.map((entry) => entry.event) });
    } catch (error) {
      if (!(error instanceof ApiError) || error.passing) throw error;
      if (batch.length > 1) { // one of them is not liked: find it, and let the others through
        for (const entry of batch) await this.#send([entry]);
        return;
      }
      answer = { accepted: [], known: [], rejected: [{ event_id: batch[0].event.event_id, reason: error.message }] };
    }
    const reasons = new Map((answer.rejected ?? []).map((one) => [one.event_id, one.reason]));
    const saved = new Set([...answer.accepted, ...answer.known]);
    if (!batch.some(({ event }) => saved.has(event.event_id) || reasons.has(event.event_id))) {
      throw new ApiError(502, "the server acknowledged nothing");
    }
    for (const { key, event } of batch) {
      const id = event.event_id;
      if (reasons.has(id)) this.#store(`${this.#refusedPrefix}${id}`, JSON.stringify({ event, reason: reasons.get(id) }));
      if (reasons.has(id) || saved.has(id)) this.#remove(key);
    }
    this.reachable = true;
    this.problem = "";
    this.dispatchEvent(new CustomEvent("saved", { detail: { saved, refused: reasons } }));
    if (answer.progress) this.dispatchEvent(new CustomEvent("progress", { detail: answer.progress }));
    this.#changed();
  }

  #entries() {
    return this.#stored(this.#prefix).map(([key, value]) => ({ key, ...value }));
  }

  #stored(prefix) {
    const found = new Map([...this.#memory].filter(([key]) => key.startsWith(prefix)));
    try {
      for (let i = 0; i < localStorage.length; i += 1) {
        const key = localStorage.key(i);
        if (key.startsWith(prefix)) found.set(key, localStorage.getItem(key));
      }
      if (this.kept) for (const key of found.keys()) if (localStorage.getItem(key) === null) found.delete(key); // another tab sent it
    } catch { /* memory alone */ }
    return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([key, text]) => {
      try {
        return [[key, JSON.parse(text)]];
      } catch {
        return []; // not ours
      }
    });
  }

  #store(key, value) {
    this.#memory.set(key, value);
    try {
      localStorage.setItem(key, value);
    } catch {
      this.kept = false;
    }
  }

  #remove(key) {
    this.#memory.delete(key);
    try {
      localStorage.removeItem(key);
    } catch { /* memory alone */ }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
