/** The review pages: queue, grid of one confusion pair, near-duplicates, conflicts. See review/ for the parts. */

import { byId } from "./review/dom.js";
import { Decisions } from "./review/decisions.js";
import { Filters } from "./review/filters.js";
import { Grid } from "./review/grid.js";
import { Looking } from "./review/looking.js";
import { Outbox } from "./review/outbox.js";
import { Pairs } from "./review/pairs.js";
import { Standing } from "./review/standing.js";

const ENOUGH = 2000; // ms to wait for decisions of before a reload, before the queue is asked for

const root = byId("review");
const { view, project, reviewer } = root.dataset;
const outbox = new Outbox({ project, reviewer });
const standing = new Standing(outbox);
const filters = new Filters(view === "conflicts" ? { state: "conflict" } : {});
const page = {
  outbox, filters, decisions: new Decisions(outbox), issue: view === "conflicts" ? "conflict" : null,
  standing, tell: (words) => standing.tell(words),
  get left() { return standing.left; },
};

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

/** A server that is away is waited for: the page begins as soon as it is back. */
async function begin() {
  await Promise.race([outbox.flush(), new Promise((resolve) => setTimeout(resolve, ENOUGH))]);
  try {
    await filters.load();
  } catch (error) {
    byId("problem").textContent = `The review cannot begin: ${error.message}.`;
    root.dataset.state = "failed";
    setTimeout(begin, ENOUGH);
    return;
  }
  byId("problem").textContent = "";
  root.dataset.state = "loading";
  standing.refresh();
  if (view === "grid") await new Grid(page).start();
  else if (view === "pairs") await new Pairs(page).start();
  else await new Looking(page).open();
}

begin();
