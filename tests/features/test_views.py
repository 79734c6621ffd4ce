import sys
from pathlib import Path

import numpy as np
import pytest

from drawn import draw_folder
from regraft import data as data_stage
from regraft.augmentation import Augmentation
from regraft.features import views as views_module
from regraft.features.engines import choose
from regraft.features.extract import extract
from regraft.features.views import extract_views

sys.path.append(str(Path(__file__).parent.parent / "studies"))
from studies_fake import backbone


@pytest.fixture
def asked(tmp_path):
    manifest = data_stage.read(draw_folder(tmp_path / "photos", per_class=3), cache_dir=tmp_path / "cache").manifest
    made = backbone("clear", width=2)
    common = {"transform": made.transform, "choice": choose("torch", "fp32"), "cache_dir": tmp_path / "cache"}
    return manifest, made, common


NUMBERS = np.array([0, 0, 0, 1, 1, 1, 3, 3, 2])


def test_so_many_views_of_each_image_and_never_the_same(asked):
    manifest, made, common = asked
    plain = extract(manifest, made, **common).values
    found, origin = extract_views(manifest, NUMBERS, made, augmentation=Augmentation(level="light"), **common)
    np.testing.assert_array_equal(np.bincount(origin, minlength=9), NUMBERS)
    assert found.dtype == np.float16
    assert len(np.unique(found, axis=0)) == len(found)
    apart = np.abs(found - plain[origin]).max(axis=1)
    assert (apart > 0).all()
    assert np.median(apart) < np.abs(plain[0] - plain[8]).max()  # still the same picture


def test_they_are_extracted_once_in_any_order(asked, monkeypatch):
    manifest, made, common = asked
    first, origin = extract_views(manifest, NUMBERS, made, augmentation=Augmentation(), **common)
    told = []
    monkeypatch.setattr(views_module, "forward_images", lambda *args, **words: told.append(args))
    backwards = np.arange(9)[::-1].copy()
    again, moved = extract_views(manifest.select(backwards), NUMBERS[backwards], made, augmentation=Augmentation(),
                                 **common)  # fmt: skip
    assert not told
    key = np.lexsort((first[:, 0], origin))
    other = np.lexsort((again[:, 0], backwards[moved]))
    np.testing.assert_array_equal(first[key], again[other])


def test_a_changed_file_has_no_views(asked):
    manifest, made, common = asked
    manifest.path(8).write_bytes(manifest.path(7).read_bytes())
    _, origin = extract_views(manifest, NUMBERS, made, augmentation=Augmentation(), **common)
    assert 8 not in origin
    assert (origin == 7).sum() == 3


def test_another_seed_is_another_cache_and_none_is_none(asked):
    manifest, made, common = asked
    one, _ = extract_views(manifest, NUMBERS, made, augmentation=Augmentation(seed=0), **common)
    two, _ = extract_views(manifest, NUMBERS, made, augmentation=Augmentation(seed=1), **common)
    assert not np.array_equal(one, two)
    none, origin = extract_views(manifest, NUMBERS * 0, made, augmentation=Augmentation(), **common)
    assert none.shape == (0, made.num_features)
    assert len(origin) == 0
