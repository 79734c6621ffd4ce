"""Several reviewers at once, on one server and on two: nothing is lost, nothing is doubled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from review_samples import client_of, event, post, sample_desk, sample_site

from regraft.board.site import Site
from regraft.store.db import open_database
from regraft.store.decisions import Ledger


def test_two_reviewers_at_once_lose_and_double_nothing(tmp_path, database):
    """1,000 events of two people on two servers, each call sent twice, as after a lost answer."""
    desk = sample_desk(tmp_path)
    (tmp_path / "runs").mkdir(exist_ok=True)
    site = Site(runs_dir=tmp_path / "runs", database=database, cache_dir=tmp_path / "c", desk=desk, project="photos")
    other = open_database(str(database.engine.url.render_as_string(hide_password=False)), runs_dir=tmp_path / "runs")
    second = Site(runs_dir=tmp_path / "runs", database=other, cache_dir=tmp_path / "c", desk=desk, project="photos")
    servers = {"anna": client_of(site), "bo": client_of(second)}
    rng = np.random.default_rng(0)
    names = [desk.hash_of(int(row)) for row in rng.integers(0, len(desk), 500)]
    sent: dict[str, list[dict]] = {"anna": [], "bo": []}

    def work(who: str) -> None:
        for start in range(0, 500, 5):
            events = []
            for name in names[start : start + 5]:
                mine = sent[who]
                if mine and rng_of[who].random() < 0.2 and mine[-1]["action"] != "undo":
                    one = event(mine[-1]["item"], "undo", supersedes=mine[-1]["event_id"])
                else:
                    one = event(name, ("keep", "exclude", "ambiguous", "skip")[int(rng_of[who].integers(4))])
                mine.append(one)
                events.append(one)
            for _ in range(2):
                told = post(servers[who], *events, who=who).json()
                assert told["rejected"] == []
                assert set(told["accepted"]) | set(told["known"]) == {one["event_id"] for one in events}

    rng_of = {"anna": np.random.default_rng(1), "bo": np.random.default_rng(2)}
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, who) for who in sent]:
            done.result()
    other.close()
    ledger = Ledger(database, "photos")
    stored = ledger.events()
    assert [seq for seq, _ in stored] == list(range(1, 1001))
    for who in sent:
        assert [one.event_id for _, one in stored if one.reviewer == who] == [one["event_id"] for one in sent[who]]
    assert ledger.verify().ok
    shown = {
        who: api.get("/api/review/progress", headers={"x-who": "chen"}).json()
        for who, api in servers.items()
        if who == "anna"
    }
    verdicts = ledger.verdicts()
    assert shown["anna"]["conflicts"] == sum(one.conflict for one in verdicts.values())
    queued = {desk.hash_of(row) for row in desk.order.tolist()}
    decided = [key for key, one in verdicts.items() if not one.conflict and key[0] in queued]
    assert shown["anna"]["reviewed"] == len(decided)


def test_many_threads_of_one_server_agree(tmp_path):
    site = sample_site(tmp_path)
    api = client_of(site)
    rows = [site.desk.hash_of(row) for row in range(60)]

    def work(number: int) -> list[str]:
        who = f"reviewer {number}"
        told = []
        for name in rows[number::8] * 3:
            told += post(api, event(name, "keep"), who=who).json()["accepted"]
            assert api.get("/api/review/queue?limit=3", headers={"x-who": who}).status_code == 200
        return told

    with ThreadPoolExecutor(8) as pool:
        accepted = [name for told in pool.map(work, range(8)) for name in told]
    assert len(accepted) == len(set(accepted)) == 180
    told = api.get("/api/review/progress").json()
    assert told["reviewed"] == len(site.desk.order)
    assert told["left"] == 0
    assert sum(one["reviewed"] for one in told["reviewers"]) == 60
