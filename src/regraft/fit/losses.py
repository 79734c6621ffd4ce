"""Losses for fine-tuning: imbalance and label noise inside the loop.

    cross_entropy       with class weights and label smoothing
    balanced_softmax    softmax under the training prior (Ren et al. 2020)
    logit_adjusted      the same with a strength tau (Menon et al. 2021)
    focal               easy images count less (Lin et al. 2017)
    ldam                margins for rare classes, re-weighting deferred (Cao et al. 2019)
    gce                 between cross-entropy and absolute error: bounded on wrong labels (Zhang & Sabuncu 2018)
    elr                 held to its own early predictions (Liu et al. 2020)

All are called alike, `loss(logits, targets, sample_weight, indices=…, total_weight=…)`, and return a weighted mean.
Whatever precision the logits come in (autocast's bf16 or fp16 included), the loss is computed in float32 or better.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from regraft.errors import UsageError, nearest
from regraft.fit.weighted_loss import ClassWeight, Loss, class_weights, expected, floored_counts, within


class CrossEntropy(Loss):
    """−Σ_k w_k q_k log p_k with q = (1 − ε) y + ε/K (Szegedy et al. 2016): `torch.nn.functional.cross_entropy`.

    For labels it equals torch's mean. For soft targets torch divides by N, this by the summed class weights.

    Args:
        class_counts: (K,).
        class_weight: as `class_weights`.
        label_smoothing: ε in [0, 1).
        beta: of `effective`.
    """

    def __init__(
        self,
        class_counts: ArrayLike,
        *,
        class_weight: ClassWeight = None,
        label_smoothing: float = 0.0,
        beta: float = 0.9999,
    ) -> None:
        super().__init__(len(floored_counts(class_counts)), class_weights(class_counts, class_weight, beta=beta))
        self.label_smoothing = within("label_smoothing", label_smoothing, 0.0, 1.0)

    def per_item(self, logits: Tensor, targets: Tensor, indices: Tensor | None) -> Tensor:
        values = self._weighted(-logits.log_softmax(1))
        losses = expected(values, targets)
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * values.mean(1)
        return losses


class LogitAdjusted(CrossEntropy):
    """Cross-entropy of logits + τ log π, π the share of each class (Menon et al. 2021, eq. 10).

    The plain logits then rank classes as if all were equally frequent: the right thing for balanced accuracy. τ = 1
    is balanced softmax (Ren et al. 2020, eq. 4). Probabilities for data with the training prior: softmax of the
    adjusted logits.

    Args:
        class_counts: (K,).
        tau: strength >= 0; 0 is cross-entropy.
        label_smoothing: as `CrossEntropy`.
    """

    log_prior: Tensor

    def __init__(self, class_counts: ArrayLike, *, tau: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(class_counts, label_smoothing=label_smoothing)
        counts = floored_counts(class_counts)
        prior = torch.tensor(within("tau", tau) * np.log(counts / counts.sum()), dtype=torch.float32)
        self.register_buffer("log_prior", prior, persistent=False)

    def per_item(self, logits: Tensor, targets: Tensor, indices: Tensor | None) -> Tensor:
        return super().per_item(logits + self.log_prior, targets, indices)


class Focal(Loss):
    """−(1 − p_y)^γ log p_y (Lin et al. 2017, eq. 5; the softmax form). For soft targets, its mean over the classes.

    Args:
        class_counts: (K,).
        gamma: γ >= 0; 0 is cross-entropy, the paper's best is 2.
        class_weight: the paper's α, as `class_weights`.
        beta: of `effective`.
    """

    def __init__(
        self, class_counts: ArrayLike, *, gamma: float = 2.0, class_weight: ClassWeight = None, beta: float = 0.9999
    ) -> None:
        super().__init__(len(floored_counts(class_counts)), class_weights(class_counts, class_weight, beta=beta))
        self.gamma = within("gamma", gamma)

    def per_item(self, logits: Tensor, targets: Tensor, indices: Tensor | None) -> Tensor:
        log_p = logits.log_softmax(1)
        # 1 − p without cancellation; the floor keeps the gradient of x^γ finite at 0 where γ < 1
        rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).eps ** 2)
        return expected(self._weighted(-(rest**self.gamma) * log_p), targets)


class GCE(Loss):
    """(1 − p_y^q) / q (Zhang & Sabuncu 2018, eq. 6): q → 0 is cross-entropy, q = 1 absolute error.

    Bounded by 1/q, so that a wrong label cannot dominate. The paper's truncated form is left out. For soft targets,
    its mean over the classes.

    Args:
        class_counts: (K,).
        q: in (0, 1]; the paper's 0.7.
        class_weight: as `class_weights`.
        beta: of `effective`.
    """

    def __init__(
        self, class_counts: ArrayLike, *, q: float = 0.7, class_weight: ClassWeight = None, beta: float = 0.9999
    ) -> None:
        super().__init__(len(floored_counts(class_counts)), class_weights(class_counts, class_weight, beta=beta))
        if not 0.0 < q <= 1.0:
            raise UsageError(f"q of GCE is in (0, 1]: {q=}")
        self.q = q

    def per_item(self, logits: Tensor, targets: Tensor, indices: Tensor | None) -> Tensor:
        return expected(self._weighted(-torch.expm1(self.q * logits.log_softmax(1)) / self.q), targets)


class LDAM(Loss):
    """Cross-entropy after the true class's logit is lowered by a margin Δ_y ∝ n_y^(−1/4) (Cao et al. 2019, eq. 13).

    With deferred re-weighting: all classes count alike until `drw_epoch`, then by the inverse effective number of
    their images (β = 0.9999). The paper defers to epoch 160 of 200, when the learning rate drops.

    Args:
        class_counts: (K,).
        max_margin: the margin of the rarest class; the paper's 0.5.
        scale: multiplies the logits after the margin. 1 for a plain linear head; the authors' code takes 30 with a
            head of unit-length weights and features (a cosine head).
        num_epochs: planned epochs, of which the last fifth is re-weighted; None never re-weights.
        drw_epoch: says the first re-weighted epoch outright.
    """

    soft_targets = "LDAM's margin belongs to the one true class; take mixup_alpha=0, cutmix_alpha=0 or balanced_softmax"
    margins: Tensor
    late_weight: Tensor

    def __init__(
        self,
        class_counts: ArrayLike,
        *,
        max_margin: float = 0.5,
        scale: float = 1.0,
        num_epochs: int | None = None,
        drw_epoch: int | None = None,
    ) -> None:
        counts = floored_counts(class_counts)
        super().__init__(len(counts))
        margins = counts**-0.25
        margins *= within("max_margin", max_margin) / margins.max()
        self.register_buffer("margins", torch.tensor(margins, dtype=torch.float32), persistent=False)
        late = class_weights(class_counts, "effective")
        self.register_buffer("late_weight", torch.tensor(late, dtype=torch.float32), persistent=False)
        self.scale = scale
        if drw_epoch is None and num_epochs is not None:
            drw_epoch = int(0.8 * num_epochs)
        self.drw_epoch = drw_epoch

    def set_epoch(self, epoch: int) -> None:
        """Whether classes are weighted: a function of the epoch alone, so a resumed run needs no state."""
        late = self.drw_epoch is not None and epoch >= self.drw_epoch
        self.class_weight = self.late_weight if late else None

    def per_item(self, logits: Tensor, targets: Tensor, indices: Tensor | None) -> Tensor:
        margin = functional.one_hot(targets.long(), self.num_classes) * self.margins
        return expected(self._weighted(-(self.scale * (logits - margin)).log_softmax(1)), targets)


class ELR(Loss):
    """Cross-entropy + λ log(1 − ⟨p, t⟩), t each item's running mean of its own predictions (Liu et al. 2020, eq. 6).

    Networks learn right labels before they memorise wrong ones; the second term holds each item to what was predicted
    early. t starts at 0 and becomes βt + (1 − β)p at each visit, without gradient, p clamped to [1e-4, 1 − 1e-4]
    as in the authors' code. t is in the `state_dict`: a resume is exact. In eval mode: plain cross-entropy.

    Each process has its own t: with several, predictions are exchanged, so that all stay equal.

    Args:
        class_counts: (K,).
        num_items: items of the training set; t takes 4·N·K bytes.
        beta: β in [0, 1); the paper's 0.7.
        lam: λ >= 0; the paper's 3 (CIFAR-10; 7 for CIFAR-100).
    """

    soft_targets = "ELR remembers single images, a mixed one has no past; take mixup_alpha=0, cutmix_alpha=0"
    remembered: Tensor

    def __init__(self, class_counts: ArrayLike, *, num_items: int, beta: float = 0.7, lam: float = 3.0) -> None:
        super().__init__(len(floored_counts(class_counts)))
        self.beta = within("beta", beta, 0.0, 1.0)
        self.lam = within("lam", lam)
        self.register_buffer("remembered", torch.zeros(num_items, self.num_classes))

    def per_item(self, logits: Tensor, targets: Tensor, indices: Tensor | None) -> Tensor:
        log_p = logits.log_softmax(1)
        losses = expected(-log_p, targets)
        if not self.training:
            return losses
        if indices is None or indices.shape != (len(logits),):
            raise UsageError("ELR needs indices (N,): which item of the training set each row is")
        p = log_p.exp().clamp(1e-4, 1 - 1e-4)
        self.remember(indices, p.detach())
        t = self.remembered[indices].to(p.dtype)
        return losses + self.lam * torch.log1p(-(p * t).sum(1))

    @torch.no_grad()
    def remember(self, indices: Tensor, p: Tensor) -> None:
        """t ← βt + (1 − β) p / Σp for these items; one that is twice in the batch takes its mean prediction."""
        p = (p / p.sum(1, keepdim=True)).to(self.remembered.dtype)
        indices, p = _from_all_processes(indices, p)
        items, where = torch.unique(indices, return_inverse=True)
        mean = torch.zeros(len(items), p.shape[1], dtype=p.dtype, device=p.device).index_add_(0, where, p)
        mean /= where.bincount(minlength=len(items)).unsqueeze(1)
        self.remembered[items] = self.beta * self.remembered[items] + (1 - self.beta) * mean


def balanced_softmax(class_counts: ArrayLike, *, label_smoothing: float = 0.0) -> LogitAdjusted:
    """Softmax under the training prior (Ren et al. 2020): `LogitAdjusted` with tau = 1."""
    return LogitAdjusted(class_counts, tau=1.0, label_smoothing=label_smoothing)


LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": CrossEntropy,
    "balanced_softmax": balanced_softmax,
    "logit_adjusted": LogitAdjusted,
    "focal": Focal,
    "ldam": LDAM,
    "gce": GCE,
    "elr": ELR,
}
"""Name to constructor; each takes the class counts and its own keywords."""


def make_loss(name: str, class_counts: ArrayLike, **options: Any) -> Loss:
    """The loss of that name.

    Args:
        name: a key of `LOSSES`.
        class_counts: (K,) training images per class (or their summed weights).
        options: keywords of its constructor.

    Raises:
        UsageError: an unknown name or option, a missing or wrong value.
    """
    if name not in LOSSES:
        raise UsageError(f"loss {name!r} is unknown{nearest(name, LOSSES)}; there are {', '.join(LOSSES)}")
    known = [p.name for p in inspect.signature(LOSSES[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if wrong := [option for option in options if option not in known]:
        raise UsageError(f"loss {name!r} has no option {', '.join(wrong)}{nearest(wrong[0], known)}; it has {known}")
    if name == "elr" and "num_items" not in options:
        raise UsageError("loss 'elr' remembers each training item: say num_items=N")
    return LOSSES[name](class_counts, **options)


def _from_all_processes(indices: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of every process, in the order of their ranks; batches may differ in length."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return indices, p
    lengths = [torch.zeros(1, dtype=torch.int64, device=p.device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(p)], device=p.device))
    longest = int(max(length.item() for length in lengths))
    packed = torch.cat([indices.to(torch.float64).unsqueeze(1), p.to(torch.float64)], 1)
    packed = functional.pad(packed, (0, 0, 0, longest - len(p)))
    parts = [torch.empty_like(packed) for _ in lengths]
    dist.all_gather(parts, packed)
    rows = torch.cat([part[: int(length.item())] for part, length in zip(parts, lengths, strict=True)])
    return rows[:, 0].long(), rows[:, 1:].to(p.dtype)
