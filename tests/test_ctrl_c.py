"""Ctrl-C at every moment of a command, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from regraft.cli.ctrl_c import CODE, INTERRUPTED, PATIENCE, CtrlC

CLEARING_UP = """
import os, signal, sys, time
import regraft.cli as cli
def work(words):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("clearing up", flush=True)
        end = time.monotonic() + {seconds}
        while time.monotonic() < end:
            time.sleep(0.01)
        print("cleared up", flush=True)
cli._run = work
sys.exit(cli.main(["fit"]))
"""


def _started(seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLEARING_UP.format(seconds=seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def test_further_ones_do_not_interrupt_the_clearing_up():
    process = _started(0.3)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "clearing up\n"
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("cleared up\n", f"regraft: {INTERRUPTED}\n", CODE)


def test_who_presses_again_later_does_not_wait():
    process = _started(3600)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "clearing up\n"
    time.sleep(PATIENCE + 0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err.strip(), process.returncode) == ("", f"regraft: {INTERRUPTED}", CODE)


def test_a_training_that_waits_for_its_step_hears_the_second_as_the_first():
    from regraft.fit.faults import Interruption

    with CtrlC() as ctrl_c, Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal == signal.SIGINT
        assert ctrl_c.first is None
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # and the third does not disturb
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_what_was_there_is_put_back():
    with CtrlC():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_one_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with CtrlC():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
