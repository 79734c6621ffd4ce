"""What the scan remembers by content: complete, shared, and never believed when damaged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drawn import draw_bad_files, draw_folder, png
from regraft.data import read
from regraft.data import verdicts as verdicts_module
from regraft.images import decoder_fingerprint


def shards(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def test_a_second_scan_decodes_nothing_and_finds_the_same(tmp_path):
    draw_bad_files(tmp_path / "data")
    first = read(tmp_path / "data", cache_dir=tmp_path / "cache")
    second = read(tmp_path / "data", cache_dir=tmp_path / "cache")
    assert first.num_decoded > 50
    # too_large is judged again: it hangs on the memory there is
    assert second.num_decoded == 1
    assert second.findings == first.findings
    assert np.array_equal(second.manifest.sizes, first.manifest.sizes)
    assert second.formats == first.formats


def test_moved_and_renamed_images_are_known(tmp_path):
    draw_folder(tmp_path / "data", per_class=4)
    read(tmp_path / "data", cache_dir=tmp_path / "cache")
    (tmp_path / "data" / "star").rename(tmp_path / "data" / "moon")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "moon" / "new.png").write_bytes(png(900))
    assert read(tmp_path / "elsewhere", cache_dir=tmp_path / "cache").num_decoded == 1
    assert len(shards(tmp_path / "cache")) == 2


def test_identical_images_are_decoded_once_within_a_scan(tmp_path):
    draw_folder(tmp_path, per_class=2)
    for copy in range(5):
        (tmp_path / "star" / f"copy_{copy}.png").write_bytes(png(1))
    assert read(tmp_path, num_threads=1).num_decoded == 7


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_shard_is_decoded_and_written_again(tmp_path, damage):
    draw_folder(tmp_path / "data", per_class=4)
    first = read(tmp_path / "data", cache_dir=tmp_path / "cache")
    (shard,) = shards(tmp_path / "cache")
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1
    shard.write_bytes(
        {"cut": whole[: len(whole) // 2], "flip": bytes(flipped), "empty": b"", "text": b"x" * 500}[damage]
    )
    again = read(tmp_path / "data", cache_dir=tmp_path / "cache")
    assert again.num_decoded == first.num_decoded == 12
    assert np.array_equal(again.manifest.sizes, first.manifest.sizes)
    assert read(tmp_path / "data", cache_dir=tmp_path / "cache").num_decoded == 0
    assert shard.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path):
    draw_folder(tmp_path / "data", per_class=4)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(read(tmp_path / "data", cache_dir=tmp_path / "cache").manifest) == 12


def test_many_shards_are_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts_module, "SHARD_ROWS", 7)
    monkeypatch.setattr(verdicts_module, "CHUNK", 3)
    draw_bad_files(tmp_path / "data")
    first = read(tmp_path / "data", cache_dir=tmp_path / "cache", num_threads=1)
    assert len(shards(tmp_path / "cache")) > 5
    second = read(tmp_path / "data", cache_dir=tmp_path / "cache")
    assert second.num_decoded == 1
    assert second.findings == first.findings


def test_two_processes_scan_at_once(tmp_path):
    draw_folder(tmp_path / "data", per_class=60)
    program = (
        "import sys; from pathlib import Path; from regraft.data import read, data_version;"
        "print(data_version(read(sys.argv[1], cache_dir=Path(sys.argv[2])).manifest))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data"), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    versions = {process.communicate(timeout=120)[0].strip() for process in running}
    assert len(versions) == 1
    assert all(process.returncode == 0 for process in running)
    assert read(tmp_path / "data", cache_dir=tmp_path / "cache").num_decoded == 0
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_another_decoder_is_another_memory(tmp_path, monkeypatch):
    draw_folder(tmp_path / "data", per_class=4)
    read(tmp_path / "data", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(verdicts_module.images, "DECODER", "another")
    assert decoder_fingerprint() not in str(shards(tmp_path / "cache"))
    assert read(tmp_path / "data", cache_dir=tmp_path / "cache").num_decoded == 12


def test_an_interrupted_scan_keeps_what_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts_module, "SHARD_ROWS", 10)
    monkeypatch.setattr(verdicts_module, "CHUNK", 10)
    draw_folder(tmp_path / "data", per_class=40)

    def stop(done, total):
        if done >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "data", cache_dir=tmp_path / "cache", num_threads=1, progress=stop)
    assert read(tmp_path / "data", cache_dir=tmp_path / "cache").num_decoded <= 60
