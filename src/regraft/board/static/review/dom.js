/** Elements from text alone: nothing that a server, a file name or a class name says is ever parsed as HTML. */

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "vars") for (const [key, v] of Object.entries(value)) element.style.setProperty(`--${key}`, v);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return element;
}

/** A class name, a path or a person's name: whatever its script, it does not turn the words around it. */
export const name = (text, className = "class-label") => h("bdi", { class: className }, text);

export const keycap = (key) => h("kbd", { "aria-hidden": "true" }, key);

export const byId = (id) => document.getElementById(id);

/** "12 %", "0.4 %": enough digits to tell small ones apart. */
export function percent(share) {
  const points = 100 * share;
  if (points > 0 && points < 0.1) return "< 0.1 %";
  return `${points > 0 && points < 1 ? points.toFixed(1) : Math.round(points)} %`;
}

/** "21–52 %". */
export const range = ({ low, high }) => `${percent(low).replace(/ %$/, "")}–${percent(high)}`;

export const interval = (found) => `${percent(found.estimate)} (${range(found)})`;

/** "1 image", "2 images". */
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Tell a screen reader; the region is emptied first, so that the same words are spoken twice. */
export function announce(text) {
  const region = byId("announcements");
  if (!region) return;
  region.textContent = "";
  requestAnimationFrame(() => { region.textContent = text; });
}

/** A setting of this browser. Where nothing can be kept, the default holds. */
export function setting(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`regraft:setting:${key}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function keepSetting(key, value) {
  try {
    localStorage.setItem(`regraft:setting:${key}`, JSON.stringify(value));
  } catch { /* a browser that keeps nothing: the setting lasts as long as the page */ }
}

/** A random UUID. `crypto.randomUUID` is missing on plain http off loopback; `getRandomValues` is not. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export const thumb = (id, side) => `/pictures/${encodeURIComponent(id)}/thumb?side=${side}`;
