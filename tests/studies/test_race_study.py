"""The whole way from a folder to the card, with a backbone that is a few numbers, and the verb."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from studies_fake import SIZE, backbone

from drawn import draw_folder
from regraft import data as data_stage
from regraft.config import seconds_of
from regraft.errors import UsageError
from regraft.models.backbones import resolve
from regraft.studies.race import study
from regraft.studies.race.pace import Pace
from regraft.studies.race.study import race_study
from regraft.studies.race.tuned_arm import START_SECONDS, TunedArm
from regraft.types import Interval


class Small(torch.nn.Module):
    """A network with something to train."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("race") / "photos", per_class=20)


@pytest.fixture
def colours(monkeypatch):
    monkeypatch.setattr(study, "resolve", lambda name, cache_dir: backbone(name))


def test_from_folder_to_card_and_again(folder, colours, tmp_path, monkeypatch):
    options = {
        "backbones": "clear", "strategies": (), "budget_seconds": 200.0, "measure_similarity": False, "test": 0.25,
        "num_repeats": 1, "cache_dir": tmp_path,
    }  # fmt: skip
    found = race_study(folder, **options)
    assert found.resolved
    assert found.chosen.strategy == "linear_probe"
    assert found.num_images == 45
    (value,) = found.tested.values()
    assert value.estimate > 0.8
    assert "touched once" in found.notes[-1]
    files = list((tmp_path / "race").rglob("*.npz"))
    monkeypatch.setattr(study.LinearProbeArm, "measure", None)  # nothing is to be measured again
    again = race_study(folder, **options)
    assert again.as_dict() | {"wall_seconds": 0} == found.as_dict() | {"wall_seconds": 0}
    assert len(list((tmp_path / "race").rglob("*.npz"))) == len(files)


def test_similarity_is_measured_once(folder, colours, tmp_path, monkeypatch):
    from regraft.studies import similarity

    calls = []

    def profile(*words, **options):
        calls.append(words)
        return SimpleNamespace(similarity=Interval(estimate=0.6, low=0.5, high=0.7, level=0.8))

    monkeypatch.setattr(similarity, "similarity_profile", profile)
    options = {
        "backbones": "clear", "strategies": (), "budget_seconds": 200.0, "test": 0.25, "num_repeats": 1,
        "cache_dir": tmp_path,
    }  # fmt: skip
    first, second = race_study(folder, **options), race_study(folder, **options)
    assert len(calls) == 1
    assert first.similarity == second.similarity == Interval(estimate=0.6, low=0.5, high=0.7, level=0.8)
    (kept,) = tmp_path.glob("race/*/similarity-*.json")
    kept.write_text("{cut off")
    assert race_study(folder, **options).similarity == first.similarity
    assert len(calls) == 2
    race_study(folder, **options, seed=1)  # other folds, another draw
    assert len(calls) == 3


def test_the_verb(folder, colours, cli, tmp_path):
    words = (
        "race", folder, "--backbone", "clear", "--strategies", "", "--budget", "2s", "--no-similarity", "--cache-dir",
        tmp_path / "cache",
    )  # fmt: skip
    answer = cli(*words, "--json", "--card", tmp_path / "card.png", "--html", tmp_path / "card.html")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["choice"] == "linear_probe"
    assert found["crossing"] is None
    assert (tmp_path / "card.png").read_bytes()[:4] == b"\x89PNG"
    assert "feature extraction" in (tmp_path / "card.html").read_text("utf-8")
    table = cli(*words)
    assert table.code == 0
    assert "With your 60 images" in table.out


def test_wrong_words(folder, cli):
    assert cli("race", folder, "--budget", "soon").code == 2
    assert cli("race", folder, "--within", "-1").code == 2
    assert cli("race", folder, "--strategies", "lpft").code == 2
    with pytest.raises(UsageError, match="1 to 3 backbones"):
        race_study(folder, backbones="a,b,c,d")


