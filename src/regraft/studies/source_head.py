"""The classifier that a backbone was trained with, where it is at hand: LEEP asks what it says of the user's images.

It is a linear layer on the backbone's features, so its answers come from the cached features without another pass.
Reading it costs an import of torch; it is kept in the cache as plain arrays.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from regraft.files import write_bytes
from regraft.models.backbones import PACKAGED, Backbone

Head = tuple[NDArray[np.float32], NDArray[np.float32]]
"""weight (Z, D), bias (Z,)."""


def source_head(backbone: Backbone, *, cache_dir: Path) -> Head | None:
    """Weight and bias of the source classifier, or None where it is not at hand.

    Only the packaged backbones bring theirs; from timm's hub weights it could be read too, but several families put
    more than a linear layer behind the pooled features.
    """
    name = backbone.name.split("+")[0]
    packaged = PACKAGED.get(name)
    path = packaged.path() if packaged is not None else None
    if path is None or not path.is_file():
        return None
    kept = cache_dir / "source_heads" / f"{backbone.weights_hash[:32]}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError):
        tensors = load_file(kept)
        return tensors["weight"], tensors["bias"]
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    *_, (_, weight), (_, bias) = state.items()  # its classifier comes last
    if weight.ndim != 2 or weight.shape[0] != bias.shape[0]:
        return None
    head = np.ascontiguousarray(weight.float().numpy()), np.ascontiguousarray(bias.float().numpy())
    with contextlib.suppress(OSError):
        write_bytes(kept, save({"weight": head[0], "bias": head[1]}))
    return head


def source_probs(features: NDArray[Any], head: Head) -> NDArray[np.float32]:
    """float32 (N, Z): the source classifier's probabilities for features (N, D)."""
    logits = np.asarray(features, np.float32) @ head[0].T + head[1]
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    return np.asarray(logits / logits.sum(axis=1, keepdims=True), np.float32)
