"""A backbone over the images once: features through the shared cache, and how fast it was on this machine."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import ImageError
from regraft.features.engines import Choice, num_cores, open_engine
from regraft.features.extract import extract
from regraft.features.forward import forward_images
from regraft.files import write_json
from regraft.images import Transform, preprocess
from regraft.models.backbones import Backbone
from regraft.types import Manifest

Progress = Callable[[int, int], None]

MEASURED_IMAGES = 128
"""So many are forwarded to learn the rate where all features came from the cache: about a third of a second."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """What one way of looking at the images gave.

    Attributes:
        backbone: what ran; with stages its features are several blocks of columns.
        transform: input size and flip among others.
        values: float16 (n, D), row for row with the manifest.
        slices: block name to columns; `final` is what the backbone alone would give.
        images_per_second: decode, resize and forward, on this machine.
        num_forwarded: images that went through the backbone now.
        failed: row numbers whose file could not be read any more.
        seconds: wall time.
    """

    backbone: Backbone
    transform: Transform
    values: NDArray[np.float16]
    slices: dict[str, tuple[int, int]]
    images_per_second: float
    num_forwarded: int
    failed: NDArray[np.int64]
    seconds: float

    @property
    def key(self) -> tuple[str, int, bool]:
        """Tells passes apart: backbone, size, flip."""
        return self.backbone.name, self.transform.size, self.transform.flip


def run_pass(
    manifest: Manifest,
    backbone: Backbone,
    transform: Transform,
    *,
    choice: Choice,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Pass:
    """Features of all images of the manifest, and the rate: measured while they were forwarded, remembered from then,
    or measured now on a few images.

    Raises:
        BackboneError: the backbone cannot be run at this size.
    """
    began: list[float] = []
    ended: list[tuple[int, float]] = []

    def clock(done: int, total: int) -> None:
        now = time.perf_counter()
        if not done:
            began.append(now)
        ended[:] = [(done, now)]
        if progress is not None:
            progress(done, total)

    backbone = backbone.at(transform)  # a fixed input is built for its size
    found = extract(manifest, backbone, transform=transform, choice=choice, cache_dir=cache_dir, progress=clock)
    path = cache_dir / "features" / found.fingerprint / "rate.json"
    rate = None
    if found.num_forwarded >= MEASURED_IMAGES and began and ended and ended[0][1] > began[0]:
        rate = ended[0][0] / (ended[0][1] - began[0])
        _remember_rate(path, choice, rate, ended[0][0])
    if rate is None:
        rate = _recall_rate(path, choice)
    if rate is None:
        count = min(MEASURED_IMAGES, len(manifest))
        rate = _measure(manifest.select(np.arange(count)), backbone, transform, choice, cache_dir)
        _remember_rate(path, choice, rate, count)
    slices = getattr(backbone, "slices", None) or {"final": (0, found.num_features)}
    return Pass(
        backbone=backbone,
        transform=transform,
        values=found.values,
        slices={name: (int(low), int(high)) for name, (low, high) in slices.items()},
        images_per_second=rate,
        num_forwarded=found.num_forwarded,
        failed=found.failed,
        seconds=found.seconds,
    )


def _measure(manifest: Manifest, backbone: Backbone, transform: Transform, choice: Choice, cache_dir: Path) -> float:
    engine = open_engine(backbone, choice=choice, size=transform.size, cache_dir=cache_dir)

    def load(row: int) -> NDArray[np.uint8] | None:
        try:
            return preprocess(manifest.path(row).read_bytes(), transform)
        except (OSError, ImageError):
            return None

    rows = np.arange(len(manifest))
    began = 0.0
    # The first chunk of each thread opens its session: that is start-up, not rate.
    for part in (rows[: engine.chunk * engine.num_threads], rows):
        began = time.perf_counter()
        forward_images(part, load, engine=engine, size=transform.size, on_chunk=lambda *_: None)
    return len(rows) / max(time.perf_counter() - began, 1e-9)


def _machine(choice: Choice) -> str:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        cpu = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return f"{cpu} × {num_cores()}, {choice.engine} on {choice.device}"


def _recall_rate(path: Path, choice: Choice) -> float | None:
    try:
        return float(json.loads(path.read_text("utf-8"))[_machine(choice)]["images_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember_rate(path: Path, choice: Choice, rate: float, count: int) -> None:
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text("utf-8"))
    known = known if isinstance(known, dict) else {}
    known[_machine(choice)] = {"images_per_second": round(rate, 2), "num_images": count}
    with contextlib.suppress(OSError):  # a read-only cache measures again next time
        write_json(path, known)
