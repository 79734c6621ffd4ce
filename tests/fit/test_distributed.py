"""Two processes with gloo on a CPU are one process with the same batches.

Tolerance: weights to 1e-5 (they are about 0.1 to 1; sums are taken in another order), measures to 1e-5.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_fit import images, numbers, small_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from regraft.fit.checkpoints import read_checkpoint
from regraft.fit.loop import Trainer
from regraft.fit.losses import CrossEntropy

CASES = {
    # 41 items in batches of 8: the last batch has one item, which both processes take
    "plain": {"num": 41},
    "weighted, accumulated": {"num": 43, "grad_accum_steps": 2, "weighted": True},
    "a function evaluates, early stopping": {"num": 40, "patience": 1, "evaluate": True},
}


def fit(folder: Path, *, epochs: int, num: int, weighted: bool = False, evaluate: bool = False, **options) -> Trainer:
    """The same call in one process and in each of two."""
    pixels, labels = images(num).tensors
    model = small_model(norm=False, dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights = [torch.linspace(0.5, 2.0, num)] if weighted else []
    counts = np.bincount(labels.numpy()).tolist()
    loss = CrossEntropy(counts, class_weight="balanced") if weighted else nn.CrossEntropyLoss()
    loader = DataLoader(TensorDataset(pixels, labels, *weights), batch_size=8, shuffle=True)
    validation = (lambda model: {"val/macro_f1": 0.5}) if evaluate else DataLoader(images(19, seed=9), batch_size=5)
    trainer = Trainer(
        model, loss, optimizer, lambda step: 1 / (1 + step), device="cpu", checkpoint_dir=folder, restore_best=False,
        **options,
    )  # fmt: skip
    trainer.fit(loader, validation, epochs, resume=True)
    return trainer


def main(folder: Path) -> None:
    """What each of the two processes runs."""
    found = {}
    for name, options in CASES.items():
        trainer = fit(folder / name, epochs=3, **options)
        mine = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        both = [torch.empty_like(mine) for _ in range(2)]
        torch.distributed.all_gather(both, mine)
        found[name] = {
            "rows": numbers(trainer.history.rows),
            "equal": torch.equal(both[0], both[1]),
            "rank": trainer.processes.rank,
            "stopped": trainer.history.stopped,
        }
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # at the interpreter's own end, rank 0 once aborted ("terminate called without an active exception")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(folder)]
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name: str, two: Path, tmp_path: Path) -> None:
    alone = fit(tmp_path, epochs=3, **CASES[name])
    first, second = (json.loads((two / f"rank{rank}.json").read_text())[name] for rank in (0, 1))
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["equal"]
    assert first["rows"] == second["rows"]
    assert first["stopped"] == alone.history.stopped
    assert len(first["rows"]) == len(alone.history.rows)
    for found, expected in zip(first["rows"], numbers(alone.history.rows), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    saved = read_checkpoint(two / name / "last.safetensors")["model"]
    for key, value in alone.model.state_dict().items():
        assert torch.allclose(saved[key], value, atol=1e-5), key


def test_one_process_goes_on_from_the_checkpoint_of_two(two: Path, tmp_path: Path) -> None:
    alone = fit(tmp_path, epochs=4, num=41)
    again = fit(two / "plain", epochs=4, num=41)
    for key, value in alone.model.state_dict().items():
        assert torch.allclose(again.model.state_dict()[key], value, atol=1e-5), key


if __name__ == "__main__":
    main(Path(sys.argv[1]))
