from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from regraft import terminal
from regraft.progress import Listener, Stopwatch
from regraft.terminal import TerminalListener


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(terminal.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def plain() -> TerminalListener:
    return TerminalListener(Console(file=io.StringIO(), width=200, soft_wrap=True))


def drawn(width: int = 200) -> TerminalListener:
    return TerminalListener(Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None))


def output(listener: TerminalListener) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", listener.console.file.getvalue())  # type: ignore[attr-defined]


def row(epoch: float, macro_f1: float | None = 0.5) -> dict[str, float | None]:
    return {
        "step": 10, "epoch": epoch, "train/loss": 1.25, "val/loss": 0.5, "val/accuracy": 0.75, "val/macro_f1": macro_f1,
        "lr": 7.5e-4, "images_per_second": 213.4, "seconds": 9.0,
    }  # fmt: skip


def train(listener: Listener, clock: Clock, *, epochs: int = 30, steps: int = 10, seconds: float = 1.0) -> None:
    """What the training loop tells; each step and each evaluation takes `seconds`."""
    for epoch in range(epochs):
        listener.stage_began(f"epoch {epoch + 1}/{epochs}")
        for step in range(steps):
            clock.now += seconds
            listener.stepped(epoch * steps + step + 1, epochs * steps, 2.0, 213.4)
            listener.progress(step + 1, steps)
            if isinstance(listener, TerminalListener) and listener._bars is not None:
                listener._bars.refresh()
        listener.stage_ended(f"epoch {epoch + 1}/{epochs}", steps * seconds)
        clock.now += seconds
        listener.epoch(row(epoch + 1), epochs, metric="val/macro_f1", is_best=epoch == 0)


def test_a_fit_of_thirty_epochs_is_thirty_plain_lines(clock: Clock) -> None:
    listener = plain()
    with Stopwatch(listener).stage("train"):
        train(listener, clock, seconds=25.0)
    lines = output(listener).splitlines()
    assert len(lines) == 31
    assert lines[-1].startswith("train ")
    for number, line in enumerate(lines[:30]):
        assert line.startswith(f"epoch {number + 1:>2}/30  train/loss 1.2500  val/loss 0.5000  val/macro_f1 0.5000  lr")


def test_a_plain_line_says_pace_time_left_and_what_is_best(clock: Clock) -> None:
    listener = plain()
    train(listener, clock, epochs=2, steps=4)
    first, last = output(listener).splitlines()
    # Three steps and an evaluation took 4 s since the first step; four steps are left.
    assert first.endswith("lr 7.5e-04  213 images/s  5.0 s  5 s left  best")
    assert last.endswith("lr 7.5e-04  213 images/s  5.0 s")


def test_an_epoch_of_an_hour_says_where_it_is_now_and_then(clock: Clock) -> None:
    listener = plain()
    train(listener, clock, epochs=1, steps=3600)
    lines = output(listener).splitlines()
    assert len(lines) == 12
    assert lines[0] == "epoch 1/1: 300 of 3,600, loss 2.0000, 55 min 0 s left, 213 images/s"


def test_a_fit_that_ends_within_an_epoch_and_numbers_that_are_not_finite(clock: Clock) -> None:
    listener = plain()
    listener.epoch(row(2.35, None), 10, metric="val/macro_f1", is_best=False)
    assert output(listener).startswith("epoch 2.4/10  train/loss 1.2500  val/loss 0.5000  val/macro_f1 not finite")


def test_a_second_training_begins_its_own_time(clock: Clock) -> None:
    listener = plain()
    train(listener, clock, epochs=1, steps=10, seconds=100.0)
    train(listener, clock, epochs=2, steps=10, seconds=1.0)
    assert "11 s left" in output(listener).splitlines()[-2]


def test_other_stages_say_where_they_are_every_ten_seconds(clock: Clock) -> None:
    listener = plain()
    with Stopwatch(listener).stage("extract"):
        listener.progress(0, 100)
        for done in range(1, 26):
            clock.now += 1.0
            listener.progress(done, 100)
    first, second, last = output(listener).splitlines()
    assert first == "extract: 10 of 100, 1.0 images/s, 1 min 30 s left"
    assert second.startswith("extract: 20 of 100")
    assert last.startswith("extract ")


def test_a_terminal_shows_one_bar_with_loss_pace_and_time_left(clock: Clock) -> None:
    listener = drawn()
    train(listener, clock, epochs=2, steps=4)
    shown = output(listener)
    assert " 2 of 4  loss 2.0000  6 s left  213 images/s" in shown
    assert "3 of 4  loss 2.0000  1 s left  val/macro_f1 0.5000  213 images/s" in shown
    assert "evaluating" in shown
    assert sum(line.lstrip("\r").startswith("epoch 1/2  train/loss") for line in shown.splitlines()) == 1
    assert listener._bars is None


def test_a_narrow_terminal_leaves_out_what_it_has_no_room_for(clock: Clock) -> None:
    listener = drawn(width=60)
    train(listener, clock, epochs=2, steps=4)
    assert "3 of 4  loss 2.0000" in output(listener)
    bars = [line for line in re.split(r"[\r\n]", output(listener)) if "━" in line]
    assert max(map(len, bars)) <= 60


def test_stages_within_stages_and_an_interrupt_leave_no_bar_behind(clock: Clock) -> None:
    listener = drawn()
    watch = Stopwatch(listener)

    def interrupted() -> None:
        with watch.stage("train"):
            with watch.stage("prefix"):
                listener.progress(1, 2)
            listener.stage_began("epoch 1/2")
            listener.stepped(1, 4, 2.0, 10.0)
            listener.progress(1, 2)
            listener.stage_ended("epoch 1/2", 1.0)
            assert listener._bars is not None  # it evaluates
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listener._bars is None
    assert "prefix " in output(listener)


def test_the_bar_is_not_drawn_at_every_step(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = drawn()
    calls: list[str] = []
    monkeypatch.setattr(listener, "_draw", lambda name, *args, **words: calls.append(name))
    listener.stage_began("epoch 1/1")
    for step in range(1000):
        clock.now += 0.001
        listener.stepped(step + 1, 1000, 2.0, 10.0)
        listener.progress(step + 1, 1000)
    assert 10 <= len(calls) <= 15


def test_the_base_is_deaf() -> None:
    Listener().stepped(1, None, 0.5, 10.0)
    Listener().epoch(row(1), 3, metric="val/macro_f1", is_best=True)
