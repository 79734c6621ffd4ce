"""What each layout of folders is taken for, and what is said where it is none."""

import os

import numpy as np
import pytest

from drawn import draw_folder, jpeg, png
from regraft.data import list_images, read
from regraft.errors import DataError


def test_class_folders(tmp_path):
    scan = read(draw_folder(tmp_path, per_class=(3, 4, 5)))
    assert scan.source == "class folders"
    assert scan.manifest.class_names == ("circle", "square", "star")
    assert scan.manifest.class_counts().tolist() == [3, 4, 5]
    assert scan.manifest.images[0] == "circle/0000.png"
    assert set(scan.manifest.given_splits.tolist()) == {""}
    assert scan.findings == ()
    assert scan.formats == {"PNG": 12}


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Train", "VALID", "Test"), ("train", "validation", "test")]
)
def test_split_folders(tmp_path, train, val, test):
    for seed, name in enumerate((train, val, test)):
        draw_folder(tmp_path / name, per_class=2, seed=100 * seed)
    scan = read(tmp_path)
    assert scan.source == "train/val/test folders of class folders"
    assert scan.as_dict()["splits"] == {"train": 6, "val": 6, "test": 6}
    assert scan.manifest.class_names == ("circle", "square", "star")


def test_a_class_may_be_called_train(tmp_path):
    draw_folder(tmp_path, classes=("bus", "train", "tram"), per_class=2)
    assert read(tmp_path).manifest.class_names == ("bus", "train", "tram")


def test_classes_called_like_splits_without_classes_inside_are_classes(tmp_path):
    draw_folder(tmp_path, classes=("test", "train"), per_class=2)
    assert read(tmp_path).manifest.class_names == ("test", "train")


def test_a_folder_beside_the_splits_is_listed_as_unlabelled(tmp_path):
    draw_folder(tmp_path / "train", per_class=2)
    draw_folder(tmp_path / "test", per_class=2, seed=50)
    draw_folder(tmp_path, classes=("extra",), per_class=2, seed=99)
    (tmp_path / "test" / "loose.png").write_bytes(png(77))
    scan = read(tmp_path)
    assert scan.counts_by_kind == {"unlabelled": 3}
    assert any("'extra'" in note for note in scan.notes)


def test_nested_folders_take_the_first_level_and_say_so(tmp_path):
    draw_folder(tmp_path / "cat" / "indoor", classes=("a", "b"), per_class=2)
    draw_folder(tmp_path, classes=("dog",), per_class=2, seed=70)
    scan = read(tmp_path)
    assert scan.as_dict()["classes"] == {"cat": 4, "dog": 2}
    assert any("4 images" in note and "first level" in note for note in scan.notes)


def test_a_folder_around_the_class_folders_is_hinted_at(tmp_path):
    draw_folder(tmp_path / "images", per_class=2)
    assert any(str(tmp_path / "images") in note for note in read(tmp_path).notes)


def test_an_empty_class_folder_is_noted(tmp_path):
    draw_folder(tmp_path, per_class=2)
    (tmp_path / "void").mkdir()
    assert any("'void'" in note for note in read(tmp_path).notes)


def test_a_flat_folder_is_refused_with_the_layouts(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    with pytest.raises(DataError, match=r"no class folders; give a folder of class folders .* CSV or Parquet"):
        read(tmp_path)
    assert len(read(tmp_path, unlabelled=True).manifest) == 1


def test_a_manifest_beside_flat_images_must_be_named(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "labels.csv").write_text("image,label\na.png,x\n")
    with pytest.raises(DataError, match=r"use '.*labels\.csv'"):
        read(tmp_path)


def test_a_manifest_beside_class_folders_is_not_used_and_named(tmp_path):
    draw_folder(tmp_path, per_class=2)
    (tmp_path / "labels.csv").write_text("image,label\n")
    assert any("regraft scan" in note and "labels.csv" in note for note in read(tmp_path).notes)


@pytest.mark.parametrize(("name", "said"), [("photo", "did you mean 'photos'"), ("zzz", "must exist")])
def test_a_source_that_does_not_exist(tmp_path, name, said):
    draw_folder(tmp_path / "photos", per_class=2)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


def test_an_empty_folder_and_a_wrong_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path)
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="neither"):
        read(tmp_path / "data.zip")


