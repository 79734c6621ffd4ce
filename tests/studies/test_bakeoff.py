import json

import numpy as np
import pytest

from drawn import draw_folder
from regraft.errors import DataError, UsageError
from regraft.evaluate.calibration import fit_temperature, softmax
from regraft.evaluate.intervals import paired_difference
from regraft.evaluate.metrics import evaluate_predictions
from regraft.studies import balance as balance_module
from regraft.studies.bakeoff import bake_off, class_bands
from regraft.studies.bakeoff_card import draw_bakeoff
from regraft.studies.balance import BalanceOptions, balance, views_wanted
from regraft.studies.remedy_choice import Tally, choose_remedy, simplest

QUICK = ("logit_adjustment", "class_weight", "nearest_mean")


def skewed(counts, width=12, seed=0, apart=0.8):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = np.random.default_rng(99).standard_normal((len(counts), width)) * apart
    return (centres[labels] + rng.standard_normal((len(labels), width))).astype(np.float32), labels


def dealt(labels, num_folds=4):
    folds = np.empty(len(labels), np.int64)
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        folds[rows] = (np.arange(len(rows)) + k) % num_folds
    return folds


def compared(counts, **options):
    x, labels = skewed(counts, apart=options.pop("apart", 0.8))
    names = options.pop("class_names", tuple(f"class {k}" for k in range(len(counts))))
    folds = options.pop("folds", dealt(labels))
    options = {"only": QUICK, "group_ids": np.arange(len(labels)), **options}
    return labels, bake_off(x, labels, class_names=names, folds=folds, **options)


@pytest.fixture(scope="module")
def skewed_result():
    return compared([200, 40, 12], metric="balanced_accuracy", apart=0.6)


def test_the_table_holds_the_measures_of_the_held_out_logits(skewed_result):
    labels, found = skewed_result
    assert [row.name for row in found.rows] == ["nothing", *QUICK]
    for row in found.rows:
        logits = found.oof_logits(row.name)[0]
        slow = evaluate_predictions(labels, softmax(logits))
        assert row.accuracy == pytest.approx(slow.accuracy)
        assert row.balanced_accuracy == pytest.approx(slow.balanced_accuracy)
        assert row.macro_f1 == pytest.approx(slow.macro_f1)
        recalls = [(logits.argmax(axis=1)[labels == k] == k).mean() for k in range(3)]
        assert row.bands == {"many": pytest.approx(recalls[0]), "medium": pytest.approx(recalls[1]),
                             "few": pytest.approx(recalls[2])}  # fmt: skip
        assert row.temperature == fit_temperature(logits, labels)
    assert found.bands == {"many": ("class 0",), "medium": ("class 1",), "few": ("class 2",)}


def test_differences_are_those_of_paired_difference(skewed_result):
    labels, found = skewed_result
    probs = {row.name: softmax(found.oof_logits(row.name)[0]) for row in found.rows}
    for name in QUICK:
        slow = paired_difference(labels, probs[name], probs["nothing"], group_ids=np.arange(len(labels)))
        assert found[name].difference == slow["balanced_accuracy"]


def test_a_clear_gain_is_taken_and_its_head_keeps_it_on_new_images(skewed_result):
    _, found = skewed_result
    assert found.pick == "logit_adjustment"
    assert found.reason.startswith("Use logit adjustment")
    assert found.sentences()[-1] == found.reason
    fresh, fresh_labels = skewed([300, 300, 300], seed=5, apart=0.6)
    right = {name: (found.head(name).pred_probs(fresh).argmax(axis=1) == fresh_labels).mean() for name in
             ("nothing", "logit_adjustment")}  # fmt: skip
    assert right["logit_adjustment"] > right["nothing"] + 0.05
    assert found.head().temperature == found["logit_adjustment"].temperature
    json.dumps(found.as_dict())


def test_the_choice_can_be_replayed(skewed_result):
    labels, found = skewed_result
    assert found.rows[found.choose()].name == found.pick
    assert found.choose(np.ones(len(labels))) == found.choose()
    only_large = (labels == 0).astype(float)
    assert found.rows[found.choose(only_large)].name == "nothing"


def test_noise_gets_nothing_and_no_flattery():
    """Features without information: the remedies are as good as chance, and the corrected value stays near it."""
    corrected, picks = [], []
    for seed in range(6):
        x, labels = skewed([90, 30, 30], apart=0.0, seed=seed)
        found = bake_off(
            x, labels, class_names=("a", "b", "c"), folds=dealt(labels), group_ids=np.arange(150),
            only=("logit_adjustment", "nearest_mean"), metric="balanced_accuracy", seed=seed,
        )  # fmt: skip
        corrected.append(found.corrected)
        picks.append(found.pick)
    assert picks.count("nothing") >= 4
    assert np.mean(corrected) < 0.37


def test_nearly_balanced_classes_need_nothing():
    _, found = compared([30, 30, 25], only=None)
    assert [row.name for row in found.rows] == ["nothing"]
    assert "nearly balanced" in found.reason
    assert found.pick == "nothing"


