"""Weights to a file and back: safetensors, and a readable account of what fitted.

Only tensors are read. A `.pth` file is a pickle, which may hold code; it is opened with `weights_only=True`, and one
that holds anything but tensors is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from regraft.errors import BackboneError
from regraft.files import replacing

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "state_dict_ema", "model_ema", "model", "net", "module")
"""Keys under which training programs keep a state dict in a larger dict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What happened to each key.

    Attributes:
        path: the file.
        num_loaded: tensors of the model that were filled.
        missing: keys of the model that the file does not have; these tensors are as before.
        unexpected: keys of the file that the model does not have.
        mismatched: key, shape in the file, shape in the model.
        suggestion: what would make more fit, or "".
    """

    path: str
    num_loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    suggestion: str = ""

    @property
    def complete(self) -> bool:
        """Whether every key fitted."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{self.num_loaded} tensors loaded from {self.path}"]
        lines += [f"  missing in the file: {_listed(self.missing)}"] if self.missing else []
        lines += [f"  unknown to the model: {_listed(self.unexpected)}"] if self.unexpected else []
        wrong = [f"{key} (file {_x(theirs)}, model {_x(ours)})" for key, theirs, ours in self.mismatched]
        lines += [f"  other shape: {_listed(wrong)}"] if wrong else []
        lines += [f"  {self.suggestion}"] if self.suggestion else []
        return "\n".join(lines)


def save_state(model: nn.Module, path: Path | str) -> Path:
    """Write `model.state_dict()` as safetensors, atomically.

    A tensor with several names (shared parameters) is stored once; the other names are in the file's metadata.

    Raises:
        BackboneError: the model has a state that is no tensor, or a tensor without values (meta device).
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise BackboneError(
                f"safetensors keep tensors only, {key!r} is {type(value).__name__}; leave it out with a state-dict hook"
            )
        if value.is_meta:
            raise BackboneError(f"a saved tensor has values, {key!r} is on the meta device; load weights first")
        identity = (value.data_ptr(), value.device, value.dtype, tuple(value.shape), value.stride())
        if value.numel() and identity in seen:
            aliases[key] = seen[identity]
        else:
            seen[identity] = key
            tensors[key] = value.detach().cpu().contiguous().clone()  # clone: views of one storage are refused
    with replacing(path) as aside:
        safetensors.torch.save_file(tensors, aside, metadata={"format": "pt", "aliases": json.dumps(aliases)})
    return path


def load_state(
    model: nn.Module, path: Path | str, strict: bool = False, *, strip_prefix: str = "", add_prefix: str = ""
) -> LoadReport:
    """Fill a model's tensors from a file, as far as names and shapes fit.

    Args:
        model: changed in place; tensors keep their device and dtype (on the meta device they become the file's).
        path: `.safetensors`, or a `.pth`/`.pt`/`.bin` that holds tensors only.
        strict: raise unless everything fits; then nothing has been changed.
        strip_prefix: taken off the file's keys where they have it, such as `module.`.
        add_prefix: put before the file's keys, such as `backbone.`.

    Raises:
        BackboneError: there is no such file, it is damaged, it holds code, or (strict) something does not fit.
    """
    path = Path(path)
    found = {add_prefix + key.removeprefix(strip_prefix): value for key, value in read_state(path).items()}
    own = {key: value for key, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    fitting = {k: v for k, v in found.items() if k in own and (is_lazy(own[k]) or own[k].shape == v.shape)}
    filled = {id(own[k]) for k in fitting}
    report = LoadReport(
        path=str(path),
        num_loaded=sum(1 for value in own.values() if id(value) in filled),
        missing=tuple(k for k, value in own.items() if k not in found and id(value) not in filled),
        unexpected=tuple(k for k in found if k not in own),
        mismatched=tuple(
            (k, tuple(found[k].shape), tuple(v.shape)) for k, v in own.items() if k in found and k not in fitting
        ),
    )
    report = _with_suggestion(report)
    if strict and not report.complete:
        first = next(iter(report.missing or report.unexpected or tuple(k for k, *_ in report.mismatched)))
        raise BackboneError(
            f"with strict=True every key fits, but {len(report.missing)} are missing, {len(report.unexpected)} unknown "
            f"and {len(report.mismatched)} of another shape (first: {first!r}). "
            + (report.suggestion or "Load what fits with strict=False.")
        )
    meta = any(own[k].is_meta for k in fitting)
    flags = {k: own[k].requires_grad for k in fitting}
    model.load_state_dict(fitting, strict=False, assign=meta)
    if meta:  # assigned parameters take the flag of the file's tensors
        for key, p in model.named_parameters():
            if key in flags:
                p.requires_grad_(flags[key])
    return report


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors in a file by name, on the CPU; shared ones under each of their names.

    Raises:
        BackboneError: there is no such file, it is damaged, or it holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise BackboneError(f"weights are a file, {str(path)!r} is none; check the path")
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
                aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
        except (safetensors.SafetensorError, ValueError, OSError) as error:
            raise BackboneError(
                f"a safetensors file is complete, {str(path)!r} is not ({error}); copy it again"
            ) from None
        return {**tensors, **{key: tensors[name] for key, name in aliases.items() if name in tensors}}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BackboneError(_refusal(path, str(error))) from None
    return _state_in(content, path)


def _refusal(path: Path, error: str) -> str:
    if match := re.search(
        r"(?:Unsupported global: GLOBAL|Unsupported class|Trying to load unsupported GLOBAL) (\S+)", error
    ):
        return (
            f"weights hold tensors only, {str(path)!r} also asks to import {match[1]!r}, which could run code; "
            "where you trust it, convert it once: torch.save(torch.load(PATH, weights_only=False).state_dict(), NEW)"
        )
    if "TorchScript" in error:
        return f"weights are a state dict, {str(path)!r} is a TorchScript program; save its state_dict() instead"
    return (
        f"weights are a file of tensors, {str(path)!r} cannot be read ({' '.join(error.split())[:120]}); copy it again"
    )


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if not isinstance(content, dict):
            break
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
        if inner is None or len(tensors) > 3:
            if tensors:
                return tensors
            break
        content = inner
    kind = f"a dict of {list(content)[:4]}" if isinstance(content, dict) else type(content).__name__
    raise BackboneError(f"weights are a dict of tensors, {str(path)!r} holds {kind}; save model.state_dict()")


def _with_suggestion(report: LoadReport) -> LoadReport:
    """Look for the prefix that would make the most unknown keys fit."""
    wanted = set(report.missing) | {k for k, *_ in report.mismatched}
    prefixes: dict[str, list[str]] = {}
    for key in wanted:
        parts = key.split(".")
        for i in range(1, len(parts)):
            prefixes.setdefault(".".join(parts[i:]), []).append(".".join(parts[:i]))
    votes: Counter[tuple[str, str]] = Counter()
    for key in report.unexpected:
        parts = key.split(".")
        votes.update(("add", prefix) for prefix in prefixes.get(key, ()))
        votes.update(("strip", ".".join(parts[:i])) for i in range(1, len(parts)) if ".".join(parts[i:]) in wanted)
    if not votes:
        return report
    (verb, prefix), count = votes.most_common(1)[0]
    if count < max(2, len(wanted) // 4) and count < len(wanted):
        return report
    how = f"{verb}_prefix={prefix + '.'!r}"
    return replace(report, suggestion=f"{count} more keys would fit with load_state(model, path, {how})")


def _listed(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _x(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
