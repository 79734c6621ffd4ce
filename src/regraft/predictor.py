"""A trained classifier, loaded from its bundle and ready to look at new images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import ImageError
from regraft.export.bundle import Bundle, load_bundle
from regraft.features.engines import Engine, choose, open_engine
from regraft.features.forward import forward_images
from regraft.files import default_cache_dir
from regraft.images import preprocess
from regraft.types import Predictions

WINDOW = 1024
"""Images that are in flight at once while streaming."""


class Predictor:
    """Predicts the classes of image files.

    Args:
        bundle: what `load_bundle` gave.
        engine: which engine runs the backbone; `auto` picks the fastest here.
        cache_dir: where converted backbones are kept.
    """

    def __init__(self, bundle: Bundle, *, engine: str = "auto", cache_dir: Path | None = None) -> None:
        self.bundle = bundle
        self._engine_name = engine
        self._cache_dir = cache_dir if cache_dir is not None else default_cache_dir()

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names, in the order of the columns of `predict_proba`."""
        return self.bundle.class_names

    @cached_property
    def engine(self) -> Engine:
        """The opened engine; the first use compiles the backbone."""
        choice = choose(self._engine_name, self.bundle.precision)
        size = self.bundle.transform.size
        return open_engine(self.bundle.backbone, choice=choice, size=size, cache_dir=self._cache_dir)

    def stream(
        self, images: Iterable[str | Path], *, on_failure: Callable[[str, str], None] | None = None
    ) -> Iterator[Predictions]:
        """Predictions of any number of images, 1,024 at a time, in their order.

        Args:
            images: paths; consumed as needed.
            on_failure: called with (path, reason) for an image that cannot be used; its probabilities are NaN.
        """
        paths = iter(images)
        while window := [str(path) for path in itertools.islice(paths, WINDOW)]:
            yield self._window(window, on_failure)

    def predict_proba(
        self, images: Iterable[str | Path], *, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float64]:
        """float64 (N, K), columns in the order of `class_names`; a row of NaN where an image cannot be used."""
        paths = [str(path) for path in images]
        probs = np.empty((len(paths), len(self.class_names)), np.float64)
        done = 0
        for part in self.stream(paths):
            probs[done : done + len(part)] = part.pred_probs
            done += len(part)
            if progress is not None:
                progress(done, len(paths))
        return probs

    def predict(self, images: Iterable[str | Path]) -> list[str | None]:
        """The most probable class of each image; None where an image cannot be used."""
        probs = self.predict_proba(images)
        return [None if np.isnan(row).any() else self.class_names[int(np.argmax(row))] for row in probs]

    def _window(self, paths: list[str], on_failure: Callable[[str, str], None] | None) -> Predictions:
        probs = np.full((len(paths), len(self.class_names)), np.nan)
        reasons: dict[int, str] = {}

        def load(number: int) -> NDArray[np.uint8] | None:
            try:
                return preprocess(Path(paths[number]).read_bytes(), self.bundle.transform)
            except ImageError as error:
                reasons[number] = str(error)
            except OSError as error:
                reasons[number] = error.strerror or type(error).__name__
            except ValueError as error:  # a path that holds a zero byte
                reasons[number] = str(error)
            return None

        def on_chunk(_: NDArray[np.int64], good: NDArray[np.int64], features: NDArray[np.float32]) -> None:
            if len(good):
                probs[good] = self.bundle.head.pred_probs(features)

        numbers = np.arange(len(paths))
        size = self.bundle.transform.size
        forward_images(numbers, load, engine=self.engine, size=size, on_chunk=on_chunk)
        if on_failure is not None:
            for number in sorted(reasons):
                on_failure(paths[number], reasons[number])
        return Predictions(images=paths, pred_probs=probs, class_names=self.class_names)


def load(path: str | Path, *, engine: str = "auto", cache_dir: Path | None = None) -> Predictor:
    """Load a trained classifier from a run folder or a bundle. Nothing in it is executed.

    Raises:
        BundleError: missing, incomplete, damaged, or not a bundle.

    Example:
        >>> load("runs/photos/1").predict(["a.jpg"])  # doctest: +SKIP
        ['daisy']
    """
    return Predictor(load_bundle(Path(path)), engine=engine, cache_dir=cache_dir)
