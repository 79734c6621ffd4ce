"""Does training wait for its images? JPEG photographs at 224 px, loaded by the threads that `fit` trains with.

    python benchmarks/input_pipeline.py                       # on an idle machine; two cores
    python benchmarks/input_pipeline.py --images 96 --size 128 --rounds 1

- *loader alone*: views of training images a second, nothing else running. A model that trains slower than this on an
  accelerator of its own is never kept waiting.
- *waiting*: share of the training time in which the loop waits for the next batch, `1 - utilisation`.
- *cost*: training from files against training from batches that are in memory already. On a CPU the loader takes its
  time from the model's own cores, which no overlap hides.

Last seen (two idle cores of an AMD Zen 5, torch 2.15, no options): loader alone 1,182 images/s without augmentation,
1,053 light, 602 medium (one thread: 607, 564, 343); training of tf_efficientnet_lite0, light augmentation, 25.0
images/s, waiting 0.3 % of the time (utilisation 99.7 %), +7 % time against batches in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from images import write_photographs
from torch import nn

from regraft.augmentation import Augmentation
from regraft.fit.inputs import FromPixels, Images
from regraft.fit.loader import ImageBatches
from regraft.fit.loop import Trainer
from regraft.fit.sampling import EpochBatches
from regraft.images import Transform


class Remembered:
    """The batches of an epoch, loaded beforehand."""

    def __init__(self, batches: ImageBatches) -> None:
        self._batches = list(batches)

    def __iter__(self):
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def train(batches: ImageBatches | Remembered, architecture: str, transform: Transform) -> float:
    """Seconds of one epoch of a fresh model."""
    torch.manual_seed(0)
    model = FromPixels(timm.create_model(architecture, num_classes=2), transform)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, device="cpu")
    began = time.perf_counter()
    trainer.fit(batches, None, 1)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--photograph", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        write_photographs(Path(temporary), args.images, size=tuple(args.photograph))
        paths = sorted(Path(temporary).glob("*/*.jpg"))
        labels = np.array([path.parent.name == "flower" for path in paths], np.int64)
        transform = Transform(size=args.size)
        images = Images(read=lambda item: paths[item].read_bytes(), labels=labels)

        def loader(level: str, num_threads: int | None = None) -> ImageBatches:
            load = images.views(transform, Augmentation(level=level, seed=0))
            order = EpochBatches(labels, batch_size=args.batch_size, seed=0)
            return ImageBatches(load, labels, order, num_threads=num_threads)

        width, height = args.photograph
        print(f"{args.images} JPEG of {width}x{height} → {args.size} px, {torch.get_num_threads()} threads of torch")
        for level in ("none", "light", "medium"):
            for threads in (1, None):
                rates = []
                for _ in range(args.rounds):
                    batches = loader(level, threads)
                    began = time.perf_counter()
                    for _ in batches:
                        pass
                    rates.append(args.images / (time.perf_counter() - began))
                rate = statistics.median(rates)
                print(f"loader alone, augment {level:<6} {threads or 'all'} threads: {rate:6.0f} images/s", flush=True)
        remembered = Remembered(loader("light"))
        train(remembered, args.architecture, transform)  # warms up
        waiting, cost, speed = [], [], []
        for _ in range(args.rounds):
            batches = loader("light")
            seconds = train(batches, args.architecture, transform)
            waiting.append(batches.waited / seconds)
            speed.append(args.images / seconds)
            cost.append(seconds / train(remembered, args.architecture, transform) - 1)
        print(
            f"training {args.architecture}, augment light: {statistics.median(speed):.1f} images/s, "
            f"waiting {100 * statistics.median(waiting):.1f} % of the time (at most {100 * max(waiting):.1f} %), "
            f"utilisation {100 * (1 - statistics.median(waiting)):.1f} %; "
            f"{100 * statistics.median(cost):+.0f} % time against batches in memory"
        )


if __name__ == "__main__":
    main()
