"""Does a race keep to its budget, on a real clock, and what does the card cost where the evidence is there?

spent: seconds of the race over its budget (at most 1.1 wanted), evidence empty at its beginning, features cached. card:
a second race on the same evidence, the whole command but for Python's own start, over the seconds of the arms in it (at
most 1.3 wanted).

    python benchmarks/race_budget.py --budgets 60 120 240      # 10 minutes
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from regraft.demo import write_digits
from regraft.files import default_cache_dir
from regraft.progress import Listener
from regraft.studies.race.outcome import Outcome
from regraft.studies.race.study import race_study

SIZE = 64


class Quiet(Listener):
    """Prints what the race says of its arms."""

    def say(self, text: str) -> None:
        if "dropped" in text:
            print(f"    {text}", flush=True)


def raced(photos: Path, cache: Path, budget: float | None, seed: int) -> Outcome:
    return race_study(
        photos, budget_seconds=budget, image_size=SIZE, cache_dir=cache, measure_similarity=False, seed=seed,
        listener=Quiet(),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", type=float, default=[60.0, 120.0, 240.0])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=default_cache_dir()) as name:
        photos, cache = write_digits(Path(name) / "digits"), Path(name) / "cache"
        raced(photos, cache, 1.0, 99)  # features, compiled backbone
        for seed, budget in enumerate([None, *args.budgets]):  # another seed is other evidence
            found = raced(photos, cache, budget, seed)
            began = time.perf_counter()
            raced(photos, cache, found.seconds, seed)  # with nothing left for further trainings
            card = time.perf_counter() - began
            spent, of_arms = found.wall_seconds / found.budget_seconds, card / found.seconds
            trained = ", ".join(f"{one.arm.strategy} {one.num_trainings}" for one in found.arms)
            print(
                f"budget {found.budget_seconds:6.1f} s   spent {found.wall_seconds:6.1f} s = {spent:.2f}   "
                f"card {card:5.1f} s = {of_arms:.2f} of the arms   {'resolved' if found.resolved else 'open'}: "
                f"{found.chosen.strategy}; trainings on n: {trained}",
                flush=True,
            )


if __name__ == "__main__":
    main()
