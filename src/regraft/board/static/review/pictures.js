/** Pictures that are decoded before they are wanted, so that the next one is there when the key goes down. */

import { h, thumb } from "./dom.js";

const KEPT = 40; // decoded pictures; a 1,024 pixel thumbnail takes 4 MB
const TRIES = 16;
const LONGEST_PAUSE = 400; // ms between them: a server that is back is noticed before the reviewer wonders
const AT_ONCE = 3; // the server makes thumbnails with two threads and turns a crowd away

export class Pictures {
  #found = new Map(); #waiting = []; #running = 0;

  /** The side to ask for, so that a picture fills `pixels` CSS pixels without being blown up. */
  static side(pixels) {
    const wanted = pixels * Math.min(devicePixelRatio || 1, 2);
    return wanted <= 300 ? 256 : wanted <= 620 ? 512 : 1024;
  }

  /** A decoded <img>, or null where the picture cannot be had; an urgent one goes to the head of the line. */
  get(id, side, { urgent = true } = {}) {
    const url = thumb(id, side);
    let entry = this.#found.get(url);
    if (entry) {
      this.#found.delete(url); // to the young end
      this.#found.set(url, entry);
      if (urgent) this.#hurry(entry);
      return entry.ready;
    }
    entry = { url, settled: false };
    entry.ready = new Promise((resolve) => { entry.resolve = resolve; });
    this.#found.set(url, entry);
    if (urgent) this.#waiting.unshift(entry);
    else this.#waiting.push(entry);
    this.#work();
    for (const [key, old] of this.#found) {
      if (this.#found.size <= KEPT) break;
      if (old.settled) this.#found.delete(key);
    }
    return entry.ready;
  }

  /** Whether it is decoded already. */
  has(id, side) {
    return this.#found.get(thumb(id, side))?.settled ?? false;
  }

  #hurry(entry) {
    const place = this.#waiting.indexOf(entry);
    if (place > 0) this.#waiting.unshift(...this.#waiting.splice(place, 1));
  }

  async #work() {
    if (this.#running >= AT_ONCE || !this.#waiting.length) return;
    this.#running += 1;
    const entry = this.#waiting.shift();
    const picture = await decoded(entry.url);
    entry.settled = true;
    if (!picture) this.#found.delete(entry.url); // asked for again next time
    entry.resolve(picture);
    this.#running -= 1;
    this.#work();
  }
}

async function decoded(url) {
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    const picture = h("img", { src: url, alt: "", draggable: "false", decoding: "sync" });
    try {
      await picture.decode();
      return picture;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, Math.min(200 * 2 ** attempt, LONGEST_PAUSE))); // 503 while thumbnails are made
    }
  }
  return null;
}
