import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regraft.images import Transform
from regraft.models.backbones import Backbone, resolve
from regraft.studies.activations import look, look_untrained
from regraft.studies.references import noise, photographs
from regraft.studies.similarity import kl_of_moments, similarity_profile, source_fit

SIZE = 64


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits")
    loaded = load_digits()
    for i in range(48):
        path = root / str(loaded.target[i]) / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.rint(loaded.images[i] * 255 / 16).astype(np.uint8)).save(path)
    return root


def test_kl_is_that_of_gaussians():
    p = torch.distributions.Normal(torch.tensor(0.3), torch.tensor(2.0))
    q = torch.distributions.Normal(torch.tensor(-1.0), torch.tensor(0.7))
    slow = torch.distributions.kl_divergence(p, q).item()
    one = lambda v: np.array([v], np.float64)  # noqa: E731
    assert kl_of_moments(one(0.3), one(4 + 0.09), one(-1.0), one(0.49))[0] == pytest.approx(slow, rel=1e-6)
    assert kl_of_moments(one(1.0), one(5.0), one(1.0), one(4.0))[0] == pytest.approx(0, abs=1e-12)


def test_hooks_see_what_batch_norm_would_learn():
    """Running statistics after one batch at momentum 1 are the very moments."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    pixels, _ = noise(Transform(size=16), number=8)
    seen = look(module, pixels, Transform(size=16))
    (layer,) = seen.layers
    module[1].momentum = 1.0
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    module.train()(x)
    np.testing.assert_allclose(layer.means.mean(axis=0), module[1].running_mean.numpy(), rtol=1e-3, atol=1e-5)
    variance = layer.squares.mean(axis=0) - layer.means.mean(axis=0) ** 2
    np.testing.assert_allclose(variance, module[1].running_var.numpy(), rtol=1e-2)
    assert not module[1]._forward_pre_hooks


def test_the_untrained_twin_leaves_the_network_alone():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    transform = Transform(size=16)
    pixels, _ = noise(transform, number=8)
    first = look_untrained(module, transform, seed=1)(pixels)
    again = look_untrained(module, transform, seed=1)(pixels)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - look(module, pixels, transform).features).max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_source_fit_runs_from_nothing_to_all():
    labels = np.arange(60) % 3
    assert source_fit(np.eye(3)[labels], labels) == pytest.approx(1)
    assert source_fit(np.full((60, 5), 0.2), labels) == pytest.approx(0, abs=1e-9)
    assert source_fit(np.full((4, 5), 0.2), np.zeros(4, int)) == 0


def test_references_are_drawn_alike():
    transform = Transform(size=24)
    for draw in (photographs, noise):
        images, labels = draw(transform, number=16)
        assert images.shape == (16, 24, 24, 3)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, draw(transform, number=16)[0])
        assert set(labels.tolist()) <= {0, 1, 2, 3}


@pytest.mark.real
def test_digits_lie_between_photographs_and_noise(digits, tmp_path):
    lite = resolve("tf_efficientnet_lite0", cache_dir=tmp_path)
    small = dataclasses.replace(lite, transform=dataclasses.replace(lite.transform, size=SIZE))
    found = similarity_profile(digits, small, max_images=48, cache_dir=tmp_path)
    drift, fit, gain = found.measures
    assert drift.photographs < drift.value.low <= drift.value.high < drift.noise
    assert 0 < drift.place.low <= drift.place.high < 1
    assert 0 <= fit.value.estimate < fit.photographs
    assert gain.value.low <= gain.value.estimate <= gain.value.high
    assert 0 < found.similarity.estimate < 1
    assert len(found.layers) == 49
    assert found.as_dict()["similarity"]["low"] <= found.as_dict()["similarity"]["high"]


def test_a_network_without_batch_norm_says_so(digits, tmp_path):
    class Plain(nn.Module):
        def forward(self, x):
            return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)

    plain = Backbone(
        name="plain", source="", weights_hash="0" * 64, num_features=48, num_parameters=0,
        transform=Transform(size=16), build=Plain, slices={"stage1": (0, 12), "final": (12, 48)},
    )  # fmt: skip
    found = similarity_profile(digits, plain, cache_dir=tmp_path)
    assert found.similarity is None
    assert [measure.name for measure in found.measures] == ["reuse_gain", "depth_gain"]
    assert any("no batch norm" in note for note in found.notes)
    assert [stage for stage, _ in found.stages] == ["stage1", "final"]
