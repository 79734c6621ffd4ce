"""kill -9, Ctrl-C and a full disk, at moments drawn by a seeded generator: nothing is lost but the shard in hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import SIZE, borrow, stranger
from drawn import draw_folder

HERE = Path(__file__).parent

KILLER = """
# One process imports everything, then forks children that extract or fit, and kills them: 0.1 s a kill.
import json, os, random, signal, sys, time
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
import numpy as np
import pytest
from conftest import fake_backbone, numpy_engine
from regraft.data import read
from regraft.features import extract as extraction
from regraft.features.cache import verify
from regraft.features.engines import Choice

data, cache, out, kills = Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])
extraction.SHARD_IMAGES = 8
manifest = read(data).manifest
backbone = fake_backbone(num_features=8)

def run(cache, slow):
    engine = numpy_engine(chunk=2, num_threads=2, before=lambda: time.sleep(slow))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "open_engine", lambda *_, **__: engine)
        return extraction.extract(
            manifest, backbone, transform=backbone.transform, choice=Choice("torch", "fp32", "cpu", ""), cache_dir=cache
        )

def kept():
    reports = list(verify(cache))
    assert all(report.damage is None for report in reports), reports
    return sum(report.num_images for report in reports)

rng, story = random.Random(7), []
for _ in range(kills):
    before = kept()
    pid = os.fork()
    if not pid:
        run(cache, 0.004)
        os._exit(0)
    time.sleep(rng.uniform(0.0, 0.05))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    story.append((before, kept()))
last = run(cache, 0)
whole = run(out / "whole", 0)
np.save(out / "last.npy", last.values)
np.save(out / "whole.npy", whole.values)
again = run(cache, 0)
leftovers = len(list(cache.rglob("*.tmp")))
print(json.dumps({"story": story, "last": last.num_forwarded, "again": again.num_forwarded, "leftovers": leftovers}))
"""


def test_extraction_killed_40_times(tmp_path):
    data = draw_folder(tmp_path / "data", per_class=100, size=(8, 8))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, json.dumps(sys.path), data, tmp_path / "c", tmp_path, "40"],
        capture_output=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    story = found["story"]
    assert all(before <= after for before, after in story)
    assert max(after for _, after in story) > 0
    # What was in a shard is never computed again, and at most the temporary file of the shard in hand stays.
    kept = story[-1][1]
    assert found["last"] == 300 - kept
    assert found["again"] == 0
    assert found["leftovers"] <= 40
    np.testing.assert_array_equal(np.load(tmp_path / "last.npy"), np.load(tmp_path / "whole.npy"))


FIT_KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import openvino, scipy.optimize, sklearn.base, pyarrow.parquet  # not while the clock runs
from regraft.config import FitConfig
import regraft.pipeline, regraft.reporting, regraft.features.engines.openvino

data, root, kills, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = FitConfig(runs_dir=root / "runs", cache_dir=root / "cache", image_size=size, precision="fp32")
rng, ends = random.Random(3), []
for _ in range(kills):
    pid = os.fork()
    if not pid:
        regraft.pipeline.fit(data, config)
        os._exit(0)
    time.sleep(rng.uniform(0.0, 1.2))
    os.kill(pid, signal.SIGKILL)
    ends.append(os.waitpid(pid, 0)[1])
print(json.dumps(ends))
"""


