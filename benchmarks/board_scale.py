"""The board over many runs: how soon a page is there, and what it keeps in memory.

    python benchmarks/board_scale.py --folder /tmp/board-scale [--runs 1000] [--points 10000000]

Writes run folders once (config, result, curves of 10 measures; every fourth with the predictions of 2,000 test images),
starts the board as `regraft up` does, and looks at it with Chromium where that is installed: first contentful paint, as
the browser tells it, and for the run page also until its curves are drawn. The large run holds a tenth of all points by
itself.

Seen on 2 cores that some ten other processes kept busy (load 8 to 11), 1,000 runs, 10 million points, 2026-11-23:

    empty board                        107 MiB
    leaderboard, no index yet         3.40 s       (1,000 folders read; the board does it when it starts)
    leaderboard, answer              0.038 s        171 MiB
    leaderboard, board restarted     0.451 s
    leaderboard, first paint         0.676 s
    run page, first paint            0.640 s    curves drawn after 1.04 s
    large run, first paint           0.736 s    curves drawn after 3.93 s       (a million points, for the first time)
    large run, curves again          0.069 s        248 MiB
    200 runs' curves looked at                      246 MiB
    every paired difference of the page known       246 MiB
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

MEASURES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1", "val/balanced_accuracy",
            "val/log_loss", "lr", "images_per_second", "seconds")  # fmt: skip
CLASSES = tuple(f"class-{k}" for k in range(10))


def write_runs(folder: Path, num_runs: int, num_points: int) -> None:
    """Run folders; the last one is the large one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    large = num_points // 10 // len(MEASURES)
    rows = (num_points - large * len(MEASURES)) // (num_runs - 1) // len(MEASURES)
    labels = np.arange(2000) % 10
    for number in range(num_runs):
        path = folder / f"project-{number % 10}" / str(number // 10 + 1)
        path.mkdir(parents=True)
        version = f"v{number % 3}"
        options = {f"option_{i}": "auto" for i in range(60)} | {"strategy": "lp_ft", "seed": 0, "init_from": None}
        config = {
            "data": "/data",
            "data_version": version,
            "options": options,
            "asked": options,
            "reasons": {},
        }
        (path / "config.yaml").write_text("\n".join(f"{k}: {json.dumps(v)}" for k, v in config.items()))
        (path / "env.json").write_text(json.dumps({"python": "3.11", "packages": {"numpy": "2"}}))
        value = float(rng.uniform(0.7, 0.9))
        measures = {
            name: {"estimate": value, "low": value - 0.02, "high": value + 0.02, "level": 0.95}
            for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
        }
        per_class = {name: {"precision": 0.8, "recall": 0.8, "f1": 0.8, "support": 200} for name in CLASSES}
        result = {"split": "test", "metrics": measures, "per_class": per_class, "num_images": 10_000,
                  "num_evaluated": 2000, "strategy": ("lp_ft", "linear_probe", "light")[number % 3],
                  "backbone": f"backbone_{number % 7}", "data_version": version, "baseline": {}, "warnings": [],
                  "seconds": {"extract": 12.0, "train": 340.0}}  # fmt: skip
        count = large if number == num_runs - 1 else rows
        table = 1 / (1 + np.arange(count)[:, None] / 50) + rng.normal(scale=0.02, size=(count, len(MEASURES)))
        with (path / "metrics.jsonl").open("w") as stream:
            for step, values in enumerate(table.round(6).tolist()):
                row = {"step": step, "epoch": step} | dict(zip(MEASURES, values, strict=True))
                stream.write(json.dumps(row) + "\n")
        if number % 4 == 0:
            wrong = rng.random(2000) > value
            answer = np.where(wrong, (labels + 1) % 10, labels)
            probs = np.full((2000, 10), 0.03, np.float32)
            probs[np.arange(2000), answer] = 0.73
            columns: dict[str, Any] = {
                "image": [f"img{i:05d}.jpg" for i in range(2000)], "predicted_label": [CLASSES[k] for k in answer],
                "confidence": np.full(2000, 0.73), "given_label": [CLASSES[k] for k in labels],
                "split": ["test"] * 2000, "out_of_fold": [False] * 2000,
            }  # fmt: skip
            columns |= {f"p_{name}": probs[:, k] for k, name in enumerate(CLASSES)}
            pq.write_table(pa.table(columns), path / "predictions.parquet", compression="zstd")
        (path / "result.json").write_text(json.dumps(result, indent=2))


SERVER = """
import sys
from pathlib import Path
from regraft.board.server import serve
from regraft.board.site import Site
from regraft.store.db import open_database
runs = Path(sys.argv[1])
serve(Site(runs_dir=runs, database=open_database(runs_dir=runs), cache_dir=Path(sys.argv[2]), port=int(sys.argv[3])))
"""


class Board:
    """A board process; `with` ends it."""

    def __init__(self, runs: Path, cache: Path, port: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "2"}
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(runs), str(cache), str(port)], env=environment
        )

    def __enter__(self) -> Board:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=1).read()
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the board does not come up")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def seconds(self, path: str) -> float:
        """Wall time of one answer, complete."""
        began = time.perf_counter()
        urllib.request.urlopen(self.url + path, timeout=120).read()
        return time.perf_counter() - began

    def mebibytes(self) -> float:
        """Resident memory."""
        import psutil

        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)


