"""Step rate of the training loop against a minimal loop written by hand: same model, data, precision, memory settings.

    nice python benchmarks/loop.py            # CPU seconds of one thread: other programs hardly disturb them
    python benchmarks/loop.py --wall          # wall seconds of all threads, for an idle machine

Rounds alternate; the ratio is the median over the rounds of (seconds by hand) / (seconds by Trainer): 1 is as fast,
0.95 is what is promised. `fit` is timed whole, with its beginning and its end.

Last seen, on two busy cores of an AMD Zen 5 (no flag; median ratio, and the range over the rounds):

    small CNN, 32 px, batch 32, fp32               88.5 steps/s   0.974 (0.87–1.01)
    tf_efficientnet_lite0, 96 px, batch 16, fp32    4.1 steps/s   0.970 (0.86–1.00)
    tf_efficientnet_lite0, 96 px, batch 16, bf16    2.1 steps/s   0.999 (0.94–1.20)

Again with --wall, two idle cores: small CNN 101.6 steps/s, 0.939 (0.77–1.15, 15 rounds), below what is promised;
tf_efficientnet_lite0 fp32 4.9 steps/s, 0.951 (0.85–1.01, 9 rounds); its bf16 part was not run.

bf16 trains at half the rate of fp32 here, so `precision="auto"` stays with fp32 on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from regraft.fit.loop import Trainer
from regraft.memory import keep_freed_memory

PROMISED = 0.95
clock = time.process_time


def small_cnn() -> nn.Module:
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    return nn.Sequential(
        *block(3, 32), *block(32, 64), *block(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)
    )


def lite0() -> nn.Module:
    import timm

    return timm.create_model("tf_efficientnet_lite0", num_classes=10)


def by_hand(model: nn.Module, loader: DataLoader, precision: str) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    began = clock()
    for images, labels in loader:
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return clock() - began


def by_trainer(model: nn.Module, loader: DataLoader, precision: str) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, device="cpu", precision=precision)
    began = clock()
    trainer.fit(loader, None, 1)
    return clock() - began


def compare(
    name: str, make: Callable[[], nn.Module], *, size: int, batch: int, steps: int, rounds: int, precision: str = "fp32"
) -> None:
    data = TensorDataset(torch.randn(batch * steps, 3, size, size), torch.arange(batch * steps) % 10)
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    model = make().to(memory_format=torch.channels_last)
    by_hand(model, DataLoader(data, batch_size=batch, sampler=range(3 * batch)), precision)
    ratios, rates = [], []
    for number in range(rounds):
        order = (by_hand, by_trainer) if number % 2 else (by_trainer, by_hand)
        seconds = {run: run(model, loader, precision) for run in order}
        ratios.append(seconds[by_hand] / seconds[by_trainer])
        rates.append(steps / seconds[by_trainer])
    ratio = statistics.median(ratios)
    print(
        f"{name:<42} {statistics.median(rates):7.1f} steps/s   ratio {ratio:.3f} "
        f"({min(ratios):.2f}–{max(ratios):.2f}, {rounds} rounds)   {'ok' if ratio >= PROMISED else 'TOO SLOW'}",
        flush=True,
    )


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wall", action="store_true", help="wall seconds of all threads")
    if parser.parse_args().wall:
        clock = time.perf_counter
    else:
        torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    compare("small CNN, 32 px, batch 32, fp32", small_cnn, size=32, batch=32, steps=100, rounds=15)
    compare("tf_efficientnet_lite0, 96 px, batch 16, fp32", lite0, size=96, batch=16, steps=8, rounds=9)
    compare(
        "tf_efficientnet_lite0, 96 px, batch 16, bf16", lite0, size=96, batch=16, steps=8, rounds=9, precision="bf16"
    )


if __name__ == "__main__":
    main()
