"""Every kind of bad file ends as a counted, listed finding of the right kind, and nothing on disk changes."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from blake3 import blake3

from drawn import BAD_CONTENT, draw_bad_files, draw_folder, jpeg, png
from regraft.data import KINDS, issues_rows, read, split, write_issues
from regraft.data import files as files_module
from regraft.data import verdicts as verdicts_module
from regraft.data.kinds import BAD_FILES, LEFT_OUT, REMARKS
from regraft.data.scan import Scan
from regraft.errors import DataError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], Scan]:
    root = tmp_path_factory.mktemp("bad")
    expected = draw_bad_files(root)
    return root, expected, read(root)


def test_there_are_at_least_thirty_kinds_of_bad_file(drawn):
    _, expected, _ = drawn
    assert sum(kind in LEFT_OUT for kind in expected.values()) >= 30


def test_every_file_gets_the_finding_it_deserves(drawn):
    _, expected, scan = drawn
    found: dict[str, set[str]] = {}
    for finding in scan.findings:
        found.setdefault(finding.image, set()).add(finding.kind)
        assert finding.excluded == (finding.kind in LEFT_OUT)
        assert finding.reason
        assert "\n" not in finding.reason + finding.image
    wrong = {name: (kind, found.get(name)) for name, kind in expected.items() if found.get(name, {""}) != {kind}}
    assert not wrong
    assert set(found) <= set(expected)


def test_every_file_is_either_used_or_left_out(drawn):
    root, _, scan = drawn
    assert scan.num_files == len(scan.manifest) + scan.num_excluded
    on_disk = {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, folders, names in os.walk(root)
        for name in [*names, *[f for f in folders if f in ("loop", "folder.jpg")]]
        if "__MACOSX" not in folder and not name.startswith(".") and name != "Thumbs.db"
    }
    assert scan.num_files == len(on_disk)
    assert scan.num_hidden == 4  # .DS_Store, Thumbs.db, .hidden.png and the folder __MACOSX


def test_counts_by_kind_agree_with_the_findings(drawn):
    _, expected, scan = drawn
    assert scan.counts_by_kind == Counter(kind for kind in expected.values() if kind)
    record = scan.as_dict()
    assert sum(entry["num_images"] for entry in record["excluded"].values()) == scan.num_excluded
    assert set(record["remarks"]) <= set(REMARKS)
    assert all(entry["meaning"] == KINDS[kind] for kind, entry in record["excluded"].items())
    assert record["classes"] == dict(zip(scan.manifest.class_names, scan.manifest.class_counts().tolist(), strict=True))


def test_the_manifest_can_be_opened_whatever_the_names(drawn):
    _, _, scan = drawn
    manifest = scan.manifest
    for row in range(len(manifest)):
        assert blake3(manifest.path(row).read_bytes()).digest() == manifest.hashes[row].tobytes()
    assert (manifest.sizes > 0).all()
    assert manifest.images.tolist() == sorted(manifest.images.tolist())


def test_nothing_on_disk_is_changed(tmp_path):
    draw_bad_files(tmp_path)

    def state():
        return {
            (folder, name): os.lstat(os.path.join(folder, name)).st_mtime_ns
            for folder, folders, names in os.walk(tmp_path)
            for name in [*names, *folders]
        }

    before = state()
    read(tmp_path)
    assert state() == before


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet"])
def test_the_issues_table_can_be_written_whatever_the_names(drawn, tmp_path, ending):
    _, _, scan = drawn
    path = write_issues(scan, tmp_path / f"issues{ending}")
    assert path.stat().st_size > 1000


def test_the_issues_table_has_a_row_for_each_file(drawn, tmp_path):
    _, expected, scan = drawn
    path = write_issues(scan, tmp_path / "issues.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = {row["image"]: row for row in csv.DictReader(stream)}
    assert len(rows) == scan.num_files
    for name, kind in expected.items():
        assert (rows[name]["is_odd_image_issue"] == "True") == (kind in BAD_FILES), name
        assert (rows[name]["is_near_duplicate_issue"] == "True") == kind.endswith("duplicate"), name
        assert bool(rows[name]["reason"]) == bool(kind), name
    assert rows["cat/copy_1.png"]["near_duplicate_set"] == rows["cat/copy_2.png"]["near_duplicate_set"] != ""
    assert rows["Dog /0.png"]["suggested_label"] == "dog"
    assert rows["cat/both.png"]["is_label_issue"] == "True"


def test_a_file_that_may_not_be_read_is_unreadable(tmp_path, monkeypatch):
    draw_folder(tmp_path, per_class=3)
    real_open = os.open

    def refuse(path, *args, **kwargs):  # root may read everything, so the refusal is staged
        if str(path).endswith("circle/0001.png"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(verdicts_module.os, "open", refuse)
    scan = read(tmp_path)
    assert [(f.image, f.kind) for f in scan.findings] == [("circle/0001.png", "unreadable")]
    assert "Permission denied" in scan.findings[0].reason


def test_a_file_that_goes_away_during_the_scan_is_a_finding(tmp_path, monkeypatch):
    draw_folder(tmp_path, per_class=3)
    real = verdicts_module.read_file

    def read_after_removal(path):
        if path.endswith("star/0002.png"):
            os.unlink(path)
        return real(path)

    monkeypatch.setattr(verdicts_module, "read_file", read_after_removal)
    scan = read(tmp_path)
    assert scan.counts_by_kind == {"vanished": 1}


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "late.png")
    with pytest.raises(verdicts_module.ImageError) as caught:
        verdicts_module.read_file(str(tmp_path / "late.png"))
    assert caught.value.kind == "special_file"


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    draw_folder(tmp_path, per_class=3)
    with (tmp_path / "star" / "film.jpg").open("wb") as stream:
        stream.truncate(verdicts_module.MAX_BYTES + 1)  # sparse
    assert read(tmp_path).counts_by_kind == {"too_large": 1}


@pytest.mark.parametrize("name", sorted(BAD_CONTENT))
def test_a_bad_file_is_judged_without_an_exception(name):
    kind, make = BAD_CONTENT[name]
    verdict = verdicts_module.judge(make())
    # the scan knows .txt and .json by their names before it looks inside
    assert verdict.kind == kind


def test_cutting_an_image_anywhere_never_raises_anything_else():
    for data in (jpeg(1), png(2)):
        for end in range(0, len(data), 7):
            verdicts_module.judge(data[:end])


def test_a_folder_of_nothing_but_bad_files_is_a_scan_without_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "empty.png").write_bytes(b"")
    scan = read(tmp_path)
    assert len(scan.manifest) == 0
    assert scan.as_dict()["num_excluded"] == 2
    assert len(list(issues_rows(scan))) == 2
    with pytest.raises(DataError, match="two classes"):
        split(scan.manifest)


def test_names_can_be_written_as_utf_8(drawn):
    names = drawn[2].manifest.names
    assert len(set(names)) == len(names)
    assert all(name.encode() for name in names)


def test_a_folder_that_may_not_be_read_is_one_finding(tmp_path, monkeypatch):
    draw_folder(tmp_path, per_class=3)
    real = os.scandir

    def refuse(path):
        if str(path).endswith("star"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(files_module.os, "scandir", refuse)
    scan = read(tmp_path)
    assert [(f.image, f.kind, f.label) for f in scan.findings] == [("star", "unreadable", "star")]
    assert scan.manifest.class_names == ("circle", "square")
