"""Test-time augmentation: the mean of the probabilities over the evaluated square and parts of it, for every run alike.

A view is cut from the evaluated square drawn larger, as 224 of 256 pixels are cut from a picture for ten-crop testing
(Krizhevsky, Sutskever & Hinton 2012): same decoder, same policy, one resampling. It shows 7/8 or more of each side, in
the middle, the corners and along the edges. Nothing is drawn at random, and colours stay as they are.

Probabilities are averaged, as there, not their logarithms: a view that cuts the object and is sure of another class has
one vote in N, where the mean of logarithms would let it veto. Even so the mean can turn right answers wrong (Shanmugam,
Blalock, Balakrishnan & Guttag 2021), so that it is off unless asked for, and measured by `evaluate`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.images import Transform, preprocess

MOST = 64
"""Views without a mirror: the evaluated square and 9 places at 7 shares of its side."""

SHARES = (28 / 32, 30 / 32, 29 / 32, 31 / 32, 57 / 64, 59 / 64, 61 / 64)
"""Of the evaluated square's side, in the order in which they are taken."""

PLACES = (
    (0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0),
)  # fmt: skip
"""Down and right as a part of what is left over: the middle, then opposite corners, then opposite edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestTime:
    """What is averaged for an image.

    Attributes:
        num_views: 1 to 64, the evaluated square included; 1 is no augmentation.
        flip: each view also left to right, right after itself; they count among `num_views`.
    """

    __test__ = False  # no test case, whatever pytest makes of the name

    num_views: int = 1
    flip: bool = False

    def __post_init__(self) -> None:
        if type(self.num_views) is bool or not isinstance(self.num_views, int) or not 1 <= self.num_views <= MOST:
            raise UsageError(
                f"test-time augmentation averages 1 to {MOST} views, a whole number: {self.num_views!r} is not; "
                "8 is a good try, none is off"
            )


def fixed_views(data: bytes, transform: Transform, wanted: TestTime) -> list[NDArray[np.uint8]]:
    """The first `num_views` views of an image, uint8 (size, size, 3) each; the first is the evaluated square.

    Raises:
        ImageError: the file cannot be decoded.
    """
    size = transform.size
    squares: dict[int, NDArray[np.uint8]] = {size: preprocess(data, transform)}
    found = [squares[size]]
    for number in range(wanted.num_views):
        if number:
            share, (down, right) = SHARES[(number - 1) // len(PLACES)], PLACES[(number - 1) % len(PLACES)]
            side = round(size / share)
            if side not in squares:
                squares[side] = preprocess(data, replace(transform, size=side))
            top, left = int(down * (side - size)), int(right * (side - size))
            found.append(np.ascontiguousarray(squares[side][top : top + size, left : left + size]))
        if wanted.flip:
            found.append(np.ascontiguousarray(found[-1][:, ::-1]))
        if len(found) >= wanted.num_views:
            break
    return found[: wanted.num_views]


@dataclass(slots=True, eq=False)
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    views: list[NDArray[np.uint8]] | None = None
    left: int = -1


class ViewsOnce:
    """Hands out single views; each image is decoded once for all of them, whichever threads ask.

    Args:
        make: the views of image number i, or None where it cannot be used.
        num_views: of each image. View number v of image i has the number i × num_views + v and is asked for once.
    """

    def __init__(self, make: Callable[[int], list[NDArray[np.uint8]] | None], num_views: int) -> None:
        self._make, self._num_views = make, num_views
        self._lock = threading.Lock()
        self._shared: dict[int, _Shared] = {}

    def __call__(self, number: int) -> NDArray[np.uint8] | None:
        image, view = divmod(number, self._num_views)
        with self._lock:
            shared = self._shared.setdefault(image, _Shared())
        with shared.lock:
            if shared.left < 0:
                shared.views, shared.left = self._make(image), self._num_views
            shared.left -= 1
            done = not shared.left
        if done:
            with self._lock:
                del self._shared[image]
        return None if shared.views is None else shared.views[view]


class MeanOfViews:
    """Averages probabilities over the views of each image as they arrive, from several threads in any order.

    The sum is taken when the last view is there, in the order of the views: the result does not depend on threads.

    Args:
        probs: float64 (n, K), filled row by row; a row whose views do not all arrive stays as it is.
        num_views: of each image; numbered as in `ViewsOnce`.
    """

    def __init__(self, probs: NDArray[np.float64], num_views: int) -> None:
        self._probs, self._num_views = probs, num_views
        self._lock = threading.Lock()
        self._waiting: dict[int, dict[int, NDArray[np.float64]]] = {}

    def __call__(self, numbers: NDArray[np.int64], found: NDArray[np.float64]) -> None:
        """Take the probabilities (m, K) of the views with these numbers (m,)."""
        with self._lock:
            for number, row in zip(numbers.tolist(), found, strict=True):
                image, view = divmod(number, self._num_views)
                arrived = self._waiting.setdefault(image, {})
                arrived[view] = row
                if len(arrived) == self._num_views:
                    self._probs[image] = np.mean([arrived[v] for v in range(self._num_views)], axis=0)
                    del self._waiting[image]
