"""PyTorch: eager or compiled, on the CPU or a CUDA GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.features.engines import Choice, Engine, Session, num_cores
from regraft.images import Transform
from regraft.memory import keep_freed_memory
from regraft.models.backbones import Backbone

_CPU_CHUNK, _CUDA_CHUNK = 8, 64


class PixelBackbone(nn.Module):
    """A backbone that takes uint8 (N, size, size, 3) pixels and applies the transform's mean and std itself."""

    def __init__(self, backbone: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("offset", 255.0 * torch.tensor(transform.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("factor", 1 / (255.0 * torch.tensor(transform.std)).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.permute(0, 3, 1, 2).float() - self.offset) * self.factor  # type: ignore[operator]
        return self.backbone(x)  # type: ignore[no-any-return]


def open_torch(backbone: Backbone, *, choice: Choice, size: int) -> Engine:
    """Build the backbone for PyTorch; `choice.engine` says whether it is compiled."""
    device = choice.device
    if device == "cpu":
        keep_freed_memory()
    module: nn.Module = PixelBackbone(backbone.build(), backbone.transform).to(device).eval()
    module = module.to(memory_format=torch.channels_last)
    chunk = _CUDA_CHUNK if device == "cuda" else _CPU_CHUNK
    run: Any = module
    if choice.engine == "compiled":
        run = torch.compile(module, dynamic=False)
        _forward(run, np.zeros((chunk, size, size, 3), np.uint8), device, choice.precision)  # compile on one thread

    def session() -> Session:
        if device == "cpu":
            torch.set_num_threads(1)  # of this thread: every session has a core of its own
        return lambda pixels: _forward(run, pixels, device, choice.precision)

    return Engine(
        name=choice.engine, precision=choice.precision, device=device, reason=choice.reason, chunk=chunk,
        num_threads=num_cores(), session=session,
    )  # fmt: skip


def _forward(run: Any, pixels: NDArray[np.uint8], device: str, precision: str) -> NDArray[np.float32]:
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        out: Tensor = run(torch.from_numpy(pixels).to(device, non_blocking=True))
    return out.float().cpu().numpy()
