"""`fit --strategy auto`: the strategies raced on the user's own images, and the one that the fit takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from regraft.config import FitConfig, Settled
from regraft.data import Scan
from regraft.errors import UsageError
from regraft.files import write_json
from regraft.fit.strategies import STRATEGIES
from regraft.progress import Listener
from regraft.store import runs
from regraft.studies.race.outcome import Outcome
from regraft.studies.race.study import Judge, race_study
from regraft.studies.race.words import paragraph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RacedStrategy:
    """What the race settled.

    Attributes:
        config: the options with the strategy, and the backbone where that was raced too.
        settled: option to what it became, and why.
        outcome: the whole race.
    """

    config: FitConfig
    settled: dict[str, Settled]
    outcome: Outcome

    def card(self) -> str:
        """The card as a part of the report: trusted HTML, names escaped."""
        from regraft.studies.race.card_html import html_fragment

        return html_fragment(self.outcome)

    def write(self, folder: Path, title: str) -> None:
        """The card beside the run: `race.json` and `race.png`."""
        from regraft.studies.race.card_png import write_card

        write_json(folder / runs.RACE, self.outcome.as_dict())
        write_card(folder / runs.RACE_CARD, self.outcome, title=title)


def race_strategies(
    config: FitConfig, scan: Scan, *, cache_dir: Path, listener: Listener, judge: Judge | None = None
) -> RacedStrategy:
    """Race the strategies on the development images; the test set is left to the fit.

    Where the race stays unresolved, the fit takes what it found good enough meanwhile, and says so.

    Raises:
        UsageError: options that a race cannot follow.
        DataError: the data do not allow it.
    """
    default = FitConfig()
    names = ("weights", "features_from", "init_from", "epochs", "lr")
    given = [name for name in names if getattr(config, name) != getattr(default, name)]
    if given:
        raise UsageError(
            f"a race gives each strategy its own settings on a named backbone: leave out {', '.join(given)}, or name "
            "the strategy"
        )
    outcome = race_study(
        scan, backbones=config.backbone, strategies=STRATEGIES, budget_seconds=config.budget_seconds,
        metric=config.metric, image_size=config.image_size, measure_similarity=False, test=config.test,
        seed=config.seed, cache_dir=cache_dir, touch_test=False, judge=judge, listener=listener,
    )  # fmt: skip
    chosen = outcome.chosen
    said = paragraph(outcome)
    listener.say(said)
    reason = ("raced" if outcome.resolved else "raced, and unresolved: good enough meanwhile") + f"; {said}"
    settled = {"strategy": Settled(chosen.strategy, reason)}
    if config.backbone in ("auto", "offline"):
        settled["backbone"] = Settled(chosen.backbone, "of the winner of the race")
    config = dataclasses.replace(config, strategy=chosen.strategy, backbone=chosen.backbone, budget=None)  # type: ignore[arg-type]
    return RacedStrategy(config=config, settled=settled, outcome=outcome)
