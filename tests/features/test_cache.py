"""The feature cache against a dict, under damage, among several processes, and pruned."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from regraft.features.cache import FeatureCache, fingerprint, list_entries, prune, verify

ABOUT = {"backbone": "fake", "weights": "00", "transform": {"size": 32}, "precision": "fp32"}


def keys_of(numbers: list[int]) -> np.ndarray:
    """Different keys; those of n and n + 1000 begin with the same 8 bytes."""
    keys = np.zeros((len(numbers), 32), np.uint8)
    for row, number in enumerate(numbers):
        keys[row, :8] = np.frombuffer(((number % 1000) * 2654435761).to_bytes(8, "little"), np.uint8)
        keys[row, 8:10] = np.frombuffer((number // 1000).to_bytes(2, "little"), np.uint8)
    return keys


def values_of(numbers: list[int], width: int = 5) -> np.ndarray:
    return (np.array(numbers, np.float16).reshape(-1, 1) + np.arange(width, dtype=np.float16) / 8).astype(np.float16)


def cache_at(path: Path, width: int = 5, **changes: object) -> FeatureCache:
    return FeatureCache(path, ABOUT | changes, num_features=width)


NUMBERS = st.lists(st.sampled_from([*range(12), *range(1000, 1012)]), max_size=30)


@given(shards=st.lists(NUMBERS, max_size=4), asked=NUMBERS, width=st.integers(1, 9))
def test_against_a_dict(tmp_path_factory, shards, asked, width):
    cache = cache_at(tmp_path_factory.mktemp("cache"), width)
    known: set[int] = set()
    for numbers in shards:
        cache.write(keys_of(numbers), values_of(numbers, width))
        known |= set(numbers)
    out = np.full((len(asked), width), -1, np.float16)
    found = cache.read(keys_of(asked), out)
    assert found.tolist() == [number in known for number in asked]
    expected = np.where(found[:, None], values_of(asked, width), np.float16(-1))
    np.testing.assert_array_equal(out, expected)


def test_same_shard_twice_is_one_file(tmp_path):
    cache = cache_at(tmp_path)
    for _ in range(2):
        cache.write(keys_of([1, 2]), values_of([1, 2]))
    cache.write(keys_of([]), values_of([]))
    assert len(list(cache.folder.glob("*"))) == 2
    assert [row["num_images"] for row in list_entries(tmp_path)] == [2]


def test_fingerprint_changes_with_everything_that_matters():
    changes = [
        {}, {"backbone": "other"}, {"weights": "01"}, {"transform": {"size": 33}}, {"precision": "bf16"},
        {"transform": {"size": 32, "policy": "pad"}},
    ]  # fmt: skip
    assert len({fingerprint(ABOUT | change) for change in changes}) == len(changes)
    assert fingerprint(dict(reversed(ABOUT.items()))) == fingerprint(ABOUT)


def damages(data: bytes) -> dict[str, bytes]:
    middle = len(data) // 2
    return {
        "empty": b"",
        "cut": data[:-1],
        "half": data[:middle],
        "flipped": data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
        "key": data.replace(keys_of([3]).tobytes(), keys_of([4]).tobytes()),
        "huge header": (2**60).to_bytes(8, "little") + data[8:],
        "noise": os.urandom(400),
        "hash": data.replace(b'"blake3":"', b'"blake3":"0', 1),
    }


@pytest.mark.parametrize("kind", list(damages(b"x" * 100)))
def test_a_damaged_shard_is_found_set_aside_and_replaced(tmp_path, kind):
    cache = cache_at(tmp_path)
    cache.write(keys_of([1, 2, 3]), values_of([1, 2, 3]))
    (shard,) = cache.folder.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(damages(whole)[kind])
    assert [report.damage for report in verify(tmp_path)] == ["damaged"]
    out = np.zeros((3, 5), np.float16)
    assert not cache.read(keys_of([1, 2, 3]), out).any()
    assert not out.any()
    assert not shard.exists()
    assert [path.suffix for path in cache.folder.glob("*.damaged")] == [".damaged"]
    cache.write(keys_of([1, 2, 3]), values_of([1, 2, 3]))
    assert shard.exists()
    assert cache.read(keys_of([1, 2, 3]), out).all()


@pytest.mark.parametrize(
    "tensors",
    [
        {"keys": keys_of([1])},
        {"keys": keys_of([1]), "features": values_of([1, 2])},
        {"keys": keys_of([1])[:, :31].copy(), "features": values_of([1])},
        {"keys": keys_of([1]).astype(np.float32), "features": values_of([1])},
        {"keys": keys_of([1]), "features": values_of([1]).astype(np.float32)},
        {"keys": keys_of([1]), "features": values_of([1], 4)},
        {"keys": np.zeros(32, np.uint8), "features": values_of([1])},
    ],
)
def test_foreign_shards_are_not_believed(tmp_path, tensors):
    cache = cache_at(tmp_path)
    save_file(tensors, cache.folder / "foreign.safetensors", metadata={"blake3": "0"})
    assert not cache.read(keys_of([1]), np.zeros((1, 5), np.float16)).any()
    list_entries(tmp_path)


def test_many_readers_and_writers(tmp_path):
    def work(number: int) -> None:
        cache = cache_at(tmp_path)
        for step in range(5):
            numbers = [(number * 7 + step * 3 + k) % 60 for k in range(10)]
            cache.write(keys_of(numbers), values_of(numbers))
            out = np.zeros((10, 5), np.float16)
            assert cache.read(keys_of(numbers), out).all()
            np.testing.assert_array_equal(out, values_of(numbers))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert all(report.damage is None for report in verify(tmp_path))
    assert not list(tmp_path.rglob("*.tmp"))


def test_list_names_and_counts(tmp_path):
    assert list_entries(tmp_path) == []
    assert list(verify(tmp_path)) == []
    wide, narrow = cache_at(tmp_path, 50), cache_at(tmp_path, 1, precision="bf16")
    for number in range(30):
        wide.write(keys_of([number]), values_of([number], 50))
        narrow.write(keys_of([number, 500]), values_of([number, 500], 1))
    rows = {row["fingerprint"]: row for row in list_entries(tmp_path)}
    assert {name: row["num_images"] for name, row in rows.items()} == {wide.fingerprint: 30, narrow.fingerprint: 60}
    assert rows[narrow.fingerprint]["precision"] == "bf16"
    assert rows[wide.fingerprint]["num_bytes"] == sum(p.stat().st_size for p in wide.folder.glob("*.safetensors"))


def test_list_survives_damaged_entries(tmp_path):
    cache = cache_at(tmp_path)
    cache.write(keys_of([1]), values_of([1]))
    for text in ("", "[]", "{}", '{"num_features": "x"}'):
        (cache.folder / "about.json").write_text(text)
        assert [row["num_images"] for row in list_entries(tmp_path)] == [1]
    (cache.folder / "about.json").unlink()
    assert len(list_entries(tmp_path)) == 1


def test_prune_by_age_and_by_name(tmp_path):
    old, new = cache_at(tmp_path), cache_at(tmp_path, precision="bf16")
    now = time.time()
    for cache in (old, new):
        cache.write(keys_of([1]), values_of([1]))
    for path in old.folder.glob("*.safetensors"):
        os.utime(path, (now - 5000, now - 5000))
    assert prune(tmp_path, older_than_seconds=9000, now=now) == 0
    assert prune(tmp_path, older_than_seconds=1000, now=now) > 0
    assert [row["fingerprint"] for row in list_entries(tmp_path)] == [new.fingerprint]
    assert prune(tmp_path, older_than_seconds=0, now=now + 1, fingerprint="nothing") == 0
    assert prune(tmp_path, older_than_seconds=0, now=now + 1, fingerprint=new.fingerprint[:6]) > 0
    assert list_entries(tmp_path) == []


def test_old_thumbnails_go_unless_an_entry_is_named(tmp_path):
    now = time.time()
    old, new = tmp_path / "thumbs" / "ab" / "abc-256", tmp_path / "thumbs" / "cd" / "cde-256"
    ready = tmp_path / "review" / "1-2" / "desk.safetensors"
    for path in (old, new, ready):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
    for path in (old, ready.parent):
        os.utime(path, (now - 5000, now - 5000))
    assert prune(tmp_path, older_than_seconds=1000, now=now, fingerprint="ab") == 0
    assert prune(tmp_path, older_than_seconds=1000, now=now) == 10
    assert new.exists()
    assert not old.exists()
    assert not ready.exists()


def test_abandoned_files_go_and_fresh_ones_stay(tmp_path):
    cache = cache_at(tmp_path)
    now = time.time()
    left = [
        cache.folder / ".abc.tmp", cache.folder / "x.damaged", tmp_path / "verdicts" / "v1" / ".x.tmp",
        tmp_path / "ir" / ".tmp-x" / "model.bin",
    ]  # fmt: skip
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    prune(tmp_path, older_than_seconds=1e9, now=now)
    assert all(path.exists() for path in left)
    assert prune(tmp_path, older_than_seconds=1e9, now=now + 7200) == 20
    assert not any(path.exists() for path in left)
    assert cache.folder.exists()


def test_a_new_entry_sweeps_what_was_abandoned_days_ago(tmp_path):
    first = cache_at(tmp_path)
    (first.folder / ".old.tmp").write_bytes(b"1")
    (first.folder / ".new.tmp").write_bytes(b"1")
    os.utime(first.folder / ".old.tmp", (0, 0))
    cache_at(tmp_path, precision="bf16")
    assert [path.name for path in first.folder.glob(".*.tmp")] == [".new.tmp"]


def test_a_read_only_cache_still_gives_what_it_has(tmp_path, monkeypatch):
    cache = cache_at(tmp_path)
    cache.write(keys_of([1]), values_of([1]))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "cache")

    monkeypatch.setattr("regraft.features.cache.write_json", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    (cache.folder / "bad.safetensors").write_bytes(b"bad")
    assert cache_at(tmp_path).read(keys_of([1]), np.zeros((1, 5), np.float16)).all()
    with pytest.raises(PermissionError):
        cache_at(tmp_path, precision="bf16")


def test_about_says_what_the_fingerprint_stands_for(tmp_path):
    cache = cache_at(tmp_path)
    about = json.loads((cache.folder / "about.json").read_text("utf-8"))
    assert about == ABOUT | {"num_features": 5, "format": 1}
    about.pop("num_features")
    assert fingerprint(about) == cache.fingerprint == cache.folder.name
