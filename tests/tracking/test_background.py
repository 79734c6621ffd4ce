from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from regraft.tracking import background
from regraft.tracking.background import Background
from regraft.tracking.base import Status, Tracker


class Service(Tracker):
    """Keeps what it is told; fails, or waits, where a test says so."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.fails = 0
        self.poison: float | None = None
        self.status: Status | None = None

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.reached.set()
        self.gate.wait(60)
        if self.fails:
            self.fails -= 1
            raise ConnectionError("no\nroute")
        if step == self.poison:
            raise ValueError("never this one")
        self.told.append((dict(metrics), step))

    def log_settings(self, settings: Any) -> None:
        self.told.append("settings")

    def flush(self) -> None:
        self.told.append("flush")

    def close(self, status: Status = "finished") -> None:
        self.status = status


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(background, "PAUSES", (0.001,) * 6)
    monkeypatch.setattr(background, "EVERY_SECONDS", 0.001)
    return Service()


def told_by(service: Service, said: list[str], **options: Any) -> Background:
    return Background("it", lambda say: service, said.append, kept="there", **options)


def test_everything_is_told_in_order_by_a_thread_and_flushed_before_the_end(service: Service) -> None:
    said: list[str] = []
    queue = told_by(service, said)
    queue.log_settings({})
    for step in range(50):
        queue.log_metrics({"a": step}, step)
    queue.close("failed", seconds=60)
    queue.log_metrics({"a": 0.0}, 99)  # nothing after the end
    told = [row for row in service.told if row != "flush"]
    assert told == ["settings", *(({"a": step}, step) for step in range(50))]
    assert service.told[-1] == "flush"
    assert service.status == "failed"
    assert service.threads == {"tracker it"}
    assert said == []


def test_what_comes_while_the_queue_is_full_is_left_out_and_said_once(service: Service) -> None:
    service.gate.clear()
    said: list[str] = []
    queue = told_by(service, said, most=10)
    queue.log_metrics({"a": 0.0}, 0)
    assert service.reached.wait(60)
    for step in range(1, 31):
        queue.log_metrics({"a": 0.0}, step)
    queue.log_settings({})  # told once and never again: it waits, whatever the length of the queue
    assert len(said) == 1
    assert "it does not keep up" in said[0]
    assert "there" in said[0]
    service.gate.set()
    queue.close(seconds=60)
    assert [row[1] for row in service.told if isinstance(row, tuple)] == list(range(11))
    assert "settings" in service.told
    assert len(said) == 2
    assert "20 of 33 calls" in said[1]


def test_a_service_that_never_answers_is_left_at_the_end(service: Service) -> None:
    service.gate.clear()
    said: list[str] = []
    queue = told_by(service, said, slow_seconds=0.0)
    queue.log_metrics({"a": 0.0}, 0)
    assert service.reached.wait(60)
    queue.log_metrics({"a": 0.0}, 1)
    queue.log_metrics({"a": 0.0}, 2)
    assert len(said) == 1
    assert "does not answer" in said[0]
    queue.close(seconds=0.01)
    assert len(said) == 2
    assert "it: 4 of 4 calls were not sent in time; all is in there" in said[1]
    service.gate.set()
    assert queue.is_done_within(60)


def test_a_service_that_comes_back_has_everything(service: Service) -> None:
    service.fails = 4
    said: list[str] = []
    queue = told_by(service, said)
    for step in range(5):
        queue.log_metrics({"a": 0.0}, step)
    while service.fails:
        pass
    queue.close(seconds=60)
    assert [row[1] for row in service.told if isinstance(row, tuple)] == [0, 1, 2, 3, 4]
    assert len(said) == 1
    assert "it failed and is tried again" in said[0]
    assert said[0].endswith("(ConnectionError: no)")


def test_one_call_that_always_fails_does_not_take_the_others_along(service: Service) -> None:
    service.poison = 2
    said: list[str] = []
    queue = told_by(service, said)
    for step in range(5):
        queue.log_metrics({"a": 0.0}, step)
    queue.close(seconds=60)
    assert [row[1] for row in service.told if isinstance(row, tuple)] == [0, 1, 3, 4]
    assert len(said) == 2
    assert "1 of 6 calls were not sent; all" in said[1]


def test_a_service_that_cannot_be_opened_costs_two_sentences(service: Service) -> None:
    def never(say: Callable[[str], None]) -> Tracker:
        raise OSError("refused")

    said: list[str] = []
    queue = Background("it", never, said.append, kept="there")
    for step in range(3):
        queue.log_metrics({"a": 0.0}, step)
    queue.close(seconds=60)
    assert queue.is_done_within(0)
    assert len(said) == 2
    assert "refused" in said[0]
    assert "it: 4 of 4 calls were not sent" in said[1]


def test_what_a_service_says_is_said_by_the_thread_that_tells(service: Service) -> None:
    threads: list[str] = []

    def opened(say: Callable[[str], None]) -> Tracker:
        say("hello")
        return service

    queue = Background("it", opened, lambda text: threads.append(threading.current_thread().name), kept="there")
    queue.close(seconds=60)
    assert threads == [threading.main_thread().name]
