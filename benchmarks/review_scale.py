"""A review of 100,000 images: memory of the board, and how long it takes to answer, by number of decisions so far.

    python benchmarks/review_scale.py --images 100000 --classes 1000 --decisions 0 20000

The desk is made up: no image is read, and none need be on the disk. Each line is a process of its own that reads the
kept desk and the history from SQLite, as `regraft review` does on its second start, and asks through the application's
own stack (no network). Times are of the processor, as the machine was shared. Memory is the growth of the resident set
from a board without a review to after all requests.

    2 cores, 2026-11-23                    no decision    20,000
    ready to answer, ms                            155       844
    the first queue, ms                             28        40
    a queue after that, ms                           8         7
    filtered by a confusion pair, ms                 4         5
    by a part of the path, ms                       35        38
    a decision, saved and counted, ms                8        12
    memory, MiB                                     52        89

The desk is 28 MiB on the disk, and is read in 25 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = "scale"


def made_up(num: int, num_classes: int, seed: int = 0) -> Any:
    """A desk of random columns: 5 % suspects, paths of 60 characters, 10,000 pairs."""
    from regraft.board.review.desk import Desk
    from regraft.board.review.order import suspects, with_controls
    from regraft.board.review.texts import Texts

    rng = np.random.default_rng(seed)
    given = rng.integers(0, num_classes, num).astype(np.int32)
    flagged = {
        kind: rng.random(num) < share
        for kind, share in (
            ("label", 0.04),
            ("near_duplicate", 0.1),
            ("leakage", 0.02),
            ("outlier", 0.01),
            ("odd_image", 0.005),
        )
    }
    scores = {
        kind: np.where(rows, 0.2 * rng.random(num), 0.5 + 0.5 * rng.random(num)).astype(np.float32)
        for kind, rows in flagged.items()
    }
    top = rng.integers(0, num_classes, (num, 5)).astype(np.int32)
    order, controls = with_controls(suspects(np.argsort(scores["label"]), flagged, scores), num, seed=seed)
    names = [f"class {number:04d} with a name" for number in range(num_classes)]
    sentence = "labelled so, and nearly the same as 'some/folder/some_file.jpg' (cosine 0.993)"
    return Desk(
        project=PROJECT, version="0" * 12, root=Path("/nowhere"),
        hashes=rng.integers(0, 256, (num, 32)).astype(np.uint8),
        paths=Texts.of(f"{names[given[row]]}/a_folder_in_between/photo_{row:012d}.jpg" for row in range(num)),
        class_names=tuple(names), given=given, suggested=np.where(flagged["label"], top[:, 0], -1).astype(np.int32),
        issues=flagged, scores=scores,
        reasons={
            kind: Texts.of(sentence if one else "" for one in flagged[kind]) for kind in flagged if kind != "label"
        },
        top_labels=top, top_probs=np.sort(rng.random((num, 5)).astype(np.float32), axis=1)[:, ::-1] / 5,
        neighbours=rng.integers(0, num, (num, 6)).astype(np.int32), similarity=rng.random((num, 6)).astype(np.float32),
        prototypes=rng.integers(0, num, (num_classes, 4)).astype(np.int32),
        splits=rng.integers(1, 4, num).astype(np.int8), groups=rng.integers(0, 500, num).astype(np.int32),
        group_names=Texts.of(["", *(f"patient {number}" for number in range(1, 500))]),
        sizes=np.full((num, 2), 600, np.int32), order=order, controls=controls,
        pairs=np.stack([np.arange(10_000), np.arange(10_000) + 20_000], axis=1) % num,
        pair_similarity=np.full(10_000, 0.9, np.float32), pair_reasons=Texts.of(sentence for _ in range(10_000)),
    )  # fmt: skip


def decided(desk: Any, num: int) -> list[Any]:
    """Decisions of two reviewers on the first of the queue and then on any images."""
    from regraft.types import Decision

    rows = [*desk.order.tolist(), *np.flatnonzero(~desk.queued).tolist()][:num]
    return [
        Decision(
            event_id=str(uuid.uuid4()), time=1.8e9 + 2 * n, project=PROJECT, reviewer=("anna", "bo")[n % 2],
            session="s", item=desk.hash_of(row), path=desk.path(row), issue="label", given=desk.names[desk.given[row]],
            action=("keep", "exclude", "skip")[n % 3], scores=desk.shown_scores(row), duration=2.0,
        )
        for n, row in enumerate(rows)
    ]  # fmt: skip


def measure(folder: Path) -> dict[str, float]:
    """One start of the board, in this process."""
    import psutil
    from starlette.testclient import TestClient

    from regraft.board.app import create_app
    from regraft.board.review.prepare import kept
    from regraft.board.site import Site
    from regraft.store.db import open_database

    process = psutil.Process()
    database = open_database(None, runs_dir=folder)
    bare = Site(runs_dir=folder, database=database, cache_dir=folder)
    create_app(bare)  # what every board costs is no part of the review's
    before = process.memory_info().rss
    began = time.process_time()
    desk = kept(folder / "desk.safetensors", project=PROJECT, root=Path("/nowhere"))
    assert desk is not None
    read = time.process_time() - began
    client = TestClient(
        create_app(Site(runs_dir=folder, database=database, cache_dir=folder, desk=desk)), base_url="http://localhost"
    )
    ready = time.process_time() - began
    csrf = client.get("/api/session").json()["csrf"]

    def asked(address: str, times: int = 15) -> float:
        return 1000 * statistics.median(clocked(lambda: client.get(f"/api/review/{address}")) for _ in range(times))

    def decide() -> float:
        row = int(np.random.default_rng().integers(len(desk)))
        event = {
            "event_id": str(uuid.uuid4()),
            "session": "s",
            "item": desk.hash_of(row),
            "action": "keep",
            "duration": 2,
        }
        return clocked(
            lambda: client.post("/api/review/decisions", json={"events": [event]}, headers={"x-regraft-csrf": csrf})
        )

    found = {
        "read_ms": 1000 * read,
        "ready_ms": 1000 * ready,
        "first_queue_ms": 1000 * clocked(lambda: client.get("/api/review/queue")),
    }
    found |= {
        "queue_ms": asked("queue"),
        "pair_ms": asked(f"queue?pair={desk.names[0]}>{desk.names[1]}"),
        "search_ms": asked("queue?state=all&q=photo_000000099", 5),
        "filters_ms": asked("filters"),
        "progress_ms": asked("progress"),
        "pairs_ms": asked("pairs"),
        "decide_ms": 1000 * statistics.median(decide() for _ in range(30)),
    }
    found["memory_mib"] = (process.memory_info().rss - before) / 2**20
    database.close()
    return found


def clocked(call: Callable[[], Any]) -> float:
    """Processor seconds of a request that must succeed."""
    began = time.process_time()
    answer = call()
    seconds = time.process_time() - began
    assert answer.status_code == 200, answer.text
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--decisions", type=int, nargs="+", default=[0, 20_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    from regraft.board.review.prepare import keep
    from regraft.store.db import open_database
    from regraft.store.decisions import Ledger

    desk = made_up(options.images, options.classes)
    print(f"{len(desk):,} images, {len(desk.order):,} to look at, {os.cpu_count()} cores")
    for num in options.decisions:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            keep(desk, folder / "desk.safetensors")
            database = open_database(None, runs_dir=folder)
            for start in range(0, num, 1000):
                Ledger(database, PROJECT).append(decided(desk, num)[start : start + 1000])
            database.close()
            size = (folder / "desk.safetensors").stat().st_size / 2**20
            done = subprocess.run(
                [sys.executable, __file__, "--measure", scratch], check=True, capture_output=True, text=True
            )
            told = json.loads(done.stdout)
            print(
                f"{num:,} decisions, desk {size:.0f} MiB on disk: "
                + ", ".join(f"{name} {value:.0f}" for name, value in told.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
