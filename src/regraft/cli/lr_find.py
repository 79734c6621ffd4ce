"""Which learning rate: lr-find."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from regraft.cli.options import Json, print_json
from regraft.config import FitConfig
from regraft.errors import UsageError

FORMATS = (".png", ".svg", ".pdf")


def lr_find(
    data: Path,
    config: Annotated[FitConfig | None, Parameter(name="*")] = None,
    *,
    steps: int = 100,
    low: float = 1e-6,
    high: float = 1.0,
    output: Path | None = None,
    json_: Json = False,
) -> None:
    """Propose a learning rate: a short training with a rising rate, after which the weights are as they were.

    The options of `fit` say what would be trained; without --strategy it is lp_ft.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    steps
        Steps from the lowest rate to the highest; it ends before where the loss blows up.
    low
        First rate.
    high
        Last rate.
    output
        Where the curve is drawn: a .png, .svg or .pdf file; by default lr-find.png here, which must not exist yet.
    """
    from regraft.lr_range import draw, lr_range
    from regraft.terminal import TerminalListener

    target = output or Path("lr-find.png")
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"a curve is a {', '.join(FORMATS)} file: {str(target)!r} is not")
    drawn = output is not None or not json_
    if drawn and output is None and target.exists():
        raise UsageError(f"a file is only replaced when it is named: {str(target)!r} exists; --output {target}")
    ranged = lr_range(data, config, num_steps=steps, low=low, high=high, listener=TerminalListener())
    if drawn:
        draw(target, ranged)
    if json_:
        print_json(ranged.as_dict())
        return
    for sentence in ranged.sentences(str(data)):
        print(sentence)
    print(target)
