"""Two runs beside each other as values for their page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.evaluate.wording import LOWER_IS_BETTER, MEASURES, percent
from regraft.studies.compare_runs import Comparison, Flip
from regraft.types import Interval

if TYPE_CHECKING:
    from regraft.board.site import Site

MAX_FLIPS = 60
"""Pictures of each kind that are shown; the rest is counted."""
MAX_CLASSES = 200

KINDS = (
    ("fixed", "were wrong and are right now"),
    ("broken", "were right and are wrong now"),
    ("otherwise", "are wrong in another way"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measure of both, and its change in words."""

    title: str
    words: str
    before: str
    after: str
    change: str
    range_text: str
    verdict: str


def measures(found: Comparison) -> list[Measure]:
    """The five measures; a verdict only where the interval leaves out zero."""
    rows = []
    for name, (title, words) in MEASURES.items():
        if name in found.differences:
            difference, is_share = found.differences[name], name != "log_loss"
            change, span = difference_texts(difference, is_share=is_share)
            plain = percent if is_share else "{:.3f}".format
            rows.append(
                Measure(
                    title=title, words=words, before=plain(found.before[name]), after=plain(found.after[name]),
                    change=change, range_text=span, verdict=verdict(difference, lower=name in LOWER_IS_BETTER),
                )
            )  # fmt: skip
    return rows


def verdict(difference: Interval, *, lower: bool = False) -> str:
    """`better`, `worse`, or "" where the interval holds zero."""
    sign = -1 if lower else 1
    ends = sorted((sign * difference.low, sign * difference.high))
    return "better" if ends[0] > 0 else "worse" if ends[1] < 0 else ""


def difference_texts(difference: Interval, *, is_share: bool = True) -> tuple[str, str]:
    """`+1.2` and `−0.4 to +2.8 points`; losses as plain numbers."""

    def signed(value: float) -> str:
        shown = f"{100 * value:+.1f}" if is_share else f"{value:+.3f}"
        return ("0.0" if is_share else "0.000") if float(shown) == 0 else shown.replace("-", "\u2212")

    unit = " points" if is_share else ""
    return signed(difference.estimate), f"{signed(difference.low)} to {signed(difference.high)}{unit}"


def flips(found: Comparison, pictures: dict[str, str]) -> list[dict[str, Any]]:
    """The flipped images by kind, each list capped; with a picture's hash where the board knows it."""

    def entry(flip: Flip) -> dict[str, Any]:
        return {"flip": flip, "hash": pictures.get(flip.image, "")}

    groups = []
    for kind, words in KINDS:
        members = [flip for flip in found.flips if flip.kind == kind]
        groups.append(
            {
                "kind": kind, "words": words, "count": len(members), "rest": max(0, len(members) - MAX_FLIPS),
                "flips": [entry(flip) for flip in members[:MAX_FLIPS]],
            }
        )  # fmt: skip
    return groups


def pictures_of(site: Site, project: str, wanted: set[str]) -> dict[str, str]:
    """Path to hash of the wanted images that the board has under review; empty where it has another project's."""
    desk = site.desk
    paths, hashes = getattr(desk, "paths", None), getattr(desk, "hashes", None)
    if desk is None or paths is None or hashes is None or desk.project != project:
        return {}
    found = {}
    for path, digest in zip(paths, hashes, strict=True):
        if str(path) in wanted:
            found[str(path)] = digest if isinstance(digest, str) else bytes(digest).hex()
    return found


def sentence(found: Comparison, metric: str = "macro_f1") -> str:
    """What to say first: clearly better, clearly worse, or not told apart."""
    if metric not in found.differences:
        return ""
    difference = found.differences[metric]
    title = MEASURES[metric][0]
    change, span = difference_texts(difference, is_share=metric != "log_loss")
    judged = verdict(difference, lower=metric in LOWER_IS_BETTER)
    if not judged:
        return f"{found.b.key} and {found.a.key} cannot be told apart by {title}: {change} ({span})."
    return f"{found.b.key} is {judged} than {found.a.key}: {title} {change} ({span})."
