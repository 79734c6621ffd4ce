"""A fit of a second or less that uses everything that has a state: dropout, batch norm, momentum, mixup, augmentation
by three kinds of random numbers, and a loss that remembers."""

from __future__ import annotations

import json
import random
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from regraft.fit.callbacks import Callback, MetricsFile
from regraft.fit.loop import Trainer

torch.set_num_threads(1)  # the work is tiny, and two threads on a busy machine wait for each other

NUM_CLASSES, NUM_IMAGES, BATCH_SIZE, EPOCHS = 3, 44, 8, 3
STEPS_PER_EPOCH = 6


def images(num: int = NUM_IMAGES, *, seed: int = 0) -> TensorDataset:
    """Noise, and in the third channel the class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(num, 3, 6, 6, generator=generator)
    labels = torch.arange(num) % NUM_CLASSES
    pixels[:, 2] += labels.view(-1, 1, 1) - 1.0
    return TensorDataset(pixels, labels)


class Augmented(Dataset[Any]):
    """Draws from torch, NumPy and Python, as augmentation does; gives (image, label, number, weight)."""

    def __init__(self, items: TensorDataset) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int, float]:
        pixels, label = self.items[index]
        pixels = pixels + 0.1 * torch.randn(pixels.shape) + 0.1 * float(np.random.normal())  # noqa: NPY002
        return (pixels.flip(2) if random.random() < 0.5 else pixels), label, index, 1.0 + index % 2


class Remembering(nn.Module):
    """Cross-entropy that is larger where an item was wrong before."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(NUM_IMAGES))

    def forward(self, logits: Tensor, targets: Tensor, sample_weight: Tensor, indices: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(logits, targets, reduction="none") * sample_weight
        weighted = losses * (1.0 + self.seen[indices])
        self.seen[indices] = 0.5 * self.seen[indices] + 0.1 * losses.detach()
        return weighted.mean()


def small_model(*, norm: bool = True, dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()]
    if norm:
        layers.insert(1, nn.BatchNorm2d(6))
    return nn.Sequential(*layers, nn.Linear(6 * 16, NUM_CLASSES))


def shaken(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As mixup does: mixes with a strength from NumPy's random numbers."""
    strength = float(np.random.beta(0.2, 0.2)) * 0.1  # noqa: NPY002
    return inputs * (1 - strength) + inputs.flip(0) * strength, targets


def train_loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Augmented(images()), **{"batch_size": BATCH_SIZE, "shuffle": True} | options)


def val_loader() -> DataLoader[Any]:
    return DataLoader(images(20, seed=9), batch_size=7)


def small_trainer(folder: Path | None, *callbacks: Callback, model: nn.Module | None = None, **options: Any) -> Trainer:
    model = small_model() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    files = [] if folder is None else [MetricsFile(folder / "metrics.jsonl")]
    total = EPOCHS * STEPS_PER_EPOCH
    return Trainer(
        model, Remembering(), optimizer, lambda step: max(1.0 - step / total, 0.1), callbacks=[*files, *callbacks],
        checkpoint_dir=folder, **{"on_batch": shaken, "device": "cpu"} | options,
    )  # fmt: skip


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def weights(model: nn.Module) -> bytes:
    """Every bit of a model."""
    return b"".join(t.detach().contiguous().numpy().tobytes() for t in model.state_dict().values())


class Began(Callback):
    """Tells another process that training begins."""

    def __init__(self, hears: Connection) -> None:
        self.hears = hears

    def on_fit_start(self, trainer: Trainer) -> None:
        self.hears.send("began")


def train_in_a_process(folder: Path, epochs: int, hears: Connection) -> None:
    """A whole life: begin or go on, and leave `result.json`."""
    trainer = small_trainer(folder, Began(hears), checkpoint_every_seconds=0)
    history = trainer.fit(train_loader(), val_loader(), epochs, resume=True)
    result = {"rows": numbers(history.rows), "weights": weights(trainer.model).hex()}
    (folder / "result.json").write_text(json.dumps(result))
