/** Type-ahead over all class names: an editable combobox with a list (ARIA Authoring Practices, 1.2 pattern). */

import { byId, h, name } from "./dom.js";

const SHOWN = 60;

/** Lower case without accents; Hangul falls into its letters, so that a half-typed syllable is found. */
export const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** Names that match, best first: the start of the name, the start of a word, anywhere, letters in this order. */
export function matches(typed, names) {
  const wanted = folded(typed.trim());
  if (!wanted) return names.slice();
  const found = [];
  names.forEach((candidate, place) => {
    const text = folded(candidate);
    const at = text.indexOf(wanted);
    let rank = 3;
    if (at === 0) rank = 0;
    else if (at > 0) rank = /[\p{L}\p{N}]/u.test(text[at - 1]) ? 2 : 1;
    else if (!inOrder(wanted, text)) return;
    found.push([rank, place, candidate]);
  });
  return found.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , candidate]) => candidate);
}

function inOrder(wanted, text) {
  let at = 0;
  for (const letter of wanted) {
    at = text.indexOf(letter, at);
    if (at < 0) return false;
    at += letter.length;
  }
  return true;
}

/** The dialog of the template; `ask(names)` resolves to a class name, or null where the reviewer left it. */
export class ClassSearch {
  #dialog = byId("class-search"); #input = byId("class-search-input"); #list = byId("class-search-list");
  #names = []; #shown = []; #active = 0; #resolve = null;

  constructor() {
    this.#input.addEventListener("input", () => { this.#active = 0; this.#fill(); });
    this.#input.addEventListener("keydown", (event) => this.#key(event));
    this.#dialog.addEventListener("close", () => this.#dialog.open || this.#settle(null)); // it may be open again by then
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
  }

  ask(names) {
    this.#settle(null);
    this.#names = names;
    this.#active = 0;
    this.#input.value = "";
    this.#fill();
    this.#dialog.showModal();
    this.#input.focus();
    return new Promise((resolve) => { this.#resolve = resolve; });
  }

  #settle(chosen) {
    const resolve = this.#resolve;
    this.#resolve = null;
    if (this.#dialog.open) this.#dialog.close();
    resolve?.(chosen);
  }

  #fill() {
    const found = matches(this.#input.value, this.#names);
    this.#shown = found.slice(0, SHOWN);
    this.#list.replaceChildren(...this.#shown.map((candidate, i) => h("li", {
      role: "option", id: `class-option-${i}`, "aria-selected": String(i === this.#active),
      on: { click: () => this.#settle(candidate) },
    }, name(candidate))));
    byId("class-search-count").textContent =
      found.length === 0 ? "No class has such a name." : found.length > SHOWN ? `${SHOWN} of ${found.length} shown` : `${found.length} classes`;
    this.#input.setAttribute("aria-expanded", String(found.length > 0));
    this.#mark();
  }

  #mark() {
    [...this.#list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === this.#active)));
    const option = this.#list.children[this.#active];
    if (option) this.#input.setAttribute("aria-activedescendant", option.id);
    else this.#input.removeAttribute("aria-activedescendant");
    option?.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    if (event.isComposing) return; // Enter ends a Korean or Japanese composition first
    const last = this.#shown.length - 1;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (step && last >= 0) {
      this.#active = Math.abs(step) === 1 ? (this.#active + step + last + 1) % (last + 1) : Math.min(Math.max(this.#active + step, 0), last);
      this.#mark();
    } else if (event.key === "Enter") {
      if (last >= 0) this.#settle(this.#shown[this.#active]);
    } else return;
    event.preventDefault();
  }
}
