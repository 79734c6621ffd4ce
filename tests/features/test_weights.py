"""Are weights, key mapping and normalisation right? By accuracy, because everything else would agree with a mistake.

Without ImageNet at hand: the 1,000-class predictions for scikit-learn's two photographs, and a linear probe that tells
apart places in them.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.features.engines import Choice, open_engine
from regraft.images import Transform, resize
from regraft.models.backbones import PACKAGED, Backbone, resolve
from regraft.models.sources.packaged import find_packaged

pytestmark = pytest.mark.real

LITE0 = "tf_efficientnet_lite0"
BUILDINGS = {497: "church", 538: "dome", 663: "monastery", 668: "mosque", 698: "palace", 832: "stupa", 442: "bell cote"}
FLOWERS = {985: "daisy", 309: "bee", 308: "fly", 324: "cabbage butterfly", 738: "pot", 984: "rapeseed"}
CHOICE = Choice("torch", "fp32", "cpu", "a test")


@functools.cache
def photographs() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A temple in China, and a dahlia: uint8 (427, 640, 3)."""
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return np.asarray(china), np.asarray(flower)


def inputs(transform: Transform) -> NDArray[np.uint8]:
    return np.stack([resize(photograph, transform) for photograph in photographs()])


@functools.cache
def state_of(name: str) -> dict:
    return find_packaged(name).open(None).state_dict()


def pred_probs(name: str, state: dict, transform: Transform) -> NDArray[np.float64]:
    """(2, 1000): timm's own model with its classifier, normalised by hand."""
    import timm
    import torch

    model = timm.create_model(name)
    model.load_state_dict(state)
    mean, std = torch.tensor(transform.mean), torch.tensor(transform.std)
    pixels = torch.from_numpy(inputs(transform)).float() / 255
    with torch.no_grad():
        logits = model.eval()(((pixels - mean) / std).permute(0, 3, 1, 2))
    return np.nan_to_num(torch.softmax(logits, dim=1).double().numpy())


def right(probs: NDArray[np.float64]) -> list[bool]:
    """Whether a right class is among the five most probable, for each photograph."""
    top = np.argsort(-probs, axis=1)[:, :5]
    return [bool(set(found) & set(known)) for found, known in zip(top.tolist(), (BUILDINGS, FLOWERS), strict=True)]


def confidence(probs: NDArray[np.float64]) -> float:
    """Mean probability of all right classes together."""
    return float(np.mean([probs[0, list(BUILDINGS)].sum(), probs[1, list(FLOWERS)].sum()]))


@pytest.mark.parametrize("name", list(PACKAGED))
def test_photographs_are_recognised(name):
    """0.44, 0.32 and 0.27 for the right ones of 1,000 classes, where chance gives 0.007."""
    probs = pred_probs(name, state_of(name), resolve(name, cache_dir=Path("unused")).transform)
    assert right(probs) == [True, True]
    assert confidence(probs) > 0.2


def test_mistakes_would_be_seen():
    """The check above can fail: with tensors in the wrong places, or pixels in the wrong range, it does."""
    state, transform = state_of(LITE0), resolve(LITE0, cache_dir=Path("unused")).transform
    whole = confidence(pred_probs(LITE0, state, transform))
    for wrong in (
        dataclasses.replace(transform, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255)),
        dataclasses.replace(transform, mean=(-1.0, -1.0, -1.0), std=(0.2, 0.2, 0.2)),
    ):
        assert confidence(pred_probs(LITE0, state, wrong)) < whole / 2
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for key, tensor in state.items():
        by_shape.setdefault(tuple(tensor.shape), []).append(key)
    shifted = {key: state[keys[at - 1]] for keys in by_shape.values() for at, key in enumerate(keys)}
    assert confidence(pred_probs(LITE0, shifted, transform)) < 0.05


@pytest.mark.parametrize("engine", ["torch"])
def test_an_engine_computes_the_features_of_that_model(tmp_path, engine):
    """The classifier of the same file on top of an engine's features gives the same 1,000 probabilities."""
    backbone, state = resolve(LITE0, cache_dir=tmp_path), state_of(LITE0)
    opened = open_engine(
        backbone, choice=dataclasses.replace(CHOICE, engine=engine), size=backbone.transform.size, cache_dir=tmp_path
    )
    pixels = np.zeros((opened.chunk, 224, 224, 3), np.uint8)
    pixels[:2] = inputs(backbone.transform)
    features = opened.session()(pixels)[:2].astype(np.float64)
    logits = features @ state["classifier.weight"].double().numpy().T + state["classifier.bias"].double().numpy()
    probs = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(probs, pred_probs(LITE0, state, backbone.transform), atol=1e-4)


def places(count: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey patches around 16 places in the photographs, each turned, zoomed, mirrored and relit at random."""
    rng = np.random.default_rng(0)
    grey = [cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY) for photograph in photographs()]
    labels = np.arange(count) % 16
    pixels = np.empty((count, size, size, 3), np.uint8)
    for n, label in enumerate(labels.tolist()):
        image = grey[label // 8]
        row, column = divmod(label % 8, 4)
        y = (row + 0.5) * image.shape[0] / 2 + rng.uniform(-25, 25)
        x = (column + 0.5) * image.shape[1] / 4 + rng.uniform(-25, 25)
        matrix = cv2.getRotationMatrix2D((x, y), rng.uniform(-25, 25), rng.uniform(0.5, 1.0))
        matrix[:, 2] += (size / 2 - x, size / 2 - y)
        patch = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REFLECT).astype(np.float64)
        patch = (patch - patch.mean()) * rng.uniform(0.5, 1.5) + rng.uniform(80, 170)
        patch = patch[:, ::-1] if rng.random() < 0.5 else patch
        pixels[n] = np.clip(patch, 0, 255)[..., None]
    return pixels, labels


def test_a_linear_probe_is_far_better_than_on_random_weights(tmp_path):
    """0.95 where the same network with random weights gave 0.40 (160 patches at 96 px to learn, 160 to test).

    scikit-learn's digits would not tell: random convolutions do as well on them.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    pixels, labels = places(320, 96)

    def accuracy(backbone: Backbone) -> float:
        engine = open_engine(backbone, choice=CHOICE, size=96, cache_dir=tmp_path)
        forward = engine.session()
        features = np.concatenate([forward(pixels[i : i + engine.chunk]) for i in range(0, 320, engine.chunk)])
        features = StandardScaler().fit_transform(features)
        model = RidgeClassifier(alpha=1000.0).fit(features[:160], labels[:160])
        return float(model.score(features[160:], labels[160:]))

    found = accuracy(resolve(LITE0, cache_dir=tmp_path))
    base = accuracy(resolve(LITE0, cache_dir=tmp_path, random=True))
    assert found > 0.85
    assert base < 0.6
