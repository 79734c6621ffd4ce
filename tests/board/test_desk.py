"""A desk: found by hash, kept and read again, its cards, and what they do not give away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from review_samples import CLASSES, make_desk, sample_desk, sample_site

from drawn import encode, photo
from regraft import read
from regraft.auditing import AuditOptions, audit
from regraft.board.review import prepare
from regraft.board.review.cards import card
from regraft.board.review.history import History
from regraft.board.review.texts import Texts
from regraft.data import data_version
from regraft.progress import Listener
from regraft.store.decisions import Ledger
from studies.studies_fake import backbone as colours


@given(st.lists(st.text() | st.just("\udcff odd byte")))
def test_texts_come_back_as_they_were(strings):
    texts = Texts.of(strings)
    assert list(texts) == strings
    assert [texts[number] for number in range(len(texts))] == strings


def test_texts_are_searched_without_case_and_out_of_range_is_refused():
    texts = Texts.of(["Straße/A.png", "고양이/b.png"])
    assert texts.containing("STRASSE").tolist() == [True, False]
    assert texts.containing("b.PNG").tolist() == [False, True]
    for number in (-1, 2):
        with pytest.raises(IndexError):
            texts[number]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return sample_desk(tmp_path_factory.mktemp("desk"))


def test_every_image_is_found_by_its_hash_and_nothing_else_is(desk):
    for row in range(len(desk)):
        assert desk.row_of(desk.hash_of(row)) == row
        assert desk.path_of(desk.hash_of(row)).read_bytes()
    known = desk.hash_of(0)
    for hostile in ("", "00" * 32, known[:-1], known + "0", known[:-2] + "zz", "../" + known[3:], " " * 64, "٣" * 64):
        assert desk.row_of(hostile) is None
        assert desk.path_of(hostile) is None


def test_hashes_that_begin_alike_are_told_apart(tmp_path):
    desk = make_desk(tmp_path, np.arange(6) % 4, np.arange(6) % 4)
    desk.hashes[:, :8] = 7
    for row in range(6):
        assert desk.row_of(desk.hash_of(row)) == row


def test_every_image_has_one_position_and_the_order_comes_first(desk):
    assert sorted(desk.positions.tolist()) == list(range(len(desk)))
    assert desk.positions[desk.order].tolist() == list(range(len(desk.order)))


def test_kept_and_read_again(desk, tmp_path):
    path = tmp_path / "kept" / "desk.safetensors"
    prepare.keep(desk, path)
    again = prepare.kept(path, project="photos", root=desk.root)
    for name in prepare._COLUMNS:
        before, after = getattr(desk, name), getattr(again, name)
        assert before.dtype == after.dtype, name
        assert np.array_equal(before, after), name
    assert list(again.paths) == list(desk.paths)
    assert (again.class_names, again.version, again.backbone) == (desk.class_names, desk.version, desk.backbone)
    for row in range(len(desk)):
        for kind in desk.issues:
            assert again.reason(row, kind) == desk.reason(row, kind)
            assert again.issues[kind][row] == desk.issues[kind][row]
            assert again.scores[kind][row] == desk.scores[kind][row]


@pytest.mark.parametrize("damage", [b"", b"not a desk", None])
def test_a_damaged_desk_is_none(desk, tmp_path, damage):
    path = tmp_path / "desk.safetensors"
    prepare.keep(desk, path)
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert prepare.kept(path, project="photos", root=desk.root) is None


def test_a_control_looks_like_a_suspect(desk, tmp_path):
    history = History(desk, Ledger(sample_site(tmp_path, desk).database, desk.project))
    suspect = next(row for row in desk.order.tolist() if desk.kinds(row) == ["label"] and not desk.controls[row])
    control = int(np.flatnonzero(desk.controls)[0])
    ours, theirs = (card(desk, history, row, "anna") for row in (suspect, control))
    assert ours.keys() == theirs.keys()
    assert [one["kind"] for one in theirs["issues"]] == ["label"]
    assert theirs["suggested"] in CLASSES
    assert theirs["suggested"] != theirs["given"]
    assert "control" not in str(theirs)
    shape = [word for word in ours["reason"].split() if word.isascii() and word.isalpha()]
    assert [word for word in theirs["reason"].split() if word.isascii() and word.isalpha()] == shape


def test_blind_cards_name_no_class_but_the_given_one(desk, tmp_path):
    site = sample_site(tmp_path, desk)
    history = History(desk, Ledger(site.database, desk.project))
    for row in desk.order.tolist():
        shown = card(desk, history, row, "anna", blind=True)
        given = shown.pop("given")
        shown.pop("path")
        shown.pop("group")
        assert shown["suggested"] is None
        assert not any(name in str(shown) for name in CLASSES if name != given)
        assert not shown["others"]


def test_test_images_are_marked_in_words(desk, tmp_path):
    history = History(desk, Ledger(sample_site(tmp_path, desk).database, desk.project))
    for row in range(len(desk)):
        shown = card(desk, history, row, "anna")
        assert (shown["split"] == "test") == (row % 10 == 0) == bool(shown["remark"])


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sixteen images a class with three wrong labels and a copy, judged by mean colours."""
    monkeypatch.setattr("regraft.auditing.resolve", lambda name, **_: colours("colours", noise=0.01, width=4))
    monkeypatch.setattr("regraft.models.backbones.resolve", lambda name, **_: colours("colours", noise=0.01, width=4))
    root = tmp_path / "photos"
    for kind, name in enumerate(("blau", "녹색", "red")):
        (root / name).mkdir(parents=True)
        for number in range(16):
            data = encode(photo(100 * kind + number, size=(40, 40), kind=kind))
            (root / name / f"{number:03d}.png").write_bytes(data)
    for number in range(3):
        data = encode(photo(900 + number, size=(40, 40), kind=number))
        (root / ("녹색", "red", "blau")[number] / f"wrong{number}.png").write_bytes(data)
    return root


