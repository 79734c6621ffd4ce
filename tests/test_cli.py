"""The command line as a stranger uses it: exit codes, what goes to stdout and what to stderr, odd names, bad files."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import Command, Trained, stranger
from drawn import draw_bad_files, draw_folder

FIT = ("--image-size", 32)


def strict(text: str):
    """JSON as a strict parser takes it: no NaN, nothing before or after."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def one_line(text: str) -> str:
    """The error among what was said on stderr: exactly one line."""
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("regraft: ")]
    return line


def images_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


class TestFit:
    def test_last_line_of_stdout_is_the_run_and_progress_is_on_stderr(self, cache_dir, tmp_path, trained):
        done = stranger("fit", trained.data, *FIT, "--runs-dir", "my runs", cwd=tmp_path)
        assert done.code == 0
        path = tmp_path / done.out.splitlines()[-1]
        assert path == tmp_path / "my runs" / "shapes" / "1"
        names = {
            "config.yaml",
            "env.json",
            "events.jsonl",
            "result.json",
            "metrics.jsonl",
            "predictions.parquet",
            "report.html",
            "model",
            "tensorboard",
        }
        assert {entry.name for entry in path.iterdir()} == names
        assert "extract" in done.err
        assert "extract" not in done.out
        assert "bf16" in done.err or "fp32" in done.err

    def test_json_alone_on_stdout_is_result_json_and_the_run(self, cli: Command, cache_dir, tmp_path, trained):
        done = cli("fit", trained.data, *FIT, "--runs-dir", tmp_path / "runs", "--json")
        assert done.code == 0
        result = strict(done.out)
        assert result.pop("run") == str(tmp_path / "runs" / "shapes" / "1")
        assert result == strict((tmp_path / "runs" / "shapes" / "1" / "result.json").read_text("utf-8"))

    def test_all_bad_files_among_good_ones_go_through(self, cli: Command, cache_dir, tmp_path):
        expected = draw_bad_files(tmp_path / "data")
        before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
        done = cli("fit", tmp_path / "data", *FIT, "--runs-dir", tmp_path / "runs", "--json")
        assert done.code == 0, done.err
        result = strict(done.out)
        assert result["num_excluded"] >= 30
        table = pq.read_table(Path(result["run"]) / "predictions.parquet").to_pydict()
        assert len(table["image"]) == result["num_images"]
        fine = {image for image, kind in expected.items() if kind == ""}
        assert len(fine) > 20
        out = {image for image, kind in expected.items() if kind in ("truncated", "zero_byte", "not_an_image")}
        assert out.isdisjoint(table["image"])
        assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before

    def test_data_that_do_not_allow_it_exit_3(self, cli: Command, cache_dir, tmp_path):
        (tmp_path / "empty").mkdir()
        draw_folder(tmp_path / "one", classes=("only",))
        (tmp_path / "bad" / "a").mkdir(parents=True)
        (tmp_path / "bad" / "a" / "x.jpg").write_bytes(b"no image")
        for name in ("empty", "one", "bad", "missing"):
            done = cli("fit", tmp_path / name, *FIT, "--runs-dir", tmp_path / "runs")
            assert done.code == 3, (name, done)
            assert one_line(done.err)
            assert done.out == ""
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        "words",
        [
            (),
            ("fit",),
            ("fitt", "x"),
            ("fit", "x", "--fold", "3"),
            ("fit", "x", "--folds", "three"),
            ("fit", "x", "--folds", "1"),
            ("fit", "x", "--test", "2"),
            ("fit", "x", "--test", "some"),
            ("fit", "x", "--engine", "warp"),
            ("fit", "x", "--image-size", "3"),
            ("predict", "run"),
            ("predict", "run", "a.png", "--output", "table.xlsx"),
            ("evaluate", "run", "data", "--output", "table"),
            ("runs", "--metric", "beauty"),
            ("cache", "polish"),
        ],
    )
    def test_wrong_usage_exits_2_with_one_line(self, cli: Command, words):
        done = cli(*words)
        if not words:
            assert done.code == 0
            assert "Usage: regraft VERB" in done.out
            return
        assert done.code == 2, done
        assert one_line(done.err)
        assert done.out == ""

    def test_unknown_backbone_names_the_nearest(self, cli: Command, cache_dir, tmp_path, trained):
        done = cli("fit", trained.data, "--backbone", "resnet18x", "--runs-dir", tmp_path / "runs")
        assert done.code == 1
        assert "'resnet18'" in one_line(done.err)

    def test_a_taken_name_is_kept_unless_asked(self, cli: Command, cache_dir, tmp_path, trained):
        words = ("fit", trained.data, *FIT, "--runs-dir", tmp_path / "runs", "--name", "first")
        assert cli(*words).code == 0
        result = tmp_path / "runs" / "shapes" / "first" / "result.json"
        before = result.read_bytes()
        refused = cli(*words, "--seed", 1)
        assert refused.code == 2
        assert "never overwritten" in one_line(refused.err)
        assert result.read_bytes() == before
        assert cli(*words, "--seed", 1, "--exist-ok").code == 0
        assert "--seed 1" in (result.parent / "report.html").read_text("utf-8")

    def test_exist_ok_deletes_nothing_but_runs(self, cli: Command, cache_dir, tmp_path, trained):
        draw_folder(tmp_path / "photos")
        kept = images_of(tmp_path / "photos")
        done = cli(
            "fit", trained.data, *FIT, "--runs-dir", tmp_path, "--project", "photos", "--name", "circle", "--exist-ok"
        )
        assert done.code == 2
        assert "is no run" in one_line(done.err)
        assert images_of(tmp_path / "photos") == kept

    def test_odd_data_folder_names(self, cache_dir, tmp_path):
        root = os.fsencode(tmp_path) + b"/odd\xff\nname [red] \xf0\x9f\x90\x88"
        draw_folder(tmp_path / "plain", per_class=4)
        (tmp_path / "plain").rename(os.fsdecode(root))
        done = stranger("fit", root, *FIT, "--runs-dir", tmp_path / "runs")
        assert done.code == 0, done.err
        assert (Path(done.out.splitlines()[-1]) / "result.json").is_file()


