"""What happens to a background board: a terminal hung up, kill -9, numbers used again, a full disk, a restart."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from background import REGRAFT, WAIT, User, part, until

from regraft.board import supervisor as supervising
from regraft.board.logs import follow, rotate, tail
from regraft.board.processes import identify, lives
from regraft.board.state import Asked, Place
from regraft.board.supervisor import LONGEST_PAUSE, Supervisor, pause
from regraft.errors import RegraftError


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A user with nothing up, and nothing left up."""
    found = User(tmp_path / "user")
    yield found
    found.tidy()


def test_the_terminal_is_hung_up(user):
    """As when a window is closed or ssh breaks: the kernel sends SIGHUP to all that the terminal has."""
    regraft = shlex.join([*REGRAFT, "up", "--runs-dir", str(user.runs), "--no-tensorboard"])
    terminal, inside = pty.openpty()
    controlling = (
        "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execvp('sh', sys.argv[1:])"  # nohup would have it ignored
    )
    shell = subprocess.Popen(
        [sys.executable, "-c", controlling, "sh", "-c", f"{regraft}; echo ready; sleep 1000"], env=user.env,
        cwd=user.home, stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    try:
        said = b""
        while b"ready" not in said:
            said += os.read(terminal, 4096)
        assert b"http://127.0.0.1:" in said
        assert shell.poll() is None
        before = user.status()
    finally:
        os.close(terminal)  # hung up
    try:
        assert shell.wait(WAIT) == -signal.SIGHUP
    finally:
        shell.kill()
        shell.wait()
    after = user.status()
    assert after["healthy"], after
    assert after["supervisor"] == before["supervisor"]
    assert part(after)["pid"] == part(before)["pid"]


def test_kill_9_of_each_part(user):
    before = user.up()
    for name in ("board", "tensorboard"):
        killed = part(before, name)
        os.kill(killed["pid"], signal.SIGKILL)
        again = user.wait(
            lambda now, name=name, killed=killed: now["healthy"] and part(now, name)["pid"] != killed["pid"]
        )
        assert part(again, name)["address"] == killed["address"]
        assert again["supervisor"] == before["supervisor"]
    assert "ended by SIGKILL; started again" in user.call("logs", "--part", "supervisor").stdout

    before = user.status()
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    after = user.wait(lambda now: now["healthy"] and now["supervisor"]["pid"] != before["supervisor"]["pid"])
    assert [one["pid"] for one in after["parts"]] == [one["pid"] for one in before["parts"]], "they ran on"

    os.kill(part(after)["pid"], signal.SIGKILL)  # which the new one looks after as the old one did
    user.wait(lambda now: now["healthy"] and part(now)["pid"] != part(after)["pid"])


def test_all_killed_at_once_then_up_again(user):
    before = user.up("--no-tensorboard")
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    os.kill(part(before)["pid"], signal.SIGKILL)
    dead = user.call("status", check=False)
    assert dead.returncode == 1
    assert "regraft up again" in dead.stdout
    again = user.up("--no-tensorboard")
    assert not again["already_up"]
    assert again["healthy"]
    assert part(again)["address"] == part(before)["address"], "bookmarks stay good"


def test_numbers_that_other_processes_have_got(user):
    """The state says a supervisor and a board that are somebody else's by now: they are left alone."""
    up = user.up("--no-tensorboard")
    ours = [identify(up["supervisor"]["pid"]), identify(part(up)["pid"])]
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(subprocess.Popen(["sleep", "1000"], start_new_session=True)) for _ in ours]
        try:
            state = user.state()
            state["supervisor"]["pid"] = others[0].pid
            state["parts"]["board"]["process"]["pid"] = others[1].pid
            (user.folder / "state.json").write_text(json.dumps(state))
            assert user.call("status", check=False).returncode == 1
            assert json.loads(user.call("down", "--json").stdout)["ended"] == []
            assert [other.poll() for other in others] == [None, None]
            assert not any(lives(process) for process in ours)  # it saw by itself that it is not wanted any more
        finally:
            for other in others:
                other.kill()


