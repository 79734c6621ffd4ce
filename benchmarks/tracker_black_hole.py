"""What services that do not answer cost a training, in one run.

training: processor seconds of a training of 60 steps without services. telling: what its thread spends on telling two
services and events.jsonl every step; threads: what the services' threads spend meanwhile. Both are percents of it, and
hold on a busy machine. by the clock: seconds with telling over seconds without, median of pairs in turns (the services'
threads run through both). opening: what those spent in the first 12 s. Then the wait at the end, and until the exit.

    python benchmarks/tracker_black_hole.py --pairs 3      # 3 minutes

Two cores at load 1 to 3:

    service            trackers     training   telling   threads   by the clock        opening   at end    exit
    nothing listens    mlflow,wandb   0.96 s    0.72 %    1.04 %   1.056 (0.953–1.134)   0.00 s   10.0 s   3.1 s
    never answers      mlflow,wandb   0.87 s    0.78 %    0.86 %   1.096 (0.930–1.157)   1.24 s   10.0 s   2.5 s
    answers after 3 s  mlflow         1.02 s    0.71 %    0.32 %   0.928 (0.918–1.036)   0.01 s    5.9 s   2.3 s
    answers 500        mlflow,wandb   1.01 s    0.73 %    0.94 %   0.997 (0.949–1.117)   0.00 s   10.0 s   2.7 s
    disk full          files          1.01 s    0.05 %    0.00 %   1.065 (1.044–1.067)   0.00 s    0.0 s   1.9 s

Telling is some 120 µs a step, most of it the line in events.jsonl. Steps of 16 ms that are all told are the worst
case: telling and threads together are up to 1.8 % of them. A fit tells 50 steps an epoch, so that it stays below 1 %
where an epoch has 100 such steps, or a step takes 30 ms. Of the clock, three pairs say nothing finer than a tenth. W&B
records in files in each case, MLflow keeps all in the queue.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regraft.tracking.base import Tracker

SCENARIOS = {
    "nothing listens": "mlflow,wandb", "never answers": "mlflow,wandb", "answers after 3 s": "mlflow",
    "answers 500": "mlflow,wandb", "disk full": "",
}  # fmt: skip
EPOCHS, STEPS, BATCH = 1, 60, 64


def serve(scenario: str) -> int:
    """A server of that kind, in threads of this process; its port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    if scenario in ("nothing listens", "disk full"):
        return port  # bound and not listening: refused
    if scenario == "never answers":
        listener.listen(1000)
        kept: list[Any] = []

        def accept() -> None:
            while True:
                kept.append(listener.accept())

        threading.Thread(target=accept, daemon=True).start()
        return port
    listener.close()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if scenario == "answers 500":
                status, body = 500, b"{}"
            else:
                time.sleep(3)
                run = {"info": {"run_id": "r", "run_uuid": "r", "experiment_id": "1"}, "data": {}}
                status, body = 200, json.dumps({"experiment": {"experiment_id": "1", "name": "x"}, "run": run}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return port


class Timed(Tracker):
    """Counts the processor's seconds that telling costs the thread that trains."""

    def __init__(self, inner: Tracker) -> None:
        self.inner, self.seconds = inner, 0.0

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        began = time.thread_time()
        self.inner.log_metrics(metrics, step)
        self.seconds += time.thread_time() - began


def train(tracker: Tracker | None, folder: Path) -> tuple[float, float, float]:
    """A small training that tells every step: its seconds by the clock, its thread's on the processor, and the others'.

    One thread trains, so that the others are the trackers'.
    """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from regraft.fit.loop import Trainer
    from regraft.fit.tensorboard_callback import TensorBoardCallback

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(STEPS * BATCH, 3, 32, 32), torch.arange(STEPS * BATCH) % 10)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    callback = TensorBoardCallback(folder, also=(tracker,) if tracker is not None else ())
    trainer = Trainer(model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.01), callbacks=[callback],
                      precision="fp32")  # fmt: skip
    began, mine, all_ = time.perf_counter(), time.thread_time(), time.process_time()
    trainer.fit(DataLoader(data, BATCH), DataLoader(data, 10 * BATCH), EPOCHS)
    mine = time.thread_time() - mine
    return time.perf_counter() - began, mine, time.process_time() - all_ - mine


def child(names: str, pairs: int, folder: Path) -> None:
    """One scenario: pairs of trainings, without and with, in turns."""
    import torch

    from regraft.tracking.of_run import Tracking

    torch.set_num_threads(1)
    said: list[str] = []
    with Tracking(tuple(filter(None, names.split(","))), said.append) as tracking:
        run = folder / "runs" / "p" / "1"
        run.mkdir(parents=True)
        if not names:
            (run / "events.jsonl").symlink_to("/dev/full")
        tracker = Timed(tracking.begin(run))
        began = time.perf_counter()
        opening = [train(None, folder / f"warm{count}")[2] for count in range(60) if time.perf_counter() - began < 12]
        tracker.log_metrics({"warm": 1.0}, 0)
        tracker.seconds = 0.0
        times = []
        for pair in range(pairs):
            order = (None, tracker) if pair % 2 else (tracker, None)
            found = {which is None: train(which, folder / f"tb{pair}{which is None}") for which in order}
            times.append((found[True], found[False]))
        ended = time.perf_counter()
    wait = time.perf_counter() - ended
    print(
        json.dumps({"times": times, "telling": tracker.seconds, "opening": sum(opening), "wait": wait, "said": said}),
        flush=True,
    )


def measure(scenario: str, names: str, pairs: int) -> None:
    url = f"http://127.0.0.1:{serve(scenario)}"
    env = os.environ | {"MLFLOW_TRACKING_URI": url, "WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", names or ",", "--pairs", str(pairs), "--folder", folder]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = json.loads(process.stdout.readline())
            ended = time.perf_counter()
            process.wait()
            left = time.perf_counter() - ended
    without, with_ = np.moveaxis(np.array(found["times"]), 1, 0)  # each (pairs, 3)
    clock = interval(with_[:, 0] / without[:, 0])
    trained = with_[:, 1].sum()
    told, others = 100 * found["telling"] / trained, 100 * (with_[:, 2].sum() + without[:, 2].sum()) / 2 / trained
    row = f"{scenario:18} {names or 'files':12} {np.median(without[:, 1]):6.2f} s   {told:5.2f} %   {others:5.2f} %"
    print(f"{row}   {clock} {found['opening']:6.2f} s {found['wait']:6.1f} s {left:5.1f} s", flush=True)
    for line in found["said"]:
        print(f"    {line[:230]}", flush=True)


def interval(ratios: Any) -> str:
    """The median with a 95 % bootstrap interval."""
    draws = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{np.median(ratios):.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--child", default="")
    parser.add_argument("--folder", type=Path)
    words = parser.parse_args()
    if words.child:
        child(words.child.strip(","), words.pairs, words.folder)
        return
    print("service            trackers     training   telling   threads   by the clock        opening   at end    exit")
    for scenario, names in SCENARIOS.items():
        if words.only in scenario:
            measure(scenario, names, words.pairs)


if __name__ == "__main__":
    main()