class TestScan:
    def test_table_json_and_issues(self, cli: Command, cache_dir, tmp_path):
        expected = draw_bad_files(tmp_path / "data")
        plain = cli("scan", tmp_path / "data", "--issues", tmp_path / "issues.csv")
        assert plain.code == 0
        assert "left out" in plain.out
        result = strict(cli("scan", tmp_path / "data", "--json").out)
        assert result["num_excluded"] >= 30
        with (tmp_path / "issues.csv").open(newline="", encoding="utf-8") as stream:
            assert set(expected) <= {row["image"] for row in csv.DictReader(stream)}


class TestPredict:
    def test_table_on_stdout(self, cli: Command, trained: Trained):
        done = cli("predict", trained.run, *images_of(trained.data)[::8])
        assert done.code == 0
        header, *rows = [line.split("\t") for line in done.out.splitlines()]
        assert header == ["image", "predicted_label", "confidence"]
        assert [row[1] for row in rows] == ["circle", "square", "star"]

    @pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
    @pytest.mark.parametrize("proba", [False, True])
    def test_files_with_unreadable_images_among_good_ones(self, cli: Command, trained, tmp_path, ending, proba):
        (tmp_path / "text.jpg").write_bytes(b"no image at all")
        good = images_of(trained.data)[:2]
        asked = [tmp_path / "text.jpg", good[0], tmp_path / "missing.png", good[1]]
        output = tmp_path / f"out.{ending}"
        done = cli("predict", trained.run, *asked, "--output", output, *(["--proba"] if proba else []))
        assert done.code == 0
        assert done.out.splitlines() == [str(output)]
        assert "text.jpg" in done.err
        assert "missing.png" in done.err
        assert "2 of 4" in done.err
        rows = read_rows(output)
        wanted = ["image", "predicted_label", "confidence", *(["p_circle", "p_square", "p_star"] if proba else [])]
        assert list(rows[0]) == wanted
        assert [row["image"] for row in rows] == [str(path) for path in asked]
        for row, readable in zip(rows, (False, True, False, True), strict=True):
            values = list(row.values())[1:]
            assert all(value not in (None, "") for value in values) if readable else set(values) <= {None, ""}
        assert rows[1]["predicted_label"] == "circle"
        if proba:
            assert sum(float(rows[1][name]) for name in wanted[3:]) == pytest.approx(1, abs=1e-5)

    def test_json_on_stdout_alone(self, cli: Command, trained, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"x")
        done = cli("predict", trained.run, images_of(trained.data)[0], tmp_path / "bad.png", "--json", "--proba")
        assert done.code == 0
        first, second = strict(done.out)
        assert first["predicted_label"] == "circle"
        assert second["predicted_label"] is second["p_star"] is None
        both = cli("predict", trained.run, trained.data, "--json", "--output", tmp_path / "x.csv")
        assert len(strict(both.out)) == len(read_rows(tmp_path / "x.csv")) == 24

    def test_stdin_folders_and_patterns(self, cli: Command, trained):
        paths = images_of(trained.data)
        by_stdin = cli("predict", trained.run, "-", stdin=b"\n".join(os.fsencode(path) for path in paths) + b"\n\n")
        by_folder = cli("predict", trained.run, trained.data)
        by_pattern = cli("predict", trained.run, f"{trained.data}/*/*.png")
        assert by_stdin == by_folder == by_pattern
        assert len(by_stdin.out.splitlines()) == 25

    @pytest.mark.parametrize("ending", ["csv", "parquet", "json", None])
    def test_no_usable_image_exits_3(self, cli: Command, trained, tmp_path, ending):
        (tmp_path / "empty").mkdir()
        output = [] if ending is None else ["--output", tmp_path / f"x.{ending}"]
        for asked in (tmp_path / "empty", tmp_path / "missing.png"):
            done = cli("predict", trained.run, asked, *output)
            assert done.code == 3, done
            assert one_line(done.err)
        assert cli("predict", trained.run, "-", *output).code == 3
        done = cli("predict", trained.run, "-", "--json")
        assert done.code == 3
        assert strict(done.out) == []

    def test_odd_file_names(self, trained, tmp_path):
        names = [
            b"new\nline.png", b"tab\there.png", b"bytes\xff\xfe.png", "émoji 🐈.png".encode(), b"quote'\".png",
            b"-rf.png", b"--proba.png", b"=1+1.png", b"[x].png", b":cat:.png", b"*.png", b" .png", b"\\n.png",
        ]  # fmt: skip
        for name in names:
            shutil.copy(images_of(trained.data)[0], os.fsencode(tmp_path) + b"/" + name)
        names.append(b"missing\xff\n.png")
        for how in ("table", "json", "csv", "parquet"):
            output = ["--output", f"x.{how}"] if how in ("csv", "parquet") else ["--json"] if how == "json" else []
            done = stranger("predict", trained.run, *output, "--", *names, cwd=tmp_path)
            assert done.code == 0, done.err
            assert "1 of 14" in done.err
            assert "Traceback" not in done.err
            if how == "table":
                assert len(done.out.splitlines()) == 15
                assert all(len(line.split("\t")) == 3 for line in done.out.splitlines())
            else:
                rows = strict(done.out) if how == "json" else read_rows(tmp_path / f"x.{how}")
                assert [row["predicted_label"] or None for row in rows] == ["circle"] * 13 + [None]
                assert rows[3]["image"] == "émoji 🐈.png"
                assert rows[5]["image"] == "-rf.png"
        by_stdin = stranger("predict", trained.run, "-", "--json", cwd=tmp_path, stdin=b"bytes\xff\xfe.png\na\0b.png\n")
        assert [row["predicted_label"] for row in strict(by_stdin.out)] == ["circle", None]

    def test_a_reader_that_leaves_is_no_error(self, trained):
        import subprocess
        import sys

        paths = "\n".join([str(images_of(trained.data)[0])] * 3000)
        program = "'from regraft.cli import main; exit(main())'"
        command = f"{sys.executable} -c {program} predict {trained.run} - | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], input=paths.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"Exception" not in done.stderr

    def test_a_missing_model_exits_1(self, cli: Command, tmp_path):
        done = cli("predict", tmp_path / "nothing", "a.png")
        assert done.code == 1
        assert "config.json" in one_line(done.err)


