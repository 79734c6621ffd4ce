"""Stochastic depth (Huang et al. 2016) for a timm model that was built without it."""

from __future__ import annotations

from torch import nn

from regraft.errors import UsageError


def set_drop_path(model: nn.Module, rate: float) -> int:
    """Let residual blocks be skipped at random in training, more often towards the output: from 0 to `rate`.

    timm's blocks hold a place for it, `drop_path` (`drop_path1` and `drop_path2` in transformers), which is an identity
    where the model was built without.

    Args:
        model: changed in place.
        rate: of the last block, in [0, 1).

    Returns:
        the number of blocks.

    Raises:
        UsageError: the rate is outside, or the model has no such blocks.
    """
    from timm.layers import DropPath

    if not 0 <= rate < 1:
        raise UsageError(f"drop_path is a rate in [0, 1): {rate!r}")
    blocks = [m for m in model.modules() if any(name.startswith("drop_path") for name in m._modules)]
    if not blocks:
        raise UsageError("drop_path needs residual blocks as timm builds them, this backbone has none; leave it out")
    for number, block in enumerate(blocks):
        for name in [name for name in block._modules if name.startswith("drop_path")]:
            block._modules[name] = DropPath(rate * number / max(len(blocks) - 1, 1))
    return len(blocks)
