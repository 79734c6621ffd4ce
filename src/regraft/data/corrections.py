"""What people decided about images, applied to a manifest: labels changed, images left out. No file is ever touched.

Development images obey the decisions. Test images stay as they were given, all of them under their own labels: what was
decided about them is kept apart, in `Corrected.as_corrected`, so that both scores can be told.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.data.corrected import Corrected, some
from regraft.data.kinds import printable
from regraft.data.pair_verdicts import Key, Pairs, weigh_pairs
from regraft.types import UNLABELLED, Finding, Manifest, Verdict

__all__ = ["MIN_IMAGES", "Corrected", "apply"]

MIN_IMAGES = 2
"""As in the scan: a class with fewer usable images cannot be in training and in validation at once."""


def apply(
    manifest: Manifest,
    verdicts: Mapping[Key, Verdict],
    *,
    development: NDArray[np.int64] | None = None,
    test: NDArray[np.int64] | None = None,
    keep_ambiguous: bool = False,
) -> Corrected:
    """Apply what reviewers agree on.

    Conflicts are not applied. A new label does not count where the image's given label is no longer the one that was
    judged, since somebody changed it after the review. Of a `duplicate` the survivor stays, unless one of the two is a
    test image: the test set stays as it is, so that the copy in development goes. A class that decisions leave with one
    image is left out; one that loses its last development image is gone, and its test images with it.

    Args:
        manifest: N images with labels; an image is known by its hash.
        verdicts: (item, other) to verdict.
        development: rows to apply them to; by default all but the test rows. Rows in neither stay as they are.
        test: rows that are locked away; by default none.
        keep_ambiguous: leave the images in whose picture does not tell.
    """
    num = len(manifest)
    test = np.empty(0, np.int64) if test is None else test
    in_test, in_development = np.zeros(num, np.bool_), np.zeros(num, np.bool_)
    in_test[test] = True
    in_development[np.arange(num) if development is None else development] = True
    in_development &= ~in_test
    rows = {key.tobytes().hex(): row for row, key in enumerate(manifest.hashes)}
    given = [manifest.class_names[label] if label >= 0 else None for label in manifest.labels.tolist()]
    shown = {printable(name): name for name in manifest.class_names}  # decisions name classes as pages show them
    judged = _judge(verdicts, rows, given, shown, keep_ambiguous)
    decided, counts = judged.labels, judged.counts
    pairs = weigh_pairs(verdicts, rows, in_development, in_test)

    out = {row: kind for row, kind in judged.out.items() if in_development[row]}
    out |= {row: "duplicate_by_review" for row in pairs.left_out if row not in out}
    staying = [row for row in np.flatnonzero(in_development).tolist() if row not in out]
    before = Counter(given[row] for row in np.flatnonzero(in_development).tolist())
    now, tested = Counter(decided[row] for row in staying), Counter(given[row] for row in test.tolist())
    rare = {name for name, n in now.items() if n != before[name] and n + tested[name] < MIN_IMAGES}
    out |= {row: "rare_class" for row in staying if decided[row] in rare}
    staying = [row for row in staying if decided[row] not in rare]
    known = {name for row in staying if (name := decided[row]) is not None}
    lost = {name for name in before if name is not None and name not in known}
    class_names = tuple(sorted((set(manifest.class_names) - lost) | known))
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(class_names)}

    as_given = np.array([numbers.get(name, UNLABELLED) for name in given], np.int64)
    as_corrected, labels = as_given.copy(), as_given.copy()
    changed = [row for row in staying if decided[row] != given[row]]
    for row in changed:
        labels[row] = as_corrected[row] = numbers[decided[row]]
    labels[list(out)] = as_corrected[list(out)] = UNLABELLED
    test_out = {row for row in judged.out if in_test[row]} | pairs.test_left_out
    moved = {row for row in test.tolist() if decided[row] != given[row] and row not in test_out}
    for row in test.tolist():
        unknown = decided[row] not in known or row in test_out
        as_corrected[row] = UNLABELLED if unknown else numbers[decided[row]]
    unlearnt = {row for row in moved if as_corrected[row] < 0}
    stay_tested = np.array([row for row in test.tolist() if given[row] not in lost], np.int64)

    kinds = Counter(out.values())
    changes = _Changes(manifest, given, decided, out, changed, [r for r in test.tolist() if given[r] in lost])
    return Corrected(
        manifest=dataclasses.replace(manifest, labels=labels, class_names=class_names),
        development=np.array(staying, np.int64), test=stay_tested, as_given=as_given, as_corrected=as_corrected,
        pairs=pairs, num_relabelled=len(changed), num_excluded=kinds["excluded_by_review"],
        num_ambiguous=kinds["ambiguous_by_review"], num_duplicates=kinds["duplicate_by_review"],
        num_alone=kinds["rare_class"],
        num_distinct=len(pairs.distinct), num_kept=sum(bool(in_development[row]) for row in judged.kept),
        num_conflicts=counts["conflict"] + pairs.num_conflicts, num_stale=counts["stale"],
        num_absent=counts["absent"] + pairs.num_absent, num_test_relabelled=len(moved - unlearnt),
        num_test_left_out=len(test_out | unlearnt), findings=changes.findings(),
        notes=_notes(before, lost, known - set(manifest.class_names), out, given, changes.without_class),
        version=_version(manifest, decided, out, changed, sorted(moved), sorted(test_out), pairs),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What verdicts on single images say, by row."""

    labels: list[str | None]
    out: dict[int, str]
    kept: list[int]
    counts: Counter[str]


