"""Test-time augmentation on the command line: its options, and what it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from regraft.outcome import Evaluated
    from regraft.types import Interval, Manifest

Tta = Annotated[
    int | Literal["none"],
    Parameter(help="Test-time augmentation: the mean over so many views of each image, 1 to 64, or none."),
]
TtaFlip = Annotated[bool | None, Parameter(help="Mirrored views among them; by default where the training mirrored.")]


def num_views(tta: int | Literal["none"]) -> int | None:
    """As Python takes it."""
    return None if tta == "none" else tta


def change(manifest: Manifest, averaged: Evaluated, plain: Evaluated) -> dict[str, Interval]:
    """The five measures with test-time augmentation minus those without, paired, whole groups resampled.

    Raises:
        DataError: files changed between the two, so that the images are not the same.
    """
    import numpy as np

    from regraft.data.split import group_numbers
    from regraft.errors import DataError
    from regraft.evaluate.intervals import paired_difference

    ours, theirs = averaged.predictions, plain.predictions
    if not np.array_equal(np.asarray(ours.images), np.asarray(theirs.images)) or ours.labels is None:
        raise DataError("both evaluations need the same images: files changed meanwhile; evaluate again")
    labelled = manifest.select(manifest.labels >= 0)
    group_of = dict(zip(labelled.names, group_numbers(labelled).tolist(), strict=True))
    group_ids = np.array([group_of[str(name)] for name in ours.images], np.int64)
    return paired_difference(ours.labels, ours.pred_probs, theirs.pred_probs, group_ids=group_ids)


def print_change(num: int, found: dict[str, Interval]) -> None:
    """What it changed, as a table of differences."""
    from regraft.terminal import print_table

    rows = [
        (name.replace("_", " "), f"{value.estimate:+.3f}", f"{value.low:+.3f} to {value.high:+.3f}")
        for name, value in found.items()
    ]
    print()
    print_table(f"changed by averaging {num} views", ("measure", "difference", "95 % interval"), rows)
