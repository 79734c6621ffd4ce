"""Near-duplicates after review: pairs that people told apart are not one set, pairs that are one picture are."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from regraft.audit.near_duplicates import NearDuplicates, pair_column
from regraft.data.corrected import Corrected
from regraft.data.pair_verdicts import Key, connected
from regraft.types import Manifest, Split


def reviewed_sets(
    sets: NDArray[np.int64],
    links: NDArray[np.int64] | None,
    manifest: Manifest,
    split: Split,
    corrected: Corrected,
) -> NDArray[np.int64]:
    """The sets that remain.

    A set in which nobody told a pair apart stays as it is. Any other is made anew from the links between its images
    that take part, without the pairs that were told apart. Two images that were told apart, yet are both linked to a
    third that takes part, stay in one set: a near-duplicate of either would otherwise straddle folds.

    Args:
        sets: int64 (N,), as an audit found them, -1 for none.
        links: int64 (P, 2), the pairs of rows they were made from; None where these were not kept: then all images of a
            set count as linked.
        manifest: N images.
        split: rows in development or test take part.
        corrected: what was decided.

    Returns:
        int64 (N,), -1 for none.
    """
    rows = {key.tobytes().hex(): row for row, key in enumerate(manifest.hashes)}
    apart = {pair for pair in _as_rows(corrected.pairs.distinct, rows) if sets[pair[0]] == sets[pair[1]] >= 0}
    same = _as_rows(corrected.pairs.same, rows)
    opened = {int(sets[a]) for a, _ in apart}
    active = np.zeros(len(manifest), np.bool_)
    active[split.development] = active[split.test] = True
    kept: list[tuple[int, int]] = [pair for pair in same if active[list(pair)].all()]
    for number, members in _members(sets).items():
        if number not in opened:
            kept += [(members[0], row) for row in members[1:]]
        elif links is None:
            kept += [p for p in combinations(members, 2) if p not in apart and active[list(p)].all()]
    if links is not None:
        for a, b in links.tolist():
            pair = (min(a, b), max(a, b))
            if sets[a] == sets[b] and int(sets[a]) in opened and pair not in apart and active[[a, b]].all():
                kept.append(pair)
    found = np.full(len(manifest), -1, np.int64)
    for number, joined in enumerate(connected(kept)):
        found[joined] = number
    return found


def reviewed_duplicates(
    found: NearDuplicates, manifest: Manifest, split: Split, corrected: Corrected
) -> NearDuplicates:
    """What a search found, without the pairs that people told apart; sets and the issues column follow."""
    rows = {key.tobytes().hex(): row for row, key in enumerate(manifest.hashes)}
    apart = set(_as_rows(corrected.pairs.distinct, rows))
    keep = np.array([(min(a, b), max(a, b)) not in apart for a, b in found.pairs.tolist()], np.bool_)
    everyone = dataclasses.replace(split, development=np.arange(len(manifest)), test=np.empty(0, np.int64))
    columns = {name: getattr(found, name)[keep] for name in ("pairs", "similarity", "conflicting", "evidence")}
    return dataclasses.replace(
        found,
        **columns,
        sets=reviewed_sets(found.sets, found.pairs, manifest, everyone, corrected),
        column=pair_column(len(manifest), **columns, images=manifest.names),
    )


def _as_rows(pairs: tuple[Key, ...], rows: dict[str, int]) -> list[tuple[int, int]]:
    """The pairs of which both images are there, as (smaller row, larger row)."""
    found = [(rows[a], rows[b]) for a, b in pairs if a in rows and b in rows]
    return [(min(pair), max(pair)) for pair in found]


def _members(sets: NDArray[np.int64]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in np.flatnonzero(sets >= 0).tolist():
        found.setdefault(int(sets[row]), []).append(row)
    return found