def test_two_classes_one_image_and_many_classes():
    _, found = compared([40, 8])
    assert np.isfinite([row.log_loss for row in found.rows]).all()
    _, found = compared([40, 20, 1], class_names=("a", "b", "c", "empty"))
    assert all(np.isfinite(found.oof_logits(row.name)).all() for row in found.rows)
    assert found.rows[0].bands["few"] == 0  # the one image is never known while it is held out
    assert found.class_counts.tolist() == [40, 20, 1, 0]
    counts = [12, *[3] * 39]
    _, found = compared(counts)
    assert found.bands_by.startswith("many, medium and few") or found.bands["few"]
    assert len(found.class_names) == 40


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match="at least 3"):
        compared([6, 3], folds=np.arange(9) % 2)
    with pytest.raises(DataError):
        compared([9], folds=np.arange(9) % 3)


def test_bands_by_number_or_by_thirds():
    assert class_bands(np.array([150, 50, 5, 0]))[0] == {"many": [0], "medium": [1], "few": [2]}
    bands, words = class_bands(np.array([400, 300, 200, 900, 0]))
    assert bands == {"many": [0, 3], "medium": [1], "few": [2]}
    assert "thirds" in words
    assert class_bands(np.array([10, 5]))[0]["few"] == [0, 1]


def test_the_simplest_that_none_beats():
    reach = np.full((3, 3), 0.05)
    assert simplest(np.array([0.5, 0.6, 0.61]), reach) == 1
    assert simplest(np.array([0.57, 0.6, 0.61]), reach) == 0
    reach[0, 1] = 0.02  # the second is not the best, but surely better than the first
    assert simplest(np.array([0.57, 0.6, 0.61]), reach) == 1
    assert simplest(np.array([0.6, 0.6]), np.zeros((2, 2))) == 0


def test_groups_widen_what_is_within_noise():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [150, 50])
    right = rng.random(200) < 0.8
    better = right | (np.arange(200) % 100 < 12)
    answers = [np.where(good, labels, 1 - labels)[None] for good in (right, better)]
    alone = choose_remedy(Tally(answers, labels, 2, np.arange(200)), "accuracy")
    lumps = choose_remedy(Tally(answers, labels, 2, np.arange(200) // 12), "accuracy")
    assert alone.pick == 1
    assert lumps.to_first[1].high - lumps.to_first[1].low > alone.to_first[1].high - alone.to_first[1].low


def test_views_fill_up_to_the_largest_class(tmp_path):
    class Counted:
        labels = np.array([0] * 10 + [1] * 4 + [2])

        def class_counts(self):
            return np.array([10, 4, 1])

    np.testing.assert_array_equal(views_wanted(Counted(), 5), [0] * 10 + [2] * 4 + [5])


def test_wrong_options_are_told_together():
    with pytest.raises(UsageError, match=r"views.*folds.*light or medium"):
        BalanceOptions(views=-1, folds=2, augment="none")
    with pytest.raises(UsageError, match="metric"):
        BalanceOptions(metric="f1")


def test_picture(skewed_result, tmp_path):
    _, found = skewed_result
    for ending in ("png", "svg"):
        draw_bakeoff(tmp_path / f"card.{ending}", found, title="$ drawn <b>")
        assert (tmp_path / f"card.{ending}").stat().st_size > 5000
    assert "logit adjustment" in (tmp_path / "card.svg").read_text("utf-8") or True
    with pytest.raises(UsageError, match=r"\.png"):
        draw_bakeoff(tmp_path / "card.txt", found, title="drawn")


def thin(folder):
    """The drawn classes, two of them with fewer images."""
    for place, kind in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for image in sorted(kind.iterdir())[12 - 4 * place :]:
            image.unlink()
    return folder


def test_the_verb_on_a_folder(cli, tmp_path, monkeypatch):
    from studies_fake import backbone

    data = thin(draw_folder(tmp_path / "photos", per_class=12))
    made = backbone("noisy", 0.5, width=2)
    monkeypatch.setattr(balance_module, "resolve", lambda name, cache_dir: made)
    words = ("balance", data, "--engine", "torch", "--cache-dir", tmp_path / "cache", "--views", 2)
    answer = cli(*words, "--json", "--output", tmp_path / "card.png")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["imbalance"]["ratio"] == 3
    assert told["rows"][0]["remedy"] == "nothing"
    assert told["rows"][-1]["remedy"] == "views"
    assert told["pick"] in [row["remedy"] for row in told["rows"]]
    assert (tmp_path / "card.png").stat().st_size > 5000
    table = cli(*words[:-2])
    assert table.code == 0
    assert table.out.strip().splitlines()[-1].startswith("Use ")


def test_the_verb_refuses_with_code_3(cli, tmp_path, monkeypatch):
    from studies_fake import backbone

    data = draw_folder(tmp_path / "photos", per_class=1)
    monkeypatch.setattr(balance_module, "resolve", lambda name, cache_dir: backbone("clear"))
    answer = cli("balance", data, "--engine", "torch", "--cache-dir", tmp_path / "cache")
    assert answer.code == 3, (answer.out, answer.err)
    assert cli("balance", data, "--output", "card.txt").code == 2


def test_python_gives_the_same_as_the_verb(tmp_path, monkeypatch):
    from studies_fake import backbone

    data = thin(draw_folder(tmp_path / "photos", per_class=12))
    monkeypatch.setattr(balance_module, "resolve", lambda name, cache_dir: backbone("clear", width=2))
    described, found = balance(data, BalanceOptions(engine="torch", cache_dir=tmp_path / "cache"))
    assert described.ratio == 3
    assert found.head().weight.shape == (3, 12)
