"""Results on the board: what stands in one group, who is tied, and that no run folder can do anything to the page."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from board_samples import TOKEN, client_of, site_at
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from starlette.testclient import TestClient

from regraft.board.runs import leaderboard
from regraft.board.runs.curves import Columns, Curves, read_more, thinned
from regraft.board.runs.leaderboard import View
from regraft.board.runs.standing import Standings
from regraft.board.site import Site
from regraft.store.decisions import Ledger
from regraft.store.run_archive import export_runs
from regraft.store.run_index import RunIndex
from regraft.types import Decision
from run_samples import HOSTILE, HOSTILE_FOLDER, predicted, write_run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = site_at(tmp_path, num_images=0)
    yield dataclasses.replace(made, desk=None)
    made.database.close()


@pytest.fixture
def client(site: Site) -> TestClient:
    return client_of(site)


def settled(client: TestClient, address: str = "/runs") -> str:
    """The table once every paired difference is reckoned."""
    for _ in range(200):
        text = client.get(address, headers={"hx-request": "true"}).text
        if "reckoning" not in text:
            return text
        time.sleep(0.05)
    raise AssertionError("the differences do not come")


def rows(text: str) -> list[str]:
    return re.findall(r'class="run-link" href="([^"]+)"', text)


class TestLeaderboard:
    def test_nothing_there(self, client):
        text = client.get("/runs").text
        assert "No runs yet" in text
        assert "regraft fit" in text

    def test_best_first_and_unfinished_last(self, site, client):
        for name, value in (("1", 0.5), ("2", 0.9), ("3", 0.7)):
            write_run(site.runs_dir, name=name, macro_f1=value)
        write_run(site.runs_dir, name="4", finished=False)
        text = settled(client)
        assert rows(text) == ["/runs/photos/2", "/runs/photos/3", "/runs/photos/1", "/runs/photos/4"]
        assert text.count("run-group") == 1
        assert ">running<" in text
        assert rows(settled(client, "/runs?metric=log_loss"))[0] == "/runs/photos/2"
        assert rows(settled(client, "/runs?sort=run&reverse=1")) == [f"/runs/photos/{n}" for n in "4321"]

    @pytest.mark.parametrize(
        "other",
        [{"data_version": "v2"}, {"decisions": {"head": "abc"}}, {"split": "cv"}],
        ids=["data", "decisions", "split"],
    )
    def test_what_cannot_be_compared_stands_apart_with_no_common_winner(self, site, client, other):
        write_run(site.runs_dir, name="1", macro_f1=0.5)
        write_run(site.runs_dir, name="2", macro_f1=0.9, result=other)
        text = settled(client)
        assert text.count('class="card run-group"') == 2
        assert "≈ best</span>" not in text
        assert ">best<" not in text

    def test_intervals_that_overlap_are_a_tie_where_nothing_is_paired(self, site, client):
        for name, value in (("1", 0.80), ("2", 0.78), ("3", 0.5)):
            write_run(site.runs_dir, name=name, macro_f1=value, half_width=0.05)
        text = settled(client)
        assert text.count("≈ best<span") == 1  # run 2, with its question mark
        assert text.count('class="standing behind"') == 1

    def test_the_paired_difference_decides_where_there_is_one(self, site, client):
        """Overlapping intervals, and yet clearly behind; and the other way round is no false winner."""
        good = predicted(2000, accuracy=0.9, seed=1)
        worse = predicted(2000, accuracy=0.9, seed=1)
        flipped = np.arange(2000) % 16 == 0  # a quarter of the test images of a sixteenth: all of them wrong
        probs = worse.pred_probs.copy()
        probs[flipped] = np.roll(np.eye(3)[worse.labels[flipped]] * 0.6 + 0.4 / 3, 1, axis=1)
        write_run(site.runs_dir, name="1", macro_f1=0.90, half_width=0.2, predictions=good)
        write_run(site.runs_dir, name="2", macro_f1=0.85, half_width=0.2,
                  predictions=dataclasses.replace(worse, pred_probs=probs))  # fmt: skip
        write_run(site.runs_dir, name="3", macro_f1=0.899, half_width=0.2, predictions=good)
        text = settled(client)
        assert text.count('class="standing behind"') == 1
        assert text.count('class="standing tied"') == 1
        assert 'class="unpaired"' not in text

    def test_runs_on_other_test_images_are_not_paired(self, site):
        for name, first in (("1", 0), ("2", 200)):
            write_run(site.runs_dir, name=name, predictions=predicted(400, first=first))
        index = RunIndex(site.runs_dir)
        standings = Standings(index)
        for _ in range(200):
            found, pending = standings.judge(index.refresh(), "macro_f1")
            if not pending:
                break
            time.sleep(0.05)
        assert pending == 0
        assert not found["photos/2"].paired
        assert "other test images" in found["photos/2"].words

    def test_filters_and_search(self, site, client):
        write_run(site.runs_dir, "photos", "1", result={"strategy": "lp_ft"})
        write_run(site.runs_dir, "photos", "2", result={"backbone": "vit"})
        write_run(site.runs_dir, "more", "1")
        client.post("/runs/photos/2/tag", data={"tag": "candidate"})
        client.post("/runs/more/1/star", data={"on": "1"})
        for address, expected in {
            "project=more": ["/runs/more/1"], "strategy=lp_ft": ["/runs/photos/1"], "backbone=vit": ["/runs/photos/2"],
            "tag=candidate": ["/runs/photos/2"], "q=CANDI": ["/runs/photos/2"], "starred=1": ["/runs/more/1"],
            "q=vit photos": ["/runs/photos/2"], "q=nothing": [], "state=running": [],
        }.items():  # fmt: skip
            assert rows(client.get(f"/runs?{address}").text) == expected, address

    def test_a_large_group_is_shown_in_part_until_asked_for(self, site, client):
        for i in range(30):
            write_run(site.runs_dir, name=str(i), macro_f1=i / 100)
        text = client.get("/runs").text
        assert len(rows(text)) == 20
        more = re.search(r'href="([^"]+)">Show all 30', text)
        assert more is not None
        assert len(rows(client.get(more[1]).text)) == 30

    @given(st.dictionaries(st.sampled_from([*View.__dataclass_fields__, "x"]), st.text(max_size=30)))
    def test_any_address_is_a_view_and_a_view_is_its_address(self, query):
        from urllib.parse import parse_qsl, urlsplit

        view = View.of(query)
        assert View.of(dict(parse_qsl(urlsplit(view.address()).query, keep_blank_values=True))) == view

    def test_as_json(self, site, client):
        write_run(site.runs_dir)
        (row,) = client.get("/api/runs").json()["runs"]
        assert (row["project"], row["name"], row["metrics"]["macro_f1"][0]) == ("photos", "1", 0.8)


class TestStanding:
    @given(
        st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(0, 0.3)), min_size=2, max_size=8),
        st.sampled_from(["macro_f1", "log_loss"]),
    )
    def test_no_false_winner(self, values, metric):
        """Without predictions, whoever's interval overlaps the leader's is tied, by the plain definition."""
        from regraft.store.run_index import RunFacts

        runs = [
            RunFacts(
                project="p", name=str(i), state="unfinished", began=0, changed=0, metrics={metric: (v, v - w, v + w)}
            )
            for i, (v, w) in enumerate(values)
        ]  # fmt: skip
        ranked = leaderboard.best_first(runs, metric)
        found, _ = Standings(RunIndex(Path("none"))).judge(ranked, metric)
        best = ranked[0].metrics[metric]
        assert found[ranked[0].key].kind == "best"
        for run in ranked[1:]:
            _, low, high = run.metrics[metric]
            overlap = low <= best[2] and best[1] <= high
            assert (found[run.key].kind == "tied") == overlap

    def test_a_board_that_ends_while_differences_are_reckoned_ends_well(self, tmp_path):
        for i in range(12):
            write_run(tmp_path, name=str(i), predictions=predicted(4000, seed=i))
        program = (
            "import sys; from pathlib import Path; from regraft.store.run_index import RunIndex; "
            "from regraft.board.runs.standing import Standings; index = RunIndex(Path(sys.argv[1])); "
            "assert Standings(index).judge(index.refresh(), 'macro_f1')[1] == 11"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


class TestRunPage:
    def test_it_says_what_became_of_auto_and_where_it_comes_from(self, site, client):
        write_run(site.runs_dir, name="1")
        write_run(
            site.runs_dir, name="2", result={"warnings": ["few images"]},
            config={"options": {"init_from": str(site.runs_dir / "photos/1"), "backbone": "vit"}},
        )  # fmt: skip
        text = client.get("/runs/photos/2").text
        for words in ("ranked first", "few images", "began with the weights of photos/1", "/runs/photos/1", "v1"):
            assert words in text
        assert "photos/2 began with its weights" in client.get("/runs/photos/1").text

    def test_files_that_a_run_has_and_no_other(self, site, client):
        folder = write_run(site.runs_dir)
        (folder / "secret.env").write_text("x")
        (folder / "ranking.json").symlink_to("/etc/passwd")
        sent = client.get("/runs/photos/1/files/model/head.safetensors")
        assert sent.content == bytes(64)
        assert sent.headers["content-disposition"].startswith("attachment")
        assert sent.headers["content-type"] == "application/octet-stream"
        for path in (
            "secret.env", "ranking.json", "../../../regraft.db", "..%2f..%2fregraft.db", "%2e%2e/2/config.yaml",
            "model", "",
        ):  # fmt: skip
            assert client.get(f"/runs/photos/1/files/{path}").status_code in (303, 307, 404), path

    def test_its_report_is_a_strangers_page(self, site, client):
        folder = write_run(site.runs_dir)
        (folder / "report.html").write_text("<script>alert(1)</script>")
        sent = client.get("/runs/photos/1/report")
        policy = sent.headers["content-security-policy"]
        assert policy.startswith("sandbox")
        assert "allow-same-origin" not in policy
        assert "default-src 'none'" in policy

    @pytest.mark.parametrize(
        "path",
        ["/runs/photos/9", "/runs/none/1", "/runs/../1", "/runs/photos/%2e%2e", "/runs/photos/1%00", "/runs/a%2fb/1",
         "/runs/photos/9/report", "/api/runs/photos/9/curves", "/runs/compare?run=photos/1&run=none/1"],
    )  # fmt: skip
    def test_what_is_not_there(self, site, client, path):
        write_run(site.runs_dir)
        sent = client.get(path)
        assert sent.status_code in (303, 404), sent.text
        assert "Traceback" not in sent.text

    def test_a_hostile_run_is_shown_and_not_obeyed(self, site, client):
        odd = {HOSTILE: {"precision": HOSTILE, "f1": [1], "support": 1e400}, "x" * 5000: 7}
        folder = write_run(
            site.runs_dir, HOSTILE_FOLDER, HOSTILE_FOLDER,
            result={"strategy": HOSTILE, "backbone": HOSTILE, "data_version": HOSTILE, "per_class": odd,
                    "warnings": [HOSTILE, {}], "decisions": HOSTILE, "baseline": [HOSTILE],
                    "seconds": {HOSTILE: 1, "b": HOSTILE, "c": -1}},
            config={"options": {HOSTILE: HOSTILE, "init_from": HOSTILE}, "reasons": {HOSTILE: HOSTILE}, "asked": [1],
                    "data": HOSTILE},
        )  # fmt: skip
        (folder / "env.json").write_text(json.dumps({HOSTILE: {HOSTILE: [HOSTILE] * 1000}}))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, HOSTILE: 0.5}) + "\n")
        base = leaderboard.run_address(HOSTILE_FOLDER, HOSTILE_FOLDER)
        assert client.post(f"{base}/note", data={"note": HOSTILE}).status_code == 200
        assert client.post(f"{base}/tag", data={"tag": HOSTILE[:40]}).status_code == 200
        for address in ("/runs", base, f"/runs/compare?run={2 * '%7B'}", f"{base}/report"):
            text = client.get(address).text
            assert "<img src=x" not in text
            assert "Site(" not in text
        assert "&lt;img src=x" in client.get(base).text
        key = f"{HOSTILE_FOLDER}/{HOSTILE_FOLDER}"
        sent = client.get("/runs/compare", params={"run": [key, key]})
        assert sent.status_code == 200
        assert "<img src=x" not in sent.text

    @pytest.mark.parametrize(
        "name", ["result.json", "config.yaml", "env.json", "metrics.jsonl", "predictions.parquet", "origin.json"]
    )
    def test_damaged_files(self, site, client, name):
        write_run(site.runs_dir, name="0", predictions=predicted(100))
        folder = write_run(site.runs_dir, name="1", predictions=predicted(100))
        for damage in (b"", b"{", b"\xff\x00" * 500, b"[" * 50_000, b"null"):
            (folder / name).write_bytes(damage)
            for path in ("", "/photos/1", "/compare?run=photos/0&run=photos/1"):
                assert client.get(f"/runs{path}").status_code == 200, (path, damage[:9])
            assert client.get("/api/runs/photos/1/curves").status_code == 200


class TestMarks:
    def test_stars_are_ones_own_tags_are_everybodys_notes_are_their_authors(self, site):
        write_run(site.runs_dir)
        site = dataclasses.replace(site, token=TOKEN)
        ada, bob = client_of(site), client_of(site)
        sent = bob.post("/login", json={"token": TOKEN, "name": "Bob"})
        assert sent.status_code == 200
        bob.headers["x-regraft-csrf"] = bob.get("/api/session").json()["csrf"]
        assert 'aria-pressed="true"' in ada.post("/runs/photos/1/star", data={"on": "1"}).text
        assert 'aria-pressed="false"' in bob.get("/runs").text
        assert 'aria-pressed="false"' in ada.post("/runs/photos/1/star", data={"on": "0"}).text
        ada.post("/runs/photos/1/tag", data={"tag": "ship  it"})
        assert "ship it" in bob.get("/runs/photos/1").text
        assert "ship it" not in bob.post("/runs/photos/1/untag", data={"tag": "ship it"}).text
        noted = ada.post("/runs/photos/1/note", data={"note": "two\nlines"}).text
        (note_id,) = re.findall(r'name="note_id" value="([^"]+)"', noted)
        assert "two\nlines" in bob.get("/runs/photos/1").text
        assert "two\nlines" in bob.post("/runs/photos/1/unnote", data={"note_id": note_id}).text
        assert "two\nlines" not in ada.post("/runs/photos/1/unnote", data={"note_id": note_id}).text

    @pytest.mark.parametrize(
        ("verb", "fields"),
        [("tag", {"tag": ""}), ("tag", {"tag": "x" * 41}), ("tag", {"tag": "a\x1bb"}), ("note", {"note": " "}),
         ("note", {"note": "x" * 4001}), ("tag", {})],
    )  # fmt: skip
    def test_what_is_refused(self, site, client, verb, fields):
        write_run(site.runs_dir)
        sent = client.post(f"/runs/photos/1/{verb}", data=fields)
        assert sent.status_code == 400
        assert client.post(f"/runs/none/1/{verb}", data={verb: "x"}).status_code == 404

    def test_they_need_the_proof_of_origin(self, site, client):
        write_run(site.runs_dir)
        del client.headers["x-regraft-csrf"]
        assert client.post("/runs/photos/1/star", data={"on": "1"}).status_code == 403


class TestCurves:
    def test_read_as_it_grows_line_by_whole_line(self, tmp_path):
        folder = write_run(tmp_path, num_rows=3)
        columns = Columns()
        assert read_more(folder, columns)
        with (folder / "metrics.jsonl").open("a") as stream:
            stream.write('{"step": 99, "train/lo')
        read_more(folder, columns)
        assert len(columns.steps) == 3
        with (folder / "metrics.jsonl").open("a") as stream:
            stream.write('ss": 0.25, "new": 7}\nnot json\n[1]\n\n{"step": "x", "new": "y"}\n')
        read_more(folder, columns)
        assert list(columns.steps) == [0, 10, 20, 99, 4]
        assert columns.values["train/loss"][3] == 0.25
        assert columns.num_bad == 2
        assert {len(column) for column in columns.values.values()} == {5}

    def test_another_file_of_that_name_begins_anew(self, tmp_path):
        folder = write_run(tmp_path, num_rows=9)
        curves = Curves()
        assert curves.charts(folder, width=100)["rows"] == 9
        (write_run(tmp_path, name="2", num_rows=4) / "metrics.jsonl").replace(folder / "metrics.jsonl")
        assert curves.charts(folder, width=100)["rows"] == 4
        (folder / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n')
        assert curves.charts(folder, width=100)["rows"] == 1

    def test_numbers_that_are_none(self, tmp_path):
        folder = write_run(tmp_path)
        (folder / "metrics.jsonl").write_text(
            '{"step": 1, "a": NaN, "b": Infinity, "c": 1e999, "d": true, "e": "x", "f": null, "g": 1' + "0" * 4000
            + ', "h": 2}\n'
            + "".join(json.dumps({f"m{i}": i}) + "\n" for i in range(300)) + json.dumps({"x" * 200: 1}) + "\n"
        )  # fmt: skip
        found = Curves().charts(folder, width=100)
        assert {"a", "b", "c", "d", "e", "f", "g"}.isdisjoint(chart["name"] for chart in found["charts"])
        assert len(found["charts"]) == 200
        json.dumps(found, allow_nan=False)

    def test_one_chart_a_measure_losses_first(self, site, client):
        write_run(site.runs_dir)
        sent = client.get("/api/runs/photos/1/curves")
        found = sent.json()
        assert [chart["name"] for chart in found["charts"]] == ["loss", "macro_f1", "lr"]
        assert [one["name"] for one in found["charts"][0]["series"]] == ["train/loss", "val/loss"]
        assert found["charts"][1]["series"][0]["y"][0] is None
        assert (
            client.get("/api/runs/photos/1/curves", headers={"if-none-match": sent.headers["etag"]}).status_code == 304
        )

    @given(
        arrays(np.float64, st.integers(1, 400), elements=st.floats(-1e6, 1e6) | st.just(float("nan"))),
        st.integers(1, 60),
    )
    def test_thinning_keeps_every_extreme(self, values, width):
        x, (y,) = thinned(np.arange(len(values), dtype=float), [values], width)
        assert len(x) == len(y) <= max(2 * width, len(values) if len(values) <= 2 * width else 0)
        assert (np.diff(x) >= 0).all()
        finite, kept = values[np.isfinite(values)], y[np.isfinite(y)]
        assert len(finite) == 0 or (kept.min(), kept.max()) == (finite.min(), finite.max())
        if len(values) > 2 * width:  # column by column, in the order in which they came
            edges = np.linspace(0, len(values), width + 1).astype(int)
            for i in range(width):
                part = values[edges[i] : edges[i + 1]]
                part = part[np.isfinite(part)]
                if len(part):
                    first, second = sorted((int(part.argmin()), int(part.argmax())))
                    assert (y[2 * i], y[2 * i + 1]) == (part[first], part[second])

    def test_the_memory_is_bounded(self, tmp_path):
        folders = [write_run(tmp_path, name=str(i), num_rows=100) for i in range(10)]
        curves = Curves(max_bytes=10_000)
        for folder in folders:
            curves.charts(folder, width=10)
            assert curves.num_bytes() <= 10_000


class TestSync:
    @pytest.fixture
    def sent(self, tmp_path) -> bytes:
        export_runs([write_run(tmp_path / "laptop", predictions=predicted(100))], tmp_path / "x.zip", who="Ada")
        return (tmp_path / "x.zip").read_bytes()

    def test_a_run_is_taken_once(self, site, client, sent):
        first, second = (client.post("/api/sync/runs", content=sent).json()["runs"][0] for _ in range(2))
        assert (first["as"], first["known"], second["as"], second["known"]) == ("1", False, "1", True)
        assert rows(client.get("/runs").text) == ["/runs/photos/1"]
        assert "Ada" in client.get("/runs/photos/1").text
        with zipfile.ZipFile(io.BytesIO(sent)) as archive:
            name = json.loads(archive.read("manifest.json"))["runs"][0]["id"]
        assert client.post("/api/sync/known", json={"ids": [name, "other", 7]}).json() == {"known": [name]}

    @pytest.mark.parametrize("body", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
    def test_no_archive(self, site, client, body):
        assert client.post("/api/sync/runs", content=body).status_code == 400
        assert list(site.runs_dir.glob("*/*/*.yaml")) == []

    def test_decisions_are_taken_once(self, site, client):
        events = [decision(f"00000000-0000-4000-8000-00000000000{i}").as_dict() for i in range(3)]
        body = {"project": "photos", "events": events}
        first, second = (client.post("/api/sync/decisions", json=body).json() for _ in range(2))
        assert (len(first["accepted"]), len(first["known"])) == (3, 0)
        assert (len(second["accepted"]), len(second["known"])) == (0, 3)
        kept = Ledger(site.database, "photos").events()
        assert [event.reviewer for _, event in kept] == ["Ada"] * 3
        wrong = {"project": "photos", "events": [events[0] | {"reviewer": "Bob"}, events[1] | {"project": "other"}]}
        assert len(client.post("/api/sync/decisions", json=wrong).json()["refused"]) == 2

    @pytest.mark.parametrize(
        "body",
        [[], {}, {"project": "photos", "events": 7}, {"project": "../x", "events": []}, {"project": "a", "events": [7]},
         {"project": "a", "events": [{}]}, {"project": "a", "events": [{}] * 1001}],
    )  # fmt: skip
    def test_no_decisions(self, client, body):
        assert client.post("/api/sync/decisions", json=body).status_code == 400

    def test_it_needs_the_token(self, site, sent):
        site = dataclasses.replace(site, token=TOKEN)
        stranger = client_of(site, signed_in=False)
        assert stranger.post("/api/sync/runs", content=sent).status_code == 401
        known = {"authorization": f"Bearer {TOKEN}"}
        assert stranger.post("/api/sync/runs", content=sent, headers=known).status_code == 200


def decision(event_id: str) -> Decision:
    return Decision(
        event_id=event_id, time=1.7e9, project="photos", reviewer="Ada", session="s", item="0" * 64, path="a.png",
        action="keep", given="ant",
    )  # fmt: skip
