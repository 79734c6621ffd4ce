"""Near-duplicates after review: what people told apart, and what they found to be one picture."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted_errors import key, planted
from safetensors.numpy import load, save

from regraft.data.corrections import apply
from regraft.studies.duplicate_groups import group_near_duplicates, keep_sets, kept_sets
from regraft.studies.reviewed_sets import reviewed_sets
from regraft.types import Manifest, Split, Verdict

N = 12


def manifest() -> Manifest:
    return planted(N, share=0.0).manifest


def of(a: int, b: int, action: str) -> Verdict:
    return Verdict(item=key(a), other=key(b), action=action)


def split_of(test: tuple[int, ...] = ()) -> Split:
    rows = np.array(test, np.int64)
    return Split(
        development=np.setdiff1d(np.arange(N), rows), test=rows, group_ids=np.arange(N, dtype=np.int64), reason=""
    )


def sets_of(*sets: tuple[int, ...]) -> np.ndarray:
    found = np.full(N, -1, np.int64)
    for number, rows in enumerate(sets):
        found[list(rows)] = number
    return found


def partition(sets: np.ndarray) -> list[list[int]]:
    return sorted(np.flatnonzero(sets == number).tolist() for number in set(sets.tolist()) - {-1})


def reviewed(sets: np.ndarray, links: list[tuple[int, int]] | None, *verdicts: Verdict, test: tuple[int, ...] = ()):
    split = split_of(test)
    corrected = apply(manifest(), {(min(v.item, v.other), max(v.item, v.other)): v for v in verdicts}, test=split.test)
    split = dataclasses.replace(split, development=corrected.development)
    pairs = None if links is None else np.array(links, np.int64).reshape(-1, 2)
    return partition(reviewed_sets(sets, pairs, manifest(), split, corrected))


@pytest.mark.parametrize("links", [[(0, 1), (4, 5), (5, 6)], None])
def test_a_pair_that_was_told_apart_is_no_set_and_others_stay(links):
    assert reviewed(sets_of((0, 1), (4, 5, 6)), links, of(1, 0, "distinct")) == [[4, 5, 6]]
    assert reviewed(sets_of((0, 1), (4, 5, 6)), links) == [[0, 1], [4, 5, 6]]


def test_through_a_third_image_they_stay_together_until_it_goes():
    sets, links = sets_of((0, 1, 2)), [(0, 1), (1, 2), (0, 2)]
    apart = of(0, 1, "distinct")
    assert reviewed(sets, links, apart) == [[0, 1, 2]]
    assert reviewed(sets, links, apart, of(0, 2, "distinct")) == [[1, 2]]
    assert reviewed(sets, links, apart, of(0, 2, "duplicate")) == []  # 2 is left out, and links nothing


def test_one_picture_joins_sets():
    assert reviewed(sets_of((0, 1), (4, 5)), None, of(1, 4, "duplicate"), test=(0, 1, 4, 5)) == [[0, 1, 4, 5]]


def test_a_fit_reads_them_from_the_cache(tmp_path):
    from regraft.studies import duplicate_groups

    images, split = manifest(), split_of()
    keep_sets(tmp_path, images, sets_of((0, 1), (4, 5)), np.array([(0, 1), (4, 5)]))
    found = kept_sets(tmp_path, images)
    assert found is not None
    assert partition(found) == [[0, 1], [4, 5]]
    corrected = apply(images, {(key(0), key(1)): of(0, 1, "distinct")})
    joined, words = group_near_duplicates(images, split, cache_dir=tmp_path, corrected=corrected)
    assert joined.group_ids[0] != joined.group_ids[1]
    assert joined.group_ids[4] == joined.group_ids[5]
    assert "2 development images in 1 set" in words
    # sets that were kept without their pairs
    place = duplicate_groups._place(tmp_path, images)
    kept = load(place.read_bytes())
    place.write_bytes(save({name: kept[name] for name in ("hashes", "sets")}))
    again, _ = group_near_duplicates(images, split, cache_dir=tmp_path, corrected=corrected)
    assert (again.group_ids == joined.group_ids).all()
