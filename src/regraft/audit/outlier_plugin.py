"""PyOD's detectors by name: `pip install 'regraft[pyod]'`. The only file that imports it."""

from __future__ import annotations

from typing import cast

from regraft._imports import try_import
from regraft.audit.outliers import Detector
from regraft.errors import UsageError, nearest

NAMES = {"iforest": "IForest", "ecod": "ECOD", "copod": "COPOD", "lof": "LOF", "pca": "PCA", "hbos": "HBOS"}


def pyod_detector(name: str) -> Detector:
    """A detector with its own defaults, for `find_outliers(detectors={name: …})`.

    Raises:
        UsageError: no such name.
        MissingExtraError: PyOD is not installed.
    """
    if name not in NAMES:
        raise UsageError(f"a detector is one of {', '.join(NAMES)}, not {name!r}{nearest(name, NAMES)}")
    module = try_import(f"pyod.models.{name}", extra="pyod")
    return cast(Detector, getattr(module, NAMES[name])())
