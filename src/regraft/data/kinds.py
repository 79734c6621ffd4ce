"""What the scan can say about an image: one short stable word each, and what it means.

The words stand in `Finding.kind`, in `scan --json` and in the issues table's reasons; scripts rely on them.
"""

from __future__ import annotations

import re
import unicodedata

from regraft.types import printable

__all__ = ["BAD_FILES", "KINDS", "LEFT_OUT", "REMARKS", "REVIEW_KINDS", "SPLIT_KINDS", "folded", "printable"]

BAD_FILES: dict[str, str] = {
    "zero_byte": "the file is empty",
    "truncated": "the file is cut off",
    "corrupt": "the file is damaged",
    "not_an_image": "the file is not an image",
    "unsupported_format": "an image format that is not decoded",
    "too_large": "more pixels or bytes than are safe to decode",
    "unreadable": "the file or folder may not be read",
    "missing_file": "there is no such file",
    "vanished": "the file went away during the scan",
    "broken_link": "a link that leads nowhere",
    "link_loop": "a link that leads back to itself or to a folder that was read already",
    "special_file": "a pipe, socket or device",
    "is_directory": "a folder whose name promises an image",
}
"""The file cannot be used at all; always left out."""

LEFT_OUT: dict[str, str] = {
    **BAD_FILES,
    "unlabelled": "no class is known for it",
    "exact_duplicate": "the same bytes and label as an image that stays",
    "leaked_duplicate": "the same bytes and label as an image of a given test or validation split",
    "conflicting_duplicate": "the same bytes under different labels, so that no label can be trusted",
    "rare_class": "its class has fewer than two usable images",
}
"""Kinds that leave an image out of the fit."""

REMARKS: dict[str, str] = {
    "wrong_extension": "the name promises another format; the content was used",
    "animated": "several frames; the first was used",
    "similar_label": "its label differs from another only in case, spaces, hyphens or Unicode form",
    "listed_twice": "the manifest lists it more than once, in the same way",
}
"""Kinds that keep the image and say something about it."""

SPLIT_KINDS: dict[str, str] = {
    "group_leak": "its group is also in the given test split",
    "duplicate_leak": "the same bytes are also in the given test split",
    "near_duplicate_leak": "nearly the same picture is also in the test set",
    "test_only_class": "its class is in the given test split alone, so that it cannot be learnt",
    "one_group_class": "all of its class are in one group, so that cross-validation cannot measure it",
}
"""Kinds that the split adds."""

REVIEW_KINDS: dict[str, str] = {
    "excluded_by_review": "a reviewer left it out",
    "ambiguous_by_review": "by review its picture does not tell its class",
    "duplicate_by_review": "by review it is the same picture as another one that stays",
    "relabelled_by_review": "by review it is of another class than given",
}
"""Kinds that decisions of reviewers add."""

KINDS: dict[str, str] = {**LEFT_OUT, **REMARKS, **SPLIT_KINDS, **REVIEW_KINDS}


def folded(label: str) -> str:
    """A label without what people type differently: case, spaces, hyphens, underscores, Unicode form."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", label).casefold())
