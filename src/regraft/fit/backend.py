"""Where the head is solved: NumPy and its BLAS on the CPU, torch on a CUDA device.

Importing torch takes 3 to 5 s from cold, as long as the whole solution for 10,000 images, so the CPU path never
does, and whether there is a GPU is asked of the driver's device files and not of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Backend:
    """An array namespace and the device its arrays live on.

    The solver uses only what NumPy and torch spell alike: operators, indexing, `matmul`, `exp`, `amax`, `sum`.

    Attributes:
        xp: the module `numpy` or `torch`.
        device: None for NumPy, else torch's name of the device.
        block: elements of one slice of logits that elementwise work is done on at a time. On the CPU the working
            set of three such slices stays within a core's cache; on a GPU one kernel launch takes all.
        reason: why this one, in words.
    """

    xp: Any
    device: str | None
    block: int
    reason: str

    def put(self, array: NDArray[Any]) -> Any:
        """The array on the device (on the CPU the array itself, not a copy)."""
        return array if self.device is None else self.xp.as_tensor(array, device=self.device)

    def get(self, array: Any) -> NDArray[Any]:
        """The array as NumPy."""
        return array if self.device is None else array.cpu().numpy()  # type: ignore[no-any-return]

    def empty(self, *shape: int) -> Any:
        """An uninitialised float32 array."""
        if self.device is None:
            return np.empty(shape, np.float32)
        return self.xp.empty(shape, dtype=self.xp.float32, device=self.device)


def choose_backend(device: str = "auto") -> Backend:
    """The backend for a device.

    Args:
        device: `auto` takes CUDA where there is a driver and a device, else the CPU; `cpu` and `cuda` insist. Any
            other name that torch knows is handed to torch.

    Raises:
        UsageError: CUDA was asked for and cannot be used.
    """
    if device == "cpu":
        return Backend(np, None, 1 << 17, "cpu: as asked")
    if device == "auto" and not _has_nvidia_device():
        return Backend(np, None, 1 << 17, "cpu: no NVIDIA device found")
    import torch

    if device in ("auto", "cuda") and not torch.cuda.is_available():
        if device == "auto":
            return Backend(np, None, 1 << 17, "cpu: there is an NVIDIA device, but torch cannot use it")
        raise UsageError(f"the device must be usable by torch: {device=}, but torch finds no CUDA; use device='cpu'")
    return Backend(torch, "cuda" if device == "auto" else device, 1 << 26, f"{device}: torch on the device")


def _has_nvidia_device() -> bool:
    return any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/dxg", "/proc/driver/nvidia/gpus"))
