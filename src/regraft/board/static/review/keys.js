/** One key, one action: which key was meant, whatever the keyboard's script. */

import { setting } from "./dom.js";

const LATIN = /^[a-z]$/;

/**
 * "space", "enter", "left", "right", "up", "down", "escape", "/", "?", "1".."9", "a".."z", or "" for anything else. A Korean,
 * Arabic, Hebrew or Cyrillic keyboard sends letters of its own: then the key's place counts.
 */
export function keyOf(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return "";
  const named = {
    " ": "space", Enter: "enter", ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", Escape: "escape",
    "/": "/", "?": "?", Home: "home", End: "end",
  }[event.key];
  if (named) return named;
  const letter = event.key.toLowerCase();
  if (LATIN.test(letter)) return letter;
  const digit = /^[1-9]$/.exec(event.key) ?? /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  if (digit) return digit.at(-1);
  if (event.code === "Slash") return event.shiftKey ? "?" : "/";
  return /^Key([A-Z])$/.exec(event.code)?.[1].toLowerCase() ?? "";
}

const OWN_KEYS = 'input, textarea, select, [contenteditable], [role="option"], [role="listbox"]';
const PRESSED = "button, a[href], summary, label";

/**
 * Call `handle(key, event)` for keys that no control of the page takes for itself; it returns true where it did something.
 * Single letters can be turned off (WCAG 2.1.4); arrows, Space, Enter and Escape then still work.
 */
export function listen(handle) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const key = keyOf(event);
    const target = event.target instanceof Element ? event.target : document.body;
    // A field of a dialog that was just closed has the focus until the next frame: what is not on the page takes no key.
    const takes = (selector) => target.closest(selector)?.getClientRects().length;
    if (!key || takes(OWN_KEYS)) return;
    if ((key === "space" || key === "enter") && takes(PRESSED)) return;
    if (key.length === 1 && !setting("single-keys", true)) return;
    if (event.repeat && !["left", "right", "up", "down"].includes(key)) { // a key held down decides once
      event.preventDefault();
      return;
    }
    if (handle(key, event)) event.preventDefault();
  });
}
