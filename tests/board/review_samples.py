"""A desk of drawn images for the tests of the review: suspects, controls, pairs, names of many scripts.

desk = sample_desk(tmp_path)             60 images on disk, twelve suspects among them
site = sample_site(tmp_path, desk)       with an SQLite ledger
event(desk.hash_of(3), "keep")           as a browser sends it
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from blake3 import blake3
from fastapi import FastAPI
from httpx2 import Response
from starlette.testclient import TestClient

from drawn import encode, photo
from regraft.board.review.desk import Desk
from regraft.board.review.order import suspects, with_controls
from regraft.board.review.refit import Refits
from regraft.board.review.routes import router
from regraft.board.review.texts import Texts
from regraft.board.site import Site
from regraft.store.db import open_database

CLASSES = ("Straßenbahn", "dog & <b>wolf</b>", "고양이", "قطة صغيرة")


def sample_desk(
    tmp_path: Path,
    num: int = 60,
    *,
    classes: Sequence[str] = CLASSES,
    size: tuple[int, int] = (96, 128),
    share: float = 0.2,
    seed: int = 0,
) -> Desk:
    """A desk of `num` images in `tmp_path/photos`; a `share` of them has the label of another class, and is found out.

    The colour of a picture is its right class. Every tenth image is of the test split. Two images are outliers, one is
    odd, and the first four images each have a near-duplicate among the next four.
    """
    rng = np.random.default_rng(seed)
    right = np.arange(num) % len(classes)
    given = right.copy()
    wrong = np.sort(rng.permutation(num)[: round(share * num)])
    given[wrong] = (right[wrong] + 1 + rng.integers(0, len(classes) - 1, len(wrong))) % len(classes)
    return make_desk(tmp_path / "photos", right, given, classes=classes, size=size, seed=seed)


def make_desk(
    root: Path,
    right: np.ndarray,
    given: np.ndarray,
    *,
    classes: Sequence[str] = CLASSES,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    project: str = "photos",
) -> Desk:
    """Draw the images and say of them what an audit would."""
    rng = np.random.default_rng(seed)
    num, num_classes = len(right), len(classes)
    paths, hashes = [], np.empty((num, 32), np.uint8)
    for row in range(num):
        folder = root / classes[given[row]].replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        data = encode(photo(seed * 100_000 + row, size=size, kind=int(right[row])))
        path = folder / f"{row:04d} größe.png"
        path.write_bytes(data)
        paths.append(str(path.relative_to(root)))
        hashes[row] = np.frombuffer(blake3(data).digest(), np.uint8)
    probs = rng.dirichlet(np.ones(num_classes), num) * 0.4
    probs[np.arange(num), right] += 0.6
    label_score = probs[np.arange(num), given].astype(np.float32)
    top = np.argsort(-probs, axis=1)[:, :5]
    flagged = right != given
    outlier, odd = np.zeros(num, np.bool_), np.zeros(num, np.bool_)
    calm = np.flatnonzero(~flagged)
    if len(calm) >= 3:
        outlier[calm[[1, -1]]] = odd[calm[2]] = True
    pairs = np.array([(row, row + 4) for row in range(4) if row + 4 < num], np.int64).reshape(-1, 2)
    twins = np.isin(np.arange(num), pairs)
    issues = {"label": flagged, "near_duplicate": twins, "outlier": outlier, "odd_image": odd}
    scores = {
        "label": label_score, "near_duplicate": np.where(twins, 0.1, 1.0).astype(np.float32),
        "outlier": np.where(outlier, 0.2, 0.9).astype(np.float32),
        "odd_image": np.where(odd, 0.3, 0.9).astype(np.float32),
    }  # fmt: skip
    queue = np.argsort(label_score, kind="stable")
    order, controls = with_controls(suspects(queue, issues, scores), num, seed=seed)
    prototypes = np.full((num_classes, 4), -1, np.int32)
    for label in range(num_classes):
        rows = np.flatnonzero(right == label)[:4]
        prototypes[label, : len(rows)] = rows
    same = np.array([[row + step * num_classes for step in range(1, 7)] for row in range(num)]) % num
    return Desk(
        project=project, version="0123456789ab", root=root, hashes=hashes, paths=Texts.of(paths),
        class_names=tuple(classes), given=given.astype(np.int32),
        suggested=np.where(flagged, right, -1).astype(np.int32), issues=issues, scores=scores,
        reasons={
            "near_duplicate": Texts.of("nearly the same as another image" if twin else "" for twin in twins),
            "outlier": Texts.of("unlike all other images" if far else "" for far in outlier),
            "odd_image": Texts.of("dark: mean brightness 12 of 255" if one else "" for one in odd),
        },
        top_labels=top.astype(np.int32), top_probs=np.take_along_axis(probs, top, axis=1).astype(np.float32),
        neighbours=same.astype(np.int32), similarity=np.linspace(0.95, 0.7, 6, dtype=np.float32)[None].repeat(num, 0),
        prototypes=prototypes,
        splits=np.where(np.arange(num) % 10 == 0, 3, 1).astype(np.int8),
        groups=(np.arange(num) % 3).astype(np.int32), group_names=Texts.of(["", "Gruppe A", "그룹 B"]),
        sizes=np.tile(np.array(size, np.int32), (num, 1)), order=order, controls=controls, pairs=pairs,
        pair_similarity=np.full(len(pairs), 0.93, np.float32),
        pair_reasons=Texts.of("scaled and a little brighter" for _ in pairs),
    )  # fmt: skip


def sample_site(tmp_path: Path, desk: Desk | None = None, **values: Any) -> Site:
    """A site with a desk and a database of its own; `values` go to `Site`."""
    runs_dir = tmp_path / "runs"
    runs_dir.mkdir(exist_ok=True)
    if not (runs_dir / "regraft.db").exists():
        (runs_dir / "regraft.db").write_bytes(_migrated())
    found = sample_desk(tmp_path) if desk is None else desk
    return Site(
        runs_dir=runs_dir, database=open_database(None, runs_dir=runs_dir), cache_dir=tmp_path / "cache",
        project=found.project, desk=found, **values,
    )  # fmt: skip


@cache
def _migrated() -> bytes:
    """A database file with nothing in it: making the tables takes 20 times as long as copying them."""
    with TemporaryDirectory() as folder:
        open_database(None, runs_dir=Path(folder)).close()
        return (Path(folder) / "regraft.db").read_bytes()


def event(item: str, action: str, **values: Any) -> dict[str, Any]:
    """One event as a browser sends it."""
    return {
        "event_id": str(uuid.uuid4()), "session": "test", "item": item, "issue": "label", "action": action,
        "duration": 1.5, **values,
    }  # fmt: skip


def client_of(site: Site, refits: Refits | None = None) -> TestClient:
    """The routes alone, without the guard: the header `x-who` says who asks."""
    app = FastAPI()
    app.include_router(router(site, who=lambda request: request.headers.get("x-who", "anna"), refits=refits))
    return TestClient(app, raise_server_exceptions=True)


def post(api: TestClient, *events: Any, who: str = "anna") -> Response:
    """Send events to `client_of`'s routes."""
    return api.post("/api/review/decisions", json={"events": list(events)}, headers={"x-who": who})
