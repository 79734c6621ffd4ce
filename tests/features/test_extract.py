"""Extraction with an engine of plain NumPy: what is run, what is read back, what is kept when something goes wrong."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import fake_backbone, numpy_engine
from drawn import draw_folder
from regraft.data import read
from regraft.errors import BackboneError
from regraft.features import extract as extraction
from regraft.features.cache import FeatureCache
from regraft.features.engines import Choice
from regraft.features.forward import forward_images
from regraft.images import preprocess
from regraft.types import Features, Manifest

CHOICE = Choice("torch", "fp32", "cpu", "a test")
BACKBONE = fake_backbone(num_features=8)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read(draw_folder(tmp_path / "data", per_class=9)).manifest


def run(manifest: Manifest, cache: Path, monkeypatch, backbone=BACKBONE, choice=CHOICE, **options) -> Features:
    transform = options.pop("transform", backbone.transform)
    progress = options.pop("progress", None)
    engine = options.pop("engine", None) or numpy_engine(num_features=backbone.num_features, **options)
    monkeypatch.setattr(extraction, "open_engine", lambda *_, **__: engine)
    return extraction.extract(
        manifest, backbone, transform=transform, choice=choice, cache_dir=cache, progress=progress
    )  # fmt: skip


def expected(manifest: Manifest) -> np.ndarray:
    forward = numpy_engine(num_features=8).session()
    pixels = [preprocess(manifest.path(i).read_bytes(), BACKBONE.transform) for i in range(len(manifest))]
    return forward(np.stack(pixels)).astype(np.float16)


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_values_and_second_run_forwards_nothing(manifest, tmp_path, monkeypatch, chunk, num_threads):
    heard: list[tuple[int, int]] = []
    first = run(
        manifest, tmp_path / "c", monkeypatch, chunk=chunk, num_threads=num_threads,
        progress=lambda done, total: heard.append((done, total)),
    )  # fmt: skip
    assert first.num_forwarded == 27
    assert first.values.dtype == np.float16
    np.testing.assert_array_equal(first.values, expected(manifest))
    assert heard[0] == (0, 27)
    assert heard[-1] == (27, 27)
    assert sorted(heard) == heard
    again = run(manifest, tmp_path / "c", monkeypatch)
    assert again.num_forwarded == 0
    np.testing.assert_array_equal(again.values, first.values)


def test_renamed_and_copied_images_are_hits(manifest, tmp_path, monkeypatch):
    run(manifest, tmp_path / "c", monkeypatch)
    other = tmp_path / "other"
    shutil.copytree(manifest.root, other)
    (other / "circle" / "0000.png").rename(other / "star" / "renamed.png")
    shutil.copy(other / "star" / "0001.png", other / "star" / "copy.png")
    moved = read(other).manifest
    found = run(moved, tmp_path / "c", monkeypatch)
    assert found.num_forwarded == 0
    np.testing.assert_array_equal(found.values, expected(moved))


def test_identical_images_are_run_once(manifest, tmp_path, monkeypatch):
    rows = np.array([0, 1, 0, 2, 1, 0])
    found = run(manifest.select(rows), tmp_path / "c", monkeypatch)
    assert found.num_forwarded == 3
    np.testing.assert_array_equal(found.values, expected(manifest)[rows])


def test_whatever_changes_the_features_is_a_miss(manifest, tmp_path, monkeypatch):
    transform = BACKBONE.transform
    runs = [
        run(manifest, tmp_path / "c", monkeypatch),
        run(manifest, tmp_path / "c", monkeypatch, backbone=fake_backbone(1, num_features=8)),
        run(manifest, tmp_path / "c", monkeypatch, choice=dataclasses.replace(CHOICE, precision="bf16")),
        *(
            run(manifest, tmp_path / "c", monkeypatch, transform=dataclasses.replace(transform, **change))
            for change in ({"size": 33}, {"policy": "pad"}, {"mean": (0.1, 0.2, 0.3)}, {"background": (0, 0, 0)})
        ),
    ]
    assert [found.num_forwarded for found in runs] == [27] * 7
    assert len({found.fingerprint for found in runs}) == 7


def test_only_what_is_missing_is_forwarded(manifest, tmp_path, monkeypatch):
    run(manifest.select(np.arange(10)), tmp_path / "c", monkeypatch)
    found = run(manifest, tmp_path / "c", monkeypatch)
    assert found.num_forwarded == 17
    np.testing.assert_array_equal(found.values, expected(manifest))


def test_a_damaged_shard_is_computed_again(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD_IMAGES", 8)
    first = run(manifest, tmp_path / "c", monkeypatch)
    shard = sorted((tmp_path / "c").rglob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-9])
    found = run(manifest, tmp_path / "c", monkeypatch)
    assert 0 < found.num_forwarded < 27
    np.testing.assert_array_equal(found.values, first.values)
    assert run(manifest, tmp_path / "c", monkeypatch).num_forwarded == 0


def test_changed_and_vanished_files_fail_and_are_not_cached(manifest, tmp_path, monkeypatch):
    manifest.path(3).unlink()
    manifest.path(20).write_bytes(manifest.path(21).read_bytes())
    good = np.setdiff1d(np.arange(27), [3, 20])
    found = run(manifest, tmp_path / "c", monkeypatch)
    assert found.failed.tolist() == [3, 20]
    assert found.num_forwarded == 25
    np.testing.assert_array_equal(found.values[good], expected(manifest.select(good)))
    again = run(manifest, tmp_path / "c", monkeypatch)
    assert again.failed.tolist() == [3, 20]
    assert again.num_forwarded == 0


def test_an_error_keeps_what_was_computed(manifest, tmp_path, monkeypatch):
    calls = iter(range(100))

    def before() -> None:
        if next(calls) == 4:
            raise RuntimeError("the engine broke")

    with pytest.raises(RuntimeError, match="the engine broke"):
        run(manifest, tmp_path / "c", monkeypatch, before=before, num_threads=1)
    assert run(manifest, tmp_path / "c", monkeypatch).num_forwarded == 27 - 16


def test_features_that_float16_cannot_hold_are_refused(manifest, tmp_path, monkeypatch):
    for bad in (np.nan, np.inf, 1e5):
        engine = dataclasses.replace(
            numpy_engine(), session=lambda bad=bad: lambda pixels: np.full((4, 8), bad, np.float32)
        )
        with pytest.raises(BackboneError, match="must be finite"):
            run(manifest, tmp_path / "c", monkeypatch, engine=engine)
    assert not list((tmp_path / "c").rglob("*.safetensors"))


def test_two_processes_at_once(manifest, tmp_path):
    """Both finish, both have the right values, and the cache is whole."""
    program = f"""
