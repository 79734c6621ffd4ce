"""One optimiser step: forward and backward in the precision and the pieces that the memory allows."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regraft.errors import TrainingError, UsageError, nearest
from regraft.fit.batches import Batch
from regraft.fit.faults import is_out_of_memory
from regraft.fit.processes import Processes

Precision = Literal["auto", "fp32", "bf16", "fp16"]
OnBatch = Callable[[Any, Any], tuple[Any, Any]]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """What `auto` becomes, and why.

    Raises:
        UsageError: an unknown word.
    """
    known = ("auto", *_DTYPES)
    if precision not in known:
        raise UsageError(f"a precision is one of {', '.join(known)}: {precision!r} is not{nearest(precision, known)}")
    if precision != "auto":
        return precision, "asked for"
    if device.type != "cuda":
        return "fp32", "faster than bf16 where it was measured on a CPU, and the same to the last bit after a resume"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "autocast on the GPU, which needs no loss scaling"
    return "fp16", "autocast with loss scaling: this GPU has no bf16 arithmetic"


class Step:
    """What a step needs, and the step.

    Attributes:
        num_parts: pieces that each batch is cut into, for memory; doubled whenever it runs out.
        scaler: of the loss; does nothing unless the precision is fp16.

    Args:
        model: as it is called in training (compiled, distributed).
        loss: `loss(outputs, targets)`; `sample_weight` and `indices` are passed where it has such parameters. A mean
            over the images, or one that has `total_weight` and `item_weight` (the losses of this package).
        optimizer: over the trainable parameters.
        processes: where to compute.
        precision: fp32, bf16 or fp16.
        clip_grad: largest norm of the gradient, or None.
        channels_last: memory layout of images (N, C, H, W).
        on_batch: changes inputs and targets of training batches, on the device.
        warn: told when batches are cut.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        optimizer: Optimizer,
        *,
        processes: Processes,
        precision: str,
        clip_grad: float | None,
        channels_last: bool,
        on_batch: OnBatch | None,
        warn: Callable[[str], None],
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.processes, self.precision, self.clip_grad, self.warn = processes, precision, clip_grad, warn
        self.channels_last, self.on_batch = channels_last, on_batch
        self.num_parts = 1
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=precision == "fp16")
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        words = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
        self._takes = {name for name in ("sample_weight", "indices", "total_weight") if name in words}

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision as a context."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, _DTYPES[self.precision])

    def to_device(self, batch: Batch) -> Batch:
        """A batch where the model is, in its memory layout."""

        def moved(tensor: Tensor) -> Tensor:
            tensor = tensor.to(self.processes.device, non_blocking=True)
            is_images = self.channels_last and tensor.ndim == 4
            return tensor.contiguous(memory_format=torch.channels_last) if is_images else tensor

        return batch.map(moved)

    def backward(self, group: Sequence[Batch]) -> float:
        """Gradients of the mean loss over the images of all batches; where memory runs out, again in halves.

        Returns:
            that mean; with several processes, what has to be averaged over them to give it.

        Raises:
            TrainingError: not even one image fits, or memory ran out in one of several processes.
        """
        group = [self._prepared(batch) for batch in group]
        while True:
            total = self._total(group)
            out_of_memory = ""
            try:
                return self._backward(group, total)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                out_of_memory = str(error).splitlines()[0][:200]
            # Outside the handler: the traceback, which holds the activations, is gone.
            self._halve(max(map(len, group)), out_of_memory)

    def optimise(self, loss: float) -> bool:
        """Take the step, unless the loss is not finite.

        Returns:
            whether it was taken as far as the loss says; fp16's scaler may have skipped it for its gradients.
        """
        finite = math.isfinite(loss)
        if finite or self.scaler.is_enabled():
            if self.clip_grad is not None:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_grad)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    def _prepared(self, batch: Batch) -> Batch:
        batch = self.to_device(batch)
        if self.on_batch is None:
            return batch
        inputs, targets = self.on_batch(batch.inputs, batch.targets)
        return replace(batch, inputs=inputs, targets=targets)

    def _backward(self, group: Sequence[Batch], total: float | None) -> float:
        parts = [part for batch in group for part in batch.parts(self.num_parts)]
        values: Tensor | None = None
        wait: Callable[[], None] = lambda: None  # noqa: E731
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            with contextlib.nullcontext() if is_last else self.processes.without_sync(self.model):
                with self.autocast():
                    loss = self._loss(part, total, alone=len(parts) == 1)
                values = loss.detach() if values is None else values + loss.detach()
                if is_last and values.is_cuda:
                    # Copied before the backward pass is queued: reading it does not wait for that.
                    values = values.to("cpu", non_blocking=True)
                    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    event.record()
                    wait = event.synchronize
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        wait()
        return float(cast(Tensor, values))

    def _loss(self, part: Batch, total: float | None, *, alone: bool) -> Tensor:
        outputs = self.model(part.inputs)
        words: dict[str, Any] = {}
        if part.sample_weight is not None:
            if "sample_weight" not in self._takes:
                raise UsageError("the loader gives sample weights, but the loss has no parameter sample_weight")
            words["sample_weight"] = part.sample_weight
        if part.indices is not None and "indices" in self._takes:
            words["indices"] = part.indices
        world = self.processes.world
        if total is None or (alone and world == 1):
            return self.loss(outputs, part.targets, **words)
        if part.is_copy:
            return self.loss(outputs, part.targets, **words) * 0.0
        # Gradients of parts add up, those of processes are averaged.
        if "total_weight" in self._takes:
            return self.loss(outputs, part.targets, **words, total_weight=total / world)
        return self.loss(outputs, part.targets, **words) * (len(part) * world / total)

    def _total(self, group: Sequence[Batch]) -> float | None:
        """What the images of all batches, parts and processes weigh together; None where there is one part."""
        if len(group) == 1 and self.num_parts == 1 and self.processes.world == 1:
            return None
        return self.processes.sum([self._weight(group)])[0]

    def _weight(self, group: Sequence[Batch]) -> float:
        group = [batch for batch in group if not batch.is_copy]
        if "total_weight" not in self._takes:
            return float(sum(map(len, group)))
        weigh = self.loss.item_weight  # type: ignore[attr-defined]
        return float(sum(weigh(batch.targets, batch.sample_weight).sum() for batch in group))

    def _halve(self, size: int, why: str) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.processes.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.processes.world > 1:
            raise TrainingError(
                f"every process must hold its batch in memory: {size} images do not fit ({why}); halve it"
            )
        if self.num_parts >= size:
            raise TrainingError(f"one image must fit in memory, and does not ({why}); use a smaller image size")
        self.num_parts = min(2 * self.num_parts, size)
        pieces = -(-size // self.num_parts)
        self.warn(
            f"out of memory: batches of {size} are now computed in {self.num_parts} parts of {pieces} images, "
            f"with the gradient of the whole ({why})"
        )
