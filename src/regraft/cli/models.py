"""What models are: describe, backbones."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from regraft.cli.options import Json, print_json
from regraft.errors import BackboneError, RegraftError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from regraft.models.describe import Description
    from regraft.models.zoo import ZooEntry

Flag = Annotated[bool, Parameter(negative="")]


def describe(
    model: str,
    *,
    depth: int | None = None,
    input_size: int | None = None,
    parameters: Flag = False,
    random: Flag = False,
    weights: Path | None = None,
    features_from: str | None = None,
    json_: Json = False,
) -> None:
    """Lay a model open: its modules, shapes and costs, and where its backbone ends and its classifier begins.

    Nothing is downloaded: without weights on this machine the model is drawn with random ones, which changes no shape.

    Parameters
    ----------
    model
        NAME of timm, torchvision/NAME, hf-hub:ORG/NAME, FILE.py:FUNCTION, or a weights file named like its
        architecture.
    depth
        Deepest level of modules that is shown; by default as deep as is readable, with --json all.
    input_size
        Side of the input in pixels; by default what the model was trained with.
    parameters
        List every parameter too: its key in the state dict, shape, type, and whether it learns.
    random
        Take random weights even where pretrained ones are at hand.
    weights
        A local weights file for the architecture.
    features_from
        Take the features behind this layer, averaged, instead of before the classifier.
    """
    from regraft.models.describe import describe as describe_

    if depth is not None and depth < 0:
        raise UsageError(f"a depth is 0 or more: {depth} is not")
    module, name, words, side = _opened(model, random=random, weights=weights, size=input_size)
    told = describe_(module, input_size=side, depth=depth, features_from=features_from)
    print(f"{name}: {words}", file=sys.stderr)
    if json_:
        more = {"parameters": [_plain(row) for row in told.parameters()]} if parameters else {}
        print_json({"model": name, "weights": words, **told.as_dict(), **more})
        return
    told.print()
    if parameters:
        _print_parameters(told)


def backbones(
    *,
    search: str | None = None,
    family: str | None = None,
    max_params: str | None = None,
    pretrained: Flag = False,
    offline: Flag = False,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    json_: Json = False,
) -> None:
    """Which pretrained models there are, smallest first: timm, torchvision, and the offline packages.

    Parameters
    ----------
    search
        A part of the name; several words must all be in it.
    family
        Only this family, such as vit, resnet or convnext.
    max_params
        Only models of at most so many parameters without the classifier, such as 30M or 500k.
    pretrained
        Only models with weights.
    offline
        Only models whose weights are on this machine.
    all_
        Print all that were found; by default the first 40.
    """
    from regraft.models.zoo import backbones as backbones_

    found = backbones_(
        search=search or "", family=family or "", max_params=_number(max_params), pretrained=pretrained, offline=offline
    )
    if json_:
        print_json([entry.as_dict() for entry in found])
        return
    _print_zoo(found if all_ else found[:MOST_ROWS], len(found))


MOST_ROWS = 40


def _opened(
    model: str, *, random: bool, weights: Path | None, size: int | None
) -> tuple[nn.Module, str, str, int | tuple[int, int, int]]:
    """The whole model, its name, where its weights come from, and its input."""
    from regraft.models.sources import Wanted, find_source
    from regraft.models.trunk import channels_of

    name = model.removesuffix("+stages")
    note = ""
    try:
        source = find_source(Wanted(name=name, weights=weights, random=random, network=False))
    except BackboneError as error:
        if random or weights is not None:
            raise
        try:
            source = find_source(Wanted(name=name, random=True, network=False))
        except RegraftError:
            raise error from None  # it is not for want of weights
        note = " (pretrained ones are not on this machine)"
    module = source.open(size)
    channels = channels_of(module)
    side = size if size is not None else source.transform(module).size
    return module, source.name, source.words + note, (channels, side, side)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMbBgG]?)", text.replace(",", "").strip())
    if found is None:
        raise UsageError(f"a number of parameters is written like 30M, 500k or 5000000: {text!r} is not")
    return round(float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}[found[2].lower()])


def _plain(row: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "shape": list(row.shape),
        "dtype": row.dtype,
        "requires_grad": row.requires_grad,
        "grad_norm": row.grad_norm,
        "keys": list(row.keys),
    }


def _print_parameters(told: Description) -> None:
    from regraft.terminal import print_table

    rows = [
        (row.name, "×".join(map(str, row.shape)) or "()", row.dtype, "yes" if row.requires_grad else "no")
        for row in told.parameters()
    ]
    print()
    print_table("model.state_dict(), model.named_parameters()", ("parameter", "shape", "dtype", "learns"), rows)


def _print_zoo(shown: list[ZooEntry], count: int) -> None:
    from regraft.terminal import print_table

    header = ("backbone", "parameters", "features", "pixels", "licence", "weights", "offline")
    rows = [
        (
            entry.name, _millions(entry.num_parameters), "" if entry.num_features is None else entry.num_features,
            "" if entry.size is None else entry.size, entry.licence,
            _where(entry.source) if entry.pretrained else "none",
            "yes" if entry.offline else "",
        )
        for entry in shown
    ]  # fmt: skip
    if rows:
        print_table("", header, rows)
    else:
        print("no model is like that")
    if len(shown) < count:
        print(f"… and {count - len(shown):,} more: --all, or narrow it down with --search, --family, --max-params")


def _where(source: str) -> str:
    """The server, or the package; a repository of the hub has the model's own name."""
    return source.split("/")[2] if source.startswith("https://") else "hub" if source.startswith("hub ") else source


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:8,.1f} M"
