"""What services that do not answer cost a training: seconds with them and without, in pairs within one run.

    python benchmarks/tracker_black_hole.py                # some 6 minutes; --pairs 3 for a look

FIGURES
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
from pathlib import Path
from typing import Any

import numpy as np

SCENARIOS = {
    "nothing listens": "mlflow,wandb", "never answers": "mlflow,wandb", "answers after 3 s": "mlflow",
    "answers 500": "mlflow,wandb", "disk full": "",
}  # fmt: skip
EPOCHS, STEPS, BATCH = 4, 50, 64


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


def train(tracker: Any, folder: Path) -> tuple[float, float]:
    """Seconds of a small training that tells every step: by the clock, and of the processor, all threads."""
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
    began, worked = time.perf_counter(), time.process_time()
    trainer.fit(DataLoader(data, BATCH), DataLoader(data, 10 * BATCH), EPOCHS)
    return time.perf_counter() - began, time.process_time() - worked


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
        tracker = tracking.begin(run)
        train(None, folder / "warm")
        times = []
        for pair in range(pairs):
            order = (None, tracker) if pair % 2 else (tracker, None)
            found = {which is None: train(which, folder / f"tb{pair}{which is None}") for which in order}
            times.append((found[True], found[False]))
        ended = time.perf_counter()
    wait = time.perf_counter() - ended
    print(json.dumps({"times": times, "wait": wait, "said": said}), flush=True)


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
    without, with_ = np.moveaxis(np.array(found["times"]), 1, 0)  # each (pairs, clock and processor)
    clock, work = (interval(with_[:, kind] / without[:, kind]) for kind in (0, 1))
    row = f"{scenario:18} {names or 'files':12} {np.median(without[:, 0]):6.2f} s   {clock}   {work} "
    print(f"{row} {found['wait']:7.1f} s {left:5.1f} s", flush=True)
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
    print("service            trackers    without    with / without         processor's seconds    at the end   exit")
    for scenario, names in SCENARIOS.items():
        if words.only in scenario:
            measure(scenario, names, words.pairs)


if __name__ == "__main__":
    main()
