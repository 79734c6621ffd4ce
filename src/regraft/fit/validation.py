"""How good a model is on a loader: the measures that a fit is steered by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from regraft.errors import UsageError
from regraft.fit.batches import Batches
from regraft.fit.processes import Processes


@torch.no_grad()
def evaluate_batches(
    model: nn.Module,
    batches: Batches,
    *,
    to_device: Callable[[Any], Any],
    autocast: Callable[[], AbstractContextManager[Any]],
    processes: Processes,
    between: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`val/loss` (mean cross-entropy), `val/accuracy`, `val/balanced_accuracy`, `val/macro_f1` over all processes.

    Macro-F1 is the mean over the classes that occur in the labels or the predictions, balanced accuracy the mean
    recall of those that occur in the labels, as in scikit-learn. Each image counts once; weights are not used.

    Args:
        model: in eval mode; gives logits (N, K).
        batches: with `training=False`, targets int (N,).
        to_device: moves a batch.
        autocast: the precision to compute in.
        processes: among which the batches are shared.
        between: called after each batch.

    Raises:
        UsageError: the outputs are no logits, or the targets no labels, or there are none.
    """
    sums = counts = None
    for values in batches.epoch(0):
        batch = to_device(values)
        with autocast():
            logits = model(batch.inputs)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or batch.targets.shape != logits.shape[:1]:
            raise UsageError("a validation loader gives labels (N,) for logits (N, K); else pass an evaluate(model)")
        targets, predicted, k = batch.targets.long(), logits.argmax(1), logits.shape[1]
        loss = functional.cross_entropy(logits.float(), targets, reduction="sum").double()
        seen = [torch.bincount(which, minlength=k) for which in (targets[targets == predicted], targets, predicted)]
        sums = loss if sums is None else sums + loss
        counts = torch.stack(seen) if counts is None else counts + torch.stack(seen)
        between()
    width = max(processes.gather(0 if counts is None else counts.numel()))
    if not width:
        raise UsageError("validation needs images: the loader gave none")
    mine = [0.0] * width if counts is None else counts.flatten().double().tolist()
    total_loss, *totals = processes.sum([0.0 if sums is None else float(sums), *mine])
    return _measures(torch.tensor(totals, dtype=torch.float64).view(3, -1), total_loss)


def _measures(counts: Tensor, total_loss: float) -> dict[str, float]:
    """From (3, K) numbers of images a class: right answers, labels, answers."""
    right, labelled, predicted = counts
    occurs = labelled + predicted > 0
    f1 = 2 * right[occurs] / (labelled + predicted)[occurs]
    recall = right[labelled > 0] / labelled[labelled > 0]
    num_images = float(labelled.sum())
    return {
        "val/loss": total_loss / num_images,
        "val/accuracy": float(right.sum()) / num_images,
        "val/balanced_accuracy": float(recall.mean()),
        "val/macro_f1": float(f1.mean()),
    }
