"""How fast features are extracted from JPEG files, against the limit of this machine and against a plain loop.

    python benchmarks/extraction.py --images 1200 --rounds 3

f: the engine on in-memory tensors; d: decoding and resizing on all cores; limit: 1 / (1/f + 1/d), since both need the
same cores; extract: files to cached features; plain: timm in eager fp32 behind a DataLoader with two workers. Every
round measures all of them; the ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from images import write_photographs

from regraft.environment import versions
from regraft.features.engines import choose, num_cores, open_engine
from regraft.features.extract import extract
from regraft.images import preprocess
from regraft.models.backbones import resolve
from regraft.pipeline import read


def rate(num_images: int, work: Callable[[], Callable[[int], object]], *, calls: int) -> float:
    """Images per second when every core runs `work()`'s function on a share of the calls."""
    turn = itertools.count()

    def run() -> None:
        call = work()
        while (number := next(turn)) < calls:
            call(number)

    threads = [threading.Thread(target=run) for _ in range(num_cores())]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return num_images / (time.perf_counter() - began)


def plain_rate(paths: list[Path], name: str) -> float:
    """timm as its documentation shows it: eager fp32, Pillow transforms, a DataLoader with two workers."""
    import timm
    import torch
    from PIL import Image

    class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            return transform(Image.open(paths[index]).convert("RGB"))

    model = timm.create_model(name, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    torch.set_num_threads(num_cores())
    began = time.perf_counter()
    with torch.inference_mode():
        for batch in torch.utils.data.DataLoader(Files(), batch_size=64, num_workers=2):
            model(batch)
    return len(paths) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--plain-images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "converted"
        data = write_photographs(Path(scratch) / "photographs", options.images)
        manifest = read(data, cache_dir=cache).manifest
        backbone = resolve(options.backbone, cache_dir=cache)
        transform, choice = backbone.transform, choose()
        engine = open_engine(backbone, choice=choice, size=transform.size, cache_dir=cache)
        paths = [manifest.path(i) for i in range(len(manifest))]
        files = [path.read_bytes() for path in paths]
        shape = (engine.chunk, transform.size, transform.size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        calls = len(files) // engine.chunk

        def forward() -> Callable[[int], object]:
            session = engine.session()
            return lambda _: session(pixels)

        def decode() -> Callable[[int], object]:
            return lambda number: preprocess(files[number], transform)

        print(f"{choice.reason}; {len(files)} JPEG files of 500 x 375; {versions()}")
        rows = []
        for number in range(options.rounds):
            f = rate(calls * engine.chunk, forward, calls=calls)
            d = rate(len(files), decode, calls=len(files))
            fresh = Path(scratch) / f"cache-{number}"
            (fresh / "ir").parent.mkdir()
            (fresh / "ir").symlink_to(cache / "ir")
            (fresh / "compiled").symlink_to(cache / "compiled")
            found = extract(manifest, backbone, transform=transform, choice=choice, cache_dir=fresh)
            whole = found.num_forwarded / found.seconds
            plain = plain_rate(paths[: options.plain_images], options.backbone)
            limit = 1 / (1 / f + 1 / d)
            rows.append((f, d, limit, whole, plain, whole / limit, whole / plain))
            print("  ".join(f"{value:8.2f}" for value in rows[-1]), flush=True)
        names = ("f", "d", "limit", "extract", "plain", "extract/limit", "extract/plain")
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            print(f"{name:>14} median {statistics.median(values):8.2f}  ({min(values):.2f}–{max(values):.2f})")


if __name__ == "__main__":
    main()
