/** Which images are shown: the form, the address of the page, and what the server offers to choose from. */

import { get } from "./api.js";
import { byId, h, keepSetting, setting } from "./dom.js";

const FIELDS = ["state", "issue", "class", "pair", "split", "group", "q"];

export class Filters extends EventTarget {
  #form = byId("filters"); #fixed; #blind = byId("blind"); #filled = false;
  classNames = [];
  offered = {};

  /** @param fixed parameters of this view that nobody chooses, such as `{state: "conflict"}` */
  constructor(fixed = {}) {
    super();
    this.#fixed = fixed;
    this.#form?.addEventListener("change", () => this.#changed());
    this.#form?.addEventListener("submit", (event) => { event.preventDefault(); this.#changed(); });
    this.#form?.addEventListener("reset", () => setTimeout(() => this.#changed()));
    if (this.#blind) this.#blind.disabled = this.alwaysBlind;
    this.#blind?.setAttribute("aria-pressed", String(this.blind));
    const box = this.#form?.closest("details");
    box?.addEventListener("toggle", () => this.#fill());
    box?.addEventListener("keydown", (event) => event.key === "Escape" && this.#close(box));
    document.addEventListener("pointerdown", (event) => box?.open && !box.contains(event.target) && box.removeAttribute("open"));
    this.#blind?.addEventListener("click", (event) => {
      if (event.detail > 0) byId("stage").focus({ preventScroll: true });
      keepSetting("blind", !setting("blind", false));
      this.#blind.setAttribute("aria-pressed", String(this.blind));
      this.dispatchEvent(new Event("change"));
    });
    addEventListener("popstate", () => { this.#fromAddress(); this.dispatchEvent(new Event("change")); });
  }

  /** What there is to choose from. */
  async load() {
    this.offered = await get("filters");
    this.classNames = this.offered.classes.map((one) => one.name ?? one);
    const { splits, groups = [], pairs } = this.offered;
    for (const [field, some] of [["split", splits.length], ["group", groups.length], ["pair", pairs.length && !this.alwaysBlind]]) {
      const select = this.#form?.elements[field];
      if (select && !some) select.closest("label").hidden = true;
    }
    if (this.#form?.closest("details").open) this.#fill();
    this.#fromAddress();
  }

  /** Thousands of choices take a quarter of a second to make: that is done when somebody wants to choose. */
  #fill() {
    if (this.#filled || !this.offered.classes) return;
    this.#filled = true;
    const choose = (field, values) => this.#form.elements[field]?.append(...values.map(({ value, text }) => h("option", { value, dir: "auto" }, text)));
    const counted = ({ name, count }) => ({ value: name, text: count === undefined ? name : `${name} (${count.toLocaleString("en")})` });
    const plain = (one) => counted(typeof one === "string" ? { name: one } : one);
    choose("issue", this.offered.issues.map((one) => ({ ...plain(one), text: plain(one).text.replaceAll("_", " ") })));
    choose("class", this.offered.classes.map(plain));
    choose("split", this.offered.splits.map(plain).filter(({ value }) => value));
    choose("group", (this.offered.groups ?? []).map(plain).filter(({ value }) => value));
    choose("pair", this.offered.pairs.map(({ given, suggested, count }) => ({
      value: `${given}>${suggested}`, text: `\u2068${given}\u2069 → \u2068${suggested}\u2069 (${count.toLocaleString("en")})`,
    })));
  }

  get query() {
    const chosen = Object.fromEntries(FIELDS.map((field) => [field, this.#form?.elements[field]?.value ?? ""]));
    return { ...chosen, state: chosen.state || "open", blind: this.blind ? 1 : "", ...this.#fixed };
  }

  /** The board was started so: nobody is shown a suggestion, whatever the page asks for. */
  get alwaysBlind() {
    return byId("review").dataset.blind === "always";
  }

  get blind() {
    return this.alwaysBlind || setting("blind", false);
  }

  /** How many filters narrow the queue. */
  get active() {
    return FIELDS.filter((field) => !(field in this.#fixed) && this.#form?.elements[field]?.value).length;
  }

  #close(box) {
    box.removeAttribute("open");
    byId("stage").focus({ preventScroll: true });
  }

  #changed() {
    const address = new URL(location.href);
    for (const field of FIELDS) {
      const value = this.#form.elements[field]?.value;
      if (value) address.searchParams.set(field, value);
      else address.searchParams.delete(field);
    }
    history.pushState(null, "", address);
    this.#tell();
    this.dispatchEvent(new Event("change"));
  }

  #fromAddress() {
    if (!this.#form) return;
    const address = new URLSearchParams(location.search);
    if (FIELDS.some((field) => address.has(field))) this.#fill();
    for (const field of FIELDS) if (this.#form.elements[field]) this.#form.elements[field].value = address.get(field) ?? "";
    this.#tell();
  }

  #tell() {
    const badge = byId("filters-active");
    if (badge) badge.textContent = this.active ? String(this.active) : "";
  }
}