def painted(board: Board, path: str, *, until: str) -> tuple[float, float]:
    """Seconds to the first contentful paint in Chromium, and until the selector is there."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{board.url}/who")  # the browser itself is warm, the page is not
        began = time.perf_counter()
        page.goto(board.url + path)
        page.wait_for_selector(until, timeout=120_000)
        done = time.perf_counter() - began
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        browser.close()
    return float(paint) / 1000, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--port", type=int, default=8992)
    options = parser.parse_args()
    runs, cache = options.folder / "runs", options.folder / "cache"
    if not runs.exists():
        began = time.perf_counter()
        write_runs(runs, options.runs, options.points)
        print(f"{options.runs:,} runs, {options.points:,} points written in {time.perf_counter() - began:.0f} s")
    shutil.rmtree(cache, ignore_errors=True)
    last = options.runs - 1
    small, large = "project-0/1", f"project-{last % 10}/{last // 10 + 1}"
    with Board(runs, cache, options.port) as board:
        print(f"empty board                    {board.mebibytes():7.0f} MiB")
        print(f"leaderboard, no index yet      {board.seconds('/runs'):7.2f} s")
        warm = statistics.median(board.seconds("/runs") for _ in range(9))
        print(f"leaderboard, answer            {warm:7.3f} s    {board.mebibytes():7.0f} MiB")
    with Board(runs, cache, options.port) as board:
        print(f"leaderboard, board restarted   {board.seconds('/runs'):7.3f} s")
        paint, _ = painted(board, "/runs", until=".leaderboard")
        print(f"leaderboard, first paint       {paint:7.3f} s")
        paint, drawn = painted(board, f"/runs/{small}", until="#curves canvas")
        print(f"run page, first paint          {paint:7.3f} s    curves drawn after {drawn:.2f} s")
        paint, drawn = painted(board, f"/runs/{large}", until="#curves canvas")
        print(f"large run, first paint         {paint:7.3f} s    curves drawn after {drawn:.2f} s")
        again = board.seconds(f"/api/runs/{large}/curves?width=600")
        print(f"large run, curves again        {again:7.3f} s    {board.mebibytes():7.0f} MiB")
        for number in range(0, options.runs, max(1, options.runs // 200)):
            board.seconds(f"/api/runs/project-{number % 10}/{number // 10 + 1}/curves?width=600")
        print(f"200 runs' curves looked at                   {board.mebibytes():7.0f} MiB")
        for _ in range(600):
            if b"reckoning" not in urllib.request.urlopen(f"{board.url}/runs", timeout=60).read():
                break
            time.sleep(1)
        print(f"every paired difference of the page known    {board.mebibytes():7.0f} MiB")


if __name__ == "__main__":
    main()
