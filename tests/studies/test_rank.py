"""The whole ranking on a tiny drawn folder, with backbones that are a few numbers each."""

import json

import numpy as np
import pytest
from studies_fake import SIZE, backbone

from drawn import draw_folder
from regraft.errors import BackboneError, UsageError
from regraft.images import Transform
from regraft.progress import Listener
from regraft.studies import rank as rank_module
from regraft.studies.candidates import combined, views
from regraft.studies.options import RankOptions
from regraft.studies.passes import Pass
from regraft.studies.rank import rank, shortlist
from regraft.studies.scores import Scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("rank") / "photos", per_class=24)


@pytest.fixture(scope="module")
def three():
    return [backbone("noisy", 3.0), backbone("clear", 0.0), backbone("blurred", 0.4)]


@pytest.fixture(scope="module")
def ranking(folder, three, tmp_path_factory):
    return rank(folder, three, cache_dir=tmp_path_factory.mktemp("cache"), engine="torch", combine=2, flips=True)


def test_a_known_order_is_found(ranking):
    alone = [row.name for row in ranking.rows if row.kind == "alone"]
    assert alone == ["clear", "blurred", "noisy"]
    assert ranking["clear"].accuracy.estimate > 0.9
    assert not ranking["noisy"].tied
    assert ranking["noisy"].difference_to_best.high < 0


def test_rows_are_as_promised(ranking):
    rows = json.loads(json.dumps(ranking.as_rows(), allow_nan=False))
    assert [row["backbone"] for row in rows] == [row.name for row in ranking.rows]
    for row in rows:
        assert {"backbone", "accuracy", "macro_f1", "difference_to_best", "images_per_second", "num_parameters"} <= set(
            row
        )
        assert set(row["accuracy"]) == {"estimate", "low", "high", "level"}
        assert row["difference_to_best"]["low"] <= row["difference_to_best"]["estimate"] <= 0
        assert row["images_per_second"] > 0
    assert sum(row["pick"] for row in rows) == 1
    json.dumps(ranking.as_dict(), allow_nan=False)
    assert ranking.pick in ranking.reason


def test_combinations_cost_what_they_need(ranking):
    pair = next(row for row in ranking.rows if row.kind == "concatenated")
    a, b = (ranking[name] for name in pair.name.split(" & "))
    assert pair.num_parameters in (a.num_parameters, a.num_parameters + b.num_parameters)
    assert pair.images_per_second <= min(a.images_per_second, b.images_per_second) * 1.001
    flip = ranking["clear|flip"]
    assert flip.images_per_second < ranking["clear"].images_per_second
    assert any(row.kind == "averaged" for row in ranking.rows)


def test_the_locked_test_set_takes_no_part(folder, three, tmp_path, monkeypatch):
    asked = []
    real = rank_module.run_pass

    def spy(manifest, *args, **kwargs):
        asked.append(len(manifest))
        return real(manifest, *args, **kwargs)

    monkeypatch.setattr(rank_module, "run_pass", spy)
    found = rank(folder, three[:2], cache_dir=tmp_path, engine="torch", test=0.25)
    assert asked == [54, 54]
    assert found.num_images == 54


def test_a_killed_ranking_resumes(folder, three, tmp_path):
    class Killed(Exception):
        pass

    class Kill(Listener):
        def progress(self, done, total):
            if total == 72 * 3 and done > 72 + 20:  # in the second of three passes
                raise Killed

    with pytest.raises(Killed):
        rank(folder, three, cache_dir=tmp_path, engine="torch", listener=Kill())
    again = rank(folder, three, cache_dir=tmp_path, engine="torch")
    assert again["noisy"].num_forwarded == 0
    assert 0 < again["clear"].num_forwarded < 72
    assert again["blurred"].num_forwarded == 72
    third = rank(folder, three, cache_dir=tmp_path, engine="torch")
    assert sum(row.num_forwarded for row in third.rows) == 0
    assert next(row.name for row in third.rows if row.kind == "alone") == "clear"


