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

Then the page in Chromium, from a server process of its own, in wall time from the navigation; the browser has nothing
cached. The images that the first 20 cards show are photos of 1,200 × 900 on the disk; no other image is asked for.
Seen with three other processes busy on the two cores:

                                               no decision    20,000
    first paint, right after the start, ms             672       648    (thumbnails not made, the browser just started)
    first picture shown, ms                          1,591     1,766
    first paint after that, median of 9, ms            316       356
    first picture shown, ms                            875     1,151
    memory of the server as a whole, MiB               142       180    ready
                                                       163       198    after ten visits

At a calm moment, without decisions: paint after 320 to 470 ms right after the start and 200 later, the picture after
900 to 950 and 650 to 720.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


SHOWN = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("#stage[data-shown] #picture img")) return;
  observer.disconnect();
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { window.firstPicture = performance.now(); };
    port2.postMessage(null);
  });
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-shown"] });
"""
"""In the page: when the frame with the first picture was painted, in ms after the navigation began."""


def photographed(desk: Any, rows: Any, root: Path) -> None:
    """Write a photo of 1,200 × 900 for each row that these rows' cards show, and give the desk its hash."""
    from blake3 import blake3
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8))
    pixels = np.asarray(coarse.resize((1200, 900), Image.Resampling.BICUBIC)) * 0.9 + rng.normal(0, 6, (900, 1200, 1))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    classes = np.concatenate([desk.given[rows], desk.guesses[rows]])
    for row in np.unique(np.concatenate([rows, desk.neighbours[rows].ravel(), desk.prototypes[classes].ravel()])):
        data = file.getvalue() + int(row).to_bytes(8, "big")  # behind a JPEG's end: another file, the same picture
        path = root / desk.paths[int(row)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        desk.hashes[row] = np.frombuffer(blake3(data).digest(), np.uint8)


def serve_kept(folder: Path) -> None:
    """The review of the desk in this folder, on a free port, which it prints."""
    from regraft.board.review.prepare import kept
    from regraft.board.server import free_port, serve
    from regraft.board.site import Site
    from regraft.store.db import open_database

    desk = kept(folder / "desk.safetensors", project=PROJECT, root=folder / "photos")
    site = Site(
        runs_dir=folder, database=open_database(None, runs_dir=folder), cache_dir=folder / "cache", desk=desk,
        port=free_port("127.0.0.1", 8990),
    )  # fmt: skip
    serve(site, on_ready=lambda: print(site.port, flush=True))


@contextmanager
def served(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`serve_kept` in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", folder], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def looked_at(folder: Path, visits: int) -> dict[str, float]:
    """The page in Chromium, as somebody sees it for the first time: right after the start, and later (medians)."""
    import psutil
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    began = time.perf_counter()
    with served(folder) as process, sync_playwright() as playwright:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = {"server_up_ms": 1000 * (time.perf_counter() - began)}
        memory = psutil.Process(process.pid).memory_info
        found["server_mib"] = memory().rss / 2**20
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        times = []
        for _ in range(1 + visits):
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.add_init_script(SHOWN)
            page.goto(f"http://127.0.0.1:{port}/review")
            page.wait_for_function("() => window.firstPicture")
            assert page.evaluate("document.querySelector('#picture img').naturalWidth") == 1024  # no placeholder
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            times.append((paint, page.evaluate("firstPicture")))
            page.wait_for_timeout(1000)  # the next pictures are made meanwhile
            page.context.close()
        browser.close()
        found |= dict(zip(("first_visit_paint_ms", "first_visit_picture_ms"), times[0], strict=True))
        paint, picture = (statistics.median(column) for column in list(zip(*times[1:], strict=True)))
        return found | {"paint_ms": paint, "picture_ms": picture, "server_after_mib": memory().rss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--decisions", type=int, nargs="+", default=[0, 20_000])
    parser.add_argument("--visits", type=int, default=9, help="of a browser, after the first")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve_kept(options.serve)
        return
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
            first = (
                desk.order[:20] if num == 0 else desk.order[2::3][:20]
            )  # another's skips are open for everybody else
            photographed(desk, first, folder / "photos")
            keep(desk, folder / "desk.safetensors")
            database = open_database(None, runs_dir=folder)
            for start in range(0, num, 1000):
                Ledger(database, PROJECT).append(decided(desk, num)[start : start + 1000])
            database.close()
            size = (folder / "desk.safetensors").stat().st_size / 2**20
            done = subprocess.run(
                [sys.executable, __file__, "--measure", scratch], check=True, capture_output=True, text=True
            )
            told = json.loads(done.stdout) | looked_at(folder, options.visits)
            print(
                f"{num:,} decisions, desk {size:.0f} MiB on disk: "
                + ", ".join(f"{name} {value:.0f}" for name, value in told.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
