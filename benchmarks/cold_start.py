"""What a cold process costs: `regraft predict RUN one.jpg` against `python -c "import torch"`, in turn.

    python benchmarks/cold_start.py --rounds 7

Also `regraft --help`. Ratios are taken within a round. Every process is new; the files are warm in the page cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from images import write_photographs

from regraft import fit


def seconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = write_photographs(Path(scratch) / "photographs", 60)
        cache = Path(scratch) / "cache"
        run = fit(data, runs_dir=Path(scratch) / "runs", cache_dir=cache)
        environment = {**os.environ, "REGRAFT_CACHE_DIR": str(cache)}
        image = str(next(data.rglob("*.jpg")))
        regraft = [sys.executable, "-m", "regraft"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "predict": [*regraft, "predict", str(run.path), image],
            "--help": [*regraft, "--help"],
        }
        for command in commands.values():
            seconds(command, environment)
        rows = [{n: seconds(c, environment) for n, c in commands.items()} for _ in range(options.rounds)]
    for name in commands:
        values = [row[name] for row in rows]
        print(f"{name:>24} median {statistics.median(values):6.3f} s  ({min(values):.3f}–{max(values):.3f})")
    ratios = [row["predict"] / row["import torch"] for row in rows]
    spread = f"({min(ratios):.2f}–{max(ratios):.2f})"
    print(f"{'predict / import torch':>24} median {statistics.median(ratios):6.2f}    {spread}")


if __name__ == "__main__":
    main()
