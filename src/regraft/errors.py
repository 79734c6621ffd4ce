"""Every error a user can meet.

    RegraftError                      exit code 1: the work failed
    ├── UsageError                    exit code 2: a wrong word on the command line, in a config or in a call
    │   └── MissingExtraError         an optional package is not installed
    ├── DataError                     exit code 3: the data do not allow it
    │   └── ImageError                one image cannot be used (collected and counted by the scan, never fatal there)
    ├── BackboneError                 a backbone cannot be found, built or loaded
    │   └── SplitError                the end of the backbone cannot be found in a model
    ├── TrainingError                 a fit cannot go on: the loss is not finite, not even one image fits in memory
    │   └── CheckpointError           a checkpoint cannot be read, or is of another model
    └── BundleError                   a saved model is missing, damaged or not ours

Messages are one line: the rule, then the value, then the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegraftError(Exception):
    """The root: catch this to catch everything regraft raises on purpose."""

    exit_code = 1


class UsageError(RegraftError, ValueError):
    """A wrong word on the command line, in a config or in a call."""

    exit_code = 2


class MissingExtraError(UsageError, ImportError):
    """An optional package is not installed; the message names the exact `pip install`."""


class DataError(RegraftError, ValueError):
    """The data do not allow what was asked for."""

    exit_code = 3


class ImageError(DataError):
    """One image cannot be used.

    Attributes:
        kind: the same short stable word as in `Finding.kind`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.kind, str(self))


class BackboneError(RegraftError):
    """A backbone cannot be found, built or loaded."""


class SplitError(BackboneError, ValueError):
    """The place where the backbone ends and the classifier begins cannot be found."""


class TrainingError(RegraftError):
    """A fit cannot go on: the loss is not finite, or not even one image fits in memory."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read, or belongs to another model or data set."""


class BundleError(RegraftError):
    """A saved model is missing, damaged, or was not written by regraft."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
