"""An audit → a desk, which is kept, so that the next start on the same data needs no audit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.board.review.desk import SPLITS, Desk
from regraft.board.review.order import suspects, with_controls
from regraft.board.review.texts import Texts
from regraft.files import default_cache_dir, write_bytes
from regraft.progress import Listener, Stopwatch
from regraft.types import Manifest

if TYPE_CHECKING:
    from regraft.auditing import Audit, AuditOptions
    from regraft.data import Scan

FORMAT = 1
NUM_NEIGHBOURS = 6
NUM_PROTOTYPES = 4
_COLUMNS = (
    "hashes", "given", "suggested", "top_labels", "top_probs", "neighbours", "similarity", "prototypes", "splits",
    "groups", "sizes", "order", "controls", "pairs", "pair_similarity",
)  # fmt: skip
_TEXTS = ("paths", "group_names", "pair_reasons")


def desk_of(
    scan: Scan,
    *,
    project: str,
    options: AuditOptions | None = None,
    listener: Listener | None = None,
    seed: int = 0,
) -> Desk:
    """The desk of these images: kept from an earlier start, or made by an audit and kept.

    Args:
        scan: what `read` gave.
        project: name of the data.
        options: of the audit; the price of leaks is never measured.
        listener: hears of progress.
        seed: of the controls.

    Raises:
        DataError: as `auditing.audit`.
    """
    import dataclasses

    from regraft.auditing import AuditOptions, audit
    from regraft.data import data_version
    from regraft.models.backbones import resolve

    options = dataclasses.replace(options or AuditOptions(), price=False)
    listener = listener if listener is not None else Listener()
    cache_dir = options.cache_dir if options.cache_dir is not None else default_cache_dir()
    version = data_version(scan.manifest.select(scan.manifest.labels >= 0))
    weights = resolve(options.backbone, cache_dir=cache_dir).weights_hash
    told = asdict(options) | {"cache_dir": "", "weights": weights, "format": FORMAT, "seed": [options.seed, seed]}
    fingerprint = blake3(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    path = cache_dir / "review" / f"{version}-{fingerprint}" / "desk.safetensors"
    desk = kept(path, project=project, root=scan.manifest.root)
    if desk is not None and _same_paths(desk, scan.manifest):
        listener.say("nothing changed since the last audit: its suspects are shown")
        return desk
    found = audit(scan, options, listener=listener)
    with Stopwatch(listener).stage("desk"):
        desk = prepare(found, project=project, version=version, seed=seed)
        keep(desk, path)
    return desk


def prepare(found: Audit, *, project: str, version: str, seed: int = 0) -> Desk:
    """What an audit says of each image, as columns.

    Args:
        found: the audit.
        project: name of the data.
        version: of the data.
        seed: of the controls and their places.
    """
    manifest, labels, num = found.manifest, found.labels, len(found.manifest)
    columns = found.issues.columns
    issues = {kind: np.asarray(column.is_issue, np.bool_) for kind, column in columns.items()}
    scores = {kind: np.asarray(column.score, np.float32) for kind, column in columns.items()}
    queue = np.empty(0, np.int64) if labels is None else labels.queue
    order, controls = with_controls(suspects(queue, issues, scores), num, seed=[seed, int(version, 16)])
    neighbours, similarity = _neighbours(*found.neighbours, found.group_ids)
    flagged = np.any([issues[kind] for kind in issues], axis=0)
    group_names, groups = np.unique(np.concatenate([[""], manifest.groups]), return_inverse=True)
    return Desk(
        project=project, version=version, root=manifest.root, hashes=manifest.hashes,
        paths=Texts.of(manifest.images.tolist()), class_names=manifest.class_names,
        given=manifest.labels.astype(np.int32), suggested=found.issues.suggested_labels.astype(np.int32),
        issues=issues, scores=scores,
        reasons={kind: Texts.of(column.reasons) for kind, column in columns.items() if kind != "label"},
        top_labels=np.empty((num, 0), np.int32) if labels is None else labels.top_labels,
        top_probs=np.empty((num, 0), np.float32) if labels is None else labels.top_probs,
        neighbours=neighbours, similarity=similarity,
        prototypes=prototypes(
            found.features.values, manifest.labels, found.group_ids, ~flagged, num_classes=manifest.num_classes
        ),
        splits=np.array([SPLITS.index(role) if role in SPLITS else 0 for role in found.roles.tolist()], np.int8),
        groups=groups[1:].astype(np.int32), group_names=Texts.of(group_names.tolist()),
        sizes=manifest.sizes.astype(np.int32), order=order, controls=controls, pairs=found.duplicates.pairs,
        pair_similarity=found.duplicates.similarity.astype(np.float32),
        pair_reasons=Texts.of(_pair_reasons(found)), backbone=found.backbone,
    )  # fmt: skip


def manifest_of(desk: Desk) -> Manifest:
    """The manifest that a desk was made from, for computing on its images again."""
    return Manifest(
        root=desk.root, images=np.array(list(desk.paths), np.str_), labels=desk.given.astype(np.int64),
        class_names=desk.class_names, hashes=desk.hashes,
        given_splits=np.array(SPLITS, np.str_)[desk.splits],
        groups=np.array(list(desk.group_names), np.str_)[desk.groups], sizes=desk.sizes, source="a review",
    )  # fmt: skip


def keep(desk: Desk, path: Path) -> None:
    """Write a desk, atomically."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {name: getattr(desk, name) for name in _COLUMNS}
    texts = {name: getattr(desk, name) for name in _TEXTS} | {"class_names": Texts.of(desk.class_names)}
    texts |= {f"reasons.{kind}": reasons for kind, reasons in desk.reasons.items()}
    for name, text in texts.items():
        tensors |= {f"{name}.blob": text.blob, f"{name}.ends": text.ends}
    tensors |= {f"issues.{kind}": column for kind, column in desk.issues.items()}
    tensors |= {f"scores.{kind}": column for kind, column in desk.scores.items()}
    about = {
        "version": desk.version, "kinds": json.dumps(list(desk.issues)), "format": str(FORMAT),
        "backbone": desk.backbone,
    }  # fmt: skip
    write_bytes(path, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata=about))


