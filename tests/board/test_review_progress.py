"""How a review goes: counted against a slow reference, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from review_samples import event, make_desk, sample_desk, sample_site

from regraft.board.review.exact import exact
from regraft.board.review.history import History
from regraft.board.review.pace import Pace
from regraft.board.review.progress import WINDOW, WORTH, error_rate, hint, last_looks, progress
from regraft.board.review.refit import Refits
from regraft.board.review.routes import Review
from regraft.evaluate.proportions import wilson
from regraft.store.decisions import Ledger


def simulate(seed: int, *, looked_at: int, miss_rate: float, num: int = 4000, suspects: int = 400):
    """A review of a data set whose errors are known: (true rate, interval), or None where no control was met."""
    rng = np.random.default_rng(seed)
    doubt = np.sort(rng.beta(1.5, 1.5, suspects))[::-1]  # the audit's probability of an error, most suspect first
    wrong = np.concatenate([rng.random(suspects) < doubt, rng.random(num - suspects) < miss_rate])
    asked = rng.choice(np.arange(suspects, num), -(-looked_at // 19), replace=False)
    found = wrong[:looked_at]
    recent = found[-WINDOW:]
    interval = error_rate(
        wrong=int(found.sum() + wrong[asked].sum()), num_images=num, asked=len(asked), missed=int(wrong[asked].sum()),
        passed_over=num - suspects - len(asked), left=suspects - looked_at,
        recent=(int(recent.sum()), len(recent)), expected=float(doubt[looked_at:].sum()),
        expected_seen=float(doubt[:looked_at].sum()), found=int(found.sum()),
    )  # fmt: skip
    return float(wrong.mean()), interval


@pytest.mark.parametrize(("looked_at", "miss_rate"), [(60, 0.03), (200, 0.03), (400, 0.03), (400, 0.15), (200, 0.0)])
def test_the_interval_of_the_error_rate_holds_what_it_promises(looked_at, miss_rate):
    runs = [simulate(seed, looked_at=looked_at, miss_rate=miss_rate) for seed in range(300)]
    covered = np.mean([interval.low <= truth <= interval.high for truth, interval in runs])
    assert covered >= 0.93
    bias = np.mean([interval.estimate - truth for truth, interval in runs])
    spread = np.std([interval.estimate - truth for truth, interval in runs]) / np.sqrt(300)
    if looked_at == 400:  # what is left was drawn by chance: no bias at all
        assert abs(bias) < 4 * spread + 1e-12
    assert abs(bias) < 0.01


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_exact_limits_are_those_of_the_beta_distribution(level):
    stats = pytest.importorskip("scipy.stats")
    for total in (1, 2, 7, 60, 900):
        for count in {0, 1, total // 3, total - 1, total}:
            low, high = exact(count, total, level)
            tail = (1 - level) / 2
            assert low == pytest.approx(stats.beta.ppf(tail, count, total - count + 1) if count else 0, abs=1e-9)
            assert high == pytest.approx(
                stats.beta.isf(tail, count + 1, total - count) if count < total else 1, abs=1e-9
            )
    assert exact(0, 0) == (0, 1)


def test_all_looked_at_is_known_exactly():
    found = error_rate(
        wrong=7, num_images=50, asked=3, missed=1, passed_over=0, left=0, recent=(4, 30), expected=0.0,
        expected_seen=5.0, found=6,
    )  # fmt: skip
    assert (found.estimate, found.low, found.high) == (7 / 50, 7 / 50, 7 / 50)


def test_without_a_control_nothing_is_said_of_the_whole():
    values = {
        "wrong": 3, "num_images": 90, "missed": 0, "passed_over": 50, "left": 5, "expected": 1.0, "expected_seen": 3.0,
        "found": 3,
    }  # fmt: skip
    assert error_rate(asked=0, recent=(3, 9), **values) is None
    assert error_rate(asked=2, recent=(0, 0), **values) is None
    assert error_rate(asked=2, recent=(3, 9), **values) is not None


def test_limits_stay_among_what_is_possible():
    rng = np.random.default_rng(0)
    for _ in range(500):
        num = int(rng.integers(1, 200))
        seen, left, over, asked = rng.multinomial(num, [0.3, 0.2, 0.4, 0.1]).tolist()
        missed, found = int(rng.integers(0, asked + 1)), int(rng.integers(0, seen + 1))
        window = min(seen, WINDOW)
        interval = error_rate(
            wrong=missed + found, num_images=num, asked=asked, missed=missed, passed_over=over, left=left,
            recent=(min(found, window), window), expected=rng.random() * left, expected_seen=rng.random() * seen,
            found=found,
        )  # fmt: skip
        if interval is not None:
            assert (missed + found) / num <= interval.low <= interval.estimate <= interval.high
            assert interval.high <= (missed + found + left + over) / num + 1e-12


def test_the_hint_comes_when_looks_find_nothing():
    assert hint(recent=(0, 30), left=50, asked=2, missed=0) is not None
    assert "50 suspects" in hint(recent=(0, 30), left=50, asked=2, missed=0)
    assert hint(recent=(1, 30), left=50, asked=2, missed=0) is None
    assert hint(recent=(0, 29), left=50, asked=2, missed=0) is None
    assert hint(recent=(0, 30), left=0, asked=2, missed=0) is None
    assert wilson(0.0, 30, 0.9)[1] < WORTH < wilson(1 / 30, 30, 0.9)[1]


def test_the_hint_says_where_chance_finds_as_much():
    assert "whole" in hint(recent=(20, 30), left=50, asked=30, missed=9)
    assert hint(recent=(20, 30), left=50, asked=30, missed=1) is None


def test_the_last_looks_are_the_latest_events():
    rng = np.random.default_rng(1)
    latest = rng.permutation(500).astype(np.int64)
    seen = rng.random(500) < 0.5
    expected = sorted(np.flatnonzero(seen).tolist(), key=lambda row: -latest[row])[:WINDOW]
    assert set(last_looks(latest, seen).tolist()) == set(expected)
    assert len(last_looks(latest, np.zeros(500, bool))) == 0


def test_a_break_ends_a_stretch():
    pace = Pace()
    assert pace.stretch(1e9) == 0
    pace.looked(1000.0, 5.0)
    pace.looked(1100.0, 90.0)
    assert pace.stretch(1110.0) == 105.0
    assert pace.stretch(1221.0) == 0  # a break now
    pace.looked(1300.0, 4.0)
    assert pace.stretch(1300.0) == 4.0
    pace.looked(2000.0, 5000.0)  # one look, an hour long, was no look
    assert pace.stretch(2000.0) == 120.0


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def review(tmp_path, clock):
    desk = sample_desk(tmp_path, 120)
    ledger = Ledger(sample_site(tmp_path, desk).database, desk.project)
    return Review(desk, ledger, Refits(desk, tmp_path), clock=clock)


def test_counts_agree_with_a_slow_reference(review, clock):
    """Two reviewers, every action, undo: after each call the numbers are those of counting by hand."""
    desk, rng = review.desk, np.random.default_rng(5)
    live: dict[tuple[str, int], tuple[str, str, str]] = {}
    for step in range(150):
        clock.now += 3
        who = ("anna", "bo")[int(rng.integers(2))]
        row = int(rng.choice(desk.order[:12]))
        action = str(rng.choice(["keep", "relabel", "exclude", "ambiguous", "skip", "undo"]))
        name = desk.hash_of(row)
        if action == "undo":
            if (who, row) not in live:
                continue
            sent = event(name, "undo", supersedes=live.pop((who, row))[0])
        else:
            label = str(rng.choice(desk.names)) if action == "relabel" else ""
            sent = event(name, action, label=label)
            if action == "skip" and (who, row) in live and live[who, row][1] != "skip":
                continue  # a decision stays whatever is skipped afterwards
            live[who, row] = (sent["event_id"], action, label)
        answer = review.decide(who, {"events": [sent]})
        assert answer["accepted"] == [sent["event_id"]], (step, answer)
        # an undo uncovers what the same reviewer said before, so follow the ledger's own fold for the truth
        truth = {key[0]: verdict for key, verdict in review.ledger.verdicts().items()}
        judged = {item: one for item, one in truth.items() if not one.conflict}
        rows = {desk.row_of(item): one for item, one in judged.items()}
        suspects = {row: one for row, one in rows.items() if not desk.controls[row]}
        wrong = [row for row, one in suspects.items() if one.action in ("relabel", "exclude")]
        told = answer["progress"]
        assert told["reviewed"] == len(rows)
        assert told["hits"] == len(wrong)
        assert told["conflicts"] == sum(one.conflict for one in truth.values())
        assert told["controls"]["reviewed"] == len(rows) - len(suspects)
        if suspects:
            assert told["hit_rate"]["estimate"] == pytest.approx(len(wrong) / len(suspects))
        by_name = {one["name"]: one["reviewed"] for one in told["reviewers"]}
        for name_, count in by_name.items():
            assert count == sum(any(e.reviewer == name_ for e in one.events) for one in truth.values())


def test_a_fresh_history_of_the_same_events_says_the_same(review, clock):
    desk, rng = review.desk, np.random.default_rng(6)
    sent = []
    for _ in range(200):
        clock.now += 1
        who = ("anna", "bo", "chen")[int(rng.integers(3))]
        action = str(rng.choice(["keep", "exclude", "skip", "ambiguous"]))
        batch = "00000000-0000-4000-8000-00000000000" + str(rng.integers(3)) if rng.random() < 0.3 else ""
        one = event(desk.hash_of(int(rng.choice(desk.order))), action, batch=batch)
        assert review.decide(who, {"events": [one]})["accepted"]
        sent.append((who, one))
        if rng.random() < 0.2:
            who, one = sent[int(rng.integers(len(sent)))]
            undo = {"batch": one["batch"]} if one["batch"] else {"supersedes": one["event_id"]}
            assert review.decide(who, {"events": [event(one["item"], "undo", **undo)]})["accepted"]
    again = History(desk, review.ledger)
    for name in ("action", "conflict", "latest", "deciders", "back", "pair_action"):
        assert np.array_equal(getattr(again, name), getattr(review.history, name)), name
    for who in ("anna", "bo", "chen"):
        assert np.array_equal(again.looks(who), review.history.looks(who)), who
        ours, theirs = (progress(desk, one, who, now=clock.now).as_dict() for one in (again, review.history))
        assert ours == theirs


def test_the_whole_interval_narrows_and_holds_the_truth(tmp_path, clock):
    right = np.arange(200) % 4
    given = right.copy()
    wrong = np.random.default_rng(2).permutation(200)[:40]
    given[wrong] = (right[wrong] + 1) % 4
    desk = make_desk(tmp_path / "p", right, given, size=(8, 8))
    review = Review(
        desk, Ledger(sample_site(tmp_path, desk).database, desk.project), Refits(desk, tmp_path), clock=clock
    )
    widths = []
    for row in desk.order.tolist():
        true = desk.names[right[row]]
        said = event(desk.hash_of(row), "keep") if right[row] == given[row] else None
        said = said or event(desk.hash_of(row), "relabel", label=true)
        told = review.decide("anna", {"events": [said]})["progress"]["error_rate"]
        if told is not None:
            assert told["low"] - 1e-9 <= 0.2 <= told["high"] + 1e-9
            widths.append(told["high"] - told["low"])
    assert widths[-1] < widths[0]
