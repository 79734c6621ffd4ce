"""The result of ranking backbones: rows, the pick and its reason, and the JSON that scripts rely on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from regraft.types import JSON, Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One candidate.

    Attributes:
        name: as in `candidates`.
        backbone: the name that `fit --backbone` takes; of a combination its first.
        kind: alone, stage, flip, concatenated or averaged.
        accuracy: held out, with interval.
        balanced_accuracy: held out, with interval.
        macro_f1: held out, with interval.
        difference_to_best: of the metric that is ranked by, paired, with interval.
        tied: the interval of that difference includes 0.
        head: what the accuracy is of: `multinomial` on the shortlist, `ridge` off it.
        images_per_second: decode to features on this machine; of a combination 1 / Σ 1 / rate.
        num_parameters: of its backbones.
        image_size: side of the input in pixels, largest of its passes.
        columns: ridge accuracy, neighbours, LogME, H-score, LEEP, GBC; None where it does not apply.
        num_forwarded: images that went through its backbones now.
    """

    name: str
    backbone: str
    kind: str
    accuracy: Interval
    balanced_accuracy: Interval
    macro_f1: Interval
    difference_to_best: Interval
    tied: bool
    head: str
    images_per_second: float
    num_parameters: int
    image_size: int
    columns: dict[str, float | None]
    num_forwarded: int

    def as_dict(self) -> JSON:
        """A row of `rank --json`."""
        return {
            "backbone": self.name,
            "accuracy": self.accuracy.as_dict(),
            "macro_f1": self.macro_f1.as_dict(),
            "difference_to_best": self.difference_to_best.as_dict(),
            "images_per_second": round(self.images_per_second, 2),
            "num_parameters": self.num_parameters,
            "tied_with_best": self.tied,
            "kind": self.kind,
            "head": self.head,
            "image_size": self.image_size,
            "num_forwarded": self.num_forwarded,
            "columns": {
                name: None if value is None or not math.isfinite(value) else round(value, 6)
                for name, value in self.columns.items()
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Backbones, best first, and which one to take.

    Attributes:
        rows: best first.
        pick: name of the one to take.
        corrected: the pick's `metric`, corrected for having been chosen among so many on the same images.
        static_pick: what the fixed list by ImageNet accuracy would have taken; None where none of them is on it.
        gain: the pick's metric minus the static pick's, on the same folds.
        metric: what was ranked by.
        reason: why this pick, in words.
        notes: what was left out or settled, one sentence each.
        num_images: development images; the locked test set took no part.
        num_classes: K.
        seconds: step to wall seconds.
    """

    rows: tuple[Ranked, ...]
    pick: str
    corrected: Interval
    static_pick: str | None
    gain: Interval | None
    metric: str
    reason: str
    notes: tuple[str, ...]
    num_images: int
    num_classes: int
    seconds: dict[str, float]

    def __getitem__(self, name: str) -> Ranked:
        return next(row for row in self.rows if row.name == name)

    def as_rows(self) -> list[JSON]:
        """`rank --json`: a list, best first."""
        return [row.as_dict() | {"pick": row.name == self.pick} for row in self.rows]

    def as_dict(self) -> JSON:
        """`ranking.json` beside a run: everything."""
        return {
            "pick": self.pick,
            "reason": self.reason,
            "metric": self.metric,
            "corrected": self.corrected.as_dict(),
            "static_pick": self.static_pick,
            "gain": None if self.gain is None else self.gain.as_dict(),
            "num_images": self.num_images,
            "num_classes": self.num_classes,
            "notes": list(self.notes),
            "seconds": {step: round(value, 3) for step, value in self.seconds.items()},
            "rows": self.as_rows(),
        }

    def sentences(self) -> list[str]:
        """What people should read under the table."""
        metric = self.metric.replace("_", " ")
        said = [
            self.reason,
            f"The best of {len(self.rows)} looks better than it is; corrected for the choice, the {metric} of "
            f"{self.pick} is {self.corrected}.",
        ]
        if self.gain is None:
            said.append("None of them is on the fixed list by ImageNet accuracy, so what measuring gained is unknown.")
        elif self.static_pick == self.pick:
            said.append(f"The fixed list by ImageNet accuracy takes {self.static_pick} too: measuring confirmed it.")
        else:
            low, high = 100 * self.gain.low, 100 * self.gain.high
            unsure = " (the interval includes 0)" if low <= 0 <= high else ""
            said.append(
                f"The fixed list by ImageNet accuracy would take {self.static_pick}: measuring changed the {metric} by "
                f"{100 * self.gain.estimate:+.1f} points ({low:+.1f} to {high:+.1f}){unsure} and the speed by a factor "
                f"of {self[self.pick].images_per_second / self[self.static_pick or ''].images_per_second:.2f}."
            )
        return said