def test_a_damaged_state(user):
    up = user.up("--no-tensorboard")
    ours = [identify(up["supervisor"]["pid"]), identify(part(up)["pid"])]
    (user.folder / "state.json").write_text('{"supervisor": {"pid"')
    done = user.call("status", check=False)
    assert done.returncode == 1
    assert "regraft down stops what belongs to it" in done.stderr
    user.call("down")
    assert not any(lives(process) for process in ours)
    assert not list(user.folder.glob("*.json"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk):
    """The board goes on, what dies comes back with pauses, and status says what is the matter."""
    user = User(small_disk)
    try:
        before = user.up("--no-tensorboard")
        with contextlib.suppress(OSError), (small_disk / "photos.zip").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        full = user.status()
        assert full["healthy"], full
        assert any("nothing can be written" in note and "No space left" in note for note in full["notes"])
        assert any("the disk of the runs folder is full" in note for note in full["notes"])
        os.kill(part(before)["pid"], signal.SIGKILL)
        until(lambda: not user.status()["healthy"], "a killed board is well")
        (small_disk / "photos.zip").unlink()
        after = user.wait(lambda now: now["healthy"])
        assert after["notes"] == []
        assert after["supervisor"] == before["supervisor"]
        assert part(after)["pid"] != part(before)["pid"]
        assert user.call("down").stdout == "2 processes ended\n"
    finally:
        user.tidy()


def test_nothing_can_be_written_at_all(user):
    """A limit on the size of files stands for a full disk where mounting one is not allowed."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("needs prlimit")
    before = user.up("--no-tensorboard")
    everything = [before["supervisor"]["pid"], part(before)["pid"]]
    kept = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in everything}
    for pid, (_, most) in kept.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
    assert user.status()["healthy"]
    os.kill(part(before)["pid"], signal.SIGKILL)
    until(lambda: user.status()["parts"][0]["why"], "a killed board is well")
    supervisor = before["supervisor"]["pid"]
    resource.prlimit(supervisor, resource.RLIMIT_FSIZE, kept[supervisor])  # there is room again
    after = user.wait(lambda now: now["healthy"])
    assert after["supervisor"] == before["supervisor"]
    assert part(after)["pid"] != part(before)["pid"]
    assert user.state()["parts"]["board"]["ended"] < 10, "no crash loop"


def script(folder: Path, text: str) -> list[str]:
    path = folder / f"{abs(hash(text))}.py"
    path.write_text(text)
    return [sys.executable, "-S", str(path)]


@contextlib.contextmanager
def supervised(folder: Path, commands, port: int | None = None) -> Iterator[Place]:
    """A supervisor in a thread."""
    place = Place(folder / "state")
    place.make()
    place.ask(Asked(runs_dir=str(folder / "runs"), cache_dir=str(folder / "cache"), port=port))
    found = Supervisor(
        place, Asked(runs_dir=str(folder / "runs"), cache_dir=str(folder / "cache"), port=port), commands
    )
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        yield place
    finally:
        place.forget()
        thread.join(WAIT)
        assert not thread.is_alive()
        assert place.state() is None


def of(place: Place, name: str = "board"):
    state = place.state()
    return None if state is None else state.parts.get(name)


def test_no_crash_loop(tmp_path, monkeypatch):
    """A part that ends at once is started after 1, 2, 4, … seconds; here a second is a hundredth."""
    assert [pause(ended) for ended in (1, 2, 3, 9, 10, 1000)] == [1, 2, 4, 256, LONGEST_PAUSE, LONGEST_PAUSE]
    monkeypatch.setattr(supervising, "pause", lambda ended: pause(ended) / 100)
    said = tmp_path / "starts"
    command = script(tmp_path, f"open({str(said)!r}, 'a').write('x'); raise SystemExit(7)")
    with supervised(tmp_path, {"board": lambda _: command}) as place:
        until(lambda: (found := of(place)) is not None and found.ended >= 4, "it did not end")
        part_ = of(place)
        assert part_ is not None
        assert part_.reason == "it ended with exit code 7"
        assert len(said.read_text()) <= part_.ended + 1


def test_somebody_was_quicker_with_the_port(tmp_path, monkeypatch):
    """Two users choose the same free port at the same time: the one who loses takes the next."""
    command = script(tmp_path, "import sys; sys.exit(1)")
    free = iter([False, True])  # it looks free when it is chosen; when the part has ended it is not
    monkeypatch.setattr(supervising, "is_taken", lambda host, port: port == 8765 and next(free, True))
    with supervised(tmp_path, {"board": lambda _: command}) as place:
        until(lambda: (found := of(place)) is not None and found.port == 8766, "it kept the port")


def test_a_part_that_hangs_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(supervising, "HUNG", 0.3)
    command = script(tmp_path, "import time; time.sleep(1000)")
    with supervised(tmp_path, {"board": lambda _: command}) as place:
        until(lambda: (found := of(place)) is not None and "did not answer" in found.reason, "it may hang for ever")


def test_a_command_that_is_not_there(tmp_path):
    with supervised(tmp_path, {"board": lambda _: [str(tmp_path / "none")]}) as place:
        until(lambda: (found := of(place)) is not None and "could not be started" in found.reason, "nothing said")


def test_a_child_that_ignores_sigterm_is_killed_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(supervising, "end", lambda process, patience: _end(process, 0.2))
    pids = tmp_path / "pids"
    command = script(
        tmp_path,
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '1000'])\nopen({str(pids)!r}, 'w').write(f'{{child.pid}} ')\n"
        "time.sleep(1000)",
    )
    with supervised(tmp_path, {"board": lambda _: command}) as place:
        until(lambda: pids.exists() and pids.read_text().endswith(" "), "not started")
        part_ = of(place)
        assert part_ is not None
        grandchild = identify(int(pids.read_text()))
        assert lives(part_.process)
        assert lives(grandchild)
    assert not lives(part_.process)
    until(lambda: not lives(grandchild), "what it started lives on")


def _end(process, patience):
    from regraft.board.processes import end

    return end(process, patience=patience)


def test_logs_stay_small_under_a_writer(tmp_path):
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(1000):
            writer.write(f"line {number:04d}\n".encode())
            rotate(log, most=500)
            assert log.stat().st_size <= 510
    older = log.with_name("a.log.1")
    assert older.stat().st_size <= 510
    assert older.stat().st_mode & 0o077 == 0
    assert tail(log, 30) == [f"line {number:04d}" for number in range(970, 1000)]
    assert tail(log, 0) == tail(tmp_path / "none", 5) == []


def test_following_goes_on_behind_an_emptied_log(tmp_path):
    log, ends = tmp_path / "a.log", False
    log.write_text("before\n")
    lines = follow({"a": log}, stop=lambda: ends, pause=0)
    with log.open("ab", buffering=0) as writer:
        seen = []
        thread = threading.Thread(target=lambda: seen.extend(lines))
        thread.start()
        until(thread.is_alive, "not begun")
        written = 0
        while len(seen) < 3:  # it may not have looked at the size yet
            writer.write(f"line {written}\n".encode())
            written += 1
        count = len(seen)
        rotate(log, most=0)
        until(lambda: log.stat().st_size == 0, "not emptied")
        while len(seen) <= count + written:
            writer.write(b"after\n")
        ends = True
        thread.join(WAIT)
    assert ("a", "before") not in seen
    assert seen[-1] == ("a", "after")


ODD = "my photos %h $HOME \"q\" 'x' \\ ü"


def test_the_unit_for_systemd(user):
    folder = user.home / ODD
    folder.mkdir()
    done = user.call(
        "up", folder, "--runs-dir", user.home / "runs %i", "--systemd", "--no-tensorboard",
        "--database", "postgresql://ann:secret@db/board",
    )  # fmt: skip
    assert "secret" not in done.stdout
    assert "loginctl enable-linger" in done.stdout
    unit = next((user.home / "config/systemd/user").iterdir())
    text = unit.read_text()
    assert "secret" not in text
    assert text in done.stdout
    environment = user.folder / "environment"
    assert "REGRAFT_DATABASE_URL=postgresql://ann:secret@db/board" in environment.read_text().replace('"', "")
    assert environment.stat().st_mode & 0o077 == 0
    assert "nothing is up" in user.call("status", check=False).stderr
    if shutil.which("systemd-analyze") is None:
        return
    runtime = user.home / "runtime"
    runtime.mkdir(mode=0o700)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)], capture_output=True, text=True, check=False,
        env=user.env | {"XDG_RUNTIME_DIR": str(runtime)},
    )  # fmt: skip
    assert unit.name not in verified.stderr, verified.stderr
    assert verified.returncode == 0, verified.stderr


def test_the_words_of_a_unit_arrive_as_they_were(monkeypatch):
    """systemd's own rules, undone step by step: quotes and backslashes, then % and $."""
    from regraft.board.systemd import _line

    line = _line(["regraft", ODD, "", "plain"])
    assert [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)] == ["regraft", ODD, "", "plain"]


def test_a_state_that_is_not_ours(tmp_path):
    place = Place(tmp_path)
    assert place.state() is None
    for text in ("[]", "{}", "nonsense", '{"supervisor": 1, "parts": {}}', '{"supervisor": {"pid": 1}, "parts": {}}'):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(RegraftError, match="must be as regraft up wrote it"):
            place.state()