import sys; sys.path[:0] = {sys.path!r}
import pytest
from pathlib import Path
import numpy as np
import test_extract as t
from regraft.data import read
t.extraction.SHARD_IMAGES = 6
with pytest.MonkeyPatch.context() as patch:
    found = t.run(read({str(manifest.root)!r}).manifest, Path({str(tmp_path / "c")!r}), patch)
np.save(sys.argv[1], found.values)
"""
    here = Path(__file__).parent
    ends = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / f"{k}.npy")], cwd=here, env=None)
        for k in range(2)
    ]
    assert [process.wait(60) for process in ends] == [0, 0]
    for k in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{k}.npy"), expected(manifest))
    assert not list((tmp_path / "c").rglob("*.damaged")) + list((tmp_path / "c").rglob("*.tmp"))


class TestForward:
    def test_the_shape_that_an_engine_is_promised(self):
        shapes = []
        engine = numpy_engine(chunk=4, num_threads=2)

        def session():
            forward = engine.session()

            def checked(pixels):
                shapes.append((pixels.shape, pixels.dtype))
                return forward(pixels)

            return checked

        found: dict[int, float] = {}

        def on_chunk(asked, good, features):
            found.update(zip(good.tolist(), features[:, 0].tolist(), strict=True) if len(good) else [])

        forward_images(
            np.arange(30), lambda n: None if n % 5 == 0 else np.full((8, 8, 3), n, np.uint8),
            engine=dataclasses.replace(engine, session=session), size=8, on_chunk=on_chunk,
        )  # fmt: skip
        assert set(shapes) == {((4, 8, 8, 3), np.dtype(np.uint8))}
        assert found == pytest.approx({n: float(n) for n in range(30) if n % 5})

    def test_no_images(self):
        forward_images(
            np.empty(0, np.int64),
            lambda n: None,
            engine=numpy_engine(),
            size=8,
            on_chunk=lambda *_: pytest.fail("called"),
        )


def test_cache_of_another_width_is_not_read(manifest, tmp_path, monkeypatch):
    found = run(manifest, tmp_path / "c", monkeypatch)
    about = extraction.about(BACKBONE, BACKBONE.transform, "fp32")
    cache = FeatureCache(tmp_path / "c", about, num_features=9)
    assert cache.fingerprint == found.fingerprint
    assert not cache.read(manifest.hashes, np.zeros((27, 9), np.float16)).any()
