/** One card beside its picture: labels, reason, probabilities, neighbours, prototypes. */

import { h, keycap, name, percent, thumb } from "./dom.js";

const ISSUES = {
  label: "label in doubt", near_duplicate: "near-duplicate", leakage: "leak between splits", outlier: "outlier",
  odd_image: "odd image", conflict: "reviewers disagree",
};
const NEIGHBOURS = 6;
const PROTOTYPES = 4;

/** Classes that the keys 1–9 stand for: the most probable; in blind mode, and of few classes, all in their order. */
export function choices(card, classNames) {
  const top = (card.top ?? []).slice(0, 9);
  return top.length ? top : classNames.length <= 9 ? classNames.map((label) => ({ label, prob: null })) : [];
}

export const issueName = (kind) => ISSUES[kind] ?? kind.replaceAll("_", " ");

/** The whole panel. `choose(label)` is called where a class is pressed. */
export function evidence(card, { classNames, blind, mine, choose }) {
  return [
    marks(card, mine),
    labels(card, blind),
    h("p", { class: "reason" }, card.reason || (blind ? "Look at the picture alone, then decide." : "")),
    card.split === "test" && h("p", { class: "hidden" }, card.remark ?? "Test image."),
    card.returned && h("p", { class: "returned" }, `Here again: ${card.returned}`),
    others(card),
    probabilities(card, choices(card, classNames), choose),
    pictures("Most similar images", (card.neighbours ?? []).slice(0, NEIGHBOURS), card),
    prototypes(card),
  ].filter(Boolean);
}

function marks(card, mine) {
  return h("p", { class: "marks" },
    card.split === "test" && h("span", { class: "mark test", title: "Correct a test image only for what can be seen in it" }, "Test image"),
    card.split && card.split !== "test" && h("span", { class: "mark" }, card.split),
    card.conflict && h("span", { class: "mark caution" }, "Reviewers disagree"),
    ...(card.issues ?? []).map(({ kind, reason }) => h("span", { class: "mark", title: reason || null }, issueName(kind))),
    card.group && h("span", { class: "mark" }, "group ", name(card.group)),
    mine && h("span", { class: "mark decided", data: { status: mine.status } }, said(mine)));
}

function said(mine) {
  const words = { keep: "kept", relabel: "changed to ", exclude: "excluded", ambiguous: "ambiguous", skip: "skipped" };
  const state = { waiting: " · waiting", refused: " · refused", saved: " · saved" }[mine.status] ?? "";
  return [`You: ${words[mine.action] ?? mine.action}`, mine.label && name(mine.label), state];
}

function labels(card, blind) {
  const suggested = card.suggested
    ? name(card.suggested, "class-name")
    : h("span", { class: "class-name nothing" }, blind ? "hidden" : "none");
  return h("dl", { class: "labels" },
    h("div", { class: "given" }, h("dt", {}, "Given"), h("dd", {}, name(card.given || "no label", "class-name"))),
    h("div", { class: "suggested" }, h("dt", {}, "Suggested"), h("dd", {}, suggested)));
}

function others(card) {
  if (!card.others?.length) return null;
  return h("ul", { class: "others" }, card.others.map(({ reviewer, action, label, note }) => h("li", {},
    name(reviewer, "person"), `: ${{ keep: "keep", relabel: "change to ", exclude: "exclude", ambiguous: "ambiguous" }[action] ?? action}`,
    label && name(label), note && [" — ", name(note, "said")])));
}

function probabilities(card, found, choose) {
  if (!found.length) return null;
  const rows = found.map(({ label, prob }, i) => {
    const role = label === card.given ? "given" : label === card.suggested ? "suggested" : "";
    return h("li", {}, h("button", { type: "button", class: `choice ${role}`, "aria-keyshortcuts": String(i + 1), vars: { share: prob ?? 0 },
      on: { click: () => choose(label) } },
    keycap(i + 1), name(label), role && h("span", { class: "role" }, role),
    prob !== null && h("span", { class: "share" }, percent(prob))));
  });
  return h("section", { class: "probabilities", "aria-label": "Classes by probability" },
    h("h2", {}, found[0].prob === null ? "Classes" : "Most probable classes"), h("ol", {}, rows));
}

function pictures(title, found, card) {
  if (!found.length) return null;
  return h("section", { class: "likes" }, h("h2", {}, title), h("ul", { class: "thumbs" }, found.map(({ id, label, similarity }) =>
    h("li", { class: label === card.given ? "as-given" : label === card.suggested ? "as-suggested" : "" }, h("figure", {},
      h("img", { src: thumb(id, 256), alt: "", decoding: "async", title: similarity == null ? null : `similarity ${similarity.toFixed(2)}` }),
      h("figcaption", {}, name(label)))))));
}

function prototypes(card) {
  const rows = [["given", card.given], ["suggested", card.suggested]].map(([role, label]) => {
    const ids = (card.prototypes?.[role] ?? []).slice(0, PROTOTYPES);
    return label && ids.length ? h("div", { class: `prototypes ${role}` }, h("h2", {}, "Typical ", name(label)), h("ul", { class: "thumbs" },
      ids.map((id) => h("li", { class: `as-${role}` }, h("img", { src: thumb(id, 256), alt: "", decoding: "async" }))))) : null;
  }).filter(Boolean);
  return rows.length ? h("section", { class: "likes both" }, rows) : null;
}

/** What a screen reader hears of a new card. */
export function spoken(card, position, left) {
  const suggested = card.suggested ? `, suggested ${card.suggested}` : "";
  const test = card.split === "test" ? " Test image." : "";
  return `Image ${position}, ${left} left.${test} Given ${card.given || "no label"}${suggested}. ${card.reason ?? ""}`;
}
