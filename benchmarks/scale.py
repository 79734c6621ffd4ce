"""Time and memory of a whole fit as the number of images grows; each fit is a process of its own.

    python benchmarks/scale.py --sizes 10000 30000 100000 --image-size 64

The images are 32 x 32 PNG files: scikit-learn's digits, enlarged, with noise so that no two are alike. Peak memory is
the kernel's maximum resident set size of the process. Then the same fit again, from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_noisy_digits(folder: Path, num_images: int) -> None:
    digits = load_digits()
    rng = np.random.default_rng(0)
    for k in range(10):
        (folder / str(k)).mkdir(parents=True, exist_ok=True)
    for i in range(num_images):
        row = i % len(digits.target)
        pixels = np.kron(digits.images[row] * (255 / 16), np.ones((4, 4)))
        noisy = np.clip(pixels + rng.normal(0, 40, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / str(digits.target[row]) / f"{i:06d}.png", compress_level=1)


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float, dict[str, object]]:
    """Wall seconds, peak GiB and the result of one `regraft fit --json`."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    _, _, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - began, peak_gib(usage), result


def peak_gib(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--image-size", type=int, default=64)
    options = parser.parse_args()
    print(f"{'images':>8} {'fit':>8} {'us/image':>9} {'peak GiB':>9} {'again':>8} {'peak GiB':>9}  stages of both, s")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch) / "digits"
            write_noisy_digits(data, size)
            environment = {**os.environ, "REGRAFT_CACHE_DIR": str(Path(scratch) / "cache")}
            command = [
                sys.executable, "-m", "regraft", "fit", str(data), "--image-size", str(options.image_size),
                "--runs-dir", str(Path(scratch) / "runs"), "--json",
            ]  # fmt: skip
            first, peak, result = run(command, environment)
            again, peak_again, result_again = run(command, environment)
            print(
                f"{size:8d} {first:8.1f} {1e6 * first / size:9.0f} {peak:9.2f} {again:8.1f} {peak_again:9.2f}  "
                f"{result['seconds']} {result_again['seconds']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
