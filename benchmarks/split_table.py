"""Cut every torchvision classification model, and one model of every timm family, into backbone and head.

    python benchmarks/split_table.py                       # everything; writes docs/split-table.md
    python benchmarks/split_table.py --only resnet18 vgg11 # prints these rows only

Random weights, no network. Each model is cut on the smallest of 64, 96, 224 and its own input size that it accepts, and
head(backbone(x)) is compared with model(x) on three fresh random images; a row says found only where the largest
difference is at most 1e-5 of max(1, largest score). The exit status is 1 where a model is neither found nor by hand.

Last seen (2 shared cores, torch 2.15, timm 1.0.31, torchvision 0.29): torchvision 80 found of 80; timm 97 found and
1 by hand (VOLO) of 98; every difference exactly 0; 11 minutes.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
import warnings
from pathlib import Path

import timm
import torch
import torchvision

from regraft.errors import SplitError
from regraft.models.split import SplitModel, split

TABLE = Path(__file__).parent.parent / "docs" / "split-table.md"
SIDES = (64, 96, 224, None)
SMALL_WORDS = (
    *(
        "test_",
        "atto",
        "femto",
        "pico",
        "nano",
        "xxt",
        "xxs",
        "_xs",
        "tiny",
        "_t0",
        "_m0",
        "_b0",
        "_s0",
        "_0",
        "xsmall",
    ),
    *("small", "_t", "_s", "18", "_m1", "_x0", "lite", "base", "50"),
)

BY_HAND = {"volo": "norm"}
"""Family of timm or torchvision name → features_from, where the automatic cut does not apply."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="torchvision names or timm families")
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    rows: dict[str, list[list[str]]] = {"torchvision": [], "timm": []}
    for name in torchvision.models.list_models(module=torchvision.models):
        if not args.only or name in args.only:
            rows["torchvision"].append(row(name, name, lambda name=name: torchvision.models.get_model(name)))
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        if names and (not args.only or family in args.only):
            name = smallest(names)
            rows["timm"].append([family, *row(family, name, lambda name=name: with_classifier(name))])
    counts = {source: count(found) for source, found in rows.items() if found}
    print(counts)
    if not args.only:
        args.output.write_text(page(rows, counts), encoding="utf-8")
    return int(any("impossible" in line for found in rows.values() for cells in found for line in cells))


def with_classifier(name: str) -> torch.nn.Module:
    """The model; some come without a classifier unless a number of classes is asked for."""
    model = timm.create_model(name)
    return model if model.num_classes else timm.create_model(name, num_classes=10)


def smallest(names: list[str]) -> str:
    """A small model of a family, by the words in its name."""

    def rank(name: str) -> tuple[int, int, int]:
        words = [i for i, word in enumerate(SMALL_WORDS) if word in name]
        distilled = "distill" in name or "dino" in name or "clip" in name
        return int(distilled), min(words, default=len(SMALL_WORDS)), int((re.findall(r"\d+", name) or ["0"])[0])

    return min(names, key=rank)


def row(key: str, name: str, build) -> list[str]:  # type: ignore[no-untyped-def]
    """`[model, input, split, cut, features, rule, difference, note]`."""
    begun = time.perf_counter()
    model = build()
    failures: list[str] = []
    cells: list[str] = []
    for side in SIDES:
        for by_hand in (None, BY_HAND[key]) if key in BY_HAND else (None,):
            try:
                cells = told(name, side, model, split(model, input_size=side, features_from=by_hand), by_hand)
                break
            except SplitError as error:
                failures.append(str(error))
        if cells:
            break
    if not cells:
        cells = [name, "", "impossible", "", "", "", "", failures[-1].replace("|", "/")]
    print(f"{time.perf_counter() - begun:6.1f} s", " | ".join(cells), flush=True)
    del model
    gc.collect()
    return cells


def told(name: str, side: int | None, model: torch.nn.Module, cut: SplitModel, by_hand: str | None) -> list[str]:
    size = f"{side} px" if side else "its own"
    how = "found" if by_hand is None else f"by hand: `features_from={by_hand!r}`"
    error = "-" if cut.error is None else "0" if cut.error == 0 else f"{cut.error:.0e}"
    return [name, size, how, f"`{cut.boundary}`", str(cut.num_features), cut.rule, error, cut.note]


def count(rows: list[list[str]]) -> str:
    kinds = ("found", "by hand", "impossible")
    words = [next(kind for kind in kinds if any(cell.startswith(kind) for cell in cells)) for cells in rows]
    return ", ".join(f"{words.count(kind)} {kind}" for kind in kinds)


def page(rows: dict[str, list[list[str]]], counts: dict[str, str]) -> str:
    head = ["model", "input", "split", "cut before", "features", "rule", "difference", "note"]
    lines = [
        "# Where the classifier begins, model by model",
        "",
        "Made by `python benchmarks/split_table.py` with random weights. *Difference* is the largest of",
        "|head(backbone(x)) − model(x)| on fresh random images, in units of max(1, largest score); found means that it",
        "is at most 1e-5. *Rule* says what confirmed the place: every one is found by following the scores backwards",
        "to the last layer with weights on every path (see [anatomy](anatomy.md)).",
        "",
    ]
    for source, heading in (("torchvision", head), ("timm", ["family", *head])):
        lines += [f"## {source}: {counts[source]}", "", f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
        lines += [f"| {' | '.join(cells)} |" for cells in rows[source]]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
