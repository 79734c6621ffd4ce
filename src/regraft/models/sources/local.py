"""Files on this machine or on a server: what is here is used without asking, what is not is fetched where allowed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from regraft.errors import BackboneError
from regraft.models.sources import first_line
from regraft.models.sources.packaged import installed

OFFLINE = "HF_HUB_OFFLINE"
"""This environment variable of the hub's client forbids the network; it is obeyed for every source."""


def offline() -> bool:
    """Whether the network is forbidden."""
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


def hub_cache() -> Path:
    """Where the hub's client keeps its files."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def torch_cache() -> Path:
    """Where torch.hub keeps weights files."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def in_hub_cache(repository: str, names: tuple[str, ...]) -> Path | None:
    """The first of some files that the hub's cache holds of a repository (ORG/NAME or ORG/NAME@REVISION)."""
    name, _, revision = repository.partition("@")
    folder = hub_cache() / f"models--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / (revision or "main")).read_text("utf-8").strip()
    except OSError:
        commit = revision
    found = (folder / "snapshots" / commit / file for file in names if commit)
    return next((path for path in found if path.is_file()), None)


def hub_file(repository: str, names: tuple[str, ...], *, network: bool) -> Path:
    """The first of some files that a repository of the Hugging Face hub has.

    Raises:
        BackboneError: not here and not to be fetched, or the repository has none of them.
    """
    if (path := in_hub_cache(repository, names)) is not None:
        return path
    if not network or offline():
        raise not_here(f"{names[0]} of {repository}", f"{OFFLINE} is set" if offline() else "")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    for file in names:
        try:
            return Path(hf_hub_download(name, file, revision=revision or None, cache_dir=hub_cache()))
        except LocalEntryNotFoundError:
            raise not_here(f"{file} of {repository}", "the hub cannot be reached") from None
        except EntryNotFoundError:
            continue
        except Exception as error:  # no such repository, not allowed, no connection: the client has many errors
            raise not_here(f"{file} of {repository}", f"{type(error).__name__}: {first_line(error, 80)}") from None
    raise BackboneError(
        f"a model on the hub has {' or '.join(names)}: {repository} has none of them; other files are not opened"
    )


def downloaded(url: str, *, network: bool) -> Path:
    """A weights file of torch.hub, from its cache or its address.

    Raises:
        BackboneError: not here and not to be fetched.
    """
    file = url.rpartition("/")[2]
    path = torch_cache() / file
    if path.is_file():
        return path
    if not network or offline():
        raise not_here(f"{file} of torchvision", f"{OFFLINE} is set" if offline() else "")
    from torch.hub import download_url_to_file

    digest = re.search(r"-([0-9a-f]{8,})\.", file)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(url, str(path), hash_prefix=digest[1] if digest else None, progress=False)
    except Exception as error:  # URLError, HTTPError, a wrong hash, a full disk
        raise not_here(f"{file} of torchvision", f"{url} cannot be fetched: {first_line(error, 80)}") from None
    return path


def not_here(what: str, why: str) -> BackboneError:
    """Weights that are missing on this machine, and which backbones work all the same."""
    because = f", and {why}" if why else ""
    names = ", ".join(installed()) or "none is installed"
    return BackboneError(
        f"{what} is not on this machine{because}; without a network these work: {names} "
        "(and what was used before: regraft backbones --offline)"
    )
