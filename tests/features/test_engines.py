"""The contract of all engines: uint8 (chunk, size, size, 3) in, float32 (chunk, D) out, whatever else is going on.

Each is held against eager fp32 PyTorch, on a tiny fake backbone; the fast ones also on the real one.
"""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import SIZE, fake_backbone
from regraft.errors import BackboneError, UsageError
from regraft.features import engines
from regraft.features.engines import Choice, Engine, choose, cpu_flags, open_engine
from regraft.models.backbones import Backbone, resolve

HAS_BF16 = bool({"avx512_bf16", "amx_bf16"} & cpu_flags())
PRECISIONS = ("fp32", "bf16") if HAS_BF16 else ("fp32",)


def pixels_of(count: int, size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth pictures, each its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    return np.repeat(np.repeat(coarse, size // 4, axis=1), size // 4, axis=2).astype(np.uint8)


@functools.cache
def eager(real: bool, count: int) -> NDArray[np.float32]:
    """The reference: the module itself, normalised by hand, one image at a time, in fp32."""
    import torch

    backbone = resolve("tf_efficientnet_lite0", cache_dir=Path("unused")) if real else fake_backbone()
    module = backbone.build()
    mean, std = (np.array(v, np.float32) for v in (backbone.transform.mean, backbone.transform.std))
    normal = (pixels_of(count).astype(np.float32) / 255 - mean) / std
    with torch.no_grad():
        rows = [module(torch.from_numpy(x.transpose(2, 0, 1)[None].copy())).numpy()[0] for x in normal]
    return np.stack(rows)


@functools.cache
def opened(name: str, precision: str, real: bool, cache: Path) -> tuple[Backbone, Engine]:
    backbone = resolve("tf_efficientnet_lite0", cache_dir=cache) if real else fake_backbone()
    choice = Choice(name, precision, "cpu", "a test")  # type: ignore[arg-type]
    return backbone, open_engine(backbone, choice=choice, size=SIZE, cache_dir=cache)


CASES = [
    pytest.param((name, precision, real), marks=pytest.mark.real if real else (), id=f"{name}-{precision}-{kind}")
    for name in ("openvino", "torch", "compiled")
    for precision in PRECISIONS
    for real, kind in ((False, "fake"), (True, "lite0"))
    if not (real and name == "compiled")  # the compiler takes half a minute on it
]


@pytest.fixture(scope="module")
def fake_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(params=CASES)
def case(request, converted, fake_cache):
    name, precision, real = request.param
    return (*opened(name, precision, real, converted if real else fake_cache), precision, real)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_shapes_types_and_the_same_as_eager(case):
    backbone, engine, precision, real = case
    forward = engine.session()
    pixels = pixels_of(engine.chunk)
    found = forward(pixels)
    assert found.shape == (engine.chunk, backbone.num_features)
    assert found.dtype == np.float32
    assert found.flags.owndata or found.base is not None
    reference = eager(real, engine.chunk)
    assert cosine(found, reference).min() >= (0.9999 if precision == "fp32" else 0.99)
    norms = np.linalg.norm(found, axis=1) / np.linalg.norm(reference, axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-3 if precision == "fp32" else 0.15)


def test_neither_neighbours_nor_place_nor_thread_matter(case):
    _, engine, _, _ = case
    chunk = engine.chunk
    pixels = pixels_of(chunk)
    forward = engine.session()
    first = forward(pixels).copy()
    np.testing.assert_array_equal(forward(pixels), first)
    np.testing.assert_array_equal(forward(pixels[::-1].copy())[::-1], first)
    alone = np.zeros_like(pixels)
    alone[0] = pixels[chunk - 1]
    np.testing.assert_array_equal(forward(alone)[0], first[chunk - 1])

    def on_its_own_session(_: int) -> NDArray[np.float32]:
        session = engine.session()
        return np.stack([session(pixels) for _ in range(5)])

    with ThreadPoolExecutor(engine.num_threads + 1) as pool:
        for found in pool.map(on_its_own_session, range(4)):
            np.testing.assert_array_equal(found, np.broadcast_to(first, found.shape))


def test_results_stay_when_the_session_goes_on(case):
    """An engine must not hand out a buffer that its next call writes into."""
    _, engine, _, _ = case
    forward = engine.session()
    first = forward(pixels_of(engine.chunk, seed=1))
    copy = first.copy()
    forward(pixels_of(engine.chunk, seed=2))
    np.testing.assert_array_equal(first, copy)


class TestChoice:
    @pytest.fixture
    def machine(self, monkeypatch):
        def set_up(*, gpu: bool, flags: str) -> None:
            monkeypatch.setattr(engines, "has_cuda", lambda: gpu)
            monkeypatch.setattr(engines, "cpu_flags", lambda: frozenset(flags.split()))

        return set_up

    @pytest.mark.parametrize(
        ("gpu", "flags", "asked", "settled"),
        [
            (False, "avx512_bf16", ("auto", "auto"), ("openvino", "bf16", "cpu")),
            (False, "amx_bf16", ("auto", "auto"), ("openvino", "bf16", "cpu")),
            (False, "avx2", ("auto", "auto"), ("openvino", "fp32", "cpu")),
            (True, "avx2", ("auto", "auto"), ("torch", "bf16", "cuda")),
            (True, "avx2", ("auto", "fp32"), ("torch", "fp32", "cuda")),
            (True, "avx512_bf16", ("openvino", "auto"), ("openvino", "bf16", "cpu")),
            (True, "avx2", ("compiled", "auto"), ("compiled", "bf16", "cuda")),
            (False, "avx512_bf16", ("torch", "fp32"), ("torch", "fp32", "cpu")),
        ],
    )
    def test_what_auto_becomes(self, machine, gpu, flags, asked, settled):
        machine(gpu=gpu, flags=flags)
        choice = choose(*asked)
        assert (choice.engine, choice.precision, choice.device) == settled
        assert choice.reason.startswith(f"{settled[0]}: ")
        assert f"; {settled[1]}: " in choice.reason

    def test_unknown_words(self):
        with pytest.raises(UsageError, match=r"did you mean 'openvino'"):
            choose("openvin")
        with pytest.raises(UsageError, match="int8"):
            choose("auto", "int8")


class TestOpenVino:
    @pytest.fixture
    def fake_ir(self, tmp_path):
        from regraft.features.engines.openvino import ir_folder

        return ir_folder(fake_backbone(), size=SIZE, cache_dir=tmp_path)

    def test_converted_once_and_by_what_it_is(self, tmp_path, fake_ir):
        from regraft.features.engines.openvino import ir_folder

        def never():
            raise AssertionError("built again")

        again = dataclasses.replace(fake_backbone(), build=never)
        assert ir_folder(again, size=SIZE, cache_dir=tmp_path) == fake_ir
        for other, size in (
            (fake_backbone(1), SIZE),
            (fake_backbone(), SIZE + 4),
            (fake_backbone(name="x"), SIZE),
            (
                dataclasses.replace(fake_backbone(), transform=dataclasses.replace(again.transform, mean=(0, 0, 0))),
                SIZE,
            ),
        ):
            assert ir_folder(other, size=size, cache_dir=tmp_path) != fake_ir
        assert not list(tmp_path.rglob(".tmp-*"))

    def test_a_failed_conversion_leaves_nothing(self, tmp_path):
        from torch import nn

        from regraft.features.engines.openvino import ir_folder

        class Odd(nn.Module):
            def forward(self, x):
                raise RuntimeError("no\nway")

        with pytest.raises(BackboneError, match="--engine torch") as caught:
            ir_folder(dataclasses.replace(fake_backbone(), build=Odd), size=SIZE, cache_dir=tmp_path)
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "ir").iterdir())

    def test_a_damaged_conversion_is_named(self, tmp_path, fake_ir):
        (fake_ir / "model.bin").write_bytes(b"x")
        with pytest.raises(BackboneError, match="delete that folder"):
            open_engine(fake_backbone(), choice=choose("openvino", "fp32"), size=SIZE, cache_dir=tmp_path)

    @pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" * 999])
    def test_a_damaged_compiled_model_is_compiled_again(self, tmp_path, fake_ir, damage):
        def features():
            engine = open_engine(fake_backbone(), choice=choose("openvino", "fp32"), size=SIZE, cache_dir=tmp_path)
            return engine.session()(pixels_of(4))

        first = features()
        blobs = list((tmp_path / "compiled").iterdir())
        assert blobs
        for blob in blobs:
            blob.write_bytes(damage(blob.read_bytes()))
        np.testing.assert_array_equal(features(), first)
