"""Checkpoints: everything a fit needs to go on, in one safetensors file whose header holds the rest as JSON.

One file, written aside, fsynced and renamed, is either the old checkpoint or the new one, whatever happens; and
reading it runs no code, as a pickle would.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from regraft.errors import CheckpointError
from regraft.files import replacing

LAST, BEST = "last.safetensors", "best.safetensors"
_FORMAT = "regraft-checkpoint-1"


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts, lists and tuples of tensors, arrays, numbers and words; the old file stays until it is done.

    Raises:
        OSError: the disk is full, or cannot be written.
        CheckpointError: a value of another kind.
    """
    tensors: dict[str, Tensor] = {}
    rest = _pack(state, "", tensors, set())
    try:
        with replacing(path) as aside:
            save_file(tensors, aside, metadata={"format": _FORMAT, "state": json.dumps(rest)})
    except SafetensorError as error:  # how the library says that the disk is full
        raise OSError(str(error)) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` was given, tensors on the CPU; mappings come back as dicts.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise CheckpointError(f"a checkpoint is a file that a fit wrote: {path} is another safetensors file")
            tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
        state: dict[str, Any] = _unpack(json.loads(metadata["state"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"a checkpoint must be whole: {path} cannot be read ({error})") from error
    return state


def _pack(value: Any, name: str, tensors: dict[str, Tensor], seen: set[int]) -> Any:
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(value.copy())
        return {"$array": name}
    if isinstance(value, Tensor):
        plain = value.detach().to("cpu").contiguous()
        # A file has no two names for one memory (tied weights), and no views.
        whole = plain.untyped_storage().nbytes() == plain.nbytes
        tensors[name] = plain if whole and plain.data_ptr() not in seen else plain.clone()
        seen.add(plain.data_ptr())
        return {"$tensor": name}
    if isinstance(value, Mapping):
        items = [
            [key, _pack(item, f"{name}.{key}" if name else str(key), tensors, seen)] for key, item in value.items()
        ]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {"$items": items}
    if isinstance(value, list | tuple):
        packed = [_pack(item, f"{name}.{number}", tensors, seen) for number, item in enumerate(value)]
        return packed if isinstance(value, list) else {"$tuple": packed}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"a checkpoint holds tensors, numbers and words: {name} is {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return tensors[value["$array"]].numpy()
    if "$items" in value:
        return {key: _unpack(item, tensors) for key, item in value["$items"]}
    if "$tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["$tuple"])
    return {key: _unpack(item, tensors) for key, item in value.items()}


def random_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's random numbers of this process, the GPU's included."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 the global one, which mixup draws from
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on where `random_state` was taken."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def load_model(model: nn.Module, state: Mapping[str, Any], *, what: str = "model") -> None:
    """Copy weights and buffers into a model.

    Raises:
        CheckpointError: they are another model's.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"a checkpoint belongs to one model: its {what} does not fit ({error})") from error


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Copy an optimiser's state, in the memory layout of its parameters.

    The layout matters: with another one, torch takes another path of arithmetic, and the last bits differ.

    Raises:
        CheckpointError: it is another optimiser's.
    """
    try:
        optimizer.load_state_dict(dict(state))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"a checkpoint belongs to one optimiser: it does not fit ({error})") from error
    for p, slots in optimizer.state.items():
        for name, slot in slots.items():
            if isinstance(slot, Tensor) and slot.shape == p.shape and slot.stride() != p.stride():
                slots[name] = torch.empty_like(p, dtype=slot.dtype).copy_(slot)
