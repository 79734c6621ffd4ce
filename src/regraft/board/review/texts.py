"""Many strings in two arrays: 100,000 reasons are one block of bytes, not 100,000 objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ERRORS = "surrogatepass"
"""A file name's odd bytes are lone surrogates in Python; they come back as they were."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Texts:
    """N strings, by number.

    Attributes:
        blob: uint8, all of them in UTF-8, one behind the other.
        ends: int64 (N,), where each ends.
    """

    blob: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, strings: Iterable[str]) -> Texts:
        """Pack strings."""
        packed = [text.encode("utf-8", _ERRORS) for text in strings]
        ends = np.cumsum(np.fromiter((len(text) for text in packed), np.int64, len(packed)), dtype=np.int64)
        return cls(blob=np.frombuffer(b"".join(packed), np.uint8), ends=ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self.ends):
            raise IndexError(f"texts are numbered from 0 to {len(self.ends) - 1}: {number} is none of them")
        begin = int(self.ends[number - 1]) if number else 0
        return self.blob[begin : int(self.ends[number])].tobytes().decode("utf-8", _ERRORS)

    def __iter__(self) -> Iterator[str]:
        whole, begin = self.blob.tobytes(), 0
        for end in self.ends.tolist():
            yield whole[begin:end].decode("utf-8", _ERRORS)
            begin = end

    def containing(self, words: str) -> NDArray[np.bool_]:
        """bool (N,): which hold these words, upper and lower case alike."""
        wanted = words.casefold()
        return np.fromiter((wanted in text.casefold() for text in self), np.bool_, len(self))
