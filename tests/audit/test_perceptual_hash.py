"""The hash against SciPy's cosine transform, and what it must survive."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dctn

from drawn import photo
from regraft.audit import perceptual_hash
from regraft.audit.perceptual_hash import hash_distance, hash_signs, nearest_hashes, perceptual_hashes, thumbnail


def thumbnails(num=12, size=(60, 80)):
    return np.stack([thumbnail(photo(seed, size=size)) for seed in range(num)])


def test_is_the_median_rule_on_the_cosine_transform():
    pictures = thumbnails()
    for picture, found in zip(pictures, perceptual_hashes(pictures), strict=True):
        low = dctn(picture.astype(np.float64), norm="ortho")[:8, :8].ravel()[1:]
        wanted = sum(1 << i for i, bit in enumerate(low > np.median(low)) if bit)
        assert bin(int(found) ^ wanted).count("1") <= 1  # the median itself may fall either way


def test_of_the_mirror_image_is_the_hash_of_the_mirrored_picture():
    pictures = thumbnails()
    assert (perceptual_hashes(pictures, mirrored=True) == perceptual_hashes(pictures[:, :, ::-1].copy())).all()
    assert (perceptual_hashes(pictures, mirrored=True) != perceptual_hashes(pictures)).all()


def test_survives_scaling_and_brightness_and_tells_pictures_apart():
    for seed in range(8):
        image = photo(seed, size=(120, 160))
        others = [photo(seed, size=(60, 80)), (image * 0.8).astype(np.uint8)]
        own, *same = perceptual_hashes(np.stack([thumbnail(x) for x in (image, *others)]))
        assert all(hash_distance(own, other) <= 8 for other in same)
    hashes = perceptual_hashes(thumbnails())
    apart = hash_distance(hashes[:, None], hashes[None])[~np.eye(len(hashes), dtype=bool)]
    assert apart.min() > 12


@pytest.mark.parametrize("block", [1, 40, 1 << 21])
def test_the_nearest_hashes_mirrored_or_not(block, monkeypatch):
    rng = np.random.default_rng(0)
    plain, mirrored = rng.integers(0, 1 << 63, (2, 30), dtype=np.uint64)
    mirrored[7] = plain[3] ^ np.uint64(1)  # a mirror image of 3, but for a bit
    monkeypatch.setattr(perceptual_hash, "_BLOCK_ELEMENTS", block)
    found = nearest_hashes(plain, mirrored, 2)
    distance = np.minimum(hash_distance(plain[:, None], plain), hash_distance(plain[:, None], mirrored))
    np.fill_diagonal(distance, 64)
    assert found.tolist() == np.argsort(distance, axis=1, kind="stable")[:, :2].tolist()
    assert found[3, 0] == 7


def test_fewer_hashes_than_neighbours():
    hashes = np.array([5, 6], np.uint64)
    assert nearest_hashes(hashes, hashes, 3).tolist() == [[1, -1, -1], [0, -1, -1]]
    assert nearest_hashes(hashes[:0], hashes[:0], 3).shape == (0, 3)


def test_signs_have_the_distance_as_their_cosine():
    hashes = perceptual_hashes(thumbnails())
    signs = hash_signs(hashes).astype(np.float64)
    cosine = signs @ signs.T / 63
    np.testing.assert_allclose(cosine, 1 - 2 * hash_distance(hashes[:, None], hashes[None]) / 63, atol=1e-12)


def test_one_colour_and_odd_shapes_have_a_hash():
    flat = np.full((7, 900, 3), 130, np.uint8)
    pictures = np.stack([thumbnail(flat), thumbnail(photo(1, size=(1, 1))), thumbnail(photo(2, size=(2, 900)))])
    assert pictures.shape == (3, 32, 32)
    assert perceptual_hashes(pictures)[:2].tolist() == [0, 0]
    assert (pictures[0] == 130).all()
    assert perceptual_hashes(np.empty((0, 32, 32), np.uint8)).shape == (0,)