class TestEvaluate:
    def test_on_the_same_images(self, cli: Command, cache_dir, trained, tmp_path):
        done = cli("evaluate", trained.run, trained.data, "--json", "--output", tmp_path / "x.csv")
        assert done.code == 0
        result = strict(done.out)
        assert result["metrics"]["accuracy"]["estimate"] == 1
        assert result["num_images"] == 24
        assert len(read_rows(tmp_path / "x.csv")) == 24
        table = cli("evaluate", trained.run, trained.data)
        assert "macro f1" in table.out

    def test_on_fewer_classes(self, cli: Command, cache_dir, trained, tmp_path):
        shutil.copytree(trained.data / "star", tmp_path / "data" / "star")
        done = cli("evaluate", trained.run, tmp_path / "data", "--json")
        assert done.code == 0, done.err
        result = strict(done.out)
        assert result["num_images"] == result["per_class"]["star"]["support"] == 8
        assert cli("evaluate", trained.run, tmp_path / "data").code == 0

    def test_on_unknown_classes_exits_3(self, cli: Command, cache_dir, trained, tmp_path):
        draw_folder(tmp_path / "data", classes=("circle", "hexagon"))
        done = cli("evaluate", trained.run, tmp_path / "data")
        assert done.code == 3
        assert "'hexagon'" in one_line(done.err)


