"""The regularisation path: every fold of every repeat, and all rows, from the strongest penalty to the weakest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.fit.backend import Backend
from regraft.fit.multinomial import ABSENT, Batch, make_batch, solve
from regraft.fit.spectrum import Spectrum

FINAL_TOLERANCE = 1e-9
_MAX_ITERATIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solved:
    """All problems at one strength.

    Attributes:
        held_out: float32 (R, N, K), for each repeat log-probabilities by the fold's head that did not see the row.
        head: float32 (K, r + 1), solved on all rows, in the basis of the spectrum.
        iterations: of all problems together.
        converged: whether every problem reached the tolerance.
    """

    held_out: NDArray[np.float32]
    head: NDArray[np.float32]
    iterations: int
    converged: bool


class FoldProblems:
    """The problems of one data set: one per fold and repeat, and last the one on all rows."""

    def __init__(
        self,
        backend: Backend,
        spectrum: Spectrum,
        labels: NDArray[np.int64],
        num_classes: int,
        folds: NDArray[np.integer],
        weight: NDArray[np.float64] | None,
        max_memory_gib: float,
    ) -> None:
        """Memory: three (problems at a time, K, N) float32 arrays within half of `max_memory_gib`, or one problem's."""
        self._backend = backend
        self._num, self._classes, self._width = len(labels), num_classes, spectrum.rotated.shape[1]
        self._variance = spectrum.variance
        self._inputs, self._labels = backend.put(spectrum.rotated), backend.put(labels)
        self._held_out = [np.flatnonzero(row == fold) for row in folds for fold in np.unique(row)]
        self._held_out.append(np.empty(0, np.int64))
        self._repeat = [repeat for repeat, row in enumerate(folds) for _ in np.unique(row)]
        self._num_repeats = len(folds)

        self._row_weight = np.empty((self.count, self._num), np.float32)
        self._frequencies = np.empty((self.count, num_classes))
        self._num_rows = np.empty(self.count)
        for problem, rows in enumerate(self._held_out):
            each = np.ones(self._num) if weight is None else weight.copy()
            each[rows] = 0
            self._num_rows[problem] = np.count_nonzero(each)
            each /= each.sum()
            self._row_weight[problem] = each
            self._frequencies[problem] = np.bincount(labels, each, num_classes)

        each_gib = 3 * num_classes * self._num * 4 / 2**30
        self._batch_size = int(np.clip(max_memory_gib / 2 / each_gib, 1, self.count))
        shape = (self._batch_size, num_classes, self._num)
        self._work = (backend.empty(*shape), backend.empty(*shape), backend.empty(*shape))

    @property
    def count(self) -> int:
        """Folds of all repeats, and one."""
        return len(self._held_out)

    def path(
        self,
        strengths: Sequence[float],
        tolerance: float,
        on_solved: Callable[[], None],
        start: NDArray[np.float32] | None = None,
    ) -> Iterator[Solved]:
        """Solve everything at each strength in turn, each begun where the last ones point to.

        Args:
            strengths: strongest first.
            tolerance: as in `multinomial.solve`.
            on_solved: called once per problem and strength.
            start: (K, r + 1), where all problems begin; the class frequencies unless given.
        """
        before: list[Any] = []
        abscissas = np.log(np.asarray(strengths, np.float64))
        for index, strength in enumerate(strengths):
            weights = (
                self._begin(start) if index == 0 else _extrapolate(before, abscissas[max(0, index - 3) : index + 1])
            )
            held_out = np.empty((self._num_repeats, self._num, self._classes), np.float32)
            iterations, converged = 0, True
            for first in range(0, self.count, self._batch_size):
                problems = slice(first, min(first + self._batch_size, self.count))

                def collect(place: int, logits: Any, first: int = first, held_out: Any = held_out) -> None:
                    self._collect(first + place, logits, held_out)
                    on_solved()

                weights[problems], taken, reached = solve(
                    self._batch(problems), weights[problems], strength,
                    tolerance=tolerance, max_iterations=_MAX_ITERATIONS, on_solved=collect,
                )  # fmt: skip
                iterations, converged = iterations + int(taken.sum()), converged and bool(reached.all())
            before = [*before, weights][-3:]
            head = np.array(self._backend.get(weights[-1]))
            yield Solved(held_out=held_out, head=head, iterations=iterations, converged=converged)

    def polish(
        self, head: NDArray[np.float32], strength: float, tolerance: float = FINAL_TOLERANCE
    ) -> NDArray[np.float32]:
        """The head (K, r + 1) on all rows, solved further; a class without rows gets an intercept that rules it out."""
        last = slice(self.count - 1, self.count)
        solved, _, _ = solve(
            self._batch(last), self._backend.put(head[None]), strength,
            tolerance=tolerance, max_iterations=_MAX_ITERATIONS, on_solved=lambda place, logits: None,
        )  # fmt: skip
        polished = np.array(self._backend.get(solved[0]))
        polished[self._frequencies[-1] == 0, -1] = ABSENT
        return polished

    def _batch(self, problems: slice) -> Batch:
        size = problems.stop - problems.start
        return make_batch(
            self._backend, self._inputs, self._labels, self._row_weight[problems], self._frequencies[problems] > 0,
            self._variance, tuple(part[:size] for part in self._work),
        )  # fmt: skip

    def _begin(self, start: NDArray[np.float32] | None) -> Any:
        weights = np.zeros((self.count, self._classes, self._width), np.float32)
        if start is None:
            weights[:, :, -1] = np.log(np.maximum(self._frequencies, 1e-12))
        else:
            weights[:] = start
        return self._backend.put(weights)

    def _collect(self, problem: int, logits: Any, held_out: NDArray[np.float32]) -> None:
        """Keep a fold's log-probabilities of the rows it did not see."""
        rows = self._held_out[problem]
        if not len(rows):
            return
        values = np.ascontiguousarray(self._backend.get(logits[:, self._backend.put(rows)]).T)
        values -= values.max(axis=1, keepdims=True)
        values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
        absent = self._frequencies[problem] == 0
        if absent.any():  # half a row's share each, so that a held-out row of such a class has a finite loss
            share = 0.5 / (self._num_rows[problem] + 0.5 * np.count_nonzero(absent))
            values += np.float32(np.log1p(-share * np.count_nonzero(absent)))
            values[:, absent] = np.log(share)
        held_out[self._repeat[problem], rows] = values


def _extrapolate(before: list[Any], abscissas: NDArray[np.float64]) -> Any:
    """The polynomial through the last (up to three) solutions over the logarithm of the strength, one step on."""
    at, known = abscissas[-1], abscissas[:-1]
    if len(np.unique(abscissas)) < len(abscissas):
        return before[-1] * 1
    total = 0
    for i, solution in enumerate(before):
        others = np.delete(known, i)
        total = total + solution * float(np.prod((at - others) / (known[i] - others)))
    return total
