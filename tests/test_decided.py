"""Where decisions are found, whose they are, how far; and the verbs that apply them."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawn import draw_folder, encode
from regraft import decided
from regraft.auditing import AuditOptions, audit
from regraft.data import Scan, read
from regraft.decided import with_decisions
from regraft.errors import DataError, UsageError
from regraft.store import db
from regraft.store.db import open_database
from regraft.store.decisions import Ledger
from regraft.studies.duplicate_groups import kept_sets
from regraft.types import Decision
from studies.studies_fake import backbone as colours
from test_audit_verb import draw, drawing


def event(item: str, action: str, *, project: str = "photos", **more: object) -> Decision:
    return Decision(
        event_id=str(uuid.uuid4()), time=1.0, project=project, reviewer="ann", session="s", item=item, path="x",
        action=action, **more,
    )  # fmt: skip


def append(runs_dir: Path, *events: Decision, database: str | None = None) -> None:
    opened = open_database(database, runs_dir=runs_dir)
    for one in events:
        Ledger(opened, one.project).append([one])
    opened.close()


def keys_of(scan: Scan) -> dict[str, str]:
    manifest = scan.manifest
    return {image: key.tobytes().hex() for image, key in zip(manifest.images.tolist(), manifest.hashes, strict=True)}


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return read(draw_folder(tmp_path / "photos", per_class=6))


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


class TestFinding:
    def test_constants_agree_with_the_store(self):
        assert (decided.URL_VARIABLE, decided.FILE_NAME) == (db.URL_VARIABLE, db.FILE_NAME)

    def test_no_database_is_made_to_look(self, scan, runs_dir):
        assert with_decisions(scan, "photos", runs_dir=runs_dir) is scan
        assert not runs_dir.exists()

    def test_beside_the_runs_by_environment_and_by_address(self, scan, runs_dir, tmp_path, monkeypatch):
        item = keys_of(scan)["star/0000.png"]
        elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
        append(runs_dir, event(item, "exclude"))
        append(runs_dir, event(item, "keep"), event(item, "exclude"), event(item, "keep"), database=elsewhere)
        near = with_decisions(scan, "photos", runs_dir=runs_dir).decisions
        assert near is not None
        assert (near.seq, near.project, near.database) == (1, "photos", f"sqlite:///{runs_dir / 'regraft.db'}")
        named = with_decisions(scan, "photos", runs_dir=runs_dir, database=elsewhere).decisions
        assert named is not None
        assert named.seq == 3
        assert named.verdicts[item, ""].action == "keep"
        monkeypatch.setenv("REGRAFT_DATABASE_URL", elsewhere)
        assert with_decisions(scan, "photos", runs_dir=runs_dir).decisions.head == named.head

    def test_postgresql(self, scan, runs_dir, postgres_url):
        append(runs_dir, event(keys_of(scan)["star/0000.png"], "exclude"), database=postgres_url)
        found = with_decisions(scan, "photos", runs_dir=runs_dir, database=postgres_url).decisions
        assert found is not None
        assert found.seq == 1
        assert found.database.startswith("postgresql://")

    def test_of_its_own_project_and_so_said(self, scan, runs_dir):
        append(runs_dir, event("0" * 64, "exclude", project="other"))
        said: list[str] = []
        assert with_decisions(scan, "photos", runs_dir=runs_dir, say=said.append) is scan
        assert said == []  # nobody asked for it
        named = f"sqlite:///{runs_dir}/regraft.db"
        assert with_decisions(scan, "photos", runs_dir=runs_dir, database=named, say=said.append) is scan
        assert said == [f"no decisions about 'photos' in {named}; it has 'other'"]

    def test_up_to_an_event(self, scan, runs_dir):
        item = keys_of(scan)["star/0000.png"]
        append(runs_dir, event(item, "exclude"))
        first = with_decisions(scan, "photos", runs_dir=runs_dir).decisions
        append(runs_dir, event(item, "keep"))
        then = with_decisions(scan, "photos", runs_dir=runs_dir, up_to=1).decisions
        assert (then.head, then.seq) == (first.head, 1)
        assert then.verdicts[item, ""].action == "exclude"
        assert with_decisions(scan, "photos", runs_dir=runs_dir, up_to=0) is scan
        assert with_decisions(scan, "photos", runs_dir=runs_dir, up_to=99).decisions.seq == 2

    def test_a_history_that_was_tampered_with_is_refused(self, scan, runs_dir):
        item = keys_of(scan)["star/0000.png"]
        append(runs_dir, event(item, "exclude"), event(item, "keep"))
        with sqlite3.connect(runs_dir / "regraft.db") as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("UPDATE decisions SET action = 'relabel', label = 'circle' WHERE seq = 1")
        connection.close()
        with pytest.raises(DataError, match=r"breaks at event 1.*--no-decisions"):
            with_decisions(scan, "photos", runs_dir=runs_dir)

    def test_bad_addresses_and_files_are_errors_in_words(self, scan, runs_dir):
        runs_dir.mkdir()
        (runs_dir / "regraft.db").write_bytes(b"no database at all, but long enough to look at" * 40)
        with pytest.raises(DataError, match="database"):
            with_decisions(scan, "photos", runs_dir=runs_dir)
        with pytest.raises(UsageError) as caught:
            with_decisions(scan, "photos", runs_dir=runs_dir, database="mysql://ann:secret@host/x")
        assert "secret" not in str(caught.value)


class TestAudit:
    @pytest.fixture
    def options(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AuditOptions:
        found = colours("colours", noise=0.01, width=4)
        monkeypatch.setattr("regraft.auditing.resolve", lambda name, **_: found)
        return AuditOptions(cache_dir=tmp_path / "cache", price=False)

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Scan:
        root = draw(tmp_path / "photos")
        for number in range(3):
            small = Image.fromarray(drawing(number, 0)).resize((34, 34), Image.Resampling.BILINEAR)
            (root / "blue" / f"copy{number}.png").write_bytes(encode(np.asarray(small)))
        (root / "red" / "001.png").rename(root / "green" / "wrong.png")
        return read(root)

    def test_it_asks_what_is_still_wrong(self, photos, options, runs_dir):
        key = keys_of(photos)
        first = audit(photos, options)
        suspects = {first.manifest.names[row] for row in np.flatnonzero(first.issues.columns["label"].is_issue)}
        assert "green/wrong.png" in suspects
        twins = [
            (a, b) for a, b in first.duplicates.pairs.tolist() if first.manifest.names[b] == "blue/copy0.png"
        ]  # fmt: skip
        assert twins
        names = [first.manifest.names[row] for row in twins[0]]
        append(
            runs_dir, event(key["green/wrong.png"], "relabel", label="red"), event(key["green/002.png"], "exclude"),
            event(key[names[0]], "distinct", other=key[names[1]]),
        )  # fmt: skip
        second = audit(with_decisions(photos, "photos", runs_dir=runs_dir), options)
        assert second.notes[0] == "3 decisions applied: 1 label changed, 1 image left out, 1 pair told apart."
        assert "green/002.png" not in second.manifest.names
        assert len(second.manifest) == len(first.manifest) - 1
        row = second.manifest.names.index("green/wrong.png")
        assert second.manifest.class_names[second.manifest.labels[row]] == "red"
        assert not second.issues.columns["label"].is_issue[row]
        a, b = (second.manifest.names.index(name) for name in names)
        assert [a, b] not in second.duplicates.pairs.tolist()
        assert second.group_ids[a] != second.group_ids[b]
        assert not second.issues.columns["near_duplicate"].is_issue[b]
        assert len(second.duplicates.pairs) == len(first.duplicates.pairs) - 1
        # the decision may be taken back: the cache keeps what was found, not what was decided
        kept = kept_sets(options.cache_dir, photos.manifest)
        assert kept is not None
        x, y = (first.manifest.names.index(name) for name in names)
        assert kept[x] == kept[y] >= 0

    def test_a_search_of_fewer_images_is_kept_for_all(self, photos, options, runs_dir):
        append(runs_dir, event(keys_of(photos)["green/002.png"], "exclude"))
        second = audit(with_decisions(photos, "photos", runs_dir=runs_dir), options)
        kept = kept_sets(options.cache_dir, photos.manifest)
        assert kept is not None
        rows = [photos.manifest.names.index(name) for name in second.manifest.names]
        assert (kept[rows] == second.duplicates.sets).all()


class TestVerbs:
    """`rank`, `race` and `balance` share the way of `rank`: their studies call `regraft.data.part`."""

    @pytest.mark.parametrize("verb", ["audit", "race", "balance", "rank"])
    def test_options_are_there(self, cli, verb):
        answer = cli(verb, "--help")
        assert answer.code == 0
        for word in ("--no-decisions", "--database", "--keep-ambiguous", "--runs-dir"):
            assert word in answer.out

    def test_rank_applies_them_and_says_so(self, cli, cache_dir, tmp_path, scan, runs_dir, monkeypatch):
        monkeypatch.chdir(tmp_path)
        key = keys_of(scan)
        append(runs_dir, *(event(key[f"star/000{n}.png"], "relabel", label="circle") for n in range(6)))
        words = ("rank", "photos", "--backbones", "tf_efficientnet_lite0", "--sizes", "32", "--json")
        answer = cli(*words)
        assert answer.code == 0, answer.err
        assert "6 decisions applied: 6 labels changed" in answer.err
        assert "the class 'star' is gone" in answer.err
        json.loads(answer.out)
        plain = cli(*words, "--no-decisions")
        assert plain.code == 0, plain.err
        assert "decisions applied" not in plain.err

    def test_studies_apply_what_a_scan_carries(self, scan, runs_dir, monkeypatch):
        from regraft.progress import Listener
        from regraft.studies.balance import BalanceOptions, balance

        said: list[str] = []

        class Ears(Listener):
            def say(self, text: str) -> None:
                said.append(text)

        append(runs_dir, *(event(key, "exclude") for key in list(keys_of(scan).values())[:2]))
        found = with_decisions(scan, "photos", runs_dir=runs_dir)
        monkeypatch.setattr("regraft.studies.balance.resolve", lambda name, **_: colours("colours", width=4))
        described, _ = balance(found, BalanceOptions(folds=3, engine="torch"), listener=Ears())
        assert sum(one.num_images for one in described.classes) == 16
        assert "2 decisions applied: 2 images left out" in said


def test_a_record_says_whose_history_and_how_far(scan, runs_dir):
    append(runs_dir, event("0" * 64, "exclude"))
    found = with_decisions(scan, "photos", runs_dir=runs_dir)
    record = decided.record(found.decisions)
    assert record is not None
    assert record == {name: getattr(found.decisions, name) for name in ("database", "project", "seq", "head")}
    assert decided.record(None) is None
    assert dataclasses.replace(found, decisions=None).decisions is None
