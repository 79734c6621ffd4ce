"""Checkpoints come back as they were, and a failing write leaves the one before."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_fit import small_model, small_trainer, train_loader, val_loader, weights
from torch import nn

from regraft.errors import CheckpointError
from regraft.fit.checkpoints import (
    load_optimizer,
    random_state,
    read_checkpoint,
    set_random_state,
    write_checkpoint,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
tensors = st.sampled_from(
    [
        torch.arange(6).view(2, 3),
        torch.arange(6.0).view(2, 3).t(),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.empty(0, 3),
        torch.tensor([True, False]),
        torch.arange(10.0)[3:5],
    ]
)
values = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=60, deadline=None)
@given(state=st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_any_nested_state_comes_back(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    write_checkpoint(path, state)
    assert same(read_checkpoint(path), state)


def test_tied_weights_and_odd_numbers_come_back(tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    write_checkpoint(tmp_path / "a", {"a": tied, "b": tied, "n": np.float32(2.5), "x": [float("inf")], 3: "three"})
    found = read_checkpoint(tmp_path / "a")
    assert torch.equal(found["a"], tied)
    assert torch.equal(found["b"], tied)
    assert (found["n"], found["x"], found[3]) == (2.5, [float("inf")], "three")
    with pytest.raises(CheckpointError, match=r"holds tensors, numbers and words: a\.b is object"):
        write_checkpoint(tmp_path / "a", {"a": {"b": object()}})
    assert read_checkpoint(tmp_path / "a")["n"] == 2.5


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    import random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), float(torch.randn(()))  # noqa: NPY002

    draw()
    write_checkpoint(tmp_path / "a", {"random": random_state()})
    expected = draw(), draw()
    set_random_state(read_checkpoint(tmp_path / "a")["random"])
    assert (draw(), draw()) == expected


def test_an_optimiser_keeps_the_memory_layout_of_its_parameters(tmp_path: Path) -> None:
    def stepped() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(1, 4, 5, 5)).sum().backward()
        optimizer.step()
        return model, optimizer

    _, optimizer = stepped()
    write_checkpoint(tmp_path / "a", {"optimizer": optimizer.state_dict()})
    model, other = stepped()
    load_optimizer(other, read_checkpoint(tmp_path / "a")["optimizer"])
    expected = next(iter(optimizer.state.values()))["exp_avg"]
    found = other.state[next(model.parameters())]["exp_avg"]
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride() != expected.contiguous().stride()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    write_checkpoint(tmp_path / "whole", {"a": torch.randn(100)})
    data = (tmp_path / "whole").read_bytes()
    for name, content in {"cut": data[:-10], "empty": b"", "text": b"no checkpoint at all"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="must be whole"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="must be whole"):
        read_checkpoint(tmp_path / "missing")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="another safetensors file"):
        read_checkpoint(tmp_path / "foreign")


def test_a_full_disk_is_said_once_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    """The system itself refuses to write beyond 1 kB."""
    small_trainer(tmp_path).fit(train_loader(), val_loader(), 1)
    before = (tmp_path / "last.safetensors").read_bytes()
    free = small_trainer(None)
    free.fit(train_loader(), val_loader(), 3)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = small_trainer(tmp_path, checkpoint_every_seconds=0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        with pytest.warns(RuntimeWarning, match="cannot be written") as warned:
            history = trainer.fit(train_loader(), val_loader(), 3, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warned) == 1
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    assert weights(trainer.model) == weights(free.model)  # the best was kept in memory
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.rows


def test_infinite_weights_never_replace_a_good_checkpoint(tmp_path: Path) -> None:
    from regraft.fit.callbacks import Callback

    class Spoil(Callback):
        def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
            if step == 4:
                with torch.no_grad():
                    next(trainer.model.parameters()).fill_(float("nan"))
                trainer.stop("enough")

    model = small_model()
    small_trainer(tmp_path, Spoil(), model=model, checkpoint_every_seconds=0).fit(train_loader(), val_loader(), 3)
    found = read_checkpoint(tmp_path / "last.safetensors")
    assert found["position"]["step"] == 3
    assert all(t.isfinite().all() for t in found["model"].values())
