"""`regraft review` as a command: the audit, the page, a second start without an audit, wrong usage."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from conftest import stranger
from drawn import draw_folder

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from studies.studies_fake import backbone
import regraft.models.backbones as backbones, regraft.auditing as auditing
found = backbone("colours", noise=0.01, width=4)
backbones.resolve = auditing.resolve = lambda name, **_: found
from regraft.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Running:
    """The verb in a process of its own, until its address is printed."""

    def __init__(self, *words: object) -> None:
        program = PROGRAM.format(tests=str(Path(__file__).parents[1]))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "review", *map(str, words)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("review: "):
                break
        found = re.search(r"review: (http://[^#\n]*)(#token=(\S+))?", "".join(self.lines))
        assert found is not None, self.stop()
        self.address, self.token = found[1], found[3]

    def get(self, path: str, **headers: str):
        request = urllib.request.Request(self.address + path, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("REGRAFT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return draw_folder(tmp_path / "shapes", classes=("blau", "고양이", "قطة"), per_class=12)


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_from_the_folder_to_the_page_and_again(data):
    before = contents(data)
    first = Running(data, "--no-browser", "--reviewer", "Änne", "--port", 18_765)
    try:
        told = first.get("api/review/progress")
        assert told["reviewed"] == 0
        assert first.get("api/review/queue?state=all&limit=1")["total"] == 36
        assert first.get("api/session")["reviewer"] == "Änne"
    finally:
        code, out, err = first.stop()
    assert code == 0, err
    assert "next: regraft fit" in out
    assert "labels" in err
    second = Running(data, "--no-browser", "--port", 18_765, "--token")
    try:
        assert second.token
        with pytest.raises(urllib.error.HTTPError, match="401"):
            second.get("api/review/progress")
        told = second.get("api/review/progress", authorization=f"Bearer {second.token}")
        assert told["left"] == second.get("api/review/queue", authorization=f"Bearer {second.token}")["left"]
    finally:
        code, _, err = second.stop(signal.SIGTERM)
    assert code == 0, err
    assert "nothing changed since the last audit" in err
    assert contents(data) == before
    assert (data.parent / "runs" / "regraft.db").is_file()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere",), 3, "nowhere"),
        (("shapes", "--host", "0.0.0.0", "--no-token"), 2, "needs a token"),
        (("shapes", "--reviewer", "x" * 81), 2, "name"),
        (("shapes", "--folds", "1"), 2, "folds"),
        (("shapes", "--database", "mysql://anna:secret@x/y"), 2, "mysql"),
        (("shapes", "--host", "203.0.113.7"), 2, "203.0.113.7"),
    ],
)
def test_wrong_usage_is_said_before_any_audit(data, words, code, said):
    answer = stranger("review", "--no-browser", *words, cwd=data.parent)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert answer.err.splitlines()[-1].startswith("regraft: ")
    assert "Traceback" not in answer.err
    assert not (data.parent / "runs" / "regraft.db").exists()