def kept(path: Path, *, project: str, root: Path) -> Desk | None:
    """A desk that was written, or None where there is none that can be read.

    Args:
        path: where it was written.
        project: name of the data now.
        root: where the data lie now.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            about = stream.metadata() or {}
            if about.get("format") != str(FORMAT):
                return None
            values = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it is no dict
        kinds = json.loads(about["kinds"])

        def texts(name: str) -> Texts:
            return Texts(blob=values[f"{name}.blob"], ends=values[f"{name}.ends"])

        columns: dict[str, Any] = {name: values[name] for name in _COLUMNS} | {name: texts(name) for name in _TEXTS}
        return Desk(
            project=project, version=about["version"], backbone=about["backbone"], root=root,
            class_names=tuple(texts("class_names")),
            issues={kind: values[f"issues.{kind}"] for kind in kinds},
            scores={kind: values[f"scores.{kind}"] for kind in kinds},
            reasons={kind: texts(f"reasons.{kind}") for kind in kinds if kind != "label"}, **columns,
        )  # fmt: skip
    except (OSError, KeyError, ValueError, SafetensorError):
        return None


def prototypes(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    group_ids: NDArray[np.int64],
    usable: NDArray[np.bool_],
    *,
    num_classes: int,
) -> NDArray[np.int32]:
    """Rows of images that are typical of each class, int32 (K, 4): nearest to the mean direction of its images.

    Args:
        features: float16 (N, D).
        labels: int64 (N,).
        group_ids: int64 (N,); of a group one image is enough.
        usable: bool (N,), images that nothing was found on; where a class has none, all of its images.
        num_classes: K.
    """
    found = np.full((num_classes, NUM_PROTOTYPES), -1, np.int32)
    by_class = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[by_class], np.arange(num_classes), side="right")
    begins = np.searchsorted(labels[by_class], np.arange(num_classes), side="left")
    for label in range(num_classes):
        rows = by_class[begins[label] : ends[label]]
        rows = rows[usable[rows]] if usable[rows].any() else rows
        if not len(rows):
            continue
        values = features[rows].astype(np.float32)
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        nearest = rows[np.argsort(-(values @ values.mean(axis=0)), kind="stable")]
        _, first = np.unique(group_ids[nearest], return_index=True)
        chosen = nearest[np.sort(first)][:NUM_PROTOTYPES]
        found[label, : len(chosen)] = chosen
    return found


def _neighbours(
    indices: NDArray[np.int64], similarity: NDArray[np.float32], group_ids: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest images outside an image's own group, one of each group: a near-duplicate says nothing new."""
    groups = group_ids[indices]
    own = (indices < 0) | (groups == group_ids[:, None])
    for rank in range(1, groups.shape[1]):
        own[:, rank] |= (groups[:, :rank] == groups[:, rank, None]).any(axis=1)
    first = np.argsort(own, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
    kept = np.where(np.take_along_axis(own, first, axis=1), -1, np.take_along_axis(indices, first, axis=1))
    return kept.astype(np.int32), np.take_along_axis(similarity, first, axis=1).astype(np.float32)


def _pair_reasons(found: Audit) -> list[str]:
    from regraft.audit.calibration import spelled

    reasons = []
    for evidence, conflicting in zip(found.duplicates.evidence, found.duplicates.conflicting.tolist(), strict=True):
        words = f"nearly the same ({spelled(evidence)})" if np.isfinite(evidence[0]) else "identical files"
        reasons.append(words + (", under different labels" if conflicting else ""))
    return reasons


def _same_paths(desk: Desk, manifest: Manifest) -> bool:
    """Whether the files still have the names that they had: content alone names a data version."""
    images: list[str] = manifest.images[manifest.labels >= 0].tolist()
    return list(desk.paths) == images