class TestRuns:
    def test_best_first_with_unfinished_and_corrupt_ones_last(self, cli: Command, run, tmp_path):
        root = tmp_path / "runs"
        better = json.loads((run / "result.json").read_text("utf-8"))
        better["metrics"]["macro_f1"]["estimate"] = 2.0
        for name, content in {
            "2": json.dumps(better), "3": None, "4": "{", "5": "{}", "6": "[]", "7": '{"metrics": {"macro_f1": 1}}',
            "8": "", "9": '{"metrics": NaN}',
        }.items():  # fmt: skip
            (root / "shapes" / name).mkdir()
            (root / "shapes" / name / "config.yaml").write_text("x: 1")
            if content is not None:
                (root / "shapes" / name / "result.json").write_text(content)
        (root / "notes.txt").write_text("no run")
        done = cli("runs", root, "--json")
        assert done.code == 0, done.err
        rows = strict(done.out)
        assert [Path(row["run"]).name for row in rows][:2] == ["2", "1"]
        assert [row["finished"] is not None for row in rows][:2] == [True, True]
        assert len(rows) == 9
        table = cli("runs", root)
        assert table.code == 0
        assert table.out.count("unfinished") == 7

    def test_nothing_there(self, cli: Command, tmp_path):
        assert cli("runs", tmp_path / "none").code == 2
        assert cli("runs", tmp_path).code == 0
        assert strict(cli("runs", tmp_path, "--json").out) == []


class TestCache:
    def test_list_verify_prune(self, cli: Command, trained, tmp_path):
        shutil.copytree(trained.cache / "features", tmp_path / "features")
        where = ("--cache-dir", tmp_path)
        (row,) = strict(cli("cache", "list", *where, "--json").out)
        assert (row["backbone"], row["size"], row["num_images"]) == ("tf_efficientnet_lite0", 32, 24)
        assert "tf_efficientnet_lite0" in cli("cache", "list", *where).out
        assert cli("cache", "verify", *where).code == 0
        (shard,) = tmp_path.rglob("*.safetensors")
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
        done = cli("cache", "verify", *where, "--json")
        assert done.code == 1
        assert strict(done.out)["damaged"] == [str(shard)]
        assert one_line(done.err)
        assert cli("cache", "prune", *where).code == 0
        assert shard.exists()
        assert cli("cache", "prune", "--older-than-days", 0, *where).code == 0
        assert not list(tmp_path.rglob("*.safetensors"))


def test_help_and_version(cli: Command):
    for words in (("--help",), ("fit", "--help"), ("predict", "--help"), ("cache", "--help")):
        done = cli(*words)
        assert done.code == 0
        assert done.out
        assert done.err == ""
    assert cli("--version").out.strip()


def read_rows(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return strict(path.read_text("utf-8"))
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