@pytest.mark.real
def test_fit_killed_20_times(converted, tmp_path):
    """With the real backbone: every run folder is finished or plainly not, and a rerun gives the same result."""
    data = draw_folder(tmp_path / "data", per_class=40)
    borrow(converted, tmp_path / "cache")
    borrow(converted, tmp_path / "clean")
    words = ["fit", data, "--image-size", SIZE, "--precision", "fp32", "--json"]
    whole = json.loads(stranger(*words, "--runs-dir", tmp_path / "r", "--cache-dir", tmp_path / "clean").out)
    done = subprocess.run(
        [sys.executable, "-c", FIT_KILLER, data, tmp_path, "20", str(SIZE)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    ends = json.loads(done.stdout)
    assert len(ends) == 20
    assert ends.count(signal.SIGKILL) >= 5
    for folder in (tmp_path / "runs" / "data").iterdir():
        if (folder / "result.json").exists():
            assert json.loads((folder / "result.json").read_text("utf-8"))["metrics"] == whole["metrics"]
            assert stranger("predict", folder, data / "star" / "0000.png").code == 0
    last = stranger(*words, "--runs-dir", tmp_path / "runs", "--cache-dir", tmp_path / "cache")
    assert last.code == 0, last.err
    result = json.loads(last.out)
    assert result["metrics"] == whole["metrics"]
    predictions = [(Path(found["run"]) / "predictions.parquet").read_bytes() for found in (result, whole)]
    assert predictions[0] == predictions[1]
    features = [sorted(_features(tmp_path / name)) for name in ("cache", "clean")]
    assert features[0] == features[1]
    listed = json.loads(stranger("runs", tmp_path / "runs", "--json").out)
    assert any(row["finished"] for row in listed)


def _features(cache: Path) -> set[tuple[bytes, bytes]]:
    """(key, features) of every image in a cache."""
    from safetensors.numpy import load_file

    shards = [load_file(path) for path in cache.glob("features/*/*.safetensors")]
    return {
        (key.tobytes(), row.tobytes())
        for shard in shards
        for key, row in zip(shard["keys"], shard["features"], strict=True)
    }


INTERRUPTED = """
import itertools, sys, time
import regraft.features.extract as extraction
real, number = extraction.preprocess, itertools.count(1)
def slow(*words):
    time.sleep(0.05)
    if next(number) == 80:
        print("eighty are on their way", file=sys.stderr, flush=True)
    return real(*words)
extraction.preprocess = slow
from regraft.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("times", "pause"), [(1, 0.01), (40, 0.002)])
def test_ctrl_c_exits_130_and_keeps_what_was_computed(cache_dir, tmp_path, times, pause):
    data = draw_folder(tmp_path / "data", per_class=60)
    process = subprocess.Popen(
        [
            sys.executable, "-c", INTERRUPTED, "fit", data, "--image-size", str(SIZE), "--resize", "squash",
            "--runs-dir", tmp_path / "runs",
        ],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"eighty"):
            break
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
    out, err = process.communicate(timeout=60)
    # A further Ctrl-C while Python takes itself down is answered by the system: 130 for a shell too.
    assert process.returncode in ((130,) if times == 1 else (130, -signal.SIGINT)), err
    assert err.decode().splitlines()[-1].startswith("regraft: interrupted")
    assert b"Traceback" not in err
    assert out == b""
    kept = json.loads(stranger("cache", "list", "--json").out)
    assert 0 < sum(row["num_images"] for row in kept) < 180
    assert not list(cache_dir.glob("features/*/.*.tmp"))
    again = stranger("fit", data, "--image-size", SIZE, "--resize", "squash", "--runs-dir", tmp_path / "runs")
    assert again.code == 0
    assert f"{180 - kept[0]['num_images']:,} images through the backbone" in again.err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root mounts a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_exits_1_with_one_line(converted, trained, small_disk):
    done = stranger(
        "fit", trained.data, "--image-size", SIZE, "--runs-dir", small_disk / "runs", "--cache-dir", trained.cache
    )
    assert done.code == 1
    assert "No space left on device" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not list(small_disk.rglob("*.tmp"))


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from regraft.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [0, 20_000, 2_000_000])
def test_files_that_may_not_grow_end_in_one_line(cache_dir, trained, tmp_path, limit):
    """As a full disk, without root: of the scan's verdicts, of the shard, of the bundle."""
    words = ["fit", trained.data, "--image-size", str(SIZE), "--runs-dir", tmp_path / "runs"]
    done = subprocess.run([sys.executable, "-c", LIMITED, str(limit), *words], capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("regraft: File too large: ")
    assert not [path for path in tmp_path.rglob("*.tmp") if path.is_file()]
    again = stranger(*words)
    assert again.code == 0, again.err


def test_a_cache_that_cannot_be_written_is_named(trained, tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = stranger("fit", trained.data, "--image-size", SIZE, "--cache-dir", tmp_path / "file" / "cache", cwd=tmp_path)
    assert done.code == 1
    assert str(tmp_path / "file") in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
