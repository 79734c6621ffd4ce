"""A similarity profile as values, JSON and sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.types import JSON, Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measure of similarity.

    Attributes:
        name: drift, source_fit, reuse_gain or depth_gain.
        value: with interval over images.
        photographs: the same of crops of photographs.
        noise: the same of pixel noise.
        place: from 0 (like photographs) to 1 (like noise), of the value with its interval; None where the two
            references do not differ.
        meaning: one sentence.
    """

    name: str
    value: Interval
    photographs: float
    noise: float
    place: Interval | None
    meaning: str

    @property
    def text(self) -> str:
        return str(self.value)

    @property
    def place_text(self) -> str:
        """In words for a table."""
        ends = f"photographs {self.photographs:.3g}, noise {self.noise:.3g}"
        if self.place is None:
            return ends
        at = self.place.estimate
        where = "beyond photographs" if at < 0 else "beyond noise" if at > 1 else f"{at:.2f} of the way to noise"
        return f"{where} ({ends})"

    def as_dict(self) -> JSON:
        """A JSON object."""
        return {
            "name": self.name, "value": self.value.as_dict(), "photographs": self.photographs, "noise": self.noise,
            "place": None if self.place is None else self.place.as_dict(), "meaning": self.meaning,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How far the images are from the backbone's training data.

    Attributes:
        backbone: its name.
        num_images: looked at.
        measures: those that apply.
        layers: per batch-norm layer its drift with interval, and that of both references.
        stages: per stage the held-out accuracy with interval, first to last.
        notes: what could not be measured, and why.
    """

    backbone: str
    num_images: int
    measures: tuple[Measure, ...]
    layers: tuple[JSON, ...]
    stages: tuple[tuple[str, Interval], ...]
    notes: tuple[str, ...]

    @property
    def similarity(self) -> Interval | None:
        """1 like photographs, 0 like noise, by drift; None for a network without batch norm."""
        place = next((m.place for m in self.measures if m.name == "drift"), None)
        if place is None:
            return None
        low, middle, high = (float(np.clip(1 - v, 0, 1)) for v in (place.high, place.estimate, place.low))
        return Interval(estimate=middle, low=low, high=high, level=place.level)

    def as_dict(self) -> JSON:
        """The JSON object of `regraft similarity --json`."""
        similarity = self.similarity
        return {
            "backbone": self.backbone,
            "num_images": self.num_images,
            "similarity": None if similarity is None else similarity.as_dict(),
            "measures": [measure.as_dict() for measure in self.measures],
            "stages": [{"stage": name, "accuracy": value.as_dict()} for name, value in self.stages],
            "layers": list(self.layers),
            "notes": list(self.notes),
        }

    def sentences(self) -> list[str]:
        """What people should read."""
        said = [f"{measure.name.replace('_', ' ')}: {measure.meaning}" for measure in self.measures]
        if self.stages:
            said.append("accuracy by depth: " + ", ".join(f"{name} {value}" for name, value in self.stages))
        return [*said, *self.notes]
