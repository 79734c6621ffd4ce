"""Images that are dark, blank, blurred, tiny, of extreme aspect, framed by bars, or grey among coloured ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.audit.robust import score_of, unusual
from regraft.errors import DataError
from regraft.types import IssueColumn

KINDS = ("unreadable", "dark", "blank", "blurred", "tiny", "aspect", "borders", "greyscale")

DARK = 60.0
"""Grey level, of 255, that even the brightest hundredth of a dark image does not reach."""
BLANK = 0.995
"""Share of pixels of one colour."""
SHARP = 0.08
"""Sharpness above which no image is called blurred, whatever the others are."""
TINY = 0.25
"""Of the median length of the shorter side, and never above `TINY_PIXELS`."""
TINY_PIXELS = 64
ASPECT = 3.0
"""Longer by shorter side, compared with the median image's."""
BORDER = 0.06
"""Share of the height or width that bars on two opposite sides take together."""
GREY = 12.0
"""Levels by which channels differ in a grey image, at most, but for JPEG noise."""
RARE = 0.05
"""Where more images than this are grey, or have bars, that is how these data are, and no oddity."""
UNUSUAL = 4.0
"""Robust standard deviations from the median, for blur."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OddImages:
    """What was found.

    Attributes:
        column: per image; 0.5 at the threshold of the kind that is furthest beyond its own.
        kinds: kind to bool (N,), one of `KINDS`.
        notes: what was not judged, and why, one sentence each.
    """

    column: IssueColumn
    kinds: dict[str, NDArray[np.bool_]]
    notes: tuple[str, ...]


def find_odd_images(records: NDArray[Any], sizes: NDArray[np.integer]) -> OddImages:
    """Judge the measures of all images together.

    Args:
        records: RECORD (N,), see `pixel_measures`.
        sizes: int (N, 2), height and width of the files in pixels.

    Raises:
        DataError: columns that do not fit together.
    """
    num = len(records)
    if sizes.shape != (num, 2):
        raise DataError(f"one height and width per image: {num} records, but sizes of shape {sizes.shape}")
    valid = records["valid"]
    excess = {kind: np.zeros(num) for kind in KINDS}
    words: dict[str, Any] = {}
    notes = []

    excess["unreadable"] = np.where(valid, 0.0, 10.0)
    words["unreadable"] = lambda row: "it could not be decoded"
    blank = records["one_colour"] >= BLANK
    excess["blank"] = np.where(blank, 1.0 + 1e-6 + (records["one_colour"] - BLANK) / (1 - BLANK), 0.0)
    words["blank"] = lambda row: f"blank: {records['one_colour'][row]:.1%} of it is one colour"
    excess["dark"] = np.where(records["light"] < DARK, 2.0 - records["light"] / DARK, 0.0)
    words["dark"] = lambda row: f"dark: 99 % of it is at grey level {records['light'][row]:.0f} of 255 or below"

    judged = valid & ~blank & (records["sharpness"] > 0)
    sharpness = np.where(judged, records["sharpness"], np.nan).astype(np.float64)
    softness = unusual(-np.log(sharpness))
    blurred = judged & (softness > UNUSUAL) & (records["sharpness"] < SHARP)
    excess["blurred"] = np.where(blurred, softness / UNUSUAL, 0.0)
    usual = float(np.nanmedian(sharpness)) if judged.any() else 0.0
    words["blurred"] = lambda row: f"blurred: sharpness {sharpness[row]:.3f}, and {usual:.3f} is usual here"

    shorter, longer = sizes.min(axis=1).astype(np.float64), sizes.max(axis=1).astype(np.float64)
    middle = float(np.median(shorter)) if num else 0.0
    least = min(TINY * middle, TINY_PIXELS)
    excess["tiny"] = np.where(shorter < least, least / np.maximum(shorter, 1), 0.0)
    words["tiny"] = lambda row: (
        f"tiny: {sizes[row, 1]} x {sizes[row, 0]} pixels, and the shorter side is mostly {middle:.0f}"
    )
    slant = np.log(np.maximum(sizes[:, 0], 1) / np.maximum(sizes[:, 1], 1))
    usual_slant = float(np.median(slant)) if num else 0.0
    away = np.minimum(np.abs(slant - usual_slant), np.abs(slant))  # a square among panoramas is not odd
    excess["aspect"] = np.where(away > np.log(ASPECT), away / np.log(ASPECT), 0.0)
    words["aspect"] = lambda row: f"extreme shape: its sides are {longer[row] / max(shorter[row], 1):.1f} to 1"

    top, bottom, left, right = records["borders"].T.astype(np.float64)
    lying = np.where((top > 0) & (bottom > 0), top + bottom, 0.0)
    both = np.maximum(lying, np.where((left > 0) & (right > 0), left + right, 0.0))
    framed = valid & (both > BORDER)
    grey = valid & (records["colour"] <= GREY)
    for kind, found, what in (("borders", framed, "have bars"), ("greyscale", grey, "are grey")):
        share = found.sum() / max(valid.sum(), 1)
        if share > RARE:
            notes.append(f"{share:.0%} of the images {what}: taken as usual for these data")
        else:
            excess[kind] = np.where(found, 1.0 + 1e-6 + (both / BORDER - 1 if kind == "borders" else 0.0), 0.0)
    words["borders"] = lambda row: f"bars of one colour take {both[row]:.0%} of its height or width"
    words["greyscale"] = lambda row: (
        f"grey among coloured images: its channels differ by {records['colour'][row]:.0f} levels at most"
    )

    found_kinds = {kind: excess[kind] > 1 for kind in KINDS}
    reasons = [""] * num
    for row in np.flatnonzero(np.any(list(found_kinds.values()), axis=0)).tolist():
        own = [kind for kind in KINDS if found_kinds[kind][row]]
        own.sort(key=lambda kind: -excess[kind][row])
        reasons[row] = "; ".join(words[kind](row) for kind in own)
    score = score_of(np.max(list(excess.values()), axis=0))
    is_issue = np.array([bool(r) for r in reasons], np.bool_)
    return OddImages(
        column=IssueColumn(is_issue=is_issue, score=score, reasons=reasons), kinds=found_kinds, notes=tuple(notes)
    )
