"""regraft as its users call it: `rg.fit(DATA, strategy="lp_ft", epochs=…)`. Run by `finetune.py`.

Everything that `fit` does is in its time: scan, features, solved head, training, choice among weights, bundle, report.
It holds a fifth of the training images out to choose by, as it does for every user; the peers train on all of them. To
fit once instead of cross-validating it wants a test split: it is given two of the test images of each class, and the
scores come from the bundle, applied to all of them afterwards.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401 - what `fit` imports as it goes: its imports do not count, as nobody's do
import numpy as np
import openvino  # noqa: F401
import sklearn.model_selection  # noqa: F401
import timm  # noqa: F401
import torch
from clock import Clock, arguments

from regraft import environment, pipeline, reporting  # noqa: F401
from regraft.fit.callbacks import Callback
from regraft.fit.fine_tune import Tuned
from regraft.fit.history import Row
from regraft.fit.inputs import Images
from regraft.fit.loader import ImageBatches
from regraft.fit.loop import Trainer
from regraft.images import Transform

OPTIONS = {"strategy": "lp_ft"}
TEST_IMAGES_OF_A_CLASS = 2


class Looks(Callback):
    """The test images, before training (the solved head) and after each epoch, the clock standing still."""

    def __init__(self, clock: Clock, paths: list[Path], labels: np.ndarray, transform: Transform) -> None:
        images = Images(read=lambda item: paths[item].read_bytes(), labels=labels)
        self.clock, self.labels = clock, labels
        self.batches = ImageBatches(images.squares(transform), labels, batch_size=64, keep=True)

    def on_fit_start(self, trainer: Trainer) -> None:
        self.look(trainer, "solved head")

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        self.look(trainer, f"epoch {row['epoch']:g}")

    def look(self, trainer: Trainer, what: str) -> None:
        random = torch.get_rng_state()
        with self.clock.aside(), torch.inference_mode():
            model = trainer.evaluated_model.eval()
            predicted = [
                model(pixels.to(trainer.processes.device)).argmax(dim=1).cpu() for pixels, *_ in self.batches
            ]  # fmt: skip
            self.clock.look(what, self.labels, torch.cat(predicted).numpy())
        torch.set_rng_state(random)


def write_manifest(path: Path, train: list[Path], test: list[Path]) -> Path:
    seen: dict[str, int] = {}
    rows = [(image, image.parent.name, "train") for image in train]
    for image in test:
        seen[image.parent.name] = seen.get(image.parent.name, 0) + 1
        if seen[image.parent.name] <= TEST_IMAGES_OF_A_CLASS:
            rows.append((image, image.parent.name, "test"))
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("image", "label", "split"), *rows])
    return path


def main() -> None:
    args = arguments()
    o = OPTIONS | args.option
    train, test = (sorted(p.resolve() for p in (args.data / part).glob("*/*")) for part in ("train", "valid"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = write_manifest(folder / "images.csv", train, test)
        clock = Clock()

        names = np.unique([path.parent.name for path in train])
        labels = np.searchsorted(names, [path.parent.name for path in test])

        def watched(*values: Any, transform: Transform, callbacks: Sequence[Callback] = (), **named: Any) -> Tuned:
            with clock.aside():
                looks = Looks(clock, test, labels, transform)
            return fine_tune(*values, transform=transform, callbacks=[*callbacks, looks], **named)

        module = import_module("regraft.fit.fine_tune")
        fine_tune = module.fine_tune
        module.fine_tune = watched  # rg.fit offers no place to look in from
        run = pipeline.fit(
            manifest, epochs=args.epochs, image_size=args.size, seed=args.seed, runs_dir=folder / "runs",
            cache_dir=folder / "cache", backbone=args.architecture, **o,
        )  # fmt: skip
        with clock.aside():
            assert list(names) == list(run.model.class_names)
            predicted = run.model.predict_proba([str(path) for path in test]).argmax(axis=1)
            clock.look("the model", labels, predicted)
        result = run.result
    clock.write(
        args.out, images_per_epoch=result.get("training", {}).get("num_train", len(train)), options=o,
        stages=result["seconds"], training=result.get("training"),
        versions={name: environment.versions().get(name) for name in ("regraft", "torch", "timm")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
