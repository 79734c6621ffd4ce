"""Which pretrained models there are: 1,900 sets of weights, searchable in milliseconds.

The facts come from `zoo.csv`, which `tools/zoo_table.py` wrote: finding them out takes minutes and an import of torch.
What is on this machine is looked up anew each time. A model that is newer than the table works all the same.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from regraft.errors import UsageError, nearest
from regraft.models.sources.local import hub_cache, in_hub_cache, torch_cache
from regraft.models.sources.packaged import PACKAGED
from regraft.types import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooEntry:
    """One set of pretrained weights, or an architecture that has none.

    Attributes:
        name: what `resolve` takes.
        family: `vit`, `resnet`, `convnextv2`, …
        num_parameters: without the classifier; None where it could not be counted.
        num_features: D; None likewise.
        size: side of the input in pixels.
        licence: of the weights, as their publisher states it; "" where there are none.
        source: where the weights are: a package, a repository of the Hugging Face hub, or an address; "" for none.
        offline: whether they are on this machine.
    """

    name: str
    family: str
    num_parameters: int | None
    num_features: int | None
    size: int | None
    licence: str
    source: str
    offline: bool

    @property
    def pretrained(self) -> bool:
        """Whether there are weights."""
        return bool(self.source)

    def as_dict(self) -> JSON:
        """A JSON object."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**facts, "pretrained": self.pretrained}


def backbones(
    *,
    search: str = "",
    family: str = "",
    max_params: int | None = None,
    pretrained: bool = False,
    offline: bool = False,
) -> list[ZooEntry]:
    """The models of timm and torchvision, smallest first.

    Args:
        search: a part of the name; several words must all be in it.
        family: such as `vit`, `resnet`, `convnext`.
        max_params: most parameters, without the classifier.
        pretrained: only those with weights.
        offline: only those whose weights are on this machine.

    Raises:
        UsageError: there is no such family.

    Example:
        >>> [entry.name for entry in backbones(search="lite0")]
        ['tf_efficientnet_lite0', 'timm/tf_efficientnet_lite0.in1k']
    """
    entries = [*_packaged(), *_listed()]
    if family:
        known = {entry.family for entry in entries}
        if family.lower() not in known:
            raise UsageError(f"a family is one of {len(known)}: {family!r} is not{nearest(family.lower(), known)}")
    words = search.lower().split()
    found = [
        entry
        for entry in entries
        if all(word in entry.name.lower() for word in words)
        and (not family or entry.family == family.lower())
        and (max_params is None or (entry.num_parameters is not None and entry.num_parameters <= max_params))
        and (entry.pretrained or not pretrained)
        and (entry.offline or not offline)
    ]
    return sorted(found, key=lambda e: (e.num_parameters is None, e.num_parameters or 0, e.name))


def _packaged() -> list[ZooEntry]:
    return [
        ZooEntry(
            name=name,
            family="efficientnet",
            num_parameters=packaged.num_parameters,
            num_features=1280,
            size=packaged.size,
            licence="apache-2.0",
            source=f"package {packaged.package}",
            offline=packaged.path() is not None,
        )
        for name, packaged in PACKAGED.items()
    ]


def _listed() -> Iterable[ZooEntry]:
    text = (files("regraft.models") / "zoo.csv").read_text("utf-8")
    repositories, weights = _cached_repositories(), _names(torch_cache())
    for row in csv.DictReader(text.splitlines()[1:]):  # the first line names the releases
        where = row["weights"]
        address = where.startswith("https://")
        here = where.rpartition("/")[2] in weights if address else where in repositories
        yield ZooEntry(
            name=row["name"],
            family=row["family"],
            num_parameters=_number(row["num_parameters"]),
            num_features=_number(row["num_features"]),
            size=_number(row["size"]),
            licence=row["licence"],
            source=where if address or not where else f"hub {where}",
            offline=here,
        )


def _cached_repositories() -> set[str]:
    """Repositories in the hub's cache that hold weights."""
    names = (name.removeprefix("models--").replace("--", "/") for name in _names(hub_cache()) if "models--" in name)
    return {name for name in names if in_hub_cache(name, ("model.safetensors", "pytorch_model.bin")) is not None}


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError:
        return set()


def _number(text: str) -> int | None:
    return int(text) if text else None
