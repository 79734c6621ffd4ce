"""Decoding: every layout becomes the right RGB, upright, by whichever path."""

import io
import struct
import threading

import numpy as np
import pytest
from PIL import Image, ImageOps

from drawn import BAD_CONTENT, GOOD_CONTENT, ODD_CONTENT, animation, encode, jpeg, photo, png, png_bomb
from regraft import images
from regraft.errors import ImageError
from regraft.images import Transform, decode, inspect, preprocess, resize


def by_pillow(data: bytes) -> np.ndarray:
    """The obvious reference: Pillow, upright, RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def oriented(format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo(1, size=(40, 64)), format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_as_pillow_does(format, orientation):
    data = oriented(format, orientation)
    wanted, got = by_pillow(data), decode(data)
    assert got.shape == wanted.shape == ((40, 64, 3) if orientation < 5 else (64, 40, 3))
    # the two JPEG decoders differ in chroma upsampling and rounding
    assert np.abs(got.astype(int) - wanted).mean() < (1.0 if format == "JPEG" else 1e-9)
    info = inspect(data)
    assert (info.height, info.width) == wanted.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_survives_a_decoding_at_reduced_size(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(2, size=(400, 640)), "JPEG", exif=exif, quality=95)
    upright = by_pillow(data)
    small = decode(data, min_size=(50, 80) if orientation < 5 else (80, 50))
    assert small.shape[0] < upright.shape[0] / 4
    wanted = np.asarray(Image.fromarray(upright).resize(small.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_changes_nothing(value):
    assert decode(oriented("JPEG", value)).shape == (40, 64, 3)


def test_orientation_in_xmp_alone_is_applied_on_both_paths():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'
    body = b"http://ns.adobe.com/xap/1.0/\x00" + packet
    plain = jpeg(3, size=(40, 64))
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    assert by_pillow(data).shape == (64, 40, 3)
    assert decode(data).shape == (64, 40, 3)
    assert (inspect(data).height, inspect(data).width) == (64, 40)


def test_exif_behind_a_large_colour_profile_is_found():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encode(photo(4, size=(40, 64)), "JPEG", exif=exif)
    profile = b"ICC_PROFILE\x00\x01\x01" + bytes(65_000)
    segment = b"\xff\xe2" + struct.pack(">H", len(profile) + 2) + profile
    assert decode(plain[:2] + segment * 2 + plain[2:]).shape == (64, 40, 3)


def test_damaged_exif_does_not_cost_the_image():
    data = oriented("JPEG", 6).replace(b"MM\x00*", b"MM\xff\xff").replace(b"II*\x00", b"II\xff\xff")
    assert decode(data).shape == (40, 64, 3)
    assert inspect(data).width == 64


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_libjpeg_turbo_and_pillow_agree_at_full_size(quality, subsampling, progressive):
    data = jpeg(5, size=(96, 130), quality=quality, subsampling=subsampling, progressive=progressive)
    difference = np.abs(decode(data).astype(int) - by_pillow(data))
    assert difference.mean() < 1
    assert difference.max() <= 40


@pytest.mark.parametrize("size", [(480, 640), (331, 1003), (57, 2000)])
@pytest.mark.parametrize("need", [32, 56, 100, 224])
def test_a_reduced_jpeg_is_never_smaller_than_needed(size, need):
    pixels = decode(jpeg(6, size=size), min_size=(need, need))
    assert pixels.shape[0] >= min(need, size[0])
    assert pixels.shape[1] >= min(need, size[1])


def test_cmyk_jpeg_is_as_pillow_converts_it():
    data = encode(Image.fromarray(photo(7)).convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(decode(data), by_pillow(data))
    assert np.abs(decode(data).astype(int) - photo(7)).mean() < 6


def test_grey_jpeg_has_three_equal_channels():
    pixels = decode(encode(Image.fromarray(photo(8)).convert("L"), "JPEG", quality=95))
    assert pixels.shape == (24, 32, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_values(format):
    values = np.linspace(0, 65_535, 24 * 32).reshape(24, 32).round().astype(np.uint16)
    pixels = decode(encode(values, format))
    assert np.abs(pixels[..., 1] - values / 257).max() <= 0.5  # the nearest of 256 levels


@pytest.mark.parametrize("top", [1.0, 255.0, 65_535.0])
def test_float_tiff_is_scaled_by_its_range(top):
    share = np.linspace(0, 1, 24 * 32).reshape(24, 32)
    pixels = decode(encode((share * top).astype(np.float32), "TIFF"))
    assert np.abs(pixels[..., 0] / 255 - share).max() <= 0.5 / 255 + 1e-6


def test_float_tiff_with_negative_values_and_nan_is_stretched():
    values = np.linspace(-3, 5, 24 * 32).reshape(24, 32).astype(np.float32)
    values[0, 5] = np.nan
    pixels = decode(encode(values, "TIFF"))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_transparent_pixels_show_the_background(background):
    rgba = np.dstack([photo(9), np.full((24, 32), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    rgba[10:12, :, 3] = 128
    got = decode(encode(rgba), background=background)
    assert (got[:10] == background).all()
    half = photo(9)[10:12] * (128 / 255) + np.array(background) * (127 / 255)
    assert np.abs(got[10:12] - half).max() <= 1.01
    assert np.array_equal(got[12:], photo(9)[12:])


def test_palette_with_transparency_shows_the_background():
    image = Image.fromarray(photo(10)).quantize(8)
    index = np.asarray(image)[3, 4]
    got = decode(encode(image, "PNG", transparency=int(index)), background=(1, 2, 3))
    seen = np.asarray(image) == index
    assert (got[seen] == (1, 2, 3)).all()
    assert np.array_equal(got[~seen], np.asarray(image.convert("RGB"))[~seen])


def test_grey_with_alpha_and_one_bit_images():
    grey = Image.fromarray(photo(11)).convert("LA")
    assert np.array_equal(decode(encode(grey)), np.asarray(grey.convert("L").convert("RGB")))
    bits = Image.fromarray(photo(12)).convert("1")
    assert np.array_equal(decode(encode(bits)), np.asarray(bits.convert("RGB")))


def test_lab_tiff_becomes_rgb():
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(photo(13)), *profiles, outputMode="LAB")
    data = encode(lab, "TIFF")
    assert np.abs(decode(data).astype(int) - photo(13)).mean() < 4
    assert inspect(data).mode == "LAB"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_used(format):
    data = animation(format)
    tolerance = {"WEBP": 8, "GIF": 8}.get(format, 0)
    assert np.abs(decode(data).astype(int) - photo(5)).mean() <= tolerance
    assert inspect(data).num_frames == 3


@pytest.mark.parametrize("name", sorted(GOOD_CONTENT | ODD_CONTENT))
def test_what_is_inspected_is_what_is_decoded(name):
    made = GOOD_CONTENT.get(name) or ODD_CONTENT[name][1]
    data = made()
    info, pixels = inspect(data), decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (info.height, info.width, 3)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("name", sorted(BAD_CONTENT))
def test_bad_files_fail_alike_in_inspect_and_decode(name):
    data = BAD_CONTENT[name][1]()
    kinds = []
    for use in (inspect, decode, lambda d: preprocess(d, Transform(size=16))):
        with pytest.raises(ImageError) as caught:
            use(data)
        kinds.append(caught.value.kind)
        assert "\n" not in str(caught.value)
    assert set(kinds) == {BAD_CONTENT[name][0]}


def test_a_truncated_jpeg_is_never_decoded_half():
    data = jpeg(14, size=(200, 200), quality=90)
    for share in (0.3, 0.6, 0.9, 0.99):
        cut = data[: int(len(data) * share)]
        with pytest.raises(ImageError, match="cut off"):
            decode(cut, min_size=(20, 20))


def test_the_size_limit_is_checked_before_any_pixel_is_made():
    with pytest.raises(ImageError, match="pixels") as caught:
        decode(png_bomb(13_400, 13_400))
    assert caught.value.kind == "too_large"


def test_large_images_wait_for_one_another(monkeypatch):
    monkeypatch.setattr(images, "LARGE_PIXELS", 10)

    data, results = png(15, size=(64, 64)), []
    threads = [threading.Thread(target=lambda: results.append(decode(data))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(np.array_equal(result, results[0]) for result in results)
    with pytest.raises(ImageError):  # a failure gives the lock back
        decode(BAD_CONTENT["half.png"][1]())
    assert decode(data).shape == (64, 64, 3)


@pytest.mark.parametrize("policy", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (24, 32), (500, 375)])
def test_every_size_becomes_the_square(policy, size):
    pixels = preprocess(png(16, size=size), Transform(size=48, policy=policy))
    assert pixels.shape == (48, 48, 3)
    assert pixels.dtype == np.uint8


def test_pad_keeps_the_picture_and_fills_the_rest():
    black = np.zeros((40, 80, 3), np.uint8)
    padded = resize(black, Transform(size=40, policy="pad", background=(9, 8, 7)))
    assert (padded[:10] == (9, 8, 7)).all()
    assert (padded[10:30] == 0).all()
    assert (padded[30:] == (9, 8, 7)).all()


def test_crop_takes_the_centre():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[25:75, 75:125] = 255
    assert (resize(pixels, Transform(size=50, policy="crop", crop_pct=0.5)) == 255).all()


def test_shrinking_averages_areas():
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = resize(np.repeat(board[..., None], 3, axis=2), Transform(size=16))
    assert np.abs(small.astype(int) - 127.5).max() <= 1


def test_a_transform_survives_json():
    transform = Transform(size=96, policy="pad", mean=(0.1, 0.2, 0.3), background=(1, 2, 3))
    assert Transform.from_dict(transform.as_dict()) == transform


def test_the_first_picture_of_a_cameras_mpo_is_the_photo():
    pictures = [Image.fromarray(photo(seed, size=(40, 64))) for seed in (17, 18)]
    data = encode(pictures[0], "MPO", save_all=True, append_images=pictures[1:], quality=95)
    info = inspect(data)
    assert (info.format, info.num_frames, info.height, info.width) == ("MPO", 1, 40, 64)
    assert np.abs(decode(data).astype(int) - photo(17, size=(40, 64))).mean() < 3
