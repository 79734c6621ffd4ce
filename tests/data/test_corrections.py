"""Decisions applied to a manifest: against a slow obvious reference, and the corners one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.corrections import Corrected, apply
from regraft.data.parting import part
from regraft.data.scan import Scan
from regraft.data.version import data_version
from regraft.errors import DataError
from regraft.types import Manifest, Verdict

NAMES = ("ant", "bee", "cat")


def key(row: int) -> str:
    return f"{row:064x}"


def manifest_of(labels: list[str], splits: list[str] | None = None) -> Manifest:
    n, names = len(labels), tuple(sorted(set(labels)))
    hashes = np.frombuffer(b"".join(bytes.fromhex(key(row)) for row in range(n)), np.uint8).reshape(n, 32)
    return Manifest(
        root=Path("/nowhere"), images=np.array([f"{row:04d}.png" for row in range(n)], dtype=np.str_),
        labels=np.array([names.index(label) for label in labels], np.int64), class_names=names, hashes=hashes,
        given_splits=np.array(splits or [""] * n, dtype=np.str_), groups=np.full(n, "", dtype=np.str_),
        sizes=np.full((n, 2), 32, np.int32), source="a test",
    )  # fmt: skip


def of(row: int, action: str, label: str = "", *, given: str = "", conflict: bool = False) -> Verdict:
    return Verdict(item=key(row), action=action, label=label, given=given, conflict=conflict, reviewers=("a",))


def pair(survivor: int, other: int, action: str = "duplicate", *, conflict: bool = False) -> Verdict:
    return Verdict(item=key(survivor), other=key(other), action=action, conflict=conflict, reviewers=("a",))


def history(*verdicts: Verdict) -> dict[tuple[str, str], Verdict]:
    def place(one: Verdict) -> tuple[str, str]:
        return (one.item, "") if not one.other else (min(one.item, one.other), max(one.item, one.other))

    return {place(one): one for one in verdicts}


def names_of(found: Corrected, labels: np.ndarray) -> list[str | None]:
    return [found.manifest.class_names[label] if label >= 0 else None for label in labels]


@st.composite
def reviews(draw: st.DrawFn):
    n = draw(st.integers(2, 12))
    labels = [draw(st.sampled_from(NAMES)) for _ in range(n)]
    test = sorted(draw(st.sets(st.integers(0, n - 1), max_size=n // 2)))
    singles = draw(
        st.lists(
            st.builds(
                of, st.integers(0, n + 1), st.sampled_from(["keep", "relabel", "exclude", "ambiguous"]),
                st.sampled_from((*NAMES, "dog")), given=st.sampled_from(("", *NAMES)), conflict=st.booleans(),
            ),
            max_size=10,
        )
    )  # fmt: skip
    pairs = draw(
        st.lists(
            st.builds(
                pair, st.integers(0, n), st.integers(0, n), st.sampled_from(["duplicate", "distinct"]),
                conflict=st.booleans(),
            ).filter(lambda one: one.item != one.other),
            max_size=6,
        )
    )  # fmt: skip
    return labels, test, history(*singles, *pairs)


def reference(labels: list[str], test: list[int], verdicts: dict[tuple[str, str], Verdict]):
    """What should become of each image, read off the rules one image at a time: (development, second test) by row."""
    n = len(labels)
    decided, out = list(labels), set()
    for row in range(n):
        verdict = verdicts.get((key(row), ""))
        if verdict is None or verdict.conflict:
            continue
        if verdict.action in ("exclude", "ambiguous"):
            out.add(row)
        if verdict.action == "relabel" and verdict.given in ("", labels[row]):
            decided[row] = verdict.label
    same = [
        (int(v.item, 16), int(v.other, 16)) for v in verdicts.values()
        if v.action == "duplicate" and not v.conflict and max(int(v.item, 16), int(v.other, 16)) < n
    ]  # fmt: skip
    pair_out = set()
    for row in range(n):
        mates = {row}
        for _ in range(n):
            mates |= {b for a, b in same if a in mates} | {a for a, b in same if b in mates}
        tested = mates & set(test)
        if len(mates) == 1:
            continue
        if tested and row not in test:
            pair_out.add(row)
            continue
        pool = tested or mates
        winners = pool - {b for _, b in same}
        if row not in (winners or {min(pool)}):
            pair_out.add(row)
    development: dict[int, str] = {
        row: decided[row] for row in range(n) if row not in test and row not in out | pair_out
    }
    second: dict[int, str] = {row: decided[row] for row in test if row not in out | pair_out}
    for name in set(development.values()):
        mine = [row for row in development if development[row] == name]
        was = [row for row in range(n) if row not in test and labels[row] == name]
        if len(mine) + sum(labels[row] == name for row in test) < 2 and len(mine) != len(was):
            for row in mine:
                del development[row]
    known = set(development.values())
    return development, {row: name for row, name in second.items() if name in known}


@settings(max_examples=200, deadline=None)
@given(reviews())
def test_against_the_rules_read_one_image_at_a_time(review):
    labels, test, verdicts = review
    given_manifest = manifest_of(labels)
    found = apply(given_manifest, verdicts, test=np.array(test, np.int64))
    development, second = reference(labels, test, verdicts)

    corrected = names_of(found, found.manifest.labels)
    assert {row: corrected[row] for row in found.development.tolist()} == development
    assert all(found.manifest.labels[row] == -1 for row in range(len(labels)) if row not in {*development, *test})
    everywhere = names_of(found, found.as_corrected)
    assert {row: everywhere[row] for row in test if everywhere[row] is not None} == second
    # the test set: as given, but for classes that development lost
    lost = {labels[row] for row in range(len(labels)) if row not in test} - set(development.values())
    assert found.test.tolist() == [row for row in test if labels[row] not in lost]
    assert [corrected[row] for row in found.test.tolist()] == [labels[row] for row in found.test.tolist()]
    assert (found.manifest.hashes == given_manifest.hashes).all()
    assert list(found.manifest.class_names) == sorted(found.manifest.class_names)
    # each development image is accounted for, and each verdict told once at most
    gone = found.num_excluded + found.num_ambiguous + found.num_duplicates + found.num_alone
    assert len(labels) - len(test) - gone == len(found.development)
    assert found.num_relabelled == sum(development[row] != labels[row] for row in development)
    assert found.num_conflicts + found.num_stale + found.num_absent <= len(verdicts)
    assert sum(one.excluded for one in found.findings) == gone + len(test) - len(found.test)
    # the order of the history does not matter, nor that of the rows
    again = apply(given_manifest, dict(reversed(verdicts.items())), test=np.array(test, np.int64))
    assert again.version == found.version
    assert again.sentence == found.sentence


@settings(max_examples=100, deadline=None)
@given(reviews(), st.randoms(use_true_random=False))
def test_nothing_hangs_on_the_order_of_rows(review, random):
    labels, test, verdicts = review
    verdicts = {k: v for k, v in verdicts.items() if v.action != "duplicate"}  # a circle's survivor is the first by row
    order = list(range(len(labels)))
    random.shuffle(order)
    given_manifest = manifest_of(labels)
    found = apply(given_manifest, verdicts, test=np.array(test, np.int64))
    moved = apply(
        given_manifest.select(np.array(order)), verdicts, test=np.array([order.index(row) for row in test], np.int64)
    )
    assert moved.version == found.version
    assert moved.as_dict() == found.as_dict()
    assert names_of(moved, moved.as_corrected) == [names_of(found, found.as_corrected)[row] for row in order]


def test_nothing_decided_changes_nothing():
    given_manifest = manifest_of(["ant", "ant", "bee", "bee"])
    for verdicts in ({}, history(of(0, "keep"), of(1, "exclude", conflict=True), of(99, "exclude"))):
        found = apply(given_manifest, verdicts)
        assert found.version == ""
        assert found.num_applied == 0
        assert (found.manifest.labels == given_manifest.labels).all()
        assert data_version(given_manifest, decisions=found.version) == data_version(given_manifest)
    assert (found.num_kept, found.num_conflicts, found.num_absent) == (1, 1, 1)
    assert found.sentence == "0 decisions applied; 1 in conflict was not"


def test_the_sentence():
    verdicts = history(
        of(0, "relabel", "bee"), of(1, "relabel", "bee"), of(2, "exclude"), of(3, "ambiguous"), pair(4, 5),
        pair(6, 7, "distinct"), of(8, "exclude", conflict=True), of(9, "exclude", conflict=True),
        of(10, "relabel", "bee", given="cat"), of(11, "relabel", "bee"), of(12, "keep"),
    )  # fmt: skip
    found = apply(manifest_of(["ant"] * 14 + ["bee"] * 3), verdicts, test=np.array([11, 12]))
    assert found.sentence == (
        "6 decisions applied: 2 labels changed, 1 image left out, 1 ambiguous image left out, 1 duplicate left out, "
        "1 pair told apart; 2 in conflict were not; 1 made stale by a newer label was not; "
        "1 on test images, kept apart"
    )
    assert apply(manifest_of(["ant"] * 4), history(of(0, "ambiguous")), keep_ambiguous=True).num_applied == 0


def test_a_label_given_anew_after_the_review_is_the_owners():
    verdicts = history(of(0, "relabel", "bee", given="cat"), of(1, "relabel", "ant", given="cat"))
    found = apply(manifest_of(["ant", "ant", "bee", "bee"]), verdicts)
    assert names_of(found, found.manifest.labels) == ["ant", "ant", "bee", "bee"]
    assert found.num_stale == 1  # of the second, review and owner agree


class TestDuplicates:
    labels = ("ant",) * 6 + ("bee",) * 2

    def left_out(self, *verdicts: Verdict, test: tuple[int, ...] = ()) -> tuple[list[int], list[int]]:
        found = apply(manifest_of(list(self.labels)), history(*verdicts), test=np.array(test, np.int64))
        out = sorted({*range(8)} - {*found.development.tolist()} - {*test})
        return out, [row for row in test if found.as_corrected[row] < 0]

    def test_the_survivor_stays(self):
        assert self.left_out(pair(3, 1)) == ([1], [])
        assert self.left_out(pair(3, 1), pair(3, 0), pair(0, 2)) == ([0, 1, 2], [])

    def test_in_a_circle_one_stays(self):
        assert self.left_out(pair(2, 1), pair(1, 3), pair(3, 2)) == ([2, 3], [])

    def test_the_test_set_stays_and_the_copy_goes_whoever_was_to_survive(self):
        assert self.left_out(pair(0, 1), test=(0,)) == ([1], [])
        assert self.left_out(pair(0, 1), test=(1,)) == ([0], [])
        assert self.left_out(pair(0, 1), pair(0, 2), test=(1, 2)) == ([0], [2])

    def test_between_test_images_the_second_score_counts_it_once(self):
        assert self.left_out(pair(0, 1), test=(0, 1)) == ([], [1])


class TestClasses:
    def test_one_that_vanishes_is_gone_and_said_so(self):
        verdicts = history(of(0, "relabel", "bee"), of(1, "exclude"))
        found = apply(manifest_of(["ant", "ant", "bee", "bee", "ant"]), verdicts, test=np.array([4]))
        assert found.manifest.class_names == ("bee",)
        assert found.test.tolist() == []
        assert found.notes == (
            "the class 'ant' is gone: decisions took all its development images (1 relabelled, 1 left out); its 1 test "
            "image cannot be recognised and left the test set",
        )
        assert [one.kind for one in found.findings] == ["excluded_by_review", "relabelled_by_review", "test_only_class"]

    def test_a_corrected_test_image_of_a_lost_class_is_in_the_second_score(self):
        verdicts = history(of(0, "relabel", "bee"), of(3, "relabel", "bee"))
        found = apply(manifest_of(["ant", "bee", "bee", "ant"]), verdicts, test=np.array([3]))
        assert found.test.tolist() == []
        assert names_of(found, found.as_corrected)[3] == "bee"

    def test_a_new_one_needs_two_images(self):
        labels = ["ant", "ant", "ant", "bee", "bee", "bee"]
        alone = apply(manifest_of(labels), history(of(0, "relabel", "wasp")))
        assert alone.manifest.class_names == ("ant", "bee")
        assert alone.num_alone == 1
        assert "then alone in the class" in alone.sentence
        two = apply(manifest_of(labels), history(of(0, "relabel", "wasp"), of(3, "relabel", "wasp")))
        assert two.manifest.class_names == ("ant", "bee", "wasp")
        assert two.notes == ("the class 'wasp' is new: reviewers gave it",)

    def test_a_test_image_of_a_class_unknown_to_development_is_left_out_of_the_second_score(self):
        found = apply(manifest_of(["ant", "ant", "bee", "bee"]), history(of(3, "relabel", "wasp")), test=np.array([3]))
        assert found.as_corrected[3] == -1
        assert (found.num_test_relabelled, found.num_test_left_out) == (0, 1)
        assert found.test.tolist() == [3]


class TestPart:
    def scan(self, labels: list[str], verdicts: dict[tuple[str, str], Verdict] | None, splits=None) -> Scan:
        from regraft.data.corrected import Decisions

        manifest = manifest_of(labels, splits)
        return Scan(
            manifest=manifest, findings=(), num_files=len(labels), source="a test", formats={}, seconds=0.0,
            num_decoded=0, decisions=None if verdicts is None else Decisions(verdicts=verdicts, project="p"),
        )  # fmt: skip

    def test_no_decision_moves_an_image_between_development_and_test(self):
        labels = ["ant"] * 40 + ["bee"] * 40
        before = part(self.scan(labels, None), test=0.25)
        verdicts = history(*(of(row, "relabel", "bee") for row in range(0, 40, 2)))
        after = part(self.scan(labels, verdicts), test=0.25)
        assert (before.split.test == after.split.test).all()
        assert (before.split.development == after.split.development).all()
        assert (after.manifest.labels[after.split.test] == before.manifest.labels[before.split.test]).all()
        assert after.version != before.version

    def test_versions_follow_what_is_applied_and_nothing_else(self):
        labels = ["ant"] * 10 + ["bee"] * 10
        verdicts = [
            history(), history(of(0, "keep")), history(of(0, "relabel", "bee")), history(of(0, "exclude")),
            history(pair(0, 1)), history(pair(0, 1, "distinct")), history(of(0, "relabel", "bee"), of(1, "keep")),
        ]  # fmt: skip
        versions = [part(self.scan(labels, one), test=0).version for one in verdicts]
        assert versions[0] == versions[1] == part(self.scan(labels, None), test=0).version
        assert versions[2] == versions[6]
        assert len(set(versions)) == 5

    def test_fewer_than_two_classes_is_refused_in_words(self):
        verdicts = history(*(of(row, "relabel", "bee") for row in range(3)))
        with pytest.raises(DataError, match=r"leave 1 .*--no-decisions"):
            part(self.scan(["ant"] * 3 + ["bee"] * 3, verdicts), test=0)

    def test_leaks_of_the_given_split_stay_out(self):
        splits = ["train"] * 6 + ["test"] * 4
        verdicts = history(of(6, "exclude"), of(7, "relabel", "bee"), of(0, "exclude"))
        parted = part(self.scan(["ant", "bee"] * 5, verdicts, splits))
        assert parted.split.development.tolist() == [1, 2, 3, 4, 5]
        assert parted.split.test.tolist() == [6, 7, 8, 9]
        assert parted.corrected is not None
        assert parted.corrected.as_corrected[[6, 7]].tolist() == [-1, 1]


def test_a_class_is_known_by_how_it_is_shown() -> None:
    odd = "b\udce9e"  # a byte that is no UTF-8: a page shows b\xe9e, and so do decisions
    manifest = manifest_of(["ant", "ant", "ant", odd, odd, odd])
    found = apply(manifest, history(of(0, "relabel", "b\\xe9e", given="ant"), of(3, "relabel", "ant", given="b\\xe9e")))
    assert (found.num_relabelled, found.num_stale) == (2, 0)
    assert names_of(found, found.manifest.labels) == [odd, "ant", "ant", "ant", odd, odd]
