"""What a model is fed in training: pixels or activations behind a frozen prefix, made once and kept."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.augmentation import Augmentation, eval_view, train_view
from regraft.augmentation.mixing import Mixing, to_input
from regraft.errors import UsageError
from regraft.fit.loader import ImageBatches, Load
from regraft.images import Transform
from regraft.types import Manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """Labelled images to train on, or to validate with.

    Attributes:
        read: number of an image → its file's bytes.
        labels: int64 (N,), 0..K-1.
        sample_weight: (N,), or None; what weighs nothing is left out.
    """

    read: Callable[[int], bytes]
    labels: NDArray[np.int64]
    sample_weight: NDArray[np.floating] | None = None

    @classmethod
    def of(cls, manifest: Manifest, rows: NDArray[np.int64]) -> Images:
        """These rows of a manifest, read from their files when they are needed."""
        return cls(read=functools.partial(_file, manifest, rows), labels=manifest.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def views(self, transform: Transform, augmentation: Augmentation) -> Load:
        """(epoch, item) → the view that is trained on, uint8 (S, S, 3)."""
        return functools.partial(_train, self.read, transform, augmentation)

    def squares(self, transform: Transform) -> Load:
        """(epoch, item) → the square that is evaluated, uint8 (S, S, 3)."""
        return functools.partial(_eval, self.read, transform)


def _file(manifest: Manifest, rows: NDArray[np.int64], item: int) -> bytes:
    return manifest.path(int(rows[item])).read_bytes()


def _train(
    read: Callable[[int], bytes], transform: Transform, augmentation: Augmentation, epoch: int, item: int
) -> NDArray[np.uint8]:
    return train_view(read(item), transform, augmentation, epoch=epoch, index=item)


def _eval(read: Callable[[int], bytes], transform: Transform, _epoch: int, item: int) -> NDArray[np.uint8]:
    return eval_view(read(item), transform)


class FromPixels(nn.Module):
    """A classifier that takes what the loader gives: bytes travel to the device and are normalised there.

    Attributes:
        classifier: normalised float32 (N, 3, S, S), or activations (N, …), → logits (N, K).
    """

    def __init__(self, classifier: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.classifier = classifier
        self._transform = transform

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of uint8 (N, S, S, 3), of inputs that are normalised already, or of float16 activations."""
        if x.dtype == torch.uint8:
            x = to_input(x, self._transform)
        elif x.dtype == torch.float16:
            x = x.float()
        logits: Tensor = self.classifier(x)
        return logits


class MixBatches:
    """`Trainer`'s `on_batch` for mixup and cutmix: decided by (seed, epoch, number of the batch) alone."""

    def __init__(self, mixing: Mixing, transform: Transform) -> None:
        self._mixing, self._transform = mixing, transform
        self.place: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Gives (epoch, batches done in it); set once the trainer is there."""
        self._last, self._behind = (-1, -1), 0

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs and soft targets."""
        at = self.place()
        self._behind = self._behind + 1 if at == self._last else 0  # further batches of an accumulated step
        self._last = at
        x = to_input(inputs, self._transform) if inputs.dtype == torch.uint8 else inputs.float()
        mixed, soft, _ = self._mixing(x, targets, epoch=at[0], step=at[1] + self._behind)
        return mixed, soft


class Kept:
    """Activations behind a frozen prefix: float16 (V, N, …) on disk, made once for V views of each image.

    Args:
        prefix: in eval mode, uint8 pixels already normalised by `transform` in here.
        transform: of evaluation.
        folder: for the file, or None for a temporary one.
        name: of the file.
    """

    def __init__(self, prefix: nn.Module, transform: Transform, *, folder: Path | None, name: str) -> None:
        self._prefix, self._transform = prefix, transform
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self._path = (Path(self._temporary.name) if self._temporary else folder or Path()) / f"{name}.npy"
        self.failed: dict[int, str] = {}
        self._values: NDArray[np.float16] | None = None

    @torch.no_grad()
    def make(
        self, load: Load, count: int, *, views: int, batch_size: int, device: torch.device,
        progress: Callable[[int, int], None], on_failure: Callable[[int, str], None],
    ) -> None:  # fmt: skip
        """Run the prefix, unless the file of an interrupted fit is whole."""
        if self._path.is_file():
            self._values = np.load(self._path, mmap_mode="r")
            failed = np.flatnonzero([not np.asarray(self._values[0, i]).any() for i in range(count)])
            self.failed = {int(item): "could not be read" for item in failed}
            return
        part = self._path.with_suffix(".part")
        values: Any = None
        for view in range(views):
            loader = ImageBatches(load, np.zeros(count, np.int64), batch_size=batch_size, on_failure=on_failure)
            loader.failed = self.failed
            done = 0
            for pixels, _, items in loader.load(view, loader.order(view)):
                out = self._prefix(to_input(pixels.to(device), self._transform)).float().cpu().numpy()
                if not np.abs(out).max() <= np.finfo(np.float16).max:
                    raise UsageError("activations must fit into 16 bits to be kept, and do not; say cached_views=0")
                if values is None:
                    shape = (views, count, *out.shape[1:])
                    part.parent.mkdir(parents=True, exist_ok=True)
                    values = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
                values[view, items.numpy()] = out
                done += len(items)
                progress(view * count + done, views * count)
        values.flush()
        part.replace(self._path)
        self._values = values

    def load(self, epoch: int, item: int) -> NDArray[np.float16]:
        """The activations of an image's view in this epoch."""
        assert self._values is not None
        return np.asarray(self._values[epoch % len(self._values), item])

    def remove(self) -> None:
        """Delete the file."""
        self._values = None
        self._path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()
