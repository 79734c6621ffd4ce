"""Weights & Biases: `--track wandb`.

Honoured, as everywhere with W&B: WANDB_API_KEY (or ~/.netrc, which `wandb login` writes), WANDB_MODE, WANDB_PROJECT,
WANDB_ENTITY, WANDB_NAME, WANDB_RUN_ID, WANDB_RUN_GROUP, WANDB_TAGS, WANDB_DIR, WANDB_BASE_URL.

Without a key, or where the server does not answer, the run is recorded in files, and `wandb sync` sends it later.
"""

from __future__ import annotations

import io
import netrc
import os
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft._imports import try_import
from regraft.tracking.base import Status, Tracker
from regraft.tracking.heard import Heard
from regraft.tracking.names import path_name, word_name
from regraft.tracking.run_facts import RunFacts

_ANSWER_SECONDS = 4.0
"""A server that does not answer within so long is taken to be down: `wandb.init` itself would try for 90 s, and keep
the process from ending for 15 s more."""

_FINISH_SECONDS = 8
"""Then W&B leaves off sending at the end; its files stay."""


class Wandb(Tracker):
    """A run of W&B, in files that W&B's own process sends.

    Steps are the numbers' own axis, `step`, as W&B drops what is told of a step behind the last one.

    Raises:
        MissingExtraError: W&B is not installed.
        wandb.Error: it does not want it.
    """

    def __init__(self, run: RunFacts) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers: who wants that sets it to true
        self._wandb = wandb = try_import("wandb", extra="wandb")
        base_url = str(wandb.setup().settings.base_url)
        mode, why = _mode(base_url)
        given = {
            "project": None if os.environ.get("WANDB_PROJECT") else word_name(run.project),
            "name": None if os.environ.get("WANDB_NAME") else run.name,
            "dir": None if os.environ.get("WANDB_DIR") else str(run.folder),
            "id": os.environ.get("WANDB_RUN_ID") or run.known.get("run_id") or secrets.token_hex(4),
        }
        settings = wandb.Settings(console="off", silent=True, finish_timeout=_FINISH_SECONDS)
        self._run = wandb.init(
            **given, mode=mode, resume="allow" if mode == "online" else None, reinit="create_new", save_code=False,
            settings=settings,
        )  # fmt: skip
        self._say = run.say
        self.files: Path | None = None if mode == "disabled" else Path(self._run.settings.sync_dir)
        """Of the run: `wandb sync` takes them."""
        self._heard = Heard(self._last_steps)
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        run.keep({"run_id": given["id"], "project": self._run.project, "files": str(self.files or "")})
        if mode == "online":
            run.say(f"wandb: {self._run.url}")
        elif mode == "offline":
            run.say(f"wandb: recorded in files, {why}; send them later: wandb sync {self.files}")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if metrics := self._heard.new(metrics, step):
            self._run.log({**{path_name(name): value for name, value in metrics.items()}, "step": int(step)})

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        plain = {
            name: value if isinstance(value, bool | int | float | str | None) else str(value)
            for name, (value, _) in settings.items()
        }
        self._run.config.update(plain, allow_val_change=True)
        self.log_table("settings", ("setting", "value", "why"), [(n, str(v), why) for n, (v, why) in settings.items()],
                       step=0)  # fmt: skip

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """W&B's tags are words without a value, of 64 letters at most; with one they are settings."""
        self._run.config.update(dict(tags), allow_val_change=True)
        words = [f"{name}: {value}" for name, value in tags.items() if len(f"{name}: {value}") <= 64]
        self._run.tags = tuple(dict.fromkeys((*(self._run.tags or ()), *words)))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._run.log({path_name(name): table, "step": int(step)})

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(picture)) as opened:
            self._run.log({path_name(name): self._wandb.Image(opened.convert("RGB")), "step": int(step)})

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        histogram = self._wandb.Histogram(np_histogram=(counts.tolist(), edges.tolist()))
        self._run.log({path_name(name): histogram, "step": int(step)})

    def log_artifact(self, name: str, path: Path) -> None:
        path = path.resolve()
        artifact = self._wandb.Artifact(word_name(f"{name}-{self._run.id}"), type=word_name(name))
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:  # one by one: whole folders are announced on the terminal; immutable: no copies at home
            within = file.relative_to(path if path.is_dir() else path.parent).as_posix()
            artifact.add_file(str(file), name=within, policy="immutable")
        self._run.log_artifact(artifact)

    def rewind(self, step: int) -> None:
        self._heard.rewind()

    def close(self, status: Status = "finished") -> None:
        self._run.finish(exit_code={"finished": 0, "failed": 1, "killed": 130}[status])

    def _last_steps(self) -> dict[str, int]:
        """Of a run that goes on online; what an earlier part recorded in files is not known here."""
        last = self._run.summary.get("step")
        return {} if last is None else {name: int(last) for name in self._run.summary.keys()}  # noqa: SIM118 - no mapping


def _mode(base_url: str) -> tuple[str, str]:
    """online, offline or disabled, and why."""
    if asked := os.environ.get("WANDB_MODE"):
        if asked not in ("online", "run"):
            return ("offline" if asked == "dryrun" else asked), f"as WANDB_MODE={asked} says"
    elif not _has_key(base_url):
        return "offline", "as there is no key (wandb login, or WANDB_API_KEY)"
    if trouble := _trouble(base_url):
        return "offline", f"as {base_url} {trouble}"
    return "online", ""


def _has_key(base_url: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if path and netrc.netrc(Path(path).expanduser()).authenticators(urllib.parse.urlsplit(base_url).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _trouble(base_url: str) -> str:
    """What is wrong with the server, or an empty string."""
    try:
        with urllib.request.urlopen(f"{base_url.rstrip('/')}/healthz", timeout=_ANSWER_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"answers {error.code}" if error.code >= 500 else ""
    except (OSError, ValueError) as error:
        return f"does not answer ({getattr(error, 'reason', error)})"
