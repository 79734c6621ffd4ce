"""Pictures by hash: what is sent, what is refused, and what it costs."""

from __future__ import annotations

import asyncio
import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from board_samples import FakeDesk, client_of, drawn, hash_of, site_at
from fastapi import HTTPException
from PIL import Image, ImageCms
from starlette.testclient import TestClient

from regraft.board import pictures, thumbnails
from regraft.board.pictures import Shelf
from regraft.board.site import Site
from regraft.board.thumbnails import SIDES, SMALL, media_type


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return site_at(tmp_path / "site")


@pytest.fixture
def client(site: Site) -> TestClient:
    return client_of(site)


PNG = b"\x89PNG\r\n\x1a\n"


def put(site: Site, path: Path) -> str:
    """Take a file under review; gives its hash."""
    assert isinstance(site.desk, FakeDesk)
    site.desk.images[hash_of(path)] = path
    return hash_of(path)


def data(site: Site) -> Path:
    assert isinstance(site.desk, FakeDesk)
    return site.desk.root


def opened(body: bytes) -> Image.Image:
    return Image.open(io.BytesIO(body))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [(1600, 900), (300, 900), (40, 30)])
def test_a_thumbnail_fits_and_keeps_its_shape(site, client, side, size):
    name = put(site, drawn(data(site) / "a.png", size=size))
    answer = client.get(f"/pictures/{name}/thumb?side={side}")
    assert answer.status_code == 200
    picture = opened(answer.content)
    scale = min(1.0, side / max(size))
    assert max(picture.size) <= side
    assert picture.size == pytest.approx((size[0] * scale, size[1] * scale), abs=1)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels[:, : pixels.shape[1] // 3].mean() > 80 > 20 > pixels[:, -pixels.shape[1] // 3 :].mean()


def test_a_small_picture_loses_nothing(site, client):
    noise = np.random.default_rng(0).integers(0, 256, (28, SMALL, 3), np.uint8)
    path = data(site) / "noise.png"
    Image.fromarray(noise).save(path)
    picture = opened(client.get(f"/pictures/{put(site, path)}/thumb?side=512").content)
    np.testing.assert_array_equal(np.asarray(picture), noise)


def test_it_stands_upright_and_tells_nothing_of_camera_and_place(site, client):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "the maker of the camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = drawn(data(site) / "side.jpg", size=(800, 400), exif=exif.tobytes(), icc_profile=profile)
    answer = client.get(f"/pictures/{put(site, path)}/thumb?side=512")
    picture = opened(answer.content)
    assert picture.size == (256, 512)
    assert "icc_profile" not in picture.info
    assert not picture.getexif()
    assert b"maker" not in answer.content


def test_it_is_made_once_and_kept_over_a_restart(site, client, monkeypatch):
    made = []
    real = pictures.shrink
    monkeypatch.setattr(pictures, "shrink", lambda *args: made.append(args[1]) or real(*args))
    name = next(iter(site.desk.images))
    bodies = {client.get(f"/pictures/{name}/thumb?side=256").content for _ in range(3)}
    bodies |= {client_of(site).get(f"/pictures/{name}/thumb?side=256").content}
    assert made == [256]
    assert len(bodies) == 1


@pytest.mark.parametrize("size", [(800, 600), (90, 60)])
def test_a_damaged_thumbnail_is_made_again(site, client, size):
    name = put(site, drawn(data(site) / "a.png", size=size))
    before = client.get(f"/pictures/{name}/thumb").content
    (kept,) = (site.cache_dir / "thumbs").rglob(f"*{name}-256*")
    for damaged in (b"", b"<html>", before[:-1], before[: len(before) // 2] + bytes(len(before) - len(before) // 2)):
        kept.write_bytes(damaged)
        assert client.get(f"/pictures/{name}/thumb").content == before
        assert kept.read_bytes() == before


def test_a_full_disk_costs_no_picture(site, client, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pictures, "keep", full)
    assert client.get(f"/pictures/{next(iter(site.desk.images))}/thumb").status_code == 200


def test_many_who_ask_for_one_picture_wait_for_one(site, monkeypatch):
    go, made = threading.Event(), []
    monkeypatch.setattr(pictures, "shrink", lambda data, side: made.append(side) or (go.wait(10), PNG)[1])
    shelf, name = Shelf(site), next(iter(site.desk.images))

    async def ask():
        asked = [asyncio.create_task(shelf.thumb(name, 256)) for _ in range(8)]
        await asyncio.sleep(0.05)
        go.set()
        return await asyncio.gather(*asked)

    assert len(set(asyncio.run(ask()))) == 1
    assert made == [256]


def test_one_who_leaves_does_not_spoil_it_for_the_other(site, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(pictures, "shrink", lambda data, side: (go.wait(10), PNG)[1])
    shelf, (first, second) = Shelf(site, num_threads=1), list(site.desk.images)[:2]

    async def ask():
        busy = asyncio.create_task(shelf.thumb(first, 256))
        leaving, staying = (asyncio.create_task(shelf.thumb(second, 256)) for _ in range(2))
        while len(shelf._making) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # both wait for the second, which has not begun
        leaving.cancel()
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(busy, staying)

    assert asyncio.run(ask()) == [PNG, PNG]


def test_too_many_at_once_are_told_to_come_again(site, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(pictures, "shrink", lambda data, side: (go.wait(10), PNG)[1])
    shelf, names = Shelf(site, num_threads=1, max_waiting=2), list(site.desk.images)

    async def ask():
        first = [asyncio.create_task(shelf.thumb(name, 256)) for name in names[:2]]
        while len(shelf._making) < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(HTTPException) as refused:
            await shelf.thumb(names[2], 256)
        go.set()
        return refused.value, await asyncio.gather(*first)

    refused, others = asyncio.run(ask())
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert len(others) == 2


def test_an_address_means_the_same_bytes_for_ever(site, client):
    name = next(iter(site.desk.images))
    for what in ("thumb?side=128", "original"):
        answer = client.get(f"/pictures/{name}/{what}")
        assert "immutable" in answer.headers["cache-control"]
        assert "private" in answer.headers["cache-control"]
        again = client.get(f"/pictures/{name}/{what}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(f"/pictures/{name}/{what}").headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    "name",
    [
        "0" * 64, "0" * 63, "A" * 64, "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%00", "cat/0.png", "..",
        "' OR 1=1 --", "٠" * 64,
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", ["thumb", "original"])
def test_only_a_hash_under_review_leads_to_a_file(site, client, name, what):
    answer = client.get(f"/pictures/{name}/{what}")
    assert answer.status_code == 404
    assert b"root:" not in answer.content


def test_a_hash_in_capitals_or_with_a_line_end_is_none(site, client):
    name = next(iter(site.desk.images))
    site.desk.images[name.upper()] = site.desk.images[f"{name}\n"] = site.desk.images[name]
    assert client.get(f"/pictures/{name.upper()}/thumb").status_code == 404
    assert client.get(f"/pictures/{name}%0a/thumb").status_code == 404


@pytest.mark.parametrize("side", ["0", "-1", "257", "100000", "x", "1e3", "'; DROP TABLE decisions; --"])
def test_no_other_side(site, client, side):
    answer = client.get(f"/pictures/{next(iter(site.desk.images))}/thumb", params={"side": side})
    assert answer.status_code == 400
    assert "error" in answer.json()


@pytest.mark.parametrize("what", ["thumb", "original"])
def test_a_file_that_left_or_changed_is_not_shown(site, client, what):
    name, path = next(iter(site.desk.images.items()))
    before = path.read_bytes()
    assert client.get(f"/pictures/{name}/{what}").status_code == 200
    path.unlink()
    left = client.get(f"/pictures/{name}/{what}")
    path.write_bytes(drawn(path.with_name("other.png"), seed=99).read_bytes())
    changed = client.get(f"/pictures/{name}/{what}")
    path.write_bytes(before)
    restored = client.get(f"/pictures/{name}/{what}")
    assert (left.status_code, changed.status_code, restored.status_code) == (404, 410, 200)
    for answer in (left, changed):
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "no-store"
        assert opened(answer.content).size == (256, 256)


@pytest.mark.parametrize("what", ["thumb", "original"])
def test_a_link_must_not_lead_out_of_the_data(site, client, tmp_path, what):
    secret = drawn(tmp_path / "private" / "secret.png", seed=5)
    inside = data(site) / "cat" / "0.png"
    file_link, folder_link, inner_link = (data(site) / name for name in ("file.png", "folder", "inner.png"))
    file_link.symlink_to(secret)
    folder_link.symlink_to(secret.parent)
    inner_link.symlink_to(inside)
    for path, status in ((file_link, 404), (folder_link / "secret.png", 404), (inner_link, 200)):
        assert client.get(f"/pictures/{put(site, path)}/{what}").status_code == status
    dotted = data(site) / "cat" / ".." / "folder" / "secret.png"
    assert client.get(f"/pictures/{put(site, dotted)}/{what}").status_code == 404


def test_a_file_exchanged_for_a_link_is_not_followed_even_to_the_same_bytes(site, client, tmp_path):
    name, path = next(iter(site.desk.images.items()))
    assert client.get(f"/pictures/{name}/thumb").status_code == 200
    copy = tmp_path / "copy.png"
    copy.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(copy)
    assert client.get(f"/pictures/{name}/thumb").status_code == 404


def test_the_data_folder_itself_may_be_a_link(tmp_path):
    site = site_at(tmp_path / "site")
    alias = tmp_path / "alias"
    alias.symlink_to(data(site))
    name, path = next(iter(site.desk.images.items()))
    site.desk.root, site.desk.images[name] = alias, alias / path.relative_to(data(site))
    assert client_of(site).get(f"/pictures/{name}/thumb").status_code == 200


def test_what_a_manifest_names_elsewhere_is_shown(site, client, tmp_path):
    name = put(site, drawn(tmp_path / "elsewhere" / "a.png", seed=7))
    assert client.get(f"/pictures/{name}/thumb").status_code == 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_holds_nobody_up(site, client):
    name, path = next(iter(site.desk.images.items()))
    path.unlink()
    os.mkfifo(path)
    assert client.get(f"/pictures/{name}/thumb").status_code == 404
    assert client.get(f"/pictures/{name}/original").status_code == 404


def bomb(side: int) -> bytes:
    """A PNG of some hundred bytes that promises side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [14_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(site, client, side, monkeypatch):
    monkeypatch.setattr("regraft.images._load", lambda *_: pytest.fail("its pixels were asked for"))
    path = data(site) / "bomb.png"
    path.write_bytes(bomb(side))
    answer = client.get(f"/pictures/{put(site, path)}/thumb")
    assert answer.status_code == 410
    assert answer.headers["content-type"] == "image/png"


def test_a_file_too_large_to_read_is_not_read(site, client, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAX_FILE", 100)
    assert client.get(f"/pictures/{next(iter(site.desk.images))}/original").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"<!doctype html><script>alert(1)</script>",
        b"<?xml version='1.0'?><svg/>", b"%PDF-1.4", b"PK\x03\x04", b"",
    ],
)  # fmt: skip
def test_what_a_browser_would_run_is_never_sent_as_that(site, client, body):
    path = data(site) / "evil.jpg"
    path.write_bytes(body)
    answer = client.get(f"/pictures/{put(site, path)}/original")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert client.get(f"/pictures/{hash_of(path)}/thumb").status_code == 410


def test_a_picture_that_is_a_page_as_well_is_sent_as_a_picture(site, client):
    path = data(site) / 'x"; filename=evil.html'
    path.write_bytes(drawn(data(site) / "p.png").read_bytes() + b"<html><script>alert(1)</script>")
    answer = client.get(f"/pictures/{put(site, path)}/original")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert "evil" not in answer.headers["content-disposition"]


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("jpg", "image/jpeg"), ("png", "image/png"), ("gif", "image/gif"), ("webp", "image/webp"), ("bmp", "image/bmp"),
     ("tif", "image/tiff"), ("avif", "image/avif"), ("jp2", "image/jp2")],
)  # fmt: skip
def test_an_original_has_the_type_of_its_bytes(tmp_path, ending, kind):
    assert media_type(drawn(tmp_path / f"a.{ending}").read_bytes())[0] == kind


def test_without_a_desk_there_are_no_pictures(tmp_path):
    site = site_at(tmp_path / "none", desk=None)
    assert client_of(site).get(f"/pictures/{'0' * 64}/thumb").status_code == 404
