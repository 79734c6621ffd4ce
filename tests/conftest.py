"""Fixtures for all tests: caches of their own, one trained run, the command line in and out of process.

Converting the real backbone imports torch and timm and takes some 15 s, so it is done once per session, by the first
worker that needs it, and every test's cache borrows the result.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from drawn import draw_folder
from postgres import Cluster, running

SIZE = 32
"""Side of the input in tests that run the real backbone for its plumbing: 0.5 ms an image."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a suite that a script starts with & inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def session_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _no_foreign_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test ever touches the user's own cache, or a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE_DIR", str(tmp_path_factory.mktemp("stray-cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("REGRAFT_DATABASE_URL", raising=False)
        yield


@pytest.fixture(scope="session")
def converted(session_dir: Path) -> Path:
    """A cache that holds tf_efficientnet_lite0 converted and compiled at 32 px, and nothing else."""
    cache = session_dir / "converted"
    with FileLock(session_dir / "converted.lock"):
        if not (cache / "ready").exists():
            from regraft.features.engines import choose, open_engine
            from regraft.models.backbones import resolve

            backbone = resolve("tf_efficientnet_lite0", cache_dir=cache)
            open_engine(backbone, choice=choose("openvino"), size=SIZE, cache_dir=cache)
            (cache / "ready").touch()
    return cache


def borrow(converted: Path, cache: Path) -> Path:
    """A cache of one's own with the converted backbone in it."""
    cache.mkdir(parents=True)
    (cache / "ir").symlink_to(converted / "ir")
    shutil.copytree(converted / "compiled", cache / "compiled", copy_function=os.link)
    return cache


@pytest.fixture
def cache_dir(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's cache, with the converted backbone in it; `$REGRAFT_CACHE_DIR` names it."""
    cache = borrow(converted, tmp_path / "cache")
    monkeypatch.setenv("REGRAFT_CACHE_DIR", str(cache))
    return cache


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """A private PostgreSQL server, started by the first test of a worker that needs it."""
    with running() as cluster:
        yield cluster


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """The address of a database of one's own on it: the tables are there, and nothing in them."""
    with postgres_cluster.fresh(template=postgres_cluster.migrated) as url:
        yield url


@pytest.fixture(scope="session")
def _sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from regraft.store.db import open_database

    folder = tmp_path_factory.mktemp("migrated")
    open_database(runs_dir=folder).close()
    return folder / "regraft.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database of one's own, once of each kind: the tables are there, and nothing in them."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    file = tmp_path / "runs" / "regraft.db"
    file.parent.mkdir(exist_ok=True)
    shutil.copyfile(request.getfixturevalue("_sqlite_file"), file)  # a migration takes 20 times as long
    return f"sqlite:///{file}"


@pytest.fixture
def database(database_url: str, tmp_path: Path):
    """The same, open."""
    from regraft.store.db import open_database

    database = open_database(database_url, runs_dir=tmp_path / "runs")
    yield database
    database.close()


@dataclass(frozen=True)
class Trained:
    """A run that many tests look at and none changes."""

    run: Path
    data: Path
    cache: Path


@pytest.fixture(scope="session")
def trained(converted: Path, session_dir: Path) -> Trained:
    """A fit on three classes of eight drawn images, once per session."""
    folder = session_dir / "trained"
    found = Trained(folder / "runs" / "shapes" / "1", folder / "shapes", folder / "cache")
    with FileLock(session_dir / "trained.lock"):
        if not (folder / "ready").exists():
            from regraft.config import FitConfig
            from regraft.pipeline import fit

            draw_folder(found.data)
            borrow(converted, found.cache)
            fit(found.data, FitConfig(runs_dir=folder / "runs", image_size=SIZE, cache_dir=found.cache))
            (folder / "ready").touch()
    return found


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the trained run that a test may change, file by file (hard links: replace, do not edit in place)."""
    copy = tmp_path / "runs" / "shapes" / "1"
    shutil.copytree(trained.run, copy, copy_function=os.link)
    return copy


@dataclass(frozen=True)
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line within this process: `cli("fit", data)`."""

    def call(*words: object, stdin: bytes = b"") -> Answer:
        from regraft.cli import main

        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Answer(code, *capsys.readouterr())

    return call


def stranger(
    *words: object, cwd: Path | None = None, stdin: bytes = b"", env: dict[str, str] | None = None, timeout: float = 120
) -> Answer:
    """The command line as anyone runs it: a process of its own."""
    plain = [word if isinstance(word, bytes) else str(word) for word in words]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from regraft.cli import main; sys.exit(main())", *plain],
        cwd=cwd, input=stdin, env={**os.environ, **(env or {})}, capture_output=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def numpy_engine(
    *, chunk: int = 4, num_threads: int = 2, num_features: int = 8, before: Callable[[], None] | None = None
):
    """An engine in plain NumPy, with the contract of the real ones: features are means of coloured stripes."""
    from regraft.features.engines import Engine

    def forward(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if before is not None:
            before()
        stripes = np.array_split(pixels.astype(np.float32), num_features, axis=1)
        weights = np.array([0.3, 0.5, 0.2], np.float32)
        return np.stack([(part.mean(axis=(1, 2)) * weights).sum(axis=1) for part in stripes], axis=1)

    return Engine(
        name="torch", precision="fp32", device="cpu", reason="a test", chunk=chunk, num_threads=num_threads,
        session=lambda: forward,
    )  # fmt: skip


def fake_backbone(seed: int = 0, *, name: str = "fake", num_features: int = 16):
    """A backbone of one convolution, 3 x 32 x 32 to 16 features, built in milliseconds once torch is there."""
    from regraft.images import Transform
    from regraft.models.backbones import Backbone

    def build():
        import torch
        from torch import nn

        generator = torch.Generator().manual_seed(seed)
        conv = nn.Conv2d(3, num_features, 5, stride=2)
        nn.init.normal_(conv.weight, std=0.2, generator=generator)
        nn.init.normal_(conv.bias, std=0.2, generator=generator)
        net = nn.Sequential(conv, nn.BatchNorm2d(num_features), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return net.eval().requires_grad_(False)

    return Backbone(
        name=name, source="a test", weights_hash=f"{seed:064x}", num_features=num_features, num_parameters=1248,
        transform=Transform(size=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)), build=build,
    )  # fmt: skip
