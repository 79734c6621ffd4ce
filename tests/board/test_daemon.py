"""`regraft up`, `status`, `logs`, `down`, with real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from background import REGRAFT, User, part, until
from review_samples import sample_desk

from regraft.board.daemon import ask, chosen, forward_line
from regraft.board.health import is_taken
from regraft.board.processes import identify, lives, signal_to
from regraft.board.review.prepare import keep
from regraft.board.review.texts import Texts
from regraft.board.serving import prepared
from regraft.board.state import Part, place_of, places
from regraft.data import data_version
from regraft.errors import RegraftError, UsageError
from regraft.pipeline import read
from regraft.progress import Listener

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user whose board and TensorBoard are up; tests look at them and change nothing."""
    from regraft.tracking.tensorboard import TensorBoard

    user = User(tmp_path_factory.mktemp("ann"))
    TensorBoard(user.runs / "shapes" / "1" / "tensorboard").log_metrics({"val/accuracy": 0.5}, 1)
    user.call("up", "--runs-dir", user.runs)
    yield user
    user.tidy()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A user with nothing up, and nothing left up."""
    found = User(tmp_path / "user")
    yield found
    found.tidy()


def fetched(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return bytes(answer.read())


def test_both_parts_answer_over_the_run_folders(ann):
    status = ann.status()
    assert status["healthy"], status
    assert json.loads(fetched(part(status)["address"] + "healthz"))["pid"] == part(status)["pid"]
    tensorboard = part(status, "tensorboard")["address"]
    assert json.loads(fetched(tensorboard + "data/environment"))["data_location"] == str(ann.runs)
    until(lambda: "shapes/1/tensorboard" in json.loads(fetched(tensorboard + "data/runs")), "TensorBoard has no runs")


def test_status_says_what_a_script_needs(ann):
    status = ann.status()
    assert status["runs_dir"] == str(ann.runs)
    assert lives(identify(status["supervisor"]["pid"]))
    for one in status["parts"]:
        assert one["memory_bytes"] > 10_000_000
        assert one["healthy"]
        assert one["why"] == ""
        assert status["supervisor"]["since"] <= one["since"] + 1
    shown = ann.call("status").stdout
    assert all(one["address"] in shown and str(one["pid"]) in shown for one in status["parts"])
    ports = [one["address"].rstrip("/").rpartition(":")[2] for one in status["parts"]]
    assert all(f"-L {port}:127.0.0.1:{port}" in status["forward"] for port in ports)


def test_a_second_up_finds_the_first(ann):
    first = ann.status()
    again = ann.up()
    assert again["already_up"]
    assert [one["pid"] for one in again["parts"]] == [one["pid"] for one in first["parts"]]
    words = ann.call("up", "--runs-dir", ann.runs).stdout
    assert all(one["address"] in words for one in first["parts"])
    assert "it was up before" in words


def test_logs(ann):
    assert "up at 127.0.0.1" in ann.call("logs", "--part", "supervisor").stdout
    everything = ann.call("logs", "--lines", 3).stdout
    assert "--- tensorboard" in everything
    follower = subprocess.Popen(
        [*REGRAFT, "logs", "--follow", "--part", "board", "--lines", "0"], env=ann.env, cwd=ann.home, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "\n"  # no lines so far; from here on it follows
        log = ann.folder / "board.log"
        with log.open("a") as file:
            file.write("somebody said this\n")
        assert follower.stdout.readline() == "somebody said this\n"
    finally:
        follower.kill()
        follower.communicate()


def test_nobody_else_reads_the_state(ann):
    assert ann.folder.stat().st_mode & 0o777 == 0o700
    for name in ("asked.json", "state.json", "board.log"):
        assert (ann.folder / name).stat().st_mode & 0o077 == 0, name


def test_no_terminal_and_no_session_in_common(ann):
    for pid in [ann.status()["supervisor"]["pid"], *(one["pid"] for one in ann.status()["parts"])]:
        fields = Path(f"/proc/{pid}/stat")
        if not fields.exists():
            pytest.skip("needs /proc")
        _, _, _, session, terminal = fields.read_text().rpartition(")")[2].split()[:5]
        assert int(session) == pid
        assert terminal == "0"
        assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")


def test_two_users_do_not_meet(ann, user):
    before = ann.status()
    other = user.up("--no-tensorboard")
    mine = {one["address"] for one in before["parts"]}
    assert not mine & {one["address"] for one in other["parts"]}
    assert "nothing is up" in User(user.home / "third").call("down").stdout
    assert len(json.loads(user.call("status", "--json").stdout)) == 1
    pids = json.loads(user.call("down", "--json").stdout)["ended"]
    assert sorted(pids) == sorted([other["supervisor"]["pid"], part(other)["pid"]])
    after = ann.status()
    assert [one["pid"] for one in after["parts"]] == [one["pid"] for one in before["parts"]]
    assert after["healthy"]


def test_two_ups_at_the_same_time_start_one(user):
    words = [*REGRAFT, "up", "--runs-dir", str(user.runs), "--no-tensorboard", "--json"]
    both = [
        subprocess.Popen(words, env=user.env, cwd=user.home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    found = [json.loads(one.communicate(timeout=200)[0]) for one in both]
    assert sorted(one["already_up"] for one in found) == [False, True]
    assert part(found[0])["pid"] == part(found[1])["pid"]
    everything = [found[0]["supervisor"]["pid"], part(found[0])["pid"]]
    processes = [identify(pid) for pid in everything]
    assert json.loads(user.call("down", "--json").stdout)["ended"]
    assert not any(lives(process) for process in processes)
    assert user.call("status", check=False).returncode == 1
    assert user.call("down").stdout == "nothing is up\n"
    assert not list(user.folder.glob("*.json"))


def test_a_board_that_does_not_come_up(user):
    user.runs.mkdir()
    (user.runs / "regraft.db").write_bytes(b"no database" * 1000)
    done = user.call("up", "--runs-dir", user.runs, check=False)
    assert done.returncode == 1
    assert "the board must come up and did not" in done.stderr
    assert "not a database" in done.stderr  # the end of its log
    assert "nothing is up" in user.call("status", check=False).stderr
    assert (user.runs / "regraft.db").read_bytes() == b"no database" * 1000


def test_a_token_for_others(user):
    status = user.up("--token", "--no-tensorboard")
    address, _, token = part(status)["address"].partition("#token=")
    assert len(token) >= 32
    with pytest.raises(urllib.error.HTTPError, match="401"):
        fetched(address + "who")
    asked = urllib.request.Request(address + "who", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 200
    for process in [status["supervisor"]["pid"], part(status)["pid"]]:  # `ps` shows these to everybody
        assert token not in Path(f"/proc/{process}/cmdline").read_text()
    assert token not in user.logs()
    assert (user.folder / "token").stat().st_mode & 0o077 == 0
    user.tidy()
    assert part(user.up("--token", "--no-tensorboard"))["address"].endswith(f"#token={token}"), "bookmarks stay good"
    user.tidy()
    (user.folder / "token").write_text("short")
    assert part(user.up("--token", "--no-tensorboard"))["address"].partition("#token=")[2] not in (token, "short")


def test_the_review_is_there_where_an_audit_was_prepared_for_these_images(user):
    photos, cache = user.home / "photos", user.home / "cache"
    desk = sample_desk(user.home, 12)
    found = read(photos, cache_dir=cache).manifest
    listener = Listener()
    assert prepared(photos, cache, listener) is None
    of_these = replace(desk, version=data_version(found), paths=Texts.of(found.images.tolist()))
    older, newer = (cache / "review" / f"{of_these.version}-{name}" / "desk.safetensors" for name in ("b", "a"))
    keep(of_these, older)
    os.utime(older, (1, 1))
    keep(of_these, newer)
    keep(desk, cache / "review" / "0123456789ab-a" / "desk.safetensors")  # of other images, and the newest
    renamed = cache / "review" / f"{of_these.version}-c" / "desk.safetensors"
    keep(replace(of_these, paths=desk.paths), renamed)  # of the same images under other names
    assert prepared(photos, cache, listener) == newer

    status = user.up(photos, "--no-tensorboard")
    assert status["review"]
    with urllib.request.urlopen(part(status)["address"], timeout=30) as answer:
        assert answer.url.endswith("/review")
    user.tidy()
    (photos / "dog & <b>wolf<_b>" / "new.png").write_bytes(next(photos.rglob("*.png")).read_bytes() + b"x")
    assert prepared(photos, cache, listener) is None
    told = user.call("up", photos, "--runs-dir", user.runs, "--no-tensorboard").stdout
    assert "no review: no audit" in told


@pytest.fixture
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_asked_is_checked(own_state):
    free = {"runs_dir": own_state / "runs", "cache_dir": own_state / "cache"}
    assert ask(**free).token is None
    assert ask(**free).tensorboard_host == "127.0.0.1"
    everybody = ask(**free, host="0.0.0.0")
    assert everybody.token is not None
    assert everybody.tensorboard_host == "127.0.0.1"  # it would show the runs to everybody
    assert ask(**free, host="0.0.0.0", tensorboard=True).tensorboard_host == "0.0.0.0"
    assert not ask(**free, tensorboard=False).tensorboard
    with pytest.raises(UsageError, match="must exist"):
        ask(**free, data=own_state / "none")
    with pytest.raises(UsageError, match="needs a token"):
        ask(**free, host="0.0.0.0", token=False)
    with pytest.raises(UsageError, match="port"):
        ask(**free, port=70_000)
    with pytest.raises(UsageError, match="address of this machine"):
        ask(**free, host="192.0.2.1")


def test_a_port_that_is_taken(user):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert is_taken("127.0.0.1", taken)
        done = user.call("up", "--runs-dir", user.runs, "--port", taken, check=False)
    assert done.returncode == 2
    assert f"{taken} of 127.0.0.1 is taken" in done.stderr
    assert not list((user.home / "state").rglob("*.json"))


def test_which_one_is_meant(own_state):
    with pytest.raises(RegraftError, match="nothing is up"):
        chosen(None)
    for name in ("a", "b"):
        place = place_of(own_state / name)
        place.make()
        place.ask(ask(runs_dir=own_state / name, cache_dir=own_state))
    assert len(places()) == 2
    with pytest.raises(UsageError, match="several"):
        chosen(None)
    assert chosen(own_state / "a").folder == place_of(Path("a")).folder
    with pytest.raises(RegraftError, match="nothing is up for"):
        chosen(own_state / "c")
    place_of(own_state / "b").forget()
    assert chosen(None).folder == place_of(own_state / "a").folder


def test_a_state_folder_of_somebody_else(own_state, monkeypatch):
    place = place_of(own_state / "a")
    monkeypatch.setattr("os.geteuid", lambda: 12_345)
    with pytest.raises(RegraftError, match="belongs to user"):
        place.make()


def test_the_line_for_another_machine(monkeypatch):
    parts = [Part(name="board", host="127.0.0.1", port=8765), Part(name="tensorboard", host="0.0.0.0", port=6006)]
    monkeypatch.setenv("SSH_CONNECTION", "203.0.113.9 50000 198.51.100.7 2222")
    line = forward_line(parts)
    assert line.startswith("ssh -p 2222 -L 8765:127.0.0.1:8765 ")
    assert line.endswith("@198.51.100.7")
    assert "6006" not in line
    assert forward_line(parts[1:]) == ""


def test_a_number_that_is_used_again_is_another_process():
    with subprocess.Popen(["sleep", "1000"]) as child:
        process = identify(child.pid)
        assert process is not None
        assert lives(process)
        stranger = type(process)(pid=process.pid, birth="another", since=process.since)
        assert not lives(stranger)
        assert not signal_to(stranger, 9)
        assert child.poll() is None
        assert signal_to(process, 9)
        until(lambda: not lives(process), "a killed process lives")  # nobody has waited for it yet
        assert child.wait() == -9
    assert not signal_to(process, 9)
    assert not lives(None)
