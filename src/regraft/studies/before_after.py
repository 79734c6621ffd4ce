"""One measure of two heads on the same images, with the paired interval of the difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.calibration import softmax
from regraft.evaluate.intervals import group_bootstrap, paired_difference
from regraft.fit.selection import Metric
from regraft.types import JSON, Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeAfter:
    """One measure of both heads on the same images.

    Attributes:
        before: of the head solved with the labels as given.
        after: of the head solved with the labels as corrected.
        difference: after - before, from the same resamples of groups.
        num_images: that were judged.
    """

    before: Interval
    after: Interval
    difference: Interval
    num_images: int

    @property
    def words(self) -> str:
        """`+1.2 points (+0.4 to +2.0), better`."""
        gap = self.difference
        said = "better" if gap.low > 0 else "worse" if gap.high < 0 else "unresolved: the interval holds 0"
        return f"{100 * gap.estimate:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}), {said}"

    def as_dict(self) -> JSON:
        """For JSON."""
        return {
            "before": self.before.as_dict(), "after": self.after.as_dict(), "difference": self.difference.as_dict(),
            "num_images": self.num_images,
        }  # fmt: skip


def compared(
    truth: NDArray[np.int64], old: NDArray[np.float32], new: NDArray[np.float32], groups: NDArray[np.int64],
    metric: Metric, seed: int, repeats: int = 1,
) -> BeforeAfter:  # fmt: skip
    """Both heads' logits (n, K) of the same images, judged by the same labels.

    Args:
        truth: int64 (n,), 0..K-1; an image that was held out several times is there as often.
        old: logits before.
        new: logits after.
        groups: int64 (n,); rows of one group are resampled together.
        metric: which measure.
        seed: of the resamples.
        repeats: how often each image is there.
    """
    old_probs, new_probs = softmax(old), softmax(new)
    return BeforeAfter(
        before=group_bootstrap(truth, old_probs, group_ids=groups, seed=seed)[metric],
        after=group_bootstrap(truth, new_probs, group_ids=groups, seed=seed)[metric],
        difference=paired_difference(truth, new_probs, old_probs, group_ids=groups, seed=seed)[metric],
        num_images=len(truth) // repeats,
    )
