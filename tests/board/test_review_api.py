"""Review over HTTP: the contract of the page, several reviewers at once, and what a stranger may send."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from review_samples import client_of, event, post, sample_site
from starlette.testclient import TestClient

from regraft.board.review.prepare import keep
from regraft.board.review.refit import Refits
from regraft.board.site import Site
from regraft.store.db import open_database
from regraft.store.decisions import Ledger

CARD = {
    "id", "position", "path", "given", "suggested", "split", "remark", "group", "issues", "reason", "top", "neighbours",
    "prototypes", "width", "height", "returned", "mine", "others", "conflict",
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return sample_site(tmp_path)


@pytest.fixture
def api(site: Site) -> TestClient:
    return client_of(site)


def suspects(site: Site) -> list[str]:
    return [site.desk.hash_of(row) for row in site.desk.order.tolist() if site.desk.issues["label"][row]]


def test_a_card_has_what_the_page_shows(api, site):
    told = api.get("/api/review/queue").json()
    assert told["total"] == told["left"] == len(site.desk.order)
    assert told["items"][0].keys() == CARD
    for card in told["items"]:
        assert card == api.get(f"/api/review/item/{card['id']}").json()
        for one in card["neighbours"]:
            assert api.get(f"/api/review/item/{one['id']}").json()["given"] == one["label"]
        assert all(len(name) == 64 for name in [*card["prototypes"]["given"], *card["prototypes"]["suggested"]])


def test_what_is_stored_is_the_servers_word(api, site):
    row = next(row for row in site.desk.order.tolist() if site.desk.issues["label"][row])
    lie = event(
        site.desk.hash_of(row), "keep", reviewer="bo", time=1.0, path="/etc/passwd", given="x", suggested="y",
        scores={"label": 9}, project="other", supersedes=str(uuid.uuid4()),
    )  # fmt: skip
    assert post(api, lie).json()["accepted"] == [lie["event_id"]]
    ((_, stored),) = Ledger(site.database, site.desk.project).events()
    assert (stored.reviewer, stored.path) == ("anna", site.desk.path(row))
    assert (stored.given, stored.suggested) == tuple(
        site.desk.names[number] for number in (site.desk.given[row], site.desk.suggested[row])
    )
    assert stored.scores["label"] == pytest.approx(float(site.desk.scores["label"][row]), abs=1e-6)
    assert stored.time > 1e9
    assert stored.supersedes == ""


def test_a_control_is_known_to_the_ledger_and_to_nobody_else(api, site):
    name = site.desk.hash_of(int(np.flatnonzero(site.desk.controls)[0]))
    answer = post(api, event(name, "relabel", label=site.desk.names[0])).json()
    ((_, stored),) = Ledger(site.database, site.desk.project).events()
    assert stored.issue == "control"
    assert answer["progress"]["controls"]["reviewed"] == 1
    for address in ("last", f"item/{name}", "queue?state=done", "events"):
        assert "control" not in json.dumps({**api.get(f"/api/review/{address}").json(), "progress": None})


def test_sending_again_changes_nothing(api, site):
    sent = event(suspects(site)[0], "keep", duration=2.3456)
    first, second = post(api, sent).json(), post(api, sent).json()
    assert (first["accepted"], first["known"]) == ([sent["event_id"]], [])
    assert (second["accepted"], second["known"]) == ([], [sent["event_id"]])
    third = post(api, {**sent, "action": "exclude"}).json()
    assert third["accepted"] == third["known"] == []
    assert third["rejected"][0]["event_id"] == sent["event_id"]
    assert len(Ledger(site.database, site.desk.project).events()) == 1


def test_twice_in_one_call_is_once(api, site):
    sent = event(suspects(site)[0], "keep")
    answer = post(api, sent, sent, {**sent, "action": "exclude"}).json()
    assert answer["accepted"] == [sent["event_id"]]
    assert [one["event_id"] for one in answer["rejected"]] == [sent["event_id"]]
    assert len(Ledger(site.database, site.desk.project).events()) == 1


def test_the_others_of_a_call_are_taken_where_one_is_refused(api, site):
    good, bad = event(suspects(site)[0], "keep"), event("0" * 64, "keep")
    answer = post(api, bad, good).json()
    assert answer["accepted"] == [good["event_id"]]
    assert answer["rejected"] == [{"event_id": bad["event_id"], "reason": "item: no image of these data has this hash"}]


def test_decided_and_undone_in_one_call(api, site):
    sent = event(suspects(site)[0], "keep")
    undo = event(suspects(site)[0], "undo", supersedes=sent["event_id"])
    assert len(post(api, sent, undo).json()["accepted"]) == 2
    assert api.get("/api/review/last").json() == {"event": None}
    assert api.get("/api/review/progress").json()["reviewed"] == 0


def test_the_last_is_what_undo_takes_back_next(api, site):
    first, second, third = (event(name, "keep") for name in suspects(site)[:3])
    post(api, first)
    post(api, second)
    post(api, third, who="bo")
    assert api.get("/api/review/last").json()["event"]["event_id"] == second["event_id"]
    post(api, event(second["item"], "undo", supersedes=second["event_id"]))
    assert api.get("/api/review/last").json()["event"]["event_id"] == first["event_id"]
    batch = str(uuid.uuid4())
    post(api, *(event(name, "exclude", batch=batch) for name in suspects(site)[3:6]))
    assert api.get("/api/review/last").json()["event"]["batch"] == batch
    post(api, event(suspects(site)[3], "undo", batch=batch))
    assert api.get("/api/review/last").json()["event"]["event_id"] == first["event_id"]


def hostile(item: str, other: str) -> list[object]:
    """What a stranger sends: each must be refused in words, none may be an error of the server."""
    good = event(item, "keep")
    known = "12345678-1234-4234-8234-123456789abc"
    return [
        None, 7, "x", [], [[]], {}, {"event_id": None}, {**good, "event_id": "not a uuid"},
        {**good, "event_id": "\ud800"}, {**good, "event_id": "x" * 100_000},
        {**good, "event_id": known.upper()}, {**good, "event_id": known + "\n"}, {**good, "item": None},
        {**good, "item": item.upper() + "0"}, {**good, "item": "../../etc/passwd"}, {**good, "item": ["a"]},
        {**good, "action": "delete"}, {**good, "action": "'; DROP TABLE decisions; --"}, {**good, "action": None},
        {**good, "action": "relabel"}, {**good, "action": "relabel", "label": "no such class"},
        {**good, "action": "keep", "label": "고양이"}, {**good, "duration": "long"}, {**good, "duration": float("nan")},
        {**good, "duration": True}, {**good, "duration": None}, {**good, "note": "x" * 20_000},
        {**good, "note": "a\x00b"}, {**good, "note": "\ud800"}, {**good, "session": ""}, {**good, "session": "a b"},
        {**good, "session": "x" * 1000}, {**good, "issue": "control"}, {**good, "issue": "<script>"},
        {**good, "action": "duplicate"}, {**good, "action": "distinct", "other": item},
        {**good, "action": "keep", "other": other}, {**good, "action": "distinct", "other": "0" * 64},
        {**good, "action": "undo"}, {**good, "action": "undo", "supersedes": known},
        {**good, "action": "undo", "supersedes": known, "batch": known}, {**good, "action": "undo", "batch": known},
        {**good, "batch": "'; --"},
    ]  # fmt: skip


def test_what_is_no_decision_is_refused_in_words(api, site):
    for sent in hostile(*suspects(site)[:2]):
        body = json.dumps({"events": [sent]})
        answer = api.post("/api/review/decisions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, sent
        told = answer.json()
        assert told["accepted"] == told["known"] == [], sent
        assert len(told["rejected"]) == 1, sent
        assert told["rejected"][0]["reason"], sent
    assert Ledger(site.database, site.desk.project).events() == []


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "7", "null", '{"events": 3}', '{"events": {}}', "[" * 5000, '{"events": ' + "[" * 100_000]
)
def test_a_body_that_is_no_list_of_events_is_a_wrong_request(api, body):
    answer = api.post("/api/review/decisions", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500


def test_a_thousand_events_and_no_more(api, site):
    names = [site.desk.hash_of(row) for row in range(60)]
    many = [event(names[number % 60], "keep") for number in range(1000)]
    assert len(post(api, *many).json()["accepted"]) == 1000
    answer = post(api, *many, event(names[0], "keep"))
    assert answer.status_code == 400
    assert "1,000" in answer.json()["error"]


def test_another_reviewers_decision_is_not_undone(api, site):
    sent = event(suspects(site)[0], "keep")
    post(api, sent)
    answer = post(api, event(sent["item"], "undo", supersedes=sent["event_id"]), who="bo").json()
    assert answer["accepted"] == []
    assert "own" in answer["rejected"][0]["reason"]
    assert api.get("/api/review/progress").json()["reviewed"] == 1


@pytest.mark.parametrize(
    "address",
    [
        "queue?state=nowhere", "queue?issue=no", "queue?class=no", "queue?pair=no", "queue?pair=a>b", "queue?split=no",
        "pairs?state=second",
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(api, address):
    answer = api.get(f"/api/review/{address}")
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("item", ["0" * 64, "x", "..%2f..%2fetc%2fpasswd", "%00", "a" * 5000])
def test_an_unknown_item_is_not_found(api, item):
    assert api.get(f"/api/review/item/{item}").status_code == 404


@pytest.mark.parametrize("words", ["' OR 1=1 --", "%", "größe", "\x00", "🙂" * 100])
def test_a_search_takes_any_words(api, words):
    told = api.get("/api/review/queue", params={"q": words}).json()
    assert (told["total"] > 0) == (words == "größe")


def test_filters_count_what_the_queue_gives(api, site):
    post(api, event(suspects(site)[0], "keep"), event(suspects(site)[1], "exclude"))
    told = api.get("/api/review/filters").json()
    assert [one["name"] for one in told["classes"]] == list(site.desk.names)
    names = {"issues": "issue", "classes": "class", "splits": "split", "groups": "group"}
    for kind, name in names.items():
        for one in told[kind]:
            assert api.get("/api/review/queue", params={name: one["name"]}).json()["left"] == one["count"], one
    for one in told["pairs"]:
        pair = f"{one['given']}>{one['suggested']}"
        assert api.get("/api/review/queue", params={"pair": pair}).json()["left"] == one["count"], one
    assert sum(one["count"] for one in told["classes"]) == len(site.desk.order) - 2


def test_others_see_that_something_was_decided_and_not_what(api, site):
    sent = event(suspects(site)[0], "relabel", label=site.desk.names[1], note="secret")
    post(api, sent)
    told = api.get("/api/review/events", headers={"x-who": "bo"}).json()
    assert [one["item"] for one in told["events"]] == [sent["item"]]
    assert not {"action", "label", "note"} & told["events"][0].keys()
    assert api.get("/api/review/events").json()["events"] == []  # one's own
    again = api.get("/api/review/events", params={"after": told["seq"]}, headers={"x-who": "bo"}).json()
    assert (again["events"], again["seq"]) == ([], told["seq"])


def test_a_blind_site_shows_nobody_the_suggestion(tmp_path):
    site = sample_site(tmp_path, blind=True)
    api = client_of(site)
    for card in api.get("/api/review/queue").json()["items"]:
        assert card["suggested"] is None
        assert card["top"] == []
    assert api.get(f"/api/review/item/{suspects(site)[0]}?blind=0").json()["suggested"] is None


def test_a_refit_runs_once_and_in_the_background(tmp_path):
    site = sample_site(tmp_path)
    go, calls = threading.Event(), []

    def work(desk, verdicts, cache_dir):
        calls.append(dict(verdicts))
        assert go.wait(60)
        return {"before": 1, "after": 2, "difference": 1, "num_applied": len(verdicts), "words": ["better"]}

    refits = Refits(site.desk, tmp_path, work=work)
    api = client_of(site, refits)
    assert api.get("/api/review/refit").json()["state"] == "idle"
    post(api, event(suspects(site)[0], "keep"))
    for _ in range(3):
        answer = api.post("/api/review/refit")
        assert answer.status_code == 202
        assert answer.json()["state"] == "running"
    post(api, event(suspects(site)[1], "keep"))  # the page works on
    go.set()
    refits.wait(60)
    told = api.get("/api/review/refit").json()
    assert (told["state"], told["num_applied"], told["words"], told["test"]) == ("done", 1, ["better"], None)
    assert len(calls) == 1


def test_a_refit_that_fails_says_why_and_can_be_tried_again(tmp_path):
    site = sample_site(tmp_path)
    answers = iter([ZeroDivisionError("no classes left"), {"words": ["done"]}])

    def work(desk, verdicts, cache_dir):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    refits = Refits(site.desk, tmp_path, work=work)
    api = client_of(site, refits)
    api.post("/api/review/refit")
    refits.wait(60)
    told = api.get("/api/review/refit").json()
    assert told["state"] == "failed"
    assert "no classes left" in told["words"][0]
    api.post("/api/review/refit")
    refits.wait(60)
    assert api.get("/api/review/refit").json()["state"] == "done"


def test_a_site_without_a_desk_has_no_review(tmp_path):
    runs = tmp_path / "runs"
    site = Site(runs_dir=runs, database=open_database(None, runs_dir=runs), cache_dir=tmp_path)
    assert client_of(site).get("/api/review/queue").status_code == 404


def test_a_start_on_a_kept_desk_imports_no_framework(tmp_path):
    site = sample_site(tmp_path)
    path = tmp_path / "desk.safetensors"
    keep(site.desk, path)
    program = f"""
from pathlib import Path
from regraft.board.app import create_app
from regraft.board.review.prepare import kept
from regraft.board.site import Site
from regraft.store.db import open_database
runs = Path({str(tmp_path / "runs")!r})
desk = kept(Path({str(path)!r}), project="photos", root=Path("/nowhere"))
create_app(Site(runs_dir=runs, database=open_database(None, runs_dir=runs), cache_dir=runs, desk=desk))
"""
    listing = "import sys; print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program + listing], capture_output=True, text=True, check=True)
    found = {line.partition(".")[0] for line in done.stderr.splitlines()}
    assert "safetensors" in found
    assert not found & {"torch", "timm", "torchvision", "sklearn", "scipy", "openvino", "pyarrow", "matplotlib"}
