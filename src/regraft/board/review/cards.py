"""One image as the page shows it: a JSON object, made when it is asked for."""

from __future__ import annotations

from regraft.board.review.desk import SPLITS, TEST, Desk
from regraft.board.review.history import History
from regraft.types import JSON, Decision

TEST_WORDS = (
    "a test image: correct its label only for what can be seen in the picture; what is decided of it is kept apart, "
    "and both scores are told"
)
CHANGED = "its label or the evidence changed since it was looked at"
"""What is said of an image that came back where no class may be named."""
_MEASURED = ("odd_image",)
"""Checks whose sentence names no class and no other image: it may be read by who must not know the suggestion."""


def card(desk: Desk, history: History, row: int, reviewer: str, *, blind: bool = False, alone: bool = False) -> JSON:
    """One image.

    Args:
        desk: what is under review.
        history: what was decided.
        row: of the image.
        reviewer: who asks.
        blind: leave out what names the suggestion or others' decisions.
        alone: leave out others' decisions only.
    """
    guess = int(desk.guesses[row])
    kinds = desk.kinds(row)
    reasons = {kind: desk.reason(row, kind) if not blind or kind in _MEASURED else "" for kind in kinds}
    scores = desk.shown_scores(row)
    prototypes = _prototypes(desk, row, int(desk.given[row]))
    with history.lock:
        verdict = history.verdict(desk.hash_of(row))
        mine = history.mine(row, reviewer)
        returned = history.returned.get(row)
    others = [] if verdict is None or blind or alone else [e for e in verdict.events if e.reviewer != reviewer]
    return {
        "id": desk.hash_of(row), "position": int(desk.positions[row]), "path": desk.path(row),
        "given": desk.names[desk.given[row]], "suggested": desk.names[guess] if guess >= 0 and not blind else None,
        "split": SPLITS[desk.splits[row]], "remark": TEST_WORDS if desk.splits[row] == TEST else None,
        "group": desk.group_names[int(desk.groups[row])],
        "issues": [{"kind": kind, "score": scores.get(kind), "reason": reasons[kind]} for kind in kinds],
        "reason": "; ".join(reason for reason in reasons.values() if reason),
        "top": [] if blind else _top(desk, row), "neighbours": [] if blind else _neighbours(desk, row),
        "prototypes": {
            "given": prototypes, "suggested": _prototypes(desk, row, guess) if guess >= 0 and not blind else [],
        },
        "width": int(desk.sizes[row, 1]), "height": int(desk.sizes[row, 0]),
        "returned": CHANGED if returned and blind else returned,
        "mine": _word(mine), "others": [_others(event) for event in others],
        "conflict": bool(verdict is not None and verdict.conflict and not blind and not alone),
    }  # fmt: skip


def pair_card(desk: Desk, history: History, number: int, reviewer: str, *, blind: bool = False) -> JSON:
    """Two images that are nearly the same."""
    a, b = (int(row) for row in desk.pairs[number])
    verdict = history.verdict(desk.hash_of(a), desk.hash_of(b))
    events = () if verdict is None else verdict.events
    mine = [event for event in events if event.reviewer == reviewer]
    word = _word(mine[-1] if mine else None)
    if word is not None:
        word["survivor"] = mine[-1].item if mine[-1].action == "duplicate" else None
    return {
        "position": number, "a": card(desk, history, a, reviewer, blind=blind),
        "b": card(desk, history, b, reviewer, blind=blind),
        "similarity": round(float(desk.pair_similarity[number]), 4), "why": desk.pair_reasons[number],
        "conflicting": bool(desk.given[a] != desk.given[b]), "mine": word,
        "others": [] if blind else [
            _others(event) | {"survivor": event.item if event.action == "duplicate" else None}
            for event in events if event.reviewer != reviewer
        ],
        "conflict": bool(verdict is not None and verdict.conflict),
    }  # fmt: skip


def _word(event: Decision | None) -> JSON | None:
    return None if event is None else {"event_id": event.event_id, "action": event.action, "label": event.label}


def _others(event: Decision) -> JSON:
    return {"reviewer": event.reviewer, "action": event.action, "label": event.label, "note": event.note}


def _top(desk: Desk, row: int) -> list[JSON]:
    return [
        {"label": desk.names[label], "prob": round(float(prob), 4)}
        for label, prob in zip(desk.top_labels[row].tolist(), desk.top_probs[row].tolist(), strict=True)
        if label >= 0
    ]


def _neighbours(desk: Desk, row: int) -> list[JSON]:
    return [
        {"id": desk.hash_of(other), "label": desk.names[desk.given[other]], "similarity": round(float(similar), 4)}
        for other, similar in zip(desk.neighbours[row].tolist(), desk.similarity[row].tolist(), strict=True)
        if other >= 0
    ]


def _prototypes(desk: Desk, row: int, label: int) -> list[str]:
    return [desk.hash_of(other) for other in desk.prototypes[label].tolist() if other >= 0 and other != row]
