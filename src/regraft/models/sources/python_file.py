"""A model of the user's own: `path/to/my_module.py:make_model`, a function (or class) that returns an `nn.Module`.

The file is executed, because its owner names it. The model, or else the function, may say what it was trained for with
attributes: `image_size` (pixels), `mean`, `std` (per channel) and `crop_pct`. A function with a parameter
`image_size` is told which size is wanted.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from regraft.errors import BackboneError, nearest
from regraft.images import Transform
from regraft.models.sources import Source, Wanted, as_side, first_line, seeded

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def find_python(wanted: Wanted) -> Source:
    """Import the file and find the function.

    The values that the function gives are the weights, unless a weights file is named too.

    Raises:
        BackboneError: there is no such file or function, or it fails.
    """
    file, _, attribute = wanted.name.rpartition(":")
    if not file.endswith(".py") or not attribute.isidentifier():
        raise BackboneError(f"a model of your own is FILE.py:FUNCTION: {wanted.name!r} is not")
    path = Path(file).expanduser()
    make, code = _imported(path, attribute)
    label = f"{path.name}:{attribute}"

    def open_(size: int | None) -> nn.Module:
        return _opened(make, label, wanted, size)

    words = f"weights file {wanted.weights.name}, model {label}" if wanted.weights else f"what {label} returns"
    return Source(
        name=label,
        words=words,
        weights=None,  # the function may change what it likes: the values themselves are hashed
        open=open_,
        transform=lambda model: _transform(model, make),
        recipe={"builder": "ir-only", "architecture": label, "arguments": {}},
        code=code,
    )


def _imported(path: Path, attribute: str) -> tuple[Callable[..., Any], bytes]:
    """The function, and a digest of its file and of the files beside it that it imports."""
    if not path.is_file():
        raise BackboneError(f"a model of your own is FILE.py:FUNCTION: the file {str(path)!r} does not exist")
    folder = str(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    replaced = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and pickles look their module up
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BackboneError(
            f"{path.name} must import: {type(error).__name__} in {_where(error, path)}: {first_line(error)}"
        ) from error
    finally:
        sys.path.remove(folder)
        if replaced is not None:
            sys.modules[path.stem] = replaced
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise BackboneError(
            f"{path.name} has no function {attribute!r}{nearest(attribute, names)}; "
            f"it has {', '.join(names[:8]) or 'none'}"
        )
    beside = {
        str(file)
        for m in list(sys.modules.values())
        if (file := getattr(m, "__file__", None)) and str(Path(file).parent).startswith(folder)
    }
    digest = blake3()
    for file in sorted({str(path.resolve()), *(f for f in beside if f.endswith(".py") and "site-packages" not in f)}):
        digest.update(Path(file).read_bytes())
    return found, digest.digest()


def _opened(make: Callable[..., Any], label: str, wanted: Wanted, size: int | None) -> nn.Module:
    from torch import nn

    from regraft.models.checkpoints import load_state

    try:
        told = {"image_size": size} if size is not None and "image_size" in inspect.signature(make).parameters else {}
        model = seeded(lambda: make(**told), wanted.seed)
    except Exception as error:
        raise BackboneError(
            f"{label} must return a model: it raised {type(error).__name__} ({first_line(error)})"
        ) from error
    if not isinstance(model, nn.Module):
        raise BackboneError(f"{label} must return an nn.Module: it returned {type(model).__name__}")
    if wanted.weights is not None:
        load_state(model, wanted.weights, strict=True)
    return model


def _transform(model: nn.Module, make: Callable[..., Any]) -> Transform:
    import torch

    from regraft.models.tracing import examples, run, undisturbed

    def said(name: str, default: Any) -> Any:
        return getattr(model, name, getattr(make, name, default))

    size = said("image_size", None)
    if size is None:
        # The first common size that the model accepts.
        with undisturbed(model), torch.no_grad():
            for _, x in examples(model, input_size=None, example=None, batch=2):
                try:
                    run(model, x)
                except Exception:
                    continue
                if x.ndim == 4 and x.shape[2] == x.shape[3]:
                    size = int(x.shape[2])
                    break
    if size is None:
        raise BackboneError(
            f"no common image size fits {type(model).__name__}; say it with an attribute: model.image_size = 224"
        )
    mean, std = (
        tuple(float(v) for v in (values if len(values) == 3 else list(values) * 3))
        for values in (said("mean", IMAGENET_MEAN), said("std", IMAGENET_STD))
    )
    if len(mean) != 3 or len(std) != 3:
        raise BackboneError("mean and std are one number for each of the channels R, G, B, or one for grey")
    return Transform(size=as_side(size), crop_pct=float(said("crop_pct", 1.0)), mean=mean, std=std)


def _where(error: BaseException, path: Path) -> str:
    lines = [
        frame.lineno for frame in inspect.getinnerframes(error.__traceback__) if Path(frame.filename).name == path.name
    ] if error.__traceback__ else []  # fmt: skip
    return f"line {lines[-1]}" if lines else path.name
