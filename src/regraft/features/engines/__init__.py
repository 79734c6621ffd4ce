"""Ways to run a backbone, behind one contract; the fastest that works here is the default.

    openvino   Intel's runtime on the CPU; bf16 where the CPU has it; needs no torch once the backbone was converted
    torch      plain PyTorch, eager; CUDA with autocast where there is a GPU
    compiled   torch.compile; slow to start, for long runs

An engine is opened once and gives every extraction thread a session of its own. A session maps
uint8 (chunk, size, size, 3) to float32 (chunk, D); the mean and std of the transform are applied inside.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft.errors import BackboneError, UsageError, nearest
from regraft.models.backbones import Backbone

# OpenVINO imports its vendor's telemetry client where that is installed; regraft sends nothing, so it is kept out.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

EngineName = Literal["openvino", "torch", "compiled"]
Precision = Literal["fp32", "bf16"]
Session = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A backbone that is ready to run.

    Attributes:
        name: which engine.
        precision: of the arithmetic.
        device: "cpu" or "cuda".
        reason: why this engine and this precision, in words.
        chunk: images per call; the last chunk is padded, so that an image's features never depend on how many
            others were asked for.
        num_threads: sessions that run side by side without slowing each other.
        session: opens a session; call it once per thread.
    """

    name: EngineName
    precision: Precision
    device: str
    reason: str
    chunk: int
    num_threads: int
    session: Callable[[], Session]


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` became, and why."""

    engine: EngineName
    precision: Precision
    device: str
    reason: str
    automatic: bool = False
    """Whether another engine may be taken where this one cannot run the backbone."""


def choose(engine: str = "auto", precision: str = "auto") -> Choice:
    """Settle engine, precision and device for this machine, without importing torch where there is no GPU.

    Raises:
        UsageError: an unknown word, or a precision that the hardware lacks.
    """
    known = ("auto", "openvino", "torch", "compiled")
    if engine not in known:
        raise UsageError(f"an engine is one of {', '.join(known)}: {engine!r} is not{nearest(engine, known)}")
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"a precision is one of auto, fp32, bf16: {precision!r} is not")
    gpu = engine != "openvino" and has_cuda()
    device = "cuda" if gpu else "cpu"
    picked: EngineName = "torch" if engine == "auto" and gpu else "openvino" if engine == "auto" else engine  # type: ignore[assignment]
    why = "a CUDA GPU was found" if gpu else "the fastest on a CPU" if engine == "auto" else "asked for"
    auto = engine == "auto"
    if precision != "auto":
        return Choice(picked, precision, device, f"{picked}: {why}; {precision}: asked for", auto)  # type: ignore[arg-type]
    if gpu:
        return Choice(picked, "bf16", device, f"{picked}: {why}; bf16: autocast on the GPU", auto)
    found = next((flag for flag in ("amx_bf16", "avx512_bf16") if flag in cpu_flags()), None)
    settled: Precision = "bf16" if found else "fp32"
    because = f"{found.upper()} found" if found else "this CPU has no bf16 arithmetic"
    return Choice(picked, settled, device, f"{picked}: {why}; {settled}: {because}", auto)


def instead(choice: Choice, why: str) -> Choice:
    """PyTorch in place of OpenVINO, where OpenVINO was not asked for by name.

    Args:
        choice: what `choose` gave.
        why: what kept OpenVINO from running the backbone.
    """
    _, _, precision = choice.reason.partition("; ")
    return replace(choice, engine="torch", reason=f"torch: {why}; {precision}")


def open_engine(backbone: Backbone, *, choice: Choice, size: int, cache_dir: Path) -> Engine:
    """Make a backbone ready to run; its `reason` says so where another engine had to be taken.

    Args:
        backbone: what to run.
        choice: from `choose`.
        size: side of the input in pixels.
        cache_dir: where converted models are kept.

    Raises:
        BackboneError: the backbone cannot be built, or the engine that was asked for by name cannot run it.
    """
    if choice.automatic and choice.engine == "torch" and not _has_modules(backbone):
        _, _, precision = choice.reason.partition("; ")
        choice = replace(
            choice, engine="openvino", device="cpu", reason=f"openvino: the model is kept for it alone; {precision}"
        )
    if choice.engine == "openvino":
        from regraft.features.engines.openvino import open_openvino

        try:
            return open_openvino(backbone, choice=choice, size=size, cache_dir=cache_dir)
        except BackboneError as error:
            if not choice.automatic or backbone.ir is not None:
                raise
            choice = instead(choice, str(error).removesuffix("; use --engine torch"))
    from regraft.features.engines.torch import open_torch

    return open_torch(backbone, choice=choice, size=size)


def _has_modules(backbone: Backbone) -> bool:
    """Whether PyTorch can run it: the bundle of a user's own model holds no code, only the converted model."""
    return not (backbone.ir is not None and backbone.recipe.get("builder") == "ir-only")


def has_cuda() -> bool:
    """Whether an NVIDIA driver is loaded; costs no import."""
    return Path("/proc/driver/nvidia/version").exists() or bool(os.environ.get("REGRAFT_FORCE_CUDA"))


def num_cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty where they cannot be read."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(flags.partition(":")[2].split())
