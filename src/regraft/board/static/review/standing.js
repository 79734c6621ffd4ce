/** Where the review stands: saved or waiting, how many are left, the hit rate, the hint, the others, the break, the refit. */

import { get, post } from "./api.js";
import { announce, byId, count, h, interval, keepSetting, name, percent, range, setting } from "./dom.js";

const STRETCH = 50 * 60; // seconds of review without a break
const BREAK = 5 * 60; // a pause as long as this is one
const EVERY = 5_000; // ms between looks at what the others did
const REFIT_EVERY = 700;

/** Events: `news` (detail: Set of hashes of images that others decided since). */
export class Standing extends EventTarget {
  #outbox; #seq = null; #began = Date.now(); #active = Date.now(); #reminded = 0; #wasReachable = true; #served = 0;
  left = 0;

  constructor(outbox) {
    super();
    this.#outbox = outbox;
    byId("connection")?.setAttribute("aria-live", "off"); // every key would be read out; what matters is announced
    outbox.addEventListener("change", () => this.#connection());
    outbox.addEventListener("progress", ({ detail }) => this.show(detail));
    outbox.addEventListener("saved", () => this.#touched());
    addEventListener("online", () => this.refresh());
    document.addEventListener("keydown", () => this.#touched());
    document.addEventListener("pointerdown", () => this.#touched());
    byId("refused-dismiss")?.addEventListener("click", () => outbox.dismissRefused());
    byId("standing-open")?.addEventListener("click", () => { byId("standing").showModal(); this.refresh(); this.#refit(); });
    byId("refit-start")?.addEventListener("click", () => this.#startRefit());
    byId("break-later")?.addEventListener("click", () => this.#dismissBreak(true));
    byId("break-never")?.addEventListener("click", () => this.#dismissBreak(false));
    for (const [id, key] of [["setting-breaks", "breaks"], ["setting-keys", "single-keys"]]) {
      const box = byId(id);
      if (!box) continue;
      box.checked = setting(key, true);
      box.addEventListener("change", () => keepSetting(key, box.checked));
    }
    setInterval(() => document.visibilityState === "visible" && this.refresh(), EVERY);
    this.#connection();
  }

  async refresh() {
    try {
      if (this.#seq === null) {
        const progress = await get("progress");
        this.#seq = progress.seq;
        this.show(progress);
      } else {
        const { seq, events, progress } = await get("events", { after: this.#seq });
        this.#seq = seq;
        this.show(progress);
        const items = new Set(events.filter((event) => !event.other).map((event) => event.item));
        if (items.size) this.dispatchEvent(new CustomEvent("news", { detail: items }));
      }
      if (!this.#outbox.reachable) {
        this.#outbox.reachable = true;
        this.#outbox.flush(); // its own next try may be ten seconds away
      }
    } catch (error) {
      if (error.status === 0) this.#outbox.reachable = false;
    }
    this.#connection();
  }

  show(progress) {
    this.left = progress.left;
    this.#served = progress.stretch_seconds ?? 0;
    const all = progress.reviewed + progress.left;
    byId("left").textContent = progress.left.toLocaleString("en");
    byId("reviewed").textContent = progress.reviewed.toLocaleString("en");
    const bar = byId("share-done");
    if (bar) { bar.max = Math.max(all, 1); bar.value = progress.reviewed; }
    const rate = byId("hit-rate");
    rate?.replaceChildren(...(progress.hit_rate ? [
      h("strong", {}, percent(progress.hit_rate.estimate)), " ",
      h("span", { class: "quiet" }, `(${range(progress.hit_rate)})`), whisker(progress.hit_rate),
    ] : [h("span", { class: "quiet" }, "after a few looks")]));
    const hint = byId("hint");
    if (hint) { hint.hidden = !progress.hint; hint.textContent = progress.hint ?? ""; }
    const conflicts = byId("num-conflicts");
    if (conflicts) { conflicts.textContent = progress.conflicts ? String(progress.conflicts) : ""; conflicts.hidden = !progress.conflicts; }
    byId("standing-facts")?.replaceChildren(...facts(progress));
    byId("reviewers")?.replaceChildren(...progress.reviewers.map(({ name: who, reviewed }) => h("li", {}, name(who, "person"), h("span", { class: "quiet" }, count(reviewed, "image")))));
  }

  #connection() {
    const waiting = this.#outbox.waiting.length;
    const { reachable, refused, strangers, kept, problem } = this.#outbox;
    const badge = byId("connection");
    if (badge) {
      badge.hidden = false;
      badge.dataset.state = !reachable ? "offline" : waiting ? "waiting" : "saved";
      badge.textContent = !reachable ? (waiting ? `Offline · ${waiting} waiting` : "Offline") : waiting ? `${waiting} waiting` : "Saved";
      badge.title = waiting && problem ? problem : "";
    }
    if (reachable !== this.#wasReachable) {
      announce(reachable ? "The server is back." : "The server cannot be reached. Decisions are kept in this browser and sent later.");
      this.#wasReachable = reachable;
    }
    const words = [];
    if (!reachable && !kept) words.push("This browser keeps nothing: leave this page open until the server is back.");
    if (waiting && problem && reachable) words.push(`Decisions wait: ${problem}.`);
    if (strangers.length) words.push(`Decisions of ${strangers.map((who) => `\u2068${who}\u2069`).join(", ")} wait in this browser; they are sent when that name is signed in.`);
    this.tell(words.join(" "));
    const box = byId("refused");
    if (box) {
      box.hidden = !refused.length;
      byId("refused-list").replaceChildren(...refused.map(({ event, reason }) => h("li", {}, `${event.action}${event.label ? ` ${event.label}` : ""}: ${reason}`)));
    }
  }

  /** One quiet line above the picture, for what needs attention; "" takes it away. */
  tell(words) {
    const line = byId("telling");
    if (!line) return;
    line.hidden = !words;
    line.textContent = words;
  }

  #touched() {
    const now = Date.now();
    if (now - this.#active > 1000 * BREAK) { this.#began = now; this.#reminded = 0; }
    this.#active = now;
    const seconds = Math.max((now - this.#began) / 1000, this.#served);
    const due = setting("breaks", true) && seconds >= STRETCH && now - this.#reminded > 1000 * STRETCH;
    if (!due) return;
    this.#reminded = now;
    byId("break").hidden = false;
    announce("You have been looking for 50 minutes. A short break keeps the eye sharp.");
  }

  #dismissBreak(again) {
    if (!again) {
      keepSetting("breaks", false);
      if (byId("setting-breaks")) byId("setting-breaks").checked = false;
    }
    byId("break").hidden = true;
    byId("stage")?.focus({ preventScroll: true });
  }

  async #startRefit() {
    byId("refit-start").disabled = true;
    await this.#outbox.flush();
    try {
      await post("refit");
    } catch (error) {
      byId("refit-start").disabled = false;
      byId("refit-words").textContent = `The refit did not start: ${error.message}.`;
      return;
    }
    this.#refit();
  }

  async #refit() {
    let found;
    try {
      found = await get("refit");
    } catch (error) {
      byId("refit-words").textContent = `Nothing is known of the refit: ${error.message}.`;
      return;
    }
    const running = found.state === "running";
    byId("refit").dataset.state = found.state;
    byId("refit-start").disabled = running;
    const words = [found.words ?? []].flat().filter(Boolean);
    byId("refit-words").replaceChildren(...(running ? [h("p", {}, `Solving again … ${Math.round(found.seconds ?? 0)} s`)] : words.map((sentence) => h("p", {}, sentence))));
    byId("refit-table").replaceChildren(...(found.state === "done" ? compared(found) : []));
    if (running) setTimeout(() => this.#refit(), REFIT_EVERY);
  }
}

function facts(progress) {
  const fact = (title, value, remark) => h("div", {}, h("dt", {}, title), h("dd", {}, value, remark && h("small", {}, remark)));
  const { controls, error_rate: rate } = progress;
  return [
    fact("Looked at", progress.reviewed.toLocaleString("en"), `${progress.left.toLocaleString("en")} left`),
    fact("Wrong labels among the suspects", progress.hit_rate ? interval(progress.hit_rate) : "not yet known", progress.hits === undefined ? null : `${progress.hits} found`),
    fact("Wrong labels in the whole data set", rate ? interval(rate) : "not yet known", controls ? `${controls.wrong} of ${count(controls.reviewed, "random control")}` : null),
  ];
}

function compared({ before, after, difference, untouched, test, metric, num_applied: applied }) {
  const row = (title, one) => one && h("tr", {}, h("th", { scope: "row" }, title), h("td", { "data-name": "Before" }, fine(one.before)),
    h("td", { "data-name": "After" }, fine(one.after)),
    h("td", { "data-name": "Difference", class: one.difference.low > 0 ? "better" : one.difference.high < 0 ? "worse" : "" }, points(one.difference)));
  const of = (one) => (one?.before && one.after && one.difference ? one : null);
  return [h("table", { class: "stack" },
    h("caption", {}, `${(metric ?? "score").replaceAll("_", " ")} in %, ${count(applied ?? 0, "decision")} applied; the difference is paired`),
    h("thead", {}, h("tr", {}, h("td", {}), ["Before", "After", "Difference"].map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, row("Held out", of({ before, after, difference })), row("Where no label changed", of(untouched)),
      row("Test, labels as given", of(test?.as_given ?? test)), row("Test, as corrected", of(test?.as_corrected))))];
}

const fine = ({ estimate, low, high }) => told((100 * estimate).toFixed(1), `${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)}`);

const told = (value, ends) => h("span", { class: "told" }, h("strong", {}, value), " ", h("small", {}, ends));

function points({ estimate, low, high }) {
  const signed = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
  return told(`${signed(estimate)} points`, `${signed(low)} to ${signed(high)}`);
}

function whisker({ estimate, low, high }) {
  return h("span", { class: "whisker", "aria-hidden": "true", vars: { low, high, estimate } });
}
