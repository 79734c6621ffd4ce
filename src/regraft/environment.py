"""Where a run took place: versions, processor, memory. No names of people or machines."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from regraft.types import JSON

PACKAGES = (
    "regraft", "numpy", "openvino", "torch", "timm", "torchvision", "pillow", "simplejpeg", "opencv-python-headless",
    "scikit-learn", "scipy", "safetensors", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the packages that take part, read from their metadata: none of them is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe() -> JSON:
    """The content of `env.json`."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "packages": versions(),
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
