"""Weights between weights: a soup of the best epochs, and the way from the start to the end; taken only where the
validation images say so.

    soup       the mean of the best epochs' weights (Wortsman et al. 2022, "Model soups", the uniform soup)
    wise_ft    (1 − α) start + α end, the start being the pretrained backbone with its solved head (Wortsman et al.
               2022, "Robust fine-tuning of zero-shot models")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.errors import CheckpointError
from regraft.fit.callbacks import Callback
from regraft.fit.checkpoints import read_checkpoint, write_checkpoint
from regraft.fit.history import Row
from regraft.fit.selection import Metric, score

if TYPE_CHECKING:
    from regraft.fit.loop import Trainer

State = Mapping[str, Any]
NUM_IN_SOUP = 3
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.25, 8.0, 31))
ALPHAS = (0.0, 0.25, 0.5, 0.75)
"""0 is the start itself: training that made it worse is undone."""


_FILES = "epoch-*.safetensors"


class BestEpochs(Callback):
    """Keeps the weights of the best epochs as files, `epoch-N.safetensors`; the others are deleted.

    The files outlive the training, so that one that is resumed at its end chooses among the same weights again;
    `forget_epochs` deletes them.

    Args:
        folder: for the files.
        count: how many.
    """

    def __init__(self, folder: Path, count: int = NUM_IN_SOUP) -> None:
        self.folder, self.count = folder, count

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Keep this epoch's weights where it is among the best."""
        if not trainer.processes.is_main or row.get(trainer.metric) is None:
            return
        rows = trainer.history.rows
        sign = -1.0 if trainer.mode == "max" else 1.0
        values = {i: sign * float(value) for i, r in enumerate(rows) if (value := r.get(trainer.metric)) is not None}
        best = sorted(values, key=lambda i: (values[i], i))[: self.count]
        number = len(rows) - 1
        try:
            if number in best:
                write_checkpoint(self._path(number), {"model": trainer.evaluated_model.state_dict()})
        except OSError:
            return  # a full disk: the loop says so of its own checkpoints; the soup does without this epoch
        for path in self.folder.glob(_FILES):
            if path not in {self._path(i) for i in best}:
                path.unlink(missing_ok=True)

    def states(self) -> list[State]:
        """The weights that were kept; a file that cannot be read is left out."""
        found = []
        for path in sorted(self.folder.glob(_FILES)):
            try:
                found.append(read_checkpoint(path)["model"])
            except CheckpointError:
                continue
        return found

    def _path(self, number: int) -> Path:
        return self.folder / f"epoch-{number + 1}.safetensors"


def forget_epochs(folder: Path) -> None:
    """Delete what `BestEpochs` kept in a folder: whatever was chosen from it is saved."""
    for path in folder.glob(_FILES):
        path.unlink(missing_ok=True)


def mean_of(states: Sequence[State], shares: Sequence[float] | None = None) -> dict[str, Any]:
    """The weighted mean of state dicts, computed in float64; whole numbers (counters) are those of the last one.

    Args:
        states: of one model.
        shares: one for each, that add up to 1; even where not given.
    """
    shares = [1 / len(states)] * len(states) if shares is None else shares
    mean: dict[str, Any] = {}
    for name, last in states[-1].items():
        if isinstance(last, Tensor) and last.is_floating_point():
            parts = [s * state[name].to("cpu", torch.float64) for s, state in zip(shares, states, strict=True)]
            mean[name] = torch.stack(parts).sum(0).to(last.dtype)
        else:
            mean[name] = last
    return mean


def candidates(best: State, epochs: Sequence[State], start: State | None) -> Iterator[tuple[str, State]]:
    """Weights to be tried besides the best epoch's, by name.

    Args:
        best: of the best epoch; a live `state_dict()` will do, it is copied before the first one is tried.
        epochs: of the best epochs.
        start: where training began, or None.
    """
    return _made(copied(best), epochs, start)


def copied(state: State) -> dict[str, Any]:
    """A state dict that does not follow the model any more."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def _made(best: State, epochs: Sequence[State], start: State | None) -> Iterator[tuple[str, State]]:
    if len(epochs) > 1:
        yield f"soup of the {len(epochs)} best epochs", mean_of(epochs)
    if start is not None:
        for alpha in ALPHAS:
            yield f"WiSE-FT α = {alpha:g}", mean_of([start, best], [1 - alpha, alpha])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What the validation images say of the weights that were tried.

    Attributes:
        name: of those that were taken: "best epoch" or a candidate's.
        reason: in words.
        logits: float32 (n, K), of the weights that were taken.
        losses: name → mean validation loss, of all.
    """

    name: str
    reason: str
    logits: NDArray[np.float32]
    losses: dict[str, float]


def choose_weights(
    model: nn.Module,
    logits_of: Callable[[nn.Module], NDArray[np.float32]],
    labels: NDArray[np.int64],
    tried: Iterator[tuple[str, State]],
    *,
    metric: Metric = "accuracy",
) -> Judged:
    """Try weights on the validation images, and leave the chosen ones in the model.

    The best epoch's stay, unless the mean log loss of others is lower by more than one standard error of the paired
    difference and their metric is no worse; of those, the lowest loss is taken. One standard error is little for a
    choice among six; what is chosen is judged on other images. Losses are compared at the temperature that suits each:
    averages are less sure of themselves, which looks better where training was too sure, and is no merit, since a
    temperature is fitted in the end anyway.

    Args:
        model: with the best epoch's weights.
        logits_of: a model → logits (n, K) of the validation images.
        labels: int64 (n,).
        tried: names and weights.
        metric: accuracy, balanced_accuracy or macro_f1.
    """
    own = copied(model.state_dict())
    base_logits = logits_of(model)
    base, base_score = _losses(base_logits, labels), _score(base_logits, labels, metric)
    losses = {"best epoch": float(base.mean())}
    taken: tuple[float, str, State, NDArray[np.float32]] | None = None
    for name, state in tried:
        model.load_state_dict(dict(state))
        logits = logits_of(model)
        each = _losses(logits, labels)
        losses[name] = float(each.mean())
        gain = base - each
        noise = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else np.inf
        no_worse = _score(logits, labels, metric) >= base_score
        if gain.mean() > noise and no_worse and (taken is None or each.mean() < taken[0]):
            taken = float(each.mean()), name, state, logits
    model.load_state_dict(own if taken is None else dict(taken[2]))
    table = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    if taken is None:
        return Judged(
            name="best epoch", logits=base_logits, losses=losses,
            reason=f"no other weights beat the best epoch's by more than one standard error of the loss ({table})",
        )  # fmt: skip
    return Judged(
        name=taken[1], logits=taken[3], losses=losses,
        reason=f"{taken[1]} has the lowest validation loss, by more than one standard error ({table})",
    )  # fmt: skip


def _losses(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,): −log p of the given labels, at the temperature, of a grid in steps of 12 %, with the lowest mean."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    given = wide[np.arange(len(labels)), labels]
    losses = [np.log(np.exp(wide / t).sum(axis=1)) - given / t for t in TEMPERATURES]
    return np.asarray(min(losses, key=lambda each: float(each.mean())))


def _score(logits: NDArray[np.float32], labels: NDArray[np.int64], metric: Metric) -> float:
    return score(metric, labels, np.argmax(logits, axis=1), np.ones(len(labels)), logits.shape[1])