def test_labels_are_not_merged_but_the_merge_is_suggested(tmp_path):
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    draw_folder(tmp_path, classes=("Cat", "cat", "hot dog", "hot_dog", nfc, nfd), per_class=(3, 2, 2, 3, 3, 2))
    scan = read(tmp_path)
    assert scan.manifest.num_classes == 6
    assert {(f.label, f.same_as) for f in scan.findings} == {("cat", "Cat"), ("hot dog", "hot_dog"), (nfd, nfc)}
    assert len(scan.notes) == 3


def test_identical_images_across_given_splits_cost_training_alone(tmp_path):
    for seed, name in enumerate(("train", "val", "test")):
        draw_folder(tmp_path / name, per_class=3, seed=100 * seed)
    (tmp_path / "train" / "star" / "0000.png").write_bytes((tmp_path / "test" / "star" / "0001.png").read_bytes())
    (tmp_path / "val" / "star" / "0000.png").write_bytes((tmp_path / "test" / "star" / "0002.png").read_bytes())
    scan = read(tmp_path)
    assert {(f.image, f.kind, f.same_as) for f in scan.findings} == {
        ("train/star/0000.png", "leaked_duplicate", "test/star/0001.png"),
        ("val/star/0000.png", "leaked_duplicate", "test/star/0002.png"),
    }


def test_a_link_back_to_the_data_does_not_mix_the_classes(tmp_path):
    draw_folder(tmp_path, per_class=2)
    (tmp_path / "star" / "all").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "star" / "up").symlink_to(tmp_path.parent, target_is_directory=True)
    scan = read(tmp_path)
    assert scan.counts_by_kind == {"link_loop": 2}
    assert len(scan.manifest) == 6


def test_a_class_folder_may_be_a_link(tmp_path):
    draw_folder(tmp_path / "data", classes=("circle",), per_class=2)
    draw_folder(tmp_path / "elsewhere", classes=("square",), per_class=2, seed=9)
    (tmp_path / "data" / "square").symlink_to(tmp_path / "elsewhere" / "square", target_is_directory=True)
    assert read(tmp_path / "data").as_dict()["classes"] == {"circle": 2, "square": 2}


def test_the_result_does_not_hang_on_the_number_of_threads(tmp_path):
    draw_folder(tmp_path, per_class=60)
    one, many = read(tmp_path, num_threads=1), read(tmp_path, num_threads=8)
    assert np.array_equal(one.manifest.hashes, many.manifest.hashes)
    assert one.findings == many.findings


def test_progress_ends_at_the_total(tmp_path):
    seen = []
    read(draw_folder(tmp_path, per_class=50), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (150, 150)
    assert seen == sorted(seen)


def test_list_images_takes_files_folders_and_globs(tmp_path):
    draw_folder(tmp_path / "photos", per_class=2)
    (tmp_path / "photos" / "notes.txt").write_text("x")
    (tmp_path / "photos" / ".hidden.png").write_bytes(png(1))
    (tmp_path / "one").write_bytes(jpeg(1))
    (tmp_path / "odd[1].png").write_bytes(png(2))
    found = list(list_images([tmp_path / "one", tmp_path / "photos", str(tmp_path / "photos" / "star" / "*.png")]))
    assert [os.fspath(path.relative_to(tmp_path)) for path in found] == [
        "one", *[f"photos/{name}/000{i}.png" for name in ("circle", "square", "star") for i in range(2)],
        "photos/star/0000.png", "photos/star/0001.png",
    ]  # fmt: skip
    assert list(list_images(tmp_path / "odd[1].png")) == [tmp_path / "odd[1].png"]
    assert len(list(list_images(str(tmp_path / "**" / "*.png")))) == 7


@pytest.mark.parametrize(("name", "said"), [("none.png", "does not"), ("*.gif", "fits 0 files"), ("void", "has none")])
def test_list_images_says_what_fits_nothing(tmp_path, name, said):
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match=said):
        list(list_images(str(tmp_path / name)))
