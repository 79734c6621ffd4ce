"""Does a race keep to its budget, on a real clock, and what does the card cost where the evidence is there?

spent: seconds of the race over its budget (at most 1.1 wanted), evidence empty at its beginning, features cached. card:
a second race on the same evidence, over the seconds of the arms in it (at most 1.3 wanted); without imports, the label
audit and the similarity.

    python benchmarks/race_budget.py --budgets 60 120 240      # 8 minutes

1,797 digits at 64 px, lite0, torch 2.15.0, two idle cores, one race each:

    budget (default)   13.5 s   spent   7.8 s = 0.58   card 0.3 s = 0.03   open: the probe alone
    budget             60.0 s   spent  11.3 s = 0.19   card 0.3 s = 0.02   open: the probe alone
    budget            120.0 s   spent  72.6 s = 0.61   card 0.4 s = 0.01   open: light, one training on n
    budget            240.0 s   spent 225.4 s = 0.94   card 0.4 s = 0.00   resolved: light, three trainings on n

What is left of a small budget is too little for the next training.
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
