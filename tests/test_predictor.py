"""The predictor: order, streaming, images that cannot be used."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from regraft import predictor as module
from regraft.predictor import load


@pytest.fixture(scope="module")
def model(trained):
    return load(trained.run)


@pytest.fixture(scope="module")
def paths(trained):
    return sorted(trained.data.rglob("*.png"))


def test_class_order(model, paths):
    assert model.class_names == ("circle", "square", "star")
    probs = model.predict_proba(paths)
    assert probs.shape == (24, 3)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-12)
    assert model.predict(str(path) for path in paths) == [path.parent.name for path in paths]


def test_each_image_gets_its_own_whatever_the_order_and_the_window(model, paths, monkeypatch):
    expected = dict(zip(paths, model.predict_proba(paths), strict=True))
    shuffled = [paths[k] for k in np.random.default_rng(0).permutation(24)] + paths[:5]
    for window in (1, 3, 7, 100):
        monkeypatch.setattr(module, "WINDOW", window)
        found = model.predict_proba(shuffled)
        np.testing.assert_allclose(found, np.stack([expected[path] for path in shuffled]), rtol=0, atol=1e-8)


def test_nothing_is_read_before_it_is_needed(model, paths, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 4)
    taken = itertools.count()

    def endless():
        for path in itertools.cycle(paths):
            next(taken)
            yield path

    parts = list(itertools.islice(model.stream(endless()), 3))
    assert [len(part) for part in parts] == [4, 4, 4]
    assert next(taken) == 12


def test_unusable_images_keep_their_place(model, paths, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    asked = [tmp_path / "text.png", paths[0], tmp_path, tmp_path / "empty.png", tmp_path / "none.png", "a\0b", paths[9]]
    heard: list[tuple[str, str]] = []
    (part,) = model.stream(asked, on_failure=lambda path, reason: heard.append((path, reason)))
    assert [path for path, _ in heard] == [str(path) for k, path in enumerate(asked) if k not in (1, 6)]
    assert all(reason and "\n" not in reason for _, reason in heard)
    assert np.isnan(part.pred_probs).any(axis=1).tolist() == [True, False, True, True, True, True, False]
    assert model.predict(asked) == [None, "circle", None, None, None, None, "square"]


def test_no_images(model):
    assert model.predict([]) == []
    assert model.predict_proba([]).shape == (0, 3)


def test_progress(model, paths, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 10)
    heard: list[tuple[int, int]] = []
    model.predict_proba(paths, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(10, 24), (20, 24), (24, 24)]
