"""Odd images among usual ones, each found for its own reason with its measured value."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from regraft.audit.odd_images import KINDS, find_odd_images
from regraft.audit.pixel_measures import RECORD, measure_pixels, pixel_measures
from regraft.errors import DataError, ImageError


def textured(seed, size=(120, 160)):
    """A picture with detail at every scale."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.float32)
    for side in (3, 12, 48):
        coarse = rng.uniform(0, 255, (side, side, 3)).astype(np.float32)
        image += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) / 3
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def framed(image):
    bars = image.copy()
    bars[:12], bars[-12:] = 0, 0
    return bars


ODD = {
    "dark": (lambda image: (image * 0.1).astype(np.uint8), "grey level"),
    "blank": (lambda image: np.full_like(image, 255), "100.0% of it is one colour"),
    "blurred": (lambda image: cv2.GaussianBlur(image, (0, 0), 12), "sharpness 0.0"),
    "borders": (framed, "bars of one colour take 20%"),
    "greyscale": (lambda image: np.repeat(image[..., :1], 3, axis=2), "differ by 0 levels"),
    "tiny": (lambda image: image[:12, :16], "16 x 12 pixels"),
    "aspect": (lambda image: image[:16], "10.0 to 1"),
}


def measured(images):
    records = measure_pixels(range(len(images)), lambda i: images[i], num_threads=2)
    return records, np.array([image.shape[:2] for image in images])


@pytest.mark.parametrize("kind", ODD)
def test_each_kind_is_found_with_its_value_and_nothing_else_is_flagged(kind):
    make, words = ODD[kind]
    images = [textured(seed) for seed in range(60)]
    images[7] = make(images[7])
    found = find_odd_images(*measured(images))
    assert np.flatnonzero(found.kinds[kind]).tolist() == [7]
    assert np.flatnonzero(found.column.is_issue).tolist() == [7]
    assert words in found.column.reasons[7]
    assert found.column.score[7] <= 0.5 < found.column.score[[0, 1, 59]].min()


def test_what_most_images_have_is_no_oddity():
    images = [np.repeat(framed(textured(seed))[..., :1], 3, axis=2) for seed in range(30)]
    found = find_odd_images(*measured(images))
    assert not found.column.is_issue.any()
    assert [note.partition("%")[0] for note in found.notes] == ["100", "100"]


def test_images_that_cannot_be_decoded_are_said_so():
    def load(number):
        if number == 3:
            raise ImageError("corrupt", "no")
        return None if number == 4 else textured(number)

    records = measure_pixels(range(12), load, num_threads=3)
    found = find_odd_images(records, np.full((12, 2), 100))
    assert np.flatnonzero(found.kinds["unreadable"]).tolist() == [3, 4]
    assert np.flatnonzero(found.column.is_issue).tolist() == [3, 4]


def test_the_record_has_a_fixed_size_and_does_not_depend_on_threads():
    images = [textured(seed, size=(400, 300)) for seed in range(6)]
    several = measure_pixels(np.arange(6), lambda i: images[i], num_threads=4)
    assert several.dtype == RECORD
    assert several.tobytes() == np.stack([pixel_measures(image) for image in images]).tobytes()


def test_any_shape_is_measured():
    for shape in ((1, 1), (2, 900), (900, 2), (1, 3000)):
        records = np.stack([pixel_measures(np.full((*shape, 3), value, np.uint8)) for value in (0, 255)])
        found = find_odd_images(records, np.array([shape, shape]))
        assert set(found.kinds) == set(KINDS)
        assert np.isfinite(found.column.score).all()


def test_no_images_and_wrong_columns():
    assert len(find_odd_images(np.zeros(0, RECORD), np.zeros((0, 2), np.int32)).column.reasons) == 0
    with pytest.raises(DataError, match="2 records"):
        find_odd_images(np.zeros(2, RECORD), np.zeros((3, 2), np.int32))
