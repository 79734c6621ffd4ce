"""The classifier as scikit-learn knows classifiers: `fit(X, y)`, `predict(X)`, `predict_proba(X)`, `score(X, y)`.

X is a sequence of image paths, so that pipelines, `cross_val_score` and `GridSearchCV` work on files.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from regraft.config import FitConfig
from regraft.errors import DataError
from regraft.pipeline import fit
from regraft.predictor import Predictor, load


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A frozen backbone with a solved linear head, as a scikit-learn estimator.

    Args:
        backbone: a timm architecture or a local weights file.
        image_size: side of the input in pixels, or None for what the backbone was trained with.
        resize: auto, squash, crop or pad.
        engine: auto, openvino, torch or compiled.
        precision: auto, bf16 or fp32.
        metric: what the correction for rare classes is chosen for.
        seed: of the folds.
        cache_dir: folder for features, or None for the user's cache folder.

    Attributes:
        classes_: (K,) the labels that occurred, sorted.
        metrics_: the five measures with intervals, by cross-validation within the training data.

    Example:
        >>> ImageClassifier().fit(paths, labels).predict(["a.jpg"])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        backbone: str = "tf_efficientnet_lite0",
        image_size: int | None = None,
        resize: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
        metric: str = "macro_f1",
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.backbone = backbone
        self.image_size = image_size
        self.resize = resize
        self.engine = engine
        self.precision = precision
        self.metric = metric
        self.seed = seed
        self.cache_dir = cache_dir

    def fit(self, X: Sequence[str | Path], y: ArrayLike) -> ImageClassifier:
        """Solve the head on the images at paths X (n,) with labels y (n,).

        Raises:
            DataError: X and y differ in length, or the data do not allow a fit.
        """
        labels = np.asarray(y)
        if len(X) != len(labels):
            raise DataError(f"every image needs one label: {len(X)} images, {len(labels)} labels")
        self.classes_ = np.unique(labels)
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            manifest = Path(folder) / "images.csv"
            with manifest.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
                writer = csv.writer(stream)
                writer.writerow(["image", "label"])
                # Numbers stand for the labels, which may be anything, also words that a manifest would tidy up.
                numbers = np.searchsorted(self.classes_, labels).tolist()
                writer.writerows((Path(path).absolute(), f"class{k:06d}") for path, k in zip(X, numbers, strict=True))
            options = {name: value for name, value in self.get_params().items() if value is not None}
            run = fit(manifest, FitConfig.from_options({**options, "test": 0.0, "runs_dir": Path(folder) / "runs"}))
            # The bundle is small but its folder goes away: the predictor must have read all it needs.
            self._model = _loaded(run.path, self.cache_dir)
            self.metrics_ = run.metrics
        self._columns = np.array([int(name.removeprefix("class")) for name in self._model.class_names])
        return self

    def predict_proba(self, X: Sequence[str | Path]) -> NDArray[np.float64]:
        """float64 (n, K), columns as `classes_`; a class that had no usable image has probability 0.

        Raises:
            DataError: an image cannot be used.
        """
        check_is_fitted(self)
        found = self._model.predict_proba(X)
        if np.isnan(found).any():
            bad = str(X[int(np.flatnonzero(np.isnan(found).any(axis=1))[0])])
            raise DataError(f"an image must be readable to be classified: {bad!r} is not")
        probs = np.zeros((len(X), len(self.classes_)))
        probs[:, self._columns] = found
        return probs

    def predict(self, X: Sequence[str | Path]) -> NDArray[Any]:
        """(n,) the most probable label of each image."""
        probs = self.predict_proba(X)
        return np.asarray(self.classes_[np.argmax(probs, axis=1)])


def _loaded(run: Path, cache_dir: str | Path | None) -> Predictor:
    model = load(run, cache_dir=None if cache_dir is None else Path(cache_dir))
    _ = model.engine  # opened now: it holds the compiled backbone in memory
    return model
