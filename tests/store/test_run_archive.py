"""Runs travel whole or not at all; whatever an archive tries, it writes nothing but runs under free names."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import DataError, UsageError
from regraft.store import run_import
from regraft.store.run_archive import export_runs
from regraft.store.run_import import import_runs
from regraft.store.run_index import RunIndex
from run_samples import write_run


def content(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop("origin.json", None)
    return files


def test_there_and_back(tmp_path):
    first, second = write_run(tmp_path / "a", "photos", "1"), write_run(tmp_path / "a", "日本", "my run")
    packed = export_runs([first, second], tmp_path / "x.zip", who="Ada")
    assert [run.name for run in packed] == ["1", "my run"]
    done = import_runs(tmp_path / "x.zip", tmp_path / "b")
    assert [run.known for run in done] == [False, False]
    assert content(tmp_path / "b" / "photos" / "1") == content(first)
    assert content(tmp_path / "b" / "日本" / "my run") == content(second)
    facts = RunIndex(tmp_path / "b").refresh()
    assert [f.who for f in facts] == ["Ada", "Ada"]
    assert facts[0].finished == pytest.approx((first / "result.json").stat().st_mtime, abs=1)


def test_the_same_run_is_taken_once_wherever_it_lies(tmp_path):
    run = write_run(tmp_path / "a")
    export_runs([run], tmp_path / "x.zip")
    assert import_runs(tmp_path / "x.zip", tmp_path / "a")[0].known
    first = import_runs(tmp_path / "x.zip", tmp_path / "b")[0]
    again = import_runs(tmp_path / "x.zip", tmp_path / "b")[0]
    assert (first.known, again.known, again.path) == (False, True, first.path)
    export_runs([first.path], tmp_path / "y.zip", models=False)  # sent on, without its weights
    assert import_runs(tmp_path / "y.zip", tmp_path / "b")[0].known
    assert len(RunIndex(tmp_path / "b").refresh()) == 1


def test_another_run_of_that_name_is_never_touched(tmp_path):
    for name in ("1", "best"):
        mine = write_run(tmp_path / "b", name=name, macro_f1=0.5)
        before = content(mine)
        export_runs([write_run(tmp_path / "a", name=name, macro_f1=len(name) / 10)], tmp_path / "x.zip")
        taken = import_runs(tmp_path / "x.zip", tmp_path / "b")[0]
        assert content(mine) == before
        assert taken.path.name == {"1": "2", "best": "best-2"}[name]
    (tmp_path / "b" / "photos" / "3").mkdir()
    (tmp_path / "b" / "photos" / "3" / "diary.txt").write_text("mine")
    export_runs([write_run(tmp_path / "a", name="3", macro_f1=0.3)], tmp_path / "x.zip")
    assert import_runs(tmp_path / "x.zip", tmp_path / "b")[0].path.name == "4"
    assert [path.name for path in (tmp_path / "b" / "photos" / "3").iterdir()] == ["diary.txt"]


def test_many_at_once_take_it_once(tmp_path):
    export_runs([write_run(tmp_path / "a", name=str(i)) for i in range(3)], tmp_path / "x.zip")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: import_runs(tmp_path / "x.zip", tmp_path / "b"), range(8)))
    assert sum(not run.known for runs in done for run in runs) == 1  # the three are the same, byte for byte
    assert len(RunIndex(tmp_path / "b").refresh()) == 1


def test_weights_and_checkpoints_on_demand_and_nothing_else(tmp_path):
    run = write_run(tmp_path / "a")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.safetensors").write_bytes(b"c")
    (run / "checkpoints" / "evil.pkl").write_bytes(b"p")
    (run / "secret.env").write_text("password")
    (run / "env.json").unlink()
    (run / "env.json").symlink_to(tmp_path / "x")

    def names(**options: bool) -> set[str]:
        (packed,) = export_runs([run], tmp_path / "x.zip", **options)
        return {file.path for file in packed.files}

    few = {"config.yaml", "metrics.jsonl", "report.html", "result.json"}
    assert names(models=False) == few
    assert names() == few | {"model/head.safetensors"}
    assert names(checkpoints=True) == few | {"model/head.safetensors", "checkpoints/best.safetensors"}


def test_what_cannot_be_exported(tmp_path):
    unfinished = write_run(tmp_path / "a", name="2", finished=False)
    run = write_run(tmp_path / "a", name="1")
    for folders in ([unfinished], [tmp_path], [run, run], [tmp_path / "none"]):
        with pytest.raises(UsageError):
            export_runs(folders, tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip"))


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    export_runs([write_run(tmp_path / "source")], tmp_path / "good.zip")
    return (tmp_path / "good.zip").read_bytes()


def rebuilt(
    data: bytes,
    *,
    manifest: Callable[[Any], Any] | None = None,
    members: Callable[[dict[str, bytes]], list[tuple[zipfile.ZipInfo | str, bytes]]] | None = None,
) -> bytes:
    """The same archive with another manifest, or with other members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if manifest is not None:
        files["manifest.json"] = json.dumps(manifest(json.loads(files["manifest.json"]))).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members(files) if members else list(files.items()):
            archive.writestr(name, value)
    return out.getvalue()


