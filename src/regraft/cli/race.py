"""Which strategy: race."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from regraft.cli.options import CacheDir, ColumnOptions, Json, ReviewOptions, print_json, reviewed, scanned
from regraft.config import seconds_of
from regraft.errors import UsageError

if TYPE_CHECKING:
    from regraft.studies.race.outcome import Outcome


def race(
    data: Path,
    *,
    budget: str | None = None,
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1"] = "macro_f1",
    within: float = 1.0,
    backbones: Annotated[str, Parameter(name=("--backbones", "--backbone"))] = "tf_efficientnet_lite0",
    strategies: str = "light,lp_ft,full,scratch",
    image_size: int | None = None,
    similarity: bool = True,
    card: Path | None = None,
    html: Path | None = None,
    test: float | Literal["auto"] = "auto",
    seed: int = 0,
    columns: ColumnOptions = None,
    review: ReviewOptions = None,
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """Which strategy, measured: frozen features or fine-tuning, how sure, and what would change the answer.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    budget
        Time for all trainings, such as 90s, 30m or 2h; by default 10 passes of the backbone over the images.
    metric
        What best means.
    within
        Points below the best that are good enough: the cheapest of these is taken.
    backbones
        Up to three names with commas between, or auto or offline, which rank first.
    strategies
        What races against the linear probe.
    image_size
        Side of the input in pixels; by default what the backbone was trained with.
    similarity
        Measure how far the images are from the backbone's training data, for the card.
    card
        Write the decision card to this PNG file.
    html
        Write the card as a part of a page to this HTML file.
    test
        Share that is locked away, as in fit.
    seed
        Of the split, the folds and the trainings.
    """
    seconds = None if budget is None else seconds_of(budget)
    if budget is not None and seconds is None:
        raise UsageError(f"a budget is a time above 0 such as 90s, 30m or 1h30m: {budget!r} is not")
    if not 0 <= within < 100:
        raise UsageError(f"within is a number of points from 0 to below 100: {within!r} is not")

    from regraft.auditing import label_suspects
    from regraft.studies.race.study import race_study
    from regraft.terminal import TerminalListener

    listener = TerminalListener()
    found = reviewed(scanned(data, columns, cache_dir, listener), data, review, listener)
    outcome = race_study(
        found, backbones=backbones, strategies=[word.strip() for word in strategies.split(",") if word.strip()],
        budget_seconds=seconds, metric=metric, delta=within / 100, image_size=image_size,
        measure_similarity=similarity, test=test, seed=seed, cache_dir=cache_dir, judge=label_suspects,
        listener=listener,
    )  # fmt: skip
    if card is not None:
        from regraft.studies.race.card_png import write_card

        write_card(card, outcome, title=data.resolve().name)
        listener.say(f"card: {card}")
    if html is not None:
        from regraft.files import write_text
        from regraft.studies.race.card_html import html_page

        write_text(html, html_page(outcome, title=data.resolve().name))
        listener.say(f"page: {html}")
    if json_:
        print_json(outcome.as_dict())
        return
    _print_outcome(outcome)


def _print_outcome(outcome: Outcome) -> None:
    from regraft.studies.race.words import lines, paragraph
    from regraft.terminal import print_table

    header = (
        "", "strategy", "backbone", outcome.metric.replace("_", " "), "80 % interval", "over the probe", "P(best)",
        "P(good enough)", "seconds", "trainings",
    )  # fmt: skip
    rows = []
    for one in outcome.arms:
        gain = f"{100 * one.gain.estimate:+.1f} ({100 * one.gain.low:+.1f} to {100 * one.gain.high:+.1f})"
        rows.append(
            (
                "→" if one.arm == outcome.chosen else "", one.arm.strategy, one.arm.backbone,
                f"{one.value.estimate:.3f}", f"{one.value.low:.3f}–{one.value.high:.3f}",
                "" if one.arm == outcome.reference else gain, f"{one.p_best:.2f}", f"{one.p_within:.2f}",
                f"{one.seconds:,.1f}", f"{one.num_trainings}" + (" (carried over)" if one.extrapolated else ""),
            )
        )  # fmt: skip
    title = f"{outcome.num_images:,} development images, each training on {outcome.num_train:,}"
    print_table(title, header, rows)
    print(paragraph(outcome))
    for line in lines(outcome):
        print(line)
