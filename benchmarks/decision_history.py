"""The history of decisions: what an append costs, and reading what it says.

    python benchmarks/decision_history.py [--database postgresql://…] [--events 100000]

Compared within the run: `write + fsync` of one line (what any durable append costs on this disk), and the driver's own
reading of the same rows into tuples, in CPU time.

Last seen on SQLite, on 2 cores that 10 to 13 other processes wanted too (the ratios count):

    append 1          12 ms (2 to 4 x write + fsync in three of four runs)
    append 1,000     280 ms (70 ms with 3 other processes)
    append 98,800     34 s  (8 s with 3 other processes)
    the driver's rows     0.55 s of CPU
    verdicts, first time  2.18 s of CPU, 3.9 x the driver's rows
    verify                2.53 s of CPU, 4.6 x the driver's rows
    verdicts, one event later 27 ms
    peak memory 420 MiB, the benchmark's own 100,000 events included
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from regraft.store.db import open_database
from regraft.store.decisions import Ledger
from regraft.types import Decision


def events(count: int, project: str) -> list[Decision]:
    """Relabels by three reviewers, every fifth image looked at twice."""
    draw = random.Random(0)
    return [
        Decision(
            event_id=str(uuid.UUID(int=draw.getrandbits(128))), time=1.7e9 + n, project=project, reviewer=f"r{n % 3}",
            session="s", item=f"{n % (count * 4 // 5):064x}", path=f"class {n % 10}/image {n}.jpg", action="relabel",
            label=f"class {n % 10}", given=f"class {n % 7}", suggested="class 1", issue="label",
            scores={"label": draw.random()}, duration=draw.random(),
        )
        for n in range(count)
    ]  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """The best of some rounds, in CPU time: it hardly depends on who else is on the machine."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = open_database(args.database, runs_dir=folder)
        ledger = Ledger(database, f"benchmark {uuid.uuid4()}")
        single = events(200, ledger.project)
        one = [seconds(lambda event=event: ledger.append([event])) for event in single]
        with (folder / "line").open("ab", buffering=0) as out:

            def line() -> None:
                out.write(b"x" * 600)
                os.fsync(out.fileno())

            plain = [seconds(line) for _ in range(200)]
        ratio = statistics.median(one) / statistics.median(plain)
        print(f"append 1       {1e3 * statistics.median(one):8.2f} ms   {ratio:.1f} x write + fsync")
        many = events(args.events, ledger.project)[200:]
        print(f"append 1,000   {1e3 * seconds(lambda: ledger.append(many[:1000])):8.2f} ms")
        rest = seconds(lambda: ledger.append(many[1000:]))
        print(f"append {len(many) - 1000:,}  {rest:8.2f} s   {1e6 * rest / (len(many) - 1000):.0f} us an event")

        def rows() -> None:
            with database.connect() as connection:
                mark = "?" if database.is_sqlite else "%s"
                query = f"SELECT * FROM decisions WHERE project = {mark} ORDER BY seq"
                connection.exec_driver_sql(query, (ledger.project,)).cursor.fetchall()

        driver = cpu_seconds(rows, args.rounds)
        print(f"the driver's rows     {driver:.2f} s of CPU")
        for what, work in {
            "verdicts, first time": lambda: Ledger(database, ledger.project).verdicts(),
            "verify": ledger.verify,
        }.items():
            took = cpu_seconds(work, args.rounds)
            print(f"{what:<22}{took:.2f} s of CPU, {took / driver:.1f} x the driver's rows")
        ledger.verdicts()
        ledger.append([events(args.events + 1, ledger.project)[-1]])
        print(f"verdicts, one event later {1e3 * seconds(ledger.verdicts):.1f} ms")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        database.close()


if __name__ == "__main__":
    main()
