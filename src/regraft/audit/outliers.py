"""Images that belong nowhere, or not in their class: far from their neighbours, or from the classes' centres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.audit.mahalanobis import class_distances
from regraft.audit.neighbours import CHUNK, nearest
from regraft.audit.robust import score_of, unusual
from regraft.errors import DataError, UsageError
from regraft.types import IssueColumn

LIMIT = 3.0
"""Robust standard deviations above the median from which an image is called an outlier. It flags 0.15 % of 4,000
images of Fashion-MNIST and finds all of 20 drawings planted among them; 1.4 % of 6,000 drawings of openclipart."""
NUM_NEIGHBOURS = 10
FEWEST = 20
"""Images a class needs before distances within it are judged by the class's own spread."""


class Detector(Protocol):
    """PyOD's protocol: `fit(X)` on float (N, D), then `decision_scores_` (N,), larger is more abnormal."""

    decision_scores_: NDArray[Any]

    def fit(self, X: NDArray[Any]) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outliers:
    """What was found.

    Attributes:
        column: per image; its score is that of the measure that finds it most unusual, 0.5 at the limit.
        off_topic: bool (N,), True where an image is unusual in the data set as a whole, not only in its class.
        measures: name to float64 (N,), in robust standard deviations above the median: `neighbours`, `centres` (of
            the whole), `class_neighbours`, `class_centre`, and a detector's own name.
        too_small: classes with too few images to judge by their own spread.
    """

    column: IssueColumn
    off_topic: NDArray[np.bool_]
    measures: dict[str, NDArray[np.float64]]
    too_small: NDArray[np.int64]


def find_outliers(
    features: NDArray[Any],
    labels: NDArray[np.integer],
    *,
    group_ids: NDArray[np.integer] | None = None,
    class_names: Sequence[str] | None = None,
    detectors: Mapping[str, Detector] | None = None,
    neighbours: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None,
    limit: float = LIMIT,
    chunk: int = CHUNK,
) -> Outliers:
    """Search by four measures, and by those of `detectors`.

    - neighbours: mean cosine distance to the 10 nearest images of other groups (Ramaswamy et al. 2000)
    - class_neighbours: the same within the class, compared with the class's own images
    - centres: Mahalanobis distance to the nearest class centre, under one covariance of all classes, shrunk as Ledoit
      & Wolf (2004) say (Lee et al. 2018, without their perturbation)
    - class_centre: to the centre of the own class, compared with the class's own images

    Distances are compared by their logarithm. An image is an issue where a measure lies above `limit`; it is off topic
    where `neighbours` and `centres` together (their mean) do, or one of the detectors.

    Args:
        features: float16 or float32 (N, D), finite.
        labels: int (N,), 0..K-1, or -1 where unknown: then only the whole counts.
        group_ids: int (N,); near-duplicates and groups, which do not vouch for each other.
        class_names: K names for the reasons.
        detectors: name to an object with PyOD's protocol (`outlier_plugin.pyod_detector`), each fitted here.
        neighbours: what `nearest` gave for these features without groups and k above 10, to search less.
        limit: above 0.
        chunk: rows of a block.

    Raises:
        UsageError: a limit that is not positive.
        DataError: columns that do not fit together, or a detector without one score per image.
    """
    num = len(features)
    given = np.array(labels, np.int64)
    if limit <= 0:
        raise UsageError(f"a limit in standard deviations is above 0: {limit=}")
    if len(given) != num or (group_ids is not None and len(group_ids) != num):
        raise DataError(f"one label and one group per image: {num} rows of features, {len(labels)} labels")
    groups = np.arange(num) if group_ids is None else np.asarray(group_ids)
    whole = _neighbour_distance(features, groups, chunk, neighbours)
    nearest_centre, own_centre = class_distances(features, given)
    inside = np.full(num, np.nan)
    measures = {name: np.zeros(num) for name in ("neighbours", "centres", "class_neighbours", "class_centre")}
    measures["neighbours"] = unusual(_log(whole))
    measures["centres"] = unusual(_log(nearest_centre))
    too_small = []
    for label in np.unique(given[given >= 0]).tolist():
        rows = np.flatnonzero(given == label)
        if len(rows) < FEWEST:
            too_small.append(label)
            continue
        inside[rows] = _neighbour_distance(features[rows], groups[rows], chunk)
        measures["class_neighbours"][rows] = unusual(_log(inside[rows]))
        measures["class_centre"][rows] = unusual(_log(own_centre[rows]))
    for name, detector in (detectors or {}).items():
        detector.fit(np.asarray(features, np.float32))
        found = np.asarray(detector.decision_scores_, np.float64)
        if found.shape != (num,):
            raise DataError(f"a detector gives one score per image: {name!r} gave {found.shape} for {num} images")
        measures[name] = unusual(found)
    off_topic = (measures["neighbours"] + measures["centres"]) / 2 > limit
    for name in detectors or {}:
        off_topic |= measures[name] > limit
    worst = np.max(list(measures.values()), axis=0)
    is_issue = (worst > limit) | off_topic
    middle = {"whole": float(np.median(whole)) if num else 0.0}
    names = list(measures)
    reasons = [""] * num
    for row in np.flatnonzero(is_issue).tolist():
        measure = names[int(np.argmax([measures[name][row] for name in names]))]
        label = int(given[row])
        of_class = "" if label < 0 else f" its class {class_names[label]!r}" if class_names else f" class {label}"
        words = {
            "neighbours": f"its {NUM_NEIGHBOURS} nearest images are {whole[row]:.2f} away on average (cosine); for "
            f"half of the images it is {middle['whole']:.2f} or less",
            "centres": "it is far from every class's centre (Mahalanobis)",
            "class_neighbours": f"its nearest images in{of_class} are {inside[row]:.2f} away on average (cosine)",
            "class_centre": f"it is far from the centre of{of_class} (Mahalanobis)",
        }.get(measure, f"the detector {measure!r} finds it unusual")
        where = (
            "unlike the other images" if off_topic[row] or measure in ("neighbours", "centres") else f"unlike{of_class}"
        )
        reasons[row] = f"{where}: {words}, {measures[measure][row]:.1f} standard deviations above the median"
    score = score_of(worst / limit)
    score[is_issue] = np.minimum(score[is_issue], np.nextafter(0.5, 0))
    return Outliers(
        column=IssueColumn(is_issue=is_issue, score=score, reasons=reasons),
        off_topic=off_topic,
        measures=measures,
        too_small=np.array(too_small, np.int64),
    )


def _neighbour_distance(
    features: NDArray[Any],
    groups: NDArray[np.integer],
    chunk: int,
    known: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None,
) -> NDArray[np.float64]:
    """Mean cosine distance (N,) to the nearest images of other groups; NaN where there are none."""
    wanted = min(NUM_NEIGHBOURS, len(features) - 1)
    if known is not None:
        indices, similar = known
        stranger = (indices >= 0) & (groups[indices] != groups[:, None])
        used = stranger & (np.cumsum(stranger, axis=1) <= NUM_NEIGHBOURS)
        if (used.sum(axis=1) >= wanted).all():  # else some image's group holds most of its neighbours
            return np.asarray(np.where(used, 1.0 - similar.astype(np.float64), 0.0).sum(axis=1) / used.sum(axis=1))
    found, similarity = nearest(features, NUM_NEIGHBOURS, group_ids=groups, chunk=chunk)
    real = found >= 0
    total = np.where(real, 1.0 - similarity.astype(np.float64), 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / real.sum(axis=1))


def _log(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(distances, 1e-6)))
