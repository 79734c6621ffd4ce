"""In which order images are looked at: most errors per look first, with random controls at random places.

Controls are drawn from all images that nothing was found on, each with the same probability; what people say of them
is the only unbiased word on the images that the audit passed over. Nobody is told which they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

CONTROL_SHARE = 0.05
KINDS = ("outlier", "odd_image")
"""What is looked at one by one, behind the labels. Near-duplicates and leaks are looked at as pairs."""


def suspects(
    label_queue: NDArray[np.int64], issues: Mapping[str, NDArray[np.bool_]], scores: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.int64]:
    """Rows to look at, int64: flagged labels as the audit queues them, then outliers and odd images, worst first.

    Args:
        label_queue: int64, rows in the audit's order; empty where labels were not judged.
        issues: check to bool (N,).
        scores: check to float32 (N,).
    """
    found = [label_queue[issues["label"][label_queue]] if "label" in issues else label_queue[:0]]
    for kind in KINDS:
        if kind in issues:
            rows = np.setdiff1d(np.flatnonzero(issues[kind]), np.concatenate(found))
            found.append(rows[np.argsort(scores[kind][rows], kind="stable")])
    return np.concatenate(found).astype(np.int64)


def with_controls(
    suspects: NDArray[np.int64], num_images: int, *, seed: int | list[int], share: float = CONTROL_SHARE
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Mix controls into the suspects, one at a random place of every block of 1 / share, here 20.

    By blocks, so that who stops early has met as many controls per look as who does not.

    Args:
        suspects: int64 (S,), in the order of looking.
        num_images: N.
        seed: of the draw.
        share: of controls among all that is looked at.

    Returns:
        The order, int64 (S + C,), and bool (N,), True for controls: C = share / (1 - share) * S rounded up, or as many
        as there are other images.
    """
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(num_images), suspects)
    per_block = round(1 / share) - 1
    num = min(-(-len(suspects) // per_block), len(others))
    chosen = rng.choice(others, num, replace=False) if num else others[:0]
    starts = np.arange(num) * per_block
    places = starts + rng.integers(0, np.minimum(per_block, len(suspects) - starts) + 1) if num else starts
    controls = np.zeros(num_images, np.bool_)
    controls[chosen] = True
    return np.insert(suspects, places, chosen).astype(np.int64), controls