@pytest.mark.parametrize(("words", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_times(words, seconds):
    assert seconds_of(words) == seconds


@pytest.mark.parametrize("words", ["", "0", "-3m", "m", "nan", "inf", "3 weeks"])
def test_no_times(words):
    assert seconds_of(words) is None


@pytest.mark.parametrize("strategy", ["lp_ft", "full"])
def test_an_arm_that_trains(folder, strategy, tmp_path):
    def same():
        torch.manual_seed(0)
        return Small()

    manifest = data_stage.read(folder, cache_dir=tmp_path).manifest
    trunk = dataclasses.replace(
        backbone("small"), build=same, num_features=6, num_parameters=168, weights_hash="0" * 64
    )
    module = same()
    pixels = np.random.default_rng(0).standard_normal((len(manifest), 3, SIZE, SIZE)).astype(np.float32)
    features = module(torch.from_numpy(pixels)).detach().numpy()
    arm = TunedArm(
        name=strategy, manifest=manifest, features=features, group_ids=np.arange(len(manifest)), trunk=trunk,
        images_per_second=100.0, metric="macro_f1", cache_dir=tmp_path, asked={"epochs": 2},
    )  # fmt: skip
    train = np.flatnonzero(manifest.labels != 2)[::2]  # one class is missing
    judged = np.arange(1, 60, 2)
    said = arm.measure(train, judged, seed=3)
    assert said.predicted.shape == (30,)
    assert set(said.predicted) <= {0, 1}
    assert said.seconds > 0
    np.testing.assert_array_equal(arm.measure(train, judged, seed=3).predicted, said.predicted)
    assert arm.estimate_seconds(400) > arm.estimate_seconds(40) > 0
    pace, _ = arm._pace()
    assert pace.train > 0
    assert pace.answer > 0
    assert pace.prefix == 0
    assert arm.version != dataclasses.replace(arm, asked={"epochs": 3}).version


@pytest.mark.parametrize(("strategy", "views"), [("lp_ft", 0), ("light", 4)])
def test_what_a_training_is_expected_to_take(folder, strategy, views, tmp_path, monkeypatch):
    manifest = data_stage.read(folder, cache_dir=tmp_path).manifest
    arm = TunedArm(
        name=strategy, manifest=manifest, features=np.zeros((len(manifest), 6), np.float32),
        group_ids=np.arange(len(manifest)), trunk=backbone("small"), images_per_second=100.0, metric="macro_f1",
        cache_dir=tmp_path, asked={"epochs": 7},
    )  # fmt: skip
    timed = Pace(train=0.5, prefix=0.2 if views else 0.0, answer=0.1), 1000 if views else None
    monkeypatch.setattr(TunedArm, "_pace", lambda self: timed)
    said = arm.estimate_seconds(30)
    training = 30 * (views * (0.2 + 0.01) + 7 * 0.5) if views else 30 * 7 * (0.5 + 0.01)
    assert said == pytest.approx(START_SECONDS + training + len(manifest) / 5 * (0.1 + 0.01))


@pytest.mark.parametrize("strategy", ["light", "scratch"])
def test_steps_are_timed_without_a_trace(folder, strategy, tmp_path):
    manifest = data_stage.read(folder, cache_dir=tmp_path).manifest
    trunk = resolve("tf_efficientnet_lite0", cache_dir=tmp_path)
    arm = TunedArm(
        name=strategy, manifest=manifest, features=np.zeros((len(manifest), 1280), np.float32),
        group_ids=np.arange(len(manifest)), images_per_second=100.0, metric="macro_f1", cache_dir=tmp_path,
        trunk=dataclasses.replace(trunk, transform=dataclasses.replace(trunk.transform, size=SIZE)),
    )  # fmt: skip
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert arm.estimate_seconds(50) > 0
    assert torch.equal(torch.rand(3), expected)
    pace, kept = arm._pace()
    assert pace.train > 0
    assert pace.answer > 0
    assert (pace.prefix > 0) == (kept is not None) == (strategy == "light")
