"""The weights a fit can fall back on: the best, the last good ones, and the files that outlive it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regraft.fit.checkpoints import BEST, read_checkpoint, write_checkpoint


class Kept:
    """Best weights on disk (in memory where there is no folder, or it is full) and good ones in memory.

    Args:
        folder: for the checkpoints, or None.
        warn: told, once, when a checkpoint cannot be written. Training goes on; the last good file stays.
        written: called with the path of each checkpoint that was written.
    """

    def __init__(self, folder: Path | None, *, warn: Callable[[str], None], written: Callable[[Path], None]) -> None:
        self.folder, self._warn, self._written = folder, warn, written
        self._best: dict[str, Any] | None = None
        self._good: dict[str, Any] = {}
        self._warned = False

    def write(self, name: str, state: Mapping[str, Any]) -> bool:
        """Write a checkpoint; False where there is no folder or it cannot be written."""
        if self.folder is None:
            return False
        try:
            write_checkpoint(self.folder / name, state)
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"a checkpoint cannot be written ({error}); training goes on, the one before it is kept")
            return False
        self._written(self.folder / name)
        return True

    def keep_best(self, model: nn.Module, *, metric: str, value: float | None) -> None:
        """These are the best weights so far."""
        weights = model.state_dict()
        written = self.write(BEST, {"model": weights, "metric": metric, "value": value})
        self._best = None if written else _copied(weights)

    def has_best(self) -> bool:
        """Whether there are best weights on disk."""
        return self.folder is not None and (self.folder / BEST).is_file()

    def best(self) -> dict[str, Any] | None:
        """The best weights, or None where none were kept.

        Raises:
            CheckpointError: their file cannot be read.
        """
        if self._best is not None or not self.has_best():
            return self._best
        assert self.folder is not None
        weights: dict[str, Any] = read_checkpoint(self.folder / BEST)["model"]
        return weights

    def best_value(self) -> float | None:
        """The value that the file of best weights stands for."""
        if not self.has_best():
            return None
        assert self.folder is not None
        value: float | None = read_checkpoint(self.folder / BEST)["value"]
        return value

    def keep_good(self, model: nn.Module) -> None:
        """Remember the weights to fall back on, on the CPU."""
        self._good = _copied(model.state_dict(), device="cpu")

    @torch.no_grad()
    def restore_good(self, model: nn.Module, *, only_buffers: bool = False) -> None:
        """Go back to them; with `only_buffers`, to the running statistics that an infinite batch has spoilt."""
        state = model.state_dict()
        for name in [n for n, _ in model.named_buffers()] if only_buffers else state:
            if isinstance(state.get(name), Tensor):
                state[name].copy_(self._good[name])


def moving_average(model: nn.Module, decay: float | None) -> Any:
    """timm's `ModelEmaV3` of a model, or None without a decay. Its warm-up matters in short fits: at step 100 the
    average spans some 20 steps, not the thousands of a plain 0.9998."""
    if decay is None:
        return None
    from timm.utils.model_ema import ModelEmaV3  # 4 s

    return ModelEmaV3(model, decay=decay, use_warmup=True)


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number in floating tensors is infinite or NaN; one wait for the device."""
    found = [t.detach().isfinite().all() for t in tensors if t.is_floating_point()]
    return not found or bool(torch.stack(found).all())


def _copied(state: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
    def copied(value: Any) -> Any:
        return value.detach().to(device or value.device, copy=True) if isinstance(value, Tensor) else value

    return {name: copied(value) for name, value in state.items()}
