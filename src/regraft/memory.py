"""How the C library keeps memory: the largest single speed-up for PyTorch on a CPU."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of returning them to the kernel after every layer.

    By default glibc maps and unmaps each tensor over 32 MB, and page faults took 60 of 101 CPU seconds: eager fp32
    ran 22.6 images/s, with these settings 133. A no-op where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 256 << 20)