def test_the_rate_is_remembered(folder, three, tmp_path):
    first = rank(folder, three[:1], cache_dir=tmp_path, engine="torch")
    second = rank(folder, three[:1], cache_dir=tmp_path, engine="torch")
    assert second.rows[0].images_per_second == pytest.approx(first.rows[0].images_per_second, abs=0.01)
    (path,) = tmp_path.glob("features/*/rate.json")
    path.write_text("{ broken")
    assert rank(folder, three[:1], cache_dir=tmp_path, engine="torch").rows[0].images_per_second > 0


def test_stages_come_from_one_pass(folder, tmp_path):
    staged = backbone("grid", 0.0, width=2, slices={"stage1": (0, 3), "final": (3, 12)})
    found = rank(folder, [staged], cache_dir=tmp_path, engine="torch")
    assert {row.name for row in found.rows} == {"grid", "grid:stage1", "grid:all"}
    assert len({row.images_per_second for row in found.rows}) == 1
    assert len({row.num_forwarded for row in found.rows}) == 1


def test_a_name_that_cannot_be_had_is_an_error_and_wrong_options_too(folder, tmp_path):
    with pytest.raises(BackboneError):
        rank(folder, "no_such_backbone", cache_dir=tmp_path)
    with pytest.raises(UsageError, match="name some"):
        rank(folder, [], cache_dir=tmp_path)
    with pytest.raises(UsageError, match="mean 'combine'"):
        rank(folder, "offline", combin=2)
    with pytest.raises(UsageError, match=r"sizes .*; combine"):
        RankOptions(sizes=(4,), combine=9)


def test_the_shortlist_is_two_measured_one_near_one_static():
    def scores(ridge, near):
        return Scores(ridge_probs=np.ones((1, 1)), ridge_accuracy=ridge, neighbours={5: near})

    found = [scores(r, n) for r, n in ((0.9, 0.1), (0.8, 0.2), (0.7, 0.9), (0.6, 0.1), (0.5, 0.1))]
    assert shortlist(found, [None, None, None, (70.0, 0.0), (80.0, 0.0)], 2) == [0, 1, 2, 4]
    assert shortlist(found, [None] * 5, 1) == [0, 2]


def made_pass(name, rate, *, size=SIZE, flip=False, slices=None):
    rng = np.random.default_rng(0)
    return Pass(
        backbone=backbone(name, width=2, slices=slices), transform=Transform(size=size, flip=flip),
        values=rng.normal(size=(5, 12)).astype(np.float16), slices=slices or {"final": (0, 12)},
        images_per_second=rate, num_forwarded=0, failed=np.empty(0, np.int64), seconds=0.0,
    )  # fmt: skip


def test_views_know_their_cost():
    slices = {"stage1": (0, 4), "final": (4, 12)}
    found = views(made_pass("a", 100.0, size=32, slices=slices), made_pass("a", 100.0, size=32, flip=True), own_size=16)
    assert [(view.name, view.images_per_second) for view in found] == [
        ("a@32", 100.0), ("a@32:stage1", 100.0), ("a@32:all", 100.0), ("a@32|flip", 50.0),
    ]  # fmt: skip
    assert found[2].features().shape == (5, 12)


def test_combinations_count_each_pass_and_backbone_once():
    slices = {"stage1": (0, 4), "final": (4, 12)}
    a = views(made_pass("a", 100.0, slices=slices), None, own_size=SIZE)
    b = views(made_pass("b", 50.0), None, own_size=SIZE)
    found = {one.name: one for one in combined([a[0], a[1], b[0]], 3)}
    assert found["a & a:stage1"].images_per_second == pytest.approx(100)
    assert found["a & b"].images_per_second == pytest.approx(100 / 3)
    assert found["mean(a, b)"].num_parameters == 24
    assert found["a & a:stage1 & b"].num_parameters == 24
    assert not combined([a[0], a[2]], 2)  # `:all` holds the end already


def test_blocks_weigh_alike():
    a, b = views(made_pass("a", 1.0), None, own_size=SIZE)[0], views(made_pass("b", 1.0), None, own_size=SIZE)[0]
    b.blocks[0].base.values[:] *= np.float16(100)
    both = combined([a, b], 2)[0].features()
    np.testing.assert_allclose(both[:, :12].std(axis=0) * 12**0.5, 1, atol=1e-3)
    np.testing.assert_allclose(both[:, 12:].std(axis=0) * 12**0.5, 1, atol=1e-3)