def _judge(
    verdicts: Mapping[Key, Verdict], rows: Mapping[str, int], given: list[str | None], shown: Mapping[str, str],
    keep_ambiguous: bool,
) -> _Judged:  # fmt: skip
    labels, out, kept, counts = list(given), {}, [], Counter[str]()
    for (item, other), verdict in verdicts.items():
        if other:
            continue
        row = rows.get(item, -1)
        if row < 0:
            counts["absent"] += 1
        elif verdict.conflict:
            counts["conflict"] += 1
        elif verdict.action == "keep":
            kept.append(row)
        elif verdict.action == "exclude":
            out[row] = "excluded_by_review"
        elif verdict.action == "ambiguous" and not keep_ambiguous:
            out[row] = "ambiguous_by_review"
        elif verdict.action == "relabel" and (label := shown.get(verdict.label, verdict.label)) != given[row]:
            if shown.get(verdict.given, verdict.given) in ("", given[row]):
                labels[row] = label
            else:
                counts["stale"] += 1
    return _Judged(labels=labels, out=out, kept=kept, counts=counts)


@dataclass(frozen=True, slots=True)
class _Changes:
    """What became of single images."""

    manifest: Manifest
    given: list[str | None]
    decided: list[str | None]
    out: dict[int, str]
    changed: list[int]
    without_class: list[int]

    def findings(self) -> tuple[Finding, ...]:
        reasons = {
            "excluded_by_review": "a reviewer left it out",
            "ambiguous_by_review": "by review its picture does not tell its class; it was left out of fitting",
            "duplicate_by_review": "by review it is the same picture as another one that stays",
        }
        found = [
            self._of(
                row, kind, reasons.get(kind) or f"after review it is alone in its class {self.decided[row]!r}", True
            )
            for row, kind in self.out.items()
        ]
        found += [
            self._of(
                row, "relabelled_by_review", f"by review it is {self.decided[row]!r}, not {self.given[row]!r}", False
            )
            for row in self.changed
        ]
        found += [
            self._of(row, "test_only_class", "review left no development image of its class; it was left out", True)
            for row in self.without_class
        ]
        return tuple(sorted(found, key=lambda one: (one.kind, one.image)))

    def _of(self, row: int, kind: str, reason: str, excluded: bool) -> Finding:
        image = printable(str(self.manifest.images[row]))
        return Finding(image=image, label=self.given[row], kind=kind, reason=reason, excluded=excluded)


def _notes(
    before: Counter[str | None], lost: set[str], new: set[str], out: dict[int, str], given: list[str | None],
    without_class: list[int],
) -> tuple[str, ...]:  # fmt: skip
    left_out = Counter(given[row] for row in out)
    tested = Counter(given[row] for row in without_class)
    notes = []
    for name in sorted(lost):
        moved = before[name] - left_out[name]
        parts = [f"{n:,} {word}" for n, word in ((moved, "relabelled"), (left_out[name], "left out")) if n]
        words = f"the class {name!r} is gone: decisions took all its development images ({', '.join(parts)})"
        if tested[name]:
            words += f"; its {some(tested[name], 'test image')} cannot be recognised and left the test set"
        notes.append(words)
    notes += [f"the class {name!r} is new: reviewers gave it" for name in sorted(new)]
    return tuple(notes)


def _version(
    manifest: Manifest, decided: list[str | None], out: dict[int, str], changed: list[int], moved: list[int],
    test_out: list[int], pairs: Pairs,
) -> str:  # fmt: skip
    keys = [manifest.hashes[row].tobytes().hex() for row in range(len(manifest))]
    lines = [f"{keys[row]}\0out" for row in out]
    lines += [f"{keys[row]}\0label\0{decided[row]}" for row in changed]
    lines += [f"{keys[row]}\0test label\0{decided[row]}" for row in moved]
    lines += [f"{keys[row]}\0test out" for row in test_out]
    lines += [f"{a}\0distinct\0{b}" for a, b in pairs.distinct] + [f"{a}\0same\0{b}" for a, b in pairs.same]
    return blake3("\1".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()[:12] if lines else ""
