"""Test-time augmentation: which views, each once whatever the threads, and the mean against a slow reference."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Command, Trained
from drawn import encode, jpeg, png
from regraft import predictor as predictor_module
from regraft.augmentation.fixed_views import MOST, MeanOfViews, TestTime, ViewsOnce, fixed_views
from regraft.errors import UsageError
from regraft.features.forward import forward_images
from regraft.images import Transform, preprocess
from regraft.predictor import Predictor, load

POLICIES = ("squash", "crop", "pad")


@pytest.fixture(scope="module")
def model(trained: Trained) -> Predictor:
    return load(trained.run)


@pytest.mark.parametrize("policy", POLICIES)
def test_views_are_the_evaluated_square_and_fixed_parts_of_it(policy: Any) -> None:
    transform = Transform(size=28, policy=policy)
    for data in (png(1, size=(50, 31)), jpeg(2, size=(300, 200))):
        views = fixed_views(data, transform, TestTime(num_views=12))
        np.testing.assert_array_equal(views[0], preprocess(data, transform))
        larger = preprocess(data, replace(transform, size=32))  # 28 of 32 is 7/8
        places = [(2, 2), (0, 0), (4, 4), (0, 4), (4, 0), (0, 2), (4, 2), (2, 0), (2, 4)]
        for view, (top, left) in zip(views[1:10], places, strict=True):
            np.testing.assert_array_equal(view, larger[top : top + 28, left : left + 28])
        milder = preprocess(data, replace(transform, size=30))  # 28 of 30 is 15/16, nearly
        np.testing.assert_array_equal(views[10], milder[1:29, 1:29])
        np.testing.assert_array_equal(views[11], milder[:28, :28])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, MOST), st.booleans(), st.integers(1, 60), st.integers(1, 60), st.sampled_from(POLICIES),
    st.sampled_from([1, 7, 32]),
)  # fmt: skip
def test_as_many_views_as_asked_and_the_first_ones_stay(
    num: int, flip: bool, height: int, width: int, policy: Any, size: int
) -> None:
    data, transform = png(num, size=(height, width)), Transform(size=size, policy=policy)
    views = fixed_views(data, transform, TestTime(num_views=num, flip=flip))
    assert [view.shape for view in views] == [(size, size, 3)] * num
    assert all(view.flags.c_contiguous and view.dtype == np.uint8 for view in views)
    fewer = fixed_views(data, transform, TestTime(num_views=(num + 1) // 2, flip=flip))
    assert all((a == b).all() for a, b in zip(views, fewer, strict=False))
    if flip:
        for left, right in list(pairwise(views))[::2]:
            np.testing.assert_array_equal(right, left[:, ::-1])


def test_all_64_views_differ_and_show_seven_eighths_or_more() -> None:
    ramp = np.stack([*np.meshgrid(np.arange(256), np.arange(256)), np.zeros((256, 256))], axis=-1).astype(np.uint8)
    views = fixed_views(encode(ramp), Transform(size=224), TestTime(num_views=MOST))
    assert len({view.tobytes() for view in views}) == MOST
    for view in views:
        for axis in (0, 1):  # the red ramp is the column, the green one the row
            shown = int(view[..., axis].max()) - int(view[..., axis].min()) + 1
            assert 0.87 * 256 <= shown <= 256


def test_each_image_is_decoded_once_whatever_the_threads() -> None:
    made: list[int] = []

    def make(image: int) -> list[np.ndarray] | None:
        made.append(image)
        return None if image % 5 == 4 else [np.full((2, 2, 3), 10 * image + v, np.uint8) for v in range(7)]

    once, numbers = ViewsOnce(make, 7), list(range(7 * 20))
    random.Random(0).shuffle(numbers)
    with ThreadPoolExecutor(6) as pool:
        found = dict(zip(numbers, pool.map(once, numbers), strict=True))
    assert sorted(made) == list(range(20))
    for number, view in found.items():
        image, v = divmod(number, 7)
        assert view is None if image % 5 == 4 else (view is not None and (view == 10 * image + v).all())
    assert not once._shared


def test_the_mean_does_not_depend_on_the_order_of_arrival() -> None:
    rng = np.random.default_rng(0)
    found = rng.dirichlet(np.full(4, 0.1), (5, 6))
    results = []
    for seed in range(10):
        probs = np.full((6, 4), np.nan)
        mean = MeanOfViews(probs, 6)
        numbers = np.random.default_rng(seed).permutation(30)
        for part in np.split(numbers, [3, 11, 12, 25]):
            mean(part, found.reshape(30, 4)[part])
        results.append(probs)
        assert np.isnan(probs[5]).all()
    assert all((probs[:5] == results[0][:5]).all() for probs in results)
    np.testing.assert_allclose(results[0][:5], found.mean(axis=1), rtol=1e-12)


def reference(model: Predictor, path: Any, num: int, *, flip: bool) -> np.ndarray:
    """One view after the other through the engine, in a batch of its own."""
    found = []
    for square in fixed_views(path.read_bytes(), model.bundle.transform, TestTime(num_views=num, flip=flip)):

        def keep(_: Any, good: Any, features: np.ndarray) -> None:
            found.append(model.bundle.head.pred_probs(features.astype(np.float16))[0])

        forward_images(
            np.array([0]), lambda _, square=square: square, engine=model.engine, size=len(square), on_chunk=keep
        )
    return sum(found) / num


@pytest.mark.parametrize(("num", "flip"), [(2, True), (3, False), (11, True)])
def test_the_mean_over_views_against_a_slow_reference(model, trained, num, flip, monkeypatch) -> None:
    monkeypatch.setattr(predictor_module, "WINDOW", 5)
    paths = sorted(trained.data.rglob("*.png"))[::3]
    probs = model.predict_proba(paths, tta=num, tta_flip=flip)
    expected = np.stack([reference(model, path, num, flip=flip) for path in paths])
    np.testing.assert_allclose(probs, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(probs, model.predict_proba(paths, tta=num, tta_flip=flip))
    assert np.abs(probs - model.predict_proba(paths)).max() > 1e-6
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-12)


def test_one_view_is_none(model, trained) -> None:
    paths = sorted(trained.data.rglob("*.png"))[::5]
    plain = model.predict_proba(paths)
    np.testing.assert_allclose(model.predict_proba(paths, tta=1), plain, rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.predict_proba(paths, tta=1, tta_flip=False), plain, rtol=0, atol=1e-8)


def test_unusable_images_keep_their_place_and_are_named_once(model, trained, tmp_path) -> None:
    good = next(trained.data.rglob("*.png"))
    (tmp_path / "bad.png").write_bytes(b"bad")
    heard: list[str] = []
    asked = [tmp_path / "bad.png", good, tmp_path / "none.png"]
    (part,) = model.stream(asked, tta=6, on_failure=lambda path, _: heard.append(path))
    assert heard == [str(asked[0]), str(asked[2])]
    assert np.isnan(part.pred_probs).all(axis=1).tolist() == [True, False, True]


def test_mirrored_only_where_the_training_mirrored_or_on_demand(model, trained, monkeypatch) -> None:
    path = [next(trained.data.rglob("*.png"))]
    straight, mirrored = (model.predict_proba(path, tta=4, tta_flip=flip) for flip in (False, True))
    assert np.abs(straight - mirrored).max() > 1e-6
    np.testing.assert_array_equal(model.predict_proba(path, tta=4), straight)
    for details, expected in (({"flip": True}, mirrored), ({"flip": False}, straight), ([], straight)):
        monkeypatch.setitem(model.bundle.config, "details", details)
        np.testing.assert_array_equal(model.predict_proba(path, tta=4), expected)


@pytest.mark.parametrize("wrong", [0, -1, 65, 2.5, True, "8"])
def test_wrong_numbers_are_refused_at_once(model, wrong) -> None:
    with pytest.raises(UsageError, match="1 to 64"):
        model.stream(iter(()), tta=wrong)


def test_a_mirror_needs_views(model) -> None:
    for tta in (None, 1):
        with pytest.raises(UsageError, match="at least 2"):
            model.predict_proba([], tta=tta, tta_flip=True)


class TestVerbs:
    def test_predict(self, cli: Command, model, trained) -> None:
        path = next(trained.data.rglob("*.png"))
        done = cli("predict", trained.run, path, "--tta", "6", "--tta-flip", "--json", "--proba")
        assert done.code == 0, done.err
        (row,) = json.loads(done.out)
        expected = model.predict_proba([path], tta=6, tta_flip=True)[0]
        assert [row["p_circle"], row["p_square"], row["p_star"]] == pytest.approx(expected.tolist(), abs=1e-6)
        assert cli("predict", trained.run, path, "--tta", "none").out == cli("predict", trained.run, path).out
        for words in (("--tta", "65"), ("--tta", "0"), ("--tta", "some"), ("--tta-flip",)):
            refused = cli("predict", trained.run, path, *words)
            assert refused.code == 2, words
            assert refused.out == ""

    def test_evaluate_says_what_it_changed(self, cli: Command, cache_dir, trained) -> None:
        done = cli("evaluate", trained.run, trained.data, "--tta", "4", "--json")
        assert done.code == 0, done.err
        result, plain = json.loads(done.out), json.loads(cli("evaluate", trained.run, trained.data, "--json").out)
        assert (result["tta"]["num_views"], result["tta"]["flip"]) == (4, False)
        assert "tta" not in plain
        for name, found in result["tta"]["change"].items():
            gained = result["metrics"][name]["estimate"] - plain["metrics"][name]["estimate"]
            assert found["estimate"] == pytest.approx(gained, abs=1e-6)
            assert found["low"] <= found["estimate"] <= found["high"]
        assert abs(result["tta"]["change"]["log_loss"]["estimate"]) > 1e-6
        table = cli("evaluate", trained.run, trained.data, "--tta", "4").out
        assert "changed by averaging 4 views" in table
        assert cli("evaluate", trained.run, trained.data, "--tta", "99").code == 2
