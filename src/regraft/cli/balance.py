"""What to do about classes with few images: balance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from regraft.cli.options import CacheDir, ColumnOptions, Json, ReviewOptions, print_json, reviewed, scanned

if TYPE_CHECKING:
    from regraft.studies.bakeoff import BakeOff

Flag = Annotated[bool, Parameter(negative="")]


def balance(
    data: Path,
    *,
    metric: Literal["macro_f1", "balanced_accuracy", "accuracy"] = "macro_f1",
    backbone: str = "tf_efficientnet_lite0",
    views: int = 0,
    augment: Literal["light", "medium"] = "light",
    flip: Flag = False,
    output: Path | None = None,
    engine: Literal["auto", "openvino", "torch", "compiled"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    folds: int = 5,
    test: float | Literal["auto"] = "auto",
    seed: int = 0,
    columns: ColumnOptions = None,
    review: ReviewOptions = None,
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """Compare remedies for classes with few images and say which to use. The locked test set takes no part.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    metric
        What better means: macro_f1 where mistakes count at the frequencies of your data, balanced_accuracy where the
        classes will be equally frequent in use.
    backbone
        Whose features.
    views
        Up to so many augmented views of each image of the smaller classes take part too; extracted once and kept.
    augment
        How strong those views are; regraft preview shows them.
    flip
        Mirror them at random, too.
    output
        Draw a picture: a .png, .svg or .pdf file.
    engine
        What runs the backbone.
    precision
        Its arithmetic.
    folds
        Number of folds, 3 or more; every setting is chosen within a fold's training part.
    test
        Share that is locked away, as in fit.
    seed
        Of the split, the folds, the re-sampling and the views.
    """
    from regraft.studies.balance import BalanceOptions
    from regraft.studies.balance import balance as balance_
    from regraft.terminal import TerminalListener

    options = BalanceOptions(
        backbone=backbone, metric=metric, views=views, augment=augment, flip=flip, engine=engine, precision=precision,
        folds=folds, test=test, seed=seed, cache_dir=cache_dir,
    )  # fmt: skip
    if output is not None:
        from regraft.studies.bakeoff_card import check_picture

        check_picture(output)
    listener = TerminalListener()
    scan = reviewed(scanned(data, columns, cache_dir, listener), data, review, listener)
    described, found = balance_(scan, options, listener=listener)
    if output is not None:
        from regraft.studies.bakeoff_card import draw_bakeoff

        draw_bakeoff(output, found, title=data.resolve().name)
        listener.say(f"picture: {output}")
    if json_:
        print_json({"imbalance": described.as_dict(), **found.as_dict()})
        return
    for sentence in described.sentences():
        print(sentence)
    _print_table(found)
    for sentence in found.sentences():
        print(sentence)


def _print_table(found: BakeOff) -> None:
    from regraft.terminal import print_table

    header = (
        "", "remedy", "setting", "macro-F1", "balanced", "accuracy", *found.bands, "log loss",
        f"{found.metric_words} − nothing (95 %)", "", "s",
    )  # fmt: skip
    table = []
    for row in found.rows:
        gap = row.difference
        changed = "" if row.name == "nothing" else f"{gap.estimate:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        said = "best" if row.name == found.best else "" if row.unbeaten else "beaten"
        table.append(
            (
                "→" if row.name == found.pick else "", row.title, row.setting, f"{row.macro_f1:.3f}",
                f"{row.balanced_accuracy:.3f}", f"{row.accuracy:.3f}",
                *("" if value is None else f"{value:.3f}" for value in row.bands.values()), f"{row.log_loss:.3f}",
                changed, said, f"{row.seconds:.1f}",
            )
        )  # fmt: skip
    print_table(f"{found.num_images:,} development images, out of fold; {found.bands_by} (mean recall)", header, table)