def refused(tmp_path: Path, data: bytes, match: str | None = None) -> None:
    """Nothing of it is on the disk, inside or outside the folder of runs."""
    root = tmp_path / "den" / "runs"
    mine = write_run(root, "mine", "1") if not (root / "mine").exists() else root / "mine" / "1"
    before = content(mine)
    (tmp_path / "den" / "x.zip").write_bytes(data)
    with pytest.raises(DataError, match=match) as told:
        import_runs(tmp_path / "den" / "x.zip", root)
    assert "\n" not in str(told.value)
    assert content(mine) == before
    here = {path.name for path in root.iterdir()} - {".importing"}
    assert here == {"mine"}
    assert {path.name for path in (tmp_path / "den").iterdir()} == {"runs", "x.zip"}
    assert [path for path in (root / ".importing").glob("*") if path.name != "lock"] == []


def moved(path: str) -> Callable[[dict[str, bytes]], list[tuple[zipfile.ZipInfo | str, bytes]]]:
    return lambda files: [*files.items(), (path, b"evil")]


@pytest.mark.parametrize(
    "path",
    [
        "../evil", "/etc/evil", "runs/../../evil", "runs/photos/1/../../../evil", "C:\\evil", "..\\evil",
        "runs/photos/1/x\0y",
        "runs//evil", "./evil", "runs/photos/1/evil.sh", "runs/photos/1/model/evil.pkl", "~/.bashrc", "runs/photos/1/.",
        "évil\u202e", "runs/photos/1/RESULT.JSON", "runs/photos/2/result.json", "evil/",
    ],
)  # fmt: skip
def test_a_member_too_much(tmp_path, good, path):
    refused(tmp_path, rebuilt(good, members=moved(path)))


@pytest.mark.parametrize(
    "path",
    ["../evil", "/etc/evil", "model/../../evil", "model/evil.pkl", "sub/result.json", "", ".", "model", "a\\b",
     "model/\n"],
)  # fmt: skip
def test_a_manifest_that_lists_it_too(tmp_path, good, path):
    from regraft.store.run_archive import RunFile, run_id

    def change(manifest: Any) -> Any:
        files = manifest["runs"][0]["files"]
        files.append({"path": path, "size": 4, "blake3": "0" * 64})
        manifest["runs"][0]["id"] = run_id([RunFile(**file) for file in files])
        return manifest

    member = f"runs/photos/1/{path}"
    refused(tmp_path, rebuilt(rebuilt(good, manifest=change), members=moved(member)))


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "a\\b", "a\nb", "/abs", "a:b", ".. ", "con\x1b"])
@pytest.mark.parametrize("which", ["project", "name"])
def test_a_run_of_a_hostile_name(tmp_path, good, which, name):
    def change(manifest: Any) -> Any:
        manifest["runs"][0][which] = name
        return manifest

    def members(files: dict[str, bytes]) -> list[tuple[zipfile.ZipInfo | str, bytes]]:
        where = f"runs/{name}/1/" if which == "project" else f"runs/photos/{name}/"
        return [(n.replace("runs/photos/1/", where), value) for n, value in files.items()]

    refused(tmp_path, rebuilt(rebuilt(good, manifest=change), members=members))


def test_links_and_devices(tmp_path, good):
    for mode in (0o120777, 0o010644, 0o020644, 0o060644, 0o140644, 0o040755):

        def members(files: dict[str, bytes], mode: int = mode) -> list[tuple[zipfile.ZipInfo | str, bytes]]:
            link = zipfile.ZipInfo("runs/photos/1/config.yaml")
            link.external_attr = mode << 16
            rest = [(n, v) for n, v in files.items() if n != link.filename]
            return [*rest, (link, files[link.filename])]

        refused(tmp_path, rebuilt(good, members=members), "no plain file")


