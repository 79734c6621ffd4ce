"""Views: equal to evaluation where they must be, the same wherever they are drawn; operations, mixing, the sheet."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from drawn import draw_folder, encode, jpeg, photo, png
from regraft import augmentation
from regraft.augmentation import Augmentation, eval_view, preview, train_view, views
from regraft.augmentation.mixing import Mixing, to_input
from regraft.augmentation.operations import OPERATIONS, trivial_augment
from regraft.augmentation.sheet import preview_policies
from regraft.errors import DataError, ImageError, UsageError
from regraft.images import Transform, preprocess

POLICIES = ("squash", "crop", "pad")
SMALL = Transform(size=32)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("flip", [False, True])
def test_evaluation_and_level_none_are_preprocess(policy: Any, flip: bool) -> None:
    transform = Transform(size=24, policy=policy, flip=flip)
    for data in (png(1, size=(50, 31)), jpeg(2, size=(300, 200))):
        served = preprocess(data, transform)
        np.testing.assert_array_equal(eval_view(data, transform), served)
        level_none = train_view(data, transform, Augmentation(level="none", flip=True), epoch=3, index=4)
        np.testing.assert_array_equal(level_none, served)


@pytest.mark.parametrize("policy", ["squash", "pad"])
def test_the_largest_box_is_what_evaluation_sees(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = views._Strength(scale=(1.0, 1.0), stretch=1.0, operation=False, erase=0.0)
    monkeypatch.setitem(views.LEVELS, "light", whole)
    transform = Transform(size=24, policy=policy)
    for size in ((48, 24), (48, 48), (32, 96)):  # the bars of `pad` are whole pixels in both
        data = png(1, size=size)
        seen = train_view(data, transform, Augmentation(), epoch=0, index=0).astype(int)
        assert np.abs(seen - preprocess(data, transform)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 60), st.sampled_from(POLICIES), st.sampled_from(["light", "medium"]),
    st.booleans(), st.integers(0, 2**32), st.integers(0, 1000), st.integers(0, 10**7),
)  # fmt: skip
def test_a_view_is_a_square_and_a_function_of_its_numbers(
    height: int, width: int, policy: Any, level: Any, flip: bool, seed: int, epoch: int, index: int
) -> None:
    transform = Transform(size=16, policy=policy)
    chosen = Augmentation(level=level, flip=flip, seed=seed)
    data = png(seed % 1000, size=(height, width))
    view = train_view(data, transform, chosen, epoch=epoch, index=index)
    assert view.shape == (16, 16, 3)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous
    np.testing.assert_array_equal(view, train_view(data, transform, chosen, epoch=epoch, index=index))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(POLICIES), st.sampled_from(["light", "medium"]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_boxes_lie_in_the_image_and_keep_to_their_share(
    height: int, width: int, policy: Any, level: str, seed: int
) -> None:
    strength = views.LEVELS[level]
    assert strength is not None
    top, left, high, wide = views._box(height, width, Transform(policy=policy), strength, np.random.default_rng(seed))
    assert 0 <= top <= top + high <= height
    assert 0 <= left <= left + wide <= width
    assert high >= 1
    assert wide >= 1
    if min(height, width) > 100 and policy != "crop":
        share = high * wide / (height * width)
        assert strength.scale[0] - 0.02 <= share <= 1.0
        assert 1 / strength.stretch - 0.05 <= (high / height) / (wide / width) <= strength.stretch + 0.05


def test_seeds_epochs_and_items_differ() -> None:
    data = png(3, size=(64, 64))
    seen = {
        train_view(data, SMALL, Augmentation(seed=s), epoch=e, index=i).tobytes()
        for s in range(2) for e in range(3) for i in range(3)
    }  # fmt: skip
    assert len(seen) == 18


def test_threads_and_global_generators_change_nothing() -> None:
    files = [png(i, size=(40, 50)) for i in range(40)]
    chosen = Augmentation(level="medium", flip=True)

    def view(index: int) -> bytes:
        np.random.seed(threading.get_ident() % 2**32)  # noqa: NPY002
        torch.rand(index)
        return train_view(files[index], SMALL, chosen, epoch=1, index=index).tobytes()

    alone = [view(i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(view, reversed(range(40)))) == alone[::-1]


def _one_view(index: int) -> bytes:
    return train_view(
        png(index, size=(40, 50)), SMALL, Augmentation(level="medium", flip=True), epoch=1, index=index
    ).tobytes()


def test_worker_processes_change_nothing() -> None:
    dataset = [(i,) for i in range(8)]
    expected = [_one_view(i) for i in range(8)]
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=2, num_workers=workers, collate_fn=lambda items: [_one_view(i) for (i,) in items],
            multiprocessing_context="fork" if workers else None,
        )  # fmt: skip
        assert [view for batch in loader for view in batch] == expected


def test_nothing_is_mirrored_unless_asked_for() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    data = encode(ramp)

    def mirrored(chosen: Augmentation) -> float:
        seen = [train_view(data, SMALL, chosen, epoch=0, index=i).astype(int) for i in range(200)]
        return float(np.mean([view[:, 0].mean() > view[:, -1].mean() for view in seen]))

    assert mirrored(Augmentation()) == 0
    assert 0.35 < mirrored(Augmentation(flip=True)) < 0.65  # 4 standard errors


def test_erasing_touches_a_quarter_of_the_views_with_the_mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    strength = views.LEVELS["medium"]
    assert strength is not None
    monkeypatch.setitem(views.LEVELS, "medium", replace(strength, operation=False))
    data = encode(np.zeros((40, 40, 3), np.uint8))
    transform = replace(SMALL, mean=(0.2, 0.4, 0.6))
    erased = 0
    for i in range(400):
        view = train_view(data, transform, Augmentation(level="medium"), epoch=0, index=i)
        lit = view.any(axis=2)
        if lit.any():
            erased += 1
            assert (view[lit] == (51, 102, 153)).all()
            assert 0.01 < lit.mean() < 0.4
    assert 0.16 < erased / 400 < 0.34


@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.0, 0.4, 1.0])
def test_operations_are_torchvisions(strength: float) -> None:
    from torchvision.transforms import v2

    theirs = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=[10.0, 20.0, 30.0])
    image = torch.from_numpy(photo(4, size=(40, 60))).permute(2, 0, 1)
    magnitudes = {
        "shear_x": 0.3 * strength, "shear_y": 0.3 * strength, "translate_x": 150 / 331 * 60 * strength,
        "translate_y": 150 / 331 * 40 * strength, "rotate": 30 * strength, "posterize": round(8 - 4 * abs(strength)),
        "solarize": 1 - abs(strength), "autocontrast": 0.0, "equalize": 0.0, "identity": 0.0,
    }  # fmt: skip
    names = {"autocontrast": "AutoContrast"}
    assert set(OPERATIONS) == {*magnitudes, "brightness", "color", "contrast", "sharpness"}
    for name, operation in OPERATIONS.items():
        word = names.get(name, "".join(part.title() for part in name.split("_")))
        expected = theirs._apply_image_or_video_transform(
            image, word, magnitudes.get(name, 0.9 * strength), interpolation=theirs.interpolation, fill=theirs._fill
        )
        assert torch.equal(operation(image, strength, [10.0, 20.0, 30.0]), expected), name


def test_every_operation_is_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(OPERATIONS, 0)

    def counting(name: str) -> Any:
        def operation(image: torch.Tensor, strength: float, fill: Any) -> torch.Tensor:
            counts[name] += 1
            assert -1 <= strength <= 1
            return image

        return operation

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, counting(name))
    rng = np.random.default_rng(0)
    for _ in range(1400):
        trivial_augment(np.zeros((4, 4, 3), np.uint8), rng, fill=(0, 0, 0))
    assert all(60 < count < 140 for count in counts.values())  # 4 standard errors about 100


def test_a_damaged_file_is_an_image_error() -> None:
    for level in augmentation.LEVELS:
        with pytest.raises(ImageError):
            train_view(b"no image", SMALL, Augmentation(level=level), epoch=0, index=0)  # type: ignore[arg-type]


def test_wrong_words() -> None:
    with pytest.raises(UsageError, match="did you mean 'medium'"):
        Augmentation(level="medum")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed"):
        Augmentation(seed=-1)


def test_to_input_is_the_engines_arithmetic() -> None:
    from regraft.features.engines.torch import PixelBackbone

    transform = Transform(size=8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    found = to_input(pixels, transform)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, PixelBackbone(torch.nn.Identity(), transform)(pixels))


@pytest.mark.parametrize("num", [1, 2, 5, 8])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixup_mixes_images_targets_and_weights_alike(num: int, mode: str) -> None:
    torch.manual_seed(0)
    images, labels, weight = torch.rand(num, 3, 6, 6), torch.randint(4, (num,)), torch.rand(num) + 0.1
    kept = images.clone()
    mixing = Mixing(4, mixup_alpha=0.8, mode=mode, seed=7)
    mixed, soft, mixed_weight = mixing(images, labels, weight, epoch=1, step=2)
    assert torch.equal(images, kept)
    # one-pixel images that are their own number show the shares
    shares = mixing(torch.eye(num).view(num, num, 1, 1), labels, epoch=1, step=2)[0].view(num, num)
    torch.testing.assert_close(shares.sum(1), torch.ones(num))
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", shares, images))
    hot = torch.nn.functional.one_hot(labels, 4).float()
    torch.testing.assert_close(mixed_weight, shares @ weight)
    torch.testing.assert_close(mixed_weight[:, None] * soft, shares @ (weight[:, None] * hot))
    torch.testing.assert_close(soft.sum(1), torch.ones(num))
    if num % 2:
        assert torch.equal(mixed[-1], images[-1])
    if num > 1:
        assert not torch.equal(mixed, images)


def test_cutmix_shares_are_areas() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 20, 20)
    mixed, soft, _ = Mixing(4, cutmix_alpha=1.0, seed=1)(images, torch.arange(4), epoch=0, step=0)
    for i in range(4):
        for j in range(4):
            assert soft[i, j].item() == pytest.approx((mixed[i, 0] == j).float().mean().item(), abs=1e-6)
    assert 0 < soft[0, 3] < 1


def test_mixing_is_a_function_of_its_numbers_and_leaves_the_generator_alone() -> None:
    images, labels = torch.rand(4, 3, 5, 5), torch.tensor([0, 1, 2, 3])
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]  # noqa: NPY002

    def soft(seed: int = 0, rank: int = 0, epoch: int = 0, step: int = 0) -> tuple[float, ...]:
        mixing = Mixing(4, mixup_alpha=1.0, cutmix_alpha=1.0, seed=seed, rank=rank)
        return tuple(mixing(images, labels, epoch=epoch, step=step)[1].flatten().tolist())

    assert soft() == soft()
    assert len({soft(), soft(1), soft(0, 1), soft(0, 0, 1), soft(0, 0, 0, 1)}) == 5
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002


def test_soft_targets_and_zero_weights_mix_without_nan() -> None:
    soft_in = torch.full((4, 2), 0.5)
    images, soft, weight = Mixing(2, mixup_alpha=1.0)(torch.rand(4, 3, 5, 5), soft_in, torch.zeros(4), epoch=0, step=0)
    assert torch.isfinite(soft).all()
    assert (weight == 0).all()
    assert len(images) == 4


@pytest.mark.parametrize("wrong", [{}, {"mixup_alpha": -1.0}, {"mixup_alpha": 1.0, "prob": 2.0}])
def test_mixing_needs_an_alpha(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="alpha above 0"):
        Mixing(3, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch, pair or elem"):
        Mixing(3, mixup_alpha=1.0, mode="half")


def test_the_sheet_shows_original_evaluation_and_views() -> None:
    files = [png(1, size=(40, 80)), b"broken", jpeg(2, size=(60, 30))]
    failures: list[int] = []
    chosen = Augmentation(level="medium", flip=True)
    picture = preview(
        files, SMALL, chosen, num_views=3, cell=32, on_failure=lambda number, reason: failures.append(number)
    )
    assert picture == preview(files, SMALL, chosen, num_views=3, cell=32)
    assert failures == [1]
    sheet = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    assert sheet.shape[0] == 26 + 2 * 38
    np.testing.assert_array_equal(sheet[26:58, 44:76], eval_view(files[0], SMALL))
    first = train_view(files[2], SMALL, chosen, epoch=0, index=2)
    np.testing.assert_array_equal(sheet[64:96, 94:126], first)
    assert Image.open(io.BytesIO(preview(files, SMALL, chosen, format="JPEG"))).format == "JPEG"
    with pytest.raises(UsageError, match="a view at least"):
        preview(files, SMALL, chosen, num_views=0)
    with pytest.raises(DataError, match="none among 1"):
        preview([b""], SMALL, chosen)
    with pytest.raises(UsageError, match="PNG or JPEG"):
        preview(files, SMALL, chosen, format="GIF")


def test_the_sheet_of_policies_shows_all_three_and_what_a_crop_keeps() -> None:
    files = [png(1, size=(40, 80)), b"broken", png(2, size=(60, 30))]
    failures: list[int] = []
    picture = preview_policies(files, SMALL, cell=32, on_failure=lambda number, reason: failures.append(number))
    assert failures == [1]
    sheet = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    assert sheet.shape == (26 + 2 * 38, 18 + 4 * 38, 3)
    for row, data in enumerate((files[0], files[2])):
        top = 26 + 38 * row
        for column, policy in enumerate(POLICIES, start=1):
            left = 18 + 38 * column
            expected = eval_view(data, replace(SMALL, policy=policy))  # type: ignore[arg-type]
            np.testing.assert_array_equal(sheet[top : top + 32, left : left + 32], expected)
    red = (sheet[26:58, 6:38] == (220, 30, 30)).all(axis=2)  # a square of 7/8 of 16 px in the middle of 32
    assert (np.flatnonzero(red.any(axis=0))[[0, -1]] == (9, 22)).all()
    assert (np.flatnonzero(red.any(axis=1))[[0, -1]] == (9, 22)).all()
    with pytest.raises(DataError, match="none among 1"):
        preview_policies([b""], SMALL)


def test_the_verb_shows_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.cli import main

    data = draw_folder(tmp_path / "photos", per_class=2)
    monkeypatch.chdir(tmp_path)
    assert main(["preview", str(data), "--resize", "--num-images", "3"]) == 0
    with Image.open(tmp_path / "preview-resize.png") as picture:
        assert picture.size == (18 + 4 * 166, 26 + 3 * 166)
    assert main(["preview", str(data), "--resize"]) == 2


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.cli import main

    data = draw_folder(tmp_path / "photos", per_class=2)
    (data / "circle" / "bad.png").write_bytes(b"bad")
    monkeypatch.chdir(tmp_path)
    words = ["preview", str(data), "--augment", "light", "--size", "32", "--num-images", "7"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == "preview-light.png\n"
    assert "bad.png" in err
    assert Image.open(io.BytesIO(Path("preview-light.png").read_bytes())).size[0] > 1000
    assert main(words) == 2
    assert "--output preview-light.png" in capsys.readouterr().err
    assert main([*words, "--output", "preview-light.png"]) == 0
    assert main([*words, "--output", "sheet.gif"]) == 2
    assert main([*words, "--num-views", "0", "--output", "x.png"]) == 2
    assert main(["preview", str(tmp_path / "nowhere"), "--output", "x.png"]) == 3
    capsys.readouterr()


def test_light_views_need_no_torch() -> None:
    code = "import sys, regraft.augmentation, regraft.cli.preview; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