def test_a_desk_says_what_the_audit_says(audited, tmp_path):
    options = AuditOptions(price=False, cache_dir=tmp_path / "cache")
    scan = read(audited, cache_dir=tmp_path / "cache")
    found = audit(scan, options)
    desk = prepare.prepare(found, project="photos", version=data_version(scan.manifest))
    flagged = found.labels.column.is_issue
    queue = [row for row in found.labels.queue.tolist() if flagged[row]]
    own = [row for row in desk.order.tolist() if not desk.controls[row]]
    assert own[: len(queue)] == queue
    assert sum("wrong" in desk.path(row) for row in queue) >= 2
    for row in range(len(desk)):
        assert (audited / desk.path(row)).is_file()
        assert desk.names[desk.given[row]] == desk.path(row).split("/")[0]
        assert desk.top_probs[row].sum() == pytest.approx(1, abs=1e-4)
        assert (np.diff(desk.top_probs[row]) <= 0).all()
        assert row not in desk.neighbours[row]
        others = desk.neighbours[row][desk.neighbours[row] >= 0]
        assert (found.group_ids[others] != found.group_ids[row]).all()
    for label, rows in enumerate(desk.prototypes):
        assert (desk.given[rows[rows >= 0]] == label).all()
        assert not any("wrong" in desk.path(int(row)) for row in rows if row >= 0)
    manifest = prepare.manifest_of(desk)
    assert data_version(manifest) == data_version(scan.manifest)
    assert len(desk.pairs) == len(found.duplicates.pairs) == len(desk.pair_reasons)


def test_the_second_start_needs_no_audit_and_a_changed_label_does(audited, tmp_path, monkeypatch):
    said: list[str] = []

    class Ear(Listener):
        def stage_began(self, name: str) -> None:
            said.append(name)

    options = AuditOptions(cache_dir=tmp_path / "cache")

    def start(**values):
        said.clear()
        scan = read(audited, cache_dir=tmp_path / "cache")
        return prepare.desk_of(scan, project="photos", options=options, listener=Ear(), **values)

    first = start()
    assert "labels" in said
    assert "price" not in said
    assert start().order.tolist() == first.order.tolist()
    assert said == []
    assert start(seed=1).version == first.version  # other controls
    assert "labels" in said
    (audited / "red" / "000.png").rename(audited / "red" / "renamed.png")
    assert "red/renamed.png" in list(start().paths)  # the same content under another name
    (audited / "red" / "001.png").rename(audited / "blau" / "001 moved.png")
    assert start().version != first.version


def test_neighbours_are_of_other_groups_and_one_of_each():
    rng = np.random.default_rng(0)
    indices = np.array([rng.permutation(30)[:16] for _ in range(30)])
    indices[:, 14:] = -1
    similarity = -np.sort(-rng.random((30, 16)).astype(np.float32), axis=1)
    groups = rng.integers(0, 12, 30)
    found, near = prepare._neighbours(indices, similarity, groups)
    for row in range(30):
        expected: list[int] = []
        for other in indices[row]:
            if other >= 0 and groups[other] not in {groups[row], *groups[expected]}:
                expected.append(int(other))
        expected = expected[:6]
        assert found[row].tolist() == expected + [-1] * (6 - len(expected))
        places = [indices[row].tolist().index(other) for other in expected]
        assert near[row, : len(expected)].tolist() == similarity[row, places].tolist()


def test_prototypes_are_the_nearest_to_the_mean_and_one_a_group():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 8)).astype(np.float16)
    labels = np.arange(40) % 3
    groups = np.arange(40)
    groups[3] = groups[0]
    usable = rng.random(40) < 0.7
    usable[labels == 2] = False
    found = prepare.prototypes(features, labels, groups, usable, num_classes=4)
    for label in range(3):
        rows = [row for row in range(40) if labels[row] == label and (usable[row] or label == 2)]
        unit = {
            row: features[row].astype(np.float32) / np.linalg.norm(features[row].astype(np.float32)) for row in rows
        }
        mean = np.mean(list(unit.values()), axis=0)
        expected: list[int] = []
        for row in sorted(rows, key=lambda row: -float(unit[row] @ mean)):
            if groups[row] not in groups[expected]:
                expected.append(row)
        assert found[label].tolist() == expected[:4]
    assert found[3].tolist() == [-1] * 4
