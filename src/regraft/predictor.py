"""A trained classifier, loaded from its bundle and ready to look at new images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.errors import ImageError, UsageError
from regraft.export.bundle import Bundle, load_bundle
from regraft.features.engines import Engine, choose, open_engine
from regraft.features.forward import forward_images
from regraft.files import default_cache_dir
from regraft.images import Transform, preprocess
from regraft.types import Predictions

if TYPE_CHECKING:
    from regraft.augmentation.fixed_views import TestTime

Seen = TypeVar("Seen")

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

    @property
    def trained_mirrored(self) -> bool:
        """Whether the classes are the same in a mirror, as far as its training says: it mirrored at random."""
        details = self.bundle.config.get("details")
        return isinstance(details, dict) and details.get("flip") is True

    def stream(
        self,
        images: Iterable[str | Path],
        *,
        tta: int | None = None,
        tta_flip: bool | None = None,
        on_failure: Callable[[str, str], None] | None = None,
    ) -> Iterator[Predictions]:
        """Predictions of any number of images, 1,024 at a time, in their order.

        Args:
            images: paths; consumed as needed.
            tta, tta_flip: as in `predict_proba`.
            on_failure: called with (path, reason) for an image that cannot be used; its probabilities are NaN.

        Raises:
            UsageError: as in `predict_proba`.
        """
        wanted = self.test_time(tta, tta_flip)  # a wrong number is refused now, not at the first image
        paths = iter(images)
        windows = iter(lambda: [str(path) for path in itertools.islice(paths, WINDOW)], [])
        return (self._window(window, wanted, on_failure) for window in windows)

    def predict_proba(
        self,
        images: Iterable[str | Path],
        *,
        tta: int | None = None,
        tta_flip: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float64]:
        """float64 (N, K), columns in the order of `class_names`; a row of NaN where an image cannot be used.

        Args:
            images: paths.
            tta: test-time augmentation: the mean of the probabilities over so many views of each image, 1 to 64 (see
                `augmentation.fixed_views`), at so many times the cost. None or 1: the evaluated square alone, which is
                what the run's estimate and its calibration are of.
            tta_flip: whether mirrored views are among them; by default where the training mirrored.
            progress: called with (images done, images to do).

        Raises:
            UsageError: `tta` is not in 1 to 64, or `tta_flip` without views to mirror.
        """
        paths = [str(path) for path in images]
        probs = np.empty((len(paths), len(self.class_names)), np.float64)
        done = 0
        for part in self.stream(paths, tta=tta, tta_flip=tta_flip):
            probs[done : done + len(part)] = part.pred_probs
            done += len(part)
            if progress is not None:
                progress(done, len(paths))
        return probs

    def predict(
        self, images: Iterable[str | Path], *, tta: int | None = None, tta_flip: bool | None = None
    ) -> list[str | None]:
        """The most probable class of each image; None where an image cannot be used."""
        probs = self.predict_proba(images, tta=tta, tta_flip=tta_flip)
        return [None if np.isnan(row).any() else self.class_names[int(np.argmax(row))] for row in probs]

    def test_time(self, tta: int | None, flip: bool | None) -> TestTime | None:
        """What `tta` and `tta_flip` ask for, settled; None for the evaluated square alone.

        Raises:
            UsageError: as in `predict_proba`.
        """
        if tta is not None:
            from regraft.augmentation.fixed_views import TestTime

            wanted = TestTime(num_views=tta, flip=self.trained_mirrored if flip is None else flip)
            if wanted.num_views > 1:
                return wanted
        if flip:
            raise UsageError(f"mirrored views are views: tta_flip needs tta of at least 2, and it is {tta}")
        return None

    def _window(
        self, paths: list[str], wanted: TestTime | None, on_failure: Callable[[str, str], None] | None
    ) -> Predictions:
        probs = np.full((len(paths), len(self.class_names)), np.nan)
        reasons: dict[int, str] = {}
        transform, pred_probs = self.bundle.transform, self.bundle.head.pred_probs

        def read(number: int, see: Callable[[bytes, Transform], Seen]) -> Seen | None:
            try:
                return see(Path(paths[number]).read_bytes(), transform)
            except ImageError as error:
                reasons[number] = str(error)
            except OSError as error:
                reasons[number] = error.strerror or type(error).__name__
            except ValueError as error:  # a path that holds a zero byte
                reasons[number] = str(error)
            return None

        def load(number: int) -> NDArray[np.uint8] | None:
            return read(number, preprocess)

        keep: Callable[[NDArray[np.int64], NDArray[np.float64]], None] = probs.__setitem__
        num_views = 1
        if wanted is not None:
            from regraft.augmentation.fixed_views import MeanOfViews, ViewsOnce, fixed_views

            num_views, see = wanted.num_views, functools.partial(fixed_views, wanted=wanted)
            load, keep = ViewsOnce(lambda number: read(number, see), num_views), MeanOfViews(probs, num_views)

        def on_chunk(_: NDArray[np.int64], good: NDArray[np.int64], features: NDArray[np.float32]) -> None:
            if len(good):
                keep(good, pred_probs(features))

        numbers = np.arange(len(paths) * num_views)
        forward_images(numbers, load, engine=self.engine, size=transform.size, on_chunk=on_chunk)
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