def test_duplicates(tmp_path, good):
    for name in ("runs/photos/1/result.json", "runs/photos/1/Result.json", "manifest.json"):
        with pytest.warns(UserWarning, match="Duplicate") if name.islower() else _nothing():
            data = rebuilt(good, members=lambda files, name=name: [*files.items(), (name, b"{}")])
        refused(tmp_path, data, "there twice")

    def twice(manifest: Any) -> Any:
        return manifest | {"runs": manifest["runs"] * 2}

    refused(tmp_path, rebuilt(good, manifest=twice), "listed twice")


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_wrong_checksums_sizes_and_ids(tmp_path, good):
    def other_content(files: dict[str, bytes]) -> list[tuple[zipfile.ZipInfo | str, bytes]]:
        name = "runs/photos/1/model/head.safetensors"
        return [(n, b"x" * len(v) if n == name else v) for n, v in files.items()]

    def longer(files: dict[str, bytes]) -> list[tuple[zipfile.ZipInfo | str, bytes]]:
        return [(n, v + b" " if n.endswith("result.json") else v) for n, v in files.items()]

    def other_id(manifest: Any) -> Any:
        manifest["runs"][0]["id"] = "0" * 64
        return manifest

    def less(files: dict[str, bytes]) -> list[tuple[zipfile.ZipInfo | str, bytes]]:
        return [(n, v) for n, v in files.items() if not n.endswith("env.json")]

    refused(tmp_path, rebuilt(good, members=other_content), "checksum")
    refused(tmp_path, rebuilt(good, members=longer), "of another size")
    refused(tmp_path, rebuilt(good, manifest=other_id), "id of photos/1")
    refused(tmp_path, rebuilt(good, members=less), "missing")


@pytest.mark.parametrize(
    "manifest",
    [
        [], {}, 7, None, {"format": "regraft-runs/1"}, {"format": "other", "runs": []},
        {"format": "regraft-runs/1", "runs": [7]},
        {"format": "regraft-runs/1", "runs": [{"project": "a", "name": "b", "id": "", "finished": 0, "files": []}]},
        {"format": "regraft-runs/1", "runs": [{"project": "a", "name": "b", "id": "", "finished": "nan", "files": [
            {"path": "a", "size": -1, "blake3": ""}]}]},
    ],
)  # fmt: skip
def test_a_manifest_of_another_kind(tmp_path, good, manifest):
    refused(tmp_path, rebuilt(good, manifest=lambda _: manifest))


def test_bombs(tmp_path, good, monkeypatch):
    monkeypatch.setattr(run_import, "_FREE_OF_CHARGE", 1 << 20)
    zeros = bytes(20 << 20)
    refused(tmp_path, rebuilt(good, members=moved_zeros("runs/photos/1/metrics.jsonl", zeros)), "times its size")
    monkeypatch.setattr(run_import, "_FREE_OF_CHARGE", 1 << 40)
    (tmp_path / "b.zip").write_bytes(good)
    with pytest.raises(DataError, match="GiB unpacked"):
        import_runs(tmp_path / "b.zip", tmp_path / "den" / "runs", max_bytes=100)
    monkeypatch.setattr(run_import, "MAX_ENTRIES", 5)
    refused(tmp_path, good, "at most 5 files")


def moved_zeros(name: str, zeros: bytes) -> Callable[[dict[str, bytes]], list[tuple[zipfile.ZipInfo | str, bytes]]]:
    return lambda files: [(n, zeros if n == name else v) for n, v in files.items()]


def test_a_table_that_lies_about_a_size(tmp_path, good):
    """The declared size is small, the stream is not: reading stops, and the checksum tells."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entry = archive.getinfo("runs/photos/1/metrics.jsonl")
    data = bytearray(good)
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = 0
        while (start := data.find(signature, start)) >= 0:
            if struct.unpack_from("<L", data, start + at)[0] == entry.file_size:
                struct.pack_into("<L", data, start + at, 5)
            start += 4
    refused(tmp_path, bytes(data))


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "cut end", "zip64", "many", "comment", "garbage"])
def test_no_archive(tmp_path, good, kind):
    end = good[-22:]
    data = {
        "empty": b"", "text": b"not a zip file at all, but long enough to look like one" * 10,
        "cut": good[: len(good) // 2],
        "cut end": good[:-5], "zip64": good[:-22] + b"PK\x06\x07" + bytes(16) + end,
        "many": good[:-22] + end[:8] + b"\xff\xff\xff\xff" + end[12:], "comment": good[:-2] + b"\x03\x00abc",
        "garbage": good[:200] + os.urandom(300) + good[500:],
    }[kind]  # fmt: skip
    refused(tmp_path, data)


def test_encrypted(tmp_path, good):
    data = bytearray(good)
    start = data.find(b"PK\x01\x02")
    data[start + 8] |= 1
    refused(tmp_path, bytes(data), "encrypted")


def test_a_project_that_is_a_link(tmp_path, good):
    root = tmp_path / "runs"
    (tmp_path / "outside").mkdir()
    root.mkdir()
    (root / "photos").symlink_to(tmp_path / "outside")
    (tmp_path / "x.zip").write_bytes(good)
    with pytest.raises(DataError, match="link"):
        import_runs(tmp_path / "x.zip", root)
    assert not list((tmp_path / "outside").iterdir())
