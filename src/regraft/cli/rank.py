"""Which backbone: rank, similarity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from regraft.cli.options import CacheDir, ColumnOptions, Json, ReviewOptions, print_json, reviewed, scanned
from regraft.errors import UsageError

if TYPE_CHECKING:
    from regraft.studies.ranking import Ranking

Flag = Annotated[bool, Parameter(negative="")]


def rank(
    data: Path,
    *,
    backbones: str = "auto",
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1"] = "accuracy",
    stages: Flag = False,
    sizes: str = "",
    flips: Flag = False,
    combine: int = 1,
    prefer: Literal["cheapest", "best"] = "cheapest",
    shortlist: int = 2,
    html: Annotated[Path | None, Parameter(name=("--html", "--plot"))] = None,
    engine: Literal["auto", "openvino", "torch", "compiled"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    test: float | Literal["auto"] = "auto",
    seed: int = 0,
    columns: ColumnOptions = None,
    review: ReviewOptions = None,
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """Measure backbones on labelled images and say which one to take. The locked test set takes no part.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    backbones
        Names with commas between, auto for a short curated list, or offline for those installed as packages.
    metric
        What best means.
    stages
        Pooled features of each stage enter as candidates too; they come from the same pass.
    sizes
        Further input sizes in pixels, such as 160,224.
    flips
        The mean over each image and its mirror image enters too; a second pass.
    combine
        Combinations of up to so many of the leaders enter: 2 or 3.
    prefer
        Among those tied with the best and at most a point behind take the cheapest, or the best.
    shortlist
        How many by the ridge get the solved head; one by neighbours and one by ImageNet accuracy join.
    html
        Write a page with the table and accuracy against cost to this file.
    engine
        What runs the backbones.
    precision
        Their arithmetic.
    test
        Share that is locked away, as in fit.
    seed
        Of the split and the folds, as in fit.
    """
    from regraft.studies.options import RankOptions
    from regraft.studies.rank import rank as rank_
    from regraft.terminal import TerminalListener

    options = RankOptions(
        metric=metric, stages=stages, sizes=_sizes(sizes), flips=flips, combine=combine, prefer=prefer,
        shortlist=shortlist, engine=engine, precision=precision, test=test, seed=seed, cache_dir=cache_dir,
    )  # fmt: skip
    listener = TerminalListener()
    found = reviewed(scanned(data, columns, cache_dir, listener), data, review, listener)
    ranking = rank_(found, backbones, options, listener=listener)
    if html is not None:
        from regraft.studies.rank_card import write_rank_card

        write_rank_card(html, ranking, title=data.resolve().name)
        listener.say(f"page: {html}")
    if json_:
        print_json(ranking.as_rows())
        return
    _print_ranking(ranking)


def similarity(
    data: Path,
    *,
    backbone: str = "tf_efficientnet_lite0",
    max_images: int = 256,
    seed: int = 0,
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """How far the images are from what a backbone was trained on. It explains; it does not decide.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    backbone
        Whose training data are meant; one whose layers hold batch-norm statistics.
    max_images
        Images that are looked at.
    seed
        Of their draw.
    """
    from regraft.studies.similarity import similarity_profile
    from regraft.terminal import TerminalListener, print_table

    found = similarity_profile(
        data, backbone, max_images=max_images, seed=seed, cache_dir=cache_dir, listener=TerminalListener()
    )
    if json_:
        print_json(found.as_dict())
        return
    rows = [(row.name, row.text, row.place_text) for row in found.measures]
    print_table(f"{found.backbone}, {found.num_images:,} images", ("measure", "value (95 %)", "place"), rows)
    for sentence in found.sentences():
        print(sentence)


def _sizes(words: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words.split(",") if word.strip())
    except ValueError:
        raise UsageError(f"sizes are whole numbers with commas between, such as 160,224: {words!r} is not") from None


def _print_ranking(ranking: Ranking) -> None:
    from regraft.terminal import print_table

    header = (
        "", "backbone", ranking.metric.replace("_", " "), "95 % interval", "behind the best", "", "images/s",
        "parameters", "ridge", "kNN 5", "LogME", "H", "LEEP", "GBC",
    )  # fmt: skip
    table = []
    for row in ranking.rows:
        value = getattr(row, ranking.metric)
        gap = row.difference_to_best
        behind = "" if gap.low == gap.high == 0 else f"{gap.estimate:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        said = "best" if not behind else "tied" if row.tied else ""
        table.append(
            (
                "→" if row.name == ranking.pick else "", row.name, f"{value.estimate:.3f}",
                f"{value.low:.3f}–{value.high:.3f}" + ("" if row.head == "multinomial" else " (ridge)"), behind, said,
                f"{row.images_per_second:,.0f}", f"{row.num_parameters / 1e6:,.1f} M",
                *(_column(row.columns.get(name)) for name in (
                    "ridge_accuracy", "knn_5", "log_me", "h_score", "leep", "gbc")),
            )
        )  # fmt: skip
    title = f"{ranking.num_images:,} development images, {ranking.num_classes} classes; the last four never decide"
    print_table(title, header, table)
    for sentence in ranking.sentences():
        print(sentence)


def _column(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"
