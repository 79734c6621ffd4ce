"""One process, or several under torchrun or `accelerate launch`: Accelerate does the launching and the devices.

Alone, nothing of Accelerate is imported (0.5 s).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import nn


class Processes:
    """The processes of this fit. Alone, every method is a plain identity.

    Attributes:
        rank: number of this process.
        world: how many there are.
        device: where this one computes.

    Args:
        device: auto, or a torch device; under a launcher `cpu` or auto.
    """

    def __init__(self, device: str = "auto") -> None:
        self._accelerator: Any = None
        self.rank, self.world = 0, 1
        has_cuda = torch.cuda.is_available()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            # Precision is the loop's: Accelerate allows one per process, a race may try several.
            cpu = device == "cpu" or not has_cuda
            self._accelerator = Accelerator(mixed_precision="no", cpu=cpu)
            self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
            self.device = torch.device(self._accelerator.device)
        else:
            self.device = torch.device(("cuda" if has_cuda else "cpu") if device == "auto" else device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model that is called in training: under DistributedDataParallel where there are several."""
        if self._accelerator is None or not any(p.requires_grad for p in model.parameters()):
            return model
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def without_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Keep gradients to oneself: for all but the last micro-batch of a step."""
        return (
            cast(Any, wrapped).no_sync() if self.world > 1 and hasattr(wrapped, "no_sync") else contextlib.nullcontext()
        )

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes."""
        if self._accelerator is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        summed: list[float] = self._accelerator.reduce(tensor, "sum").tolist()
        return summed

    def from_main(self, value: Any) -> Any:
        """What the main process has."""
        if self._accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks."""
        if self._accelerator is None:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))
