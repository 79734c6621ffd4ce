"""Run an engine over many images: each thread decodes a chunk and forwards it on a session of its own.

Decoding and the backbone compete for the same cores, so there is nothing to hide behind queues: two threads that do
both ran 300 to 338 images/s where worker processes reached 179. On a GPU the same threads keep it fed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regraft.features.engines import Engine

Load = Callable[[int], NDArray[np.uint8] | None]
"""Pixels uint8 (size, size, 3) of image number i, or None where it cannot be used."""

OnChunk = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], None]
"""Called on the worker threads with (numbers asked for, numbers that could be used, their features)."""


def forward_images(numbers: NDArray[np.int64], load: Load, *, engine: Engine, size: int, on_chunk: OnChunk) -> None:
    """Load and forward the images with these numbers, in chunks, in order of dispatch.

    Args:
        numbers: int64 (n,), passed to `load`.
        load: gives the pixels; called on several threads.
        engine: an opened engine.
        size: side of the input in pixels.
        on_chunk: receives each chunk's features, float32 (m, D); called on several threads at once.

    Raises:
        whatever `on_chunk` or the engine raises, after the other threads have finished their chunk. An interrupt
        (Ctrl-C) stops all threads after their chunk too.
    """
    chunks = [numbers[start : start + engine.chunk] for start in range(0, len(numbers), engine.chunk)]
    turn = itertools.count()  # next() on it is atomic
    stop = threading.Event()

    def work() -> None:
        forward = engine.session()
        batch = np.zeros((engine.chunk, size, size, 3), np.uint8)
        while not stop.is_set() and (position := next(turn)) < len(chunks):
            good: list[int] = []
            for number in chunks[position].tolist():
                pixels = load(number)
                if pixels is not None:
                    batch[len(good)] = pixels
                    good.append(number)
            # The rest of the batch holds old pixels: an image's features do not depend on its neighbours.
            values = forward(batch)[: len(good)] if good else np.empty((0, 0), np.float32)
            on_chunk(chunks[position], np.array(good, np.int64), values)

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            stop.set()

    errors: list[BaseException] = []
    num_threads = min(engine.num_threads, len(chunks))
    threads = [threading.Thread(target=guarded, name=f"forward-{k}") for k in range(num_threads)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        _wait_out(threads)
    if errors:
        raise errors[0]


def _wait_out(threads: list[threading.Thread]) -> None:
    """Wait until all have finished their chunk, however often Ctrl-C is pressed.

    Leaving earlier would pull the engine from under a running call, and the process hung.
    """
    while alive := [thread for thread in threads if thread.is_alive()]:
        with contextlib.suppress(KeyboardInterrupt):
            alive[0].join()
