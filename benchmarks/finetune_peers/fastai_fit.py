"""fastai as its users call it: `vision_learner` with a timm backbone, then `fine_tune`. Run by `finetune.py`.

`recipe` is one of the two that its course and book teach: "crops" is chapter 2's RandomResizedCrop(min_scale=.5) with
`aug_transforms()`; "squish" is lesson 1's Resize(method="squish") without augmentation. Everything else is default:
batches of 64, one epoch with a frozen body, Adam, one cycle, a body a hundred times slower than the head.
"""

from __future__ import annotations

import fastai
import fastai.vision.all as fv
import torch
from clock import Clock, arguments

OPTIONS = {"recipe": "crops", "batch_size": 64, "workers": 2, "base_lr": 2e-3}


class Looks(fv.Callback):
    """fastai's own validation, with the clock standing still."""

    order = -100

    def __init__(self, clock: Clock) -> None:
        self.clock, self.epochs, self.seen = clock, 0, []

    def before_validate(self) -> None:
        self.clock.stop()
        self.seen = []

    def after_pred(self) -> None:
        if not self.training:
            self.seen.append((self.y.clone(), self.pred.argmax(dim=1)))

    def after_validate(self) -> None:
        self.epochs += 1
        labels, predicted = (torch.cat(part).numpy() for part in zip(*self.seen, strict=True))
        self.clock.look(f"epoch {self.epochs}", labels, predicted)
        self.clock.go_on()


def main() -> None:
    args = arguments()
    o = OPTIONS | args.option
    clock = Clock()
    fv.set_seed(args.seed)
    if o["recipe"] == "crops":
        transforms = {"item_tfms": fv.RandomResizedCrop(args.size, min_scale=0.5), "batch_tfms": fv.aug_transforms()}
    else:
        transforms = {"item_tfms": fv.Resize(args.size, method="squish")}
    dls = fv.ImageDataLoaders.from_folder(
        args.data, train="train", valid="valid", bs=o["batch_size"], num_workers=o["workers"], device="cpu",
        **transforms,
    )  # fmt: skip
    learn = fv.vision_learner(
        dls, args.architecture, metrics=fv.accuracy, cbs=Looks(clock),
        pretrained_cfg_overlay={"file": str(args.weights)},
    )  # fmt: skip
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(args.epochs, base_lr=o["base_lr"])
    versions = {"fastai": fastai.__version__, "torch": torch.__version__}
    clock.write(args.out, images_per_epoch=len(dls.train_ds), options=o, versions=versions)


if __name__ == "__main__":
    main()
