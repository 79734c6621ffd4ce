from __future__ import annotations

from pathlib import Path

import torch
from small_fit import small_model, small_trainer, train_loader, val_loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from regraft.fit.model_graph import graph_nodes
from regraft.fit.tensorboard_callback import TensorBoardCallback


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inner(x) + x)


def test_every_step_knows_what_it_takes_and_where_it_is() -> None:
    nodes = {node.name: node for node in graph_nodes(nn.Sequential(nn.Conv2d(3, 3, 1), Residual()))}
    assert list(nodes) == ["input_1", "0", "1/inner", "1/add", "1/relu", "output"]
    assert nodes["1/inner"].op == "Conv2d"
    assert nodes["1/inner"].inputs == ("0",)
    assert nodes["1/add"].inputs == ("1/inner", "0")
    assert nodes["0"].about == "3, 3, kernel_size=(1, 1), stride=(1, 1)"


def test_a_module_that_is_called_twice_is_two_steps() -> None:
    shared = nn.ReLU()
    names = [node.name for node in graph_nodes(nn.Sequential(shared, nn.Identity(), shared))]
    assert len(set(names)) == len(names) == 5


def test_a_convolution_whose_padding_depends_on_the_image_is_a_step() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(x, (1, 1)) if x.shape[-1] % 2 else x)

    assert [node.op for node in graph_nodes(nn.Sequential(Padded(3, 3, 1)))] == ["placeholder", "Padded", "output"]


def test_code_that_depends_on_what_flows_through_it_has_no_graph() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else -x

    assert graph_nodes(Branches()) == []


def test_looking_changes_nothing() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    model.train()
    assert len(graph_nodes(model)) == len(model) + 2
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    small_trainer(None, TensorBoardCallback(tmp_path)).fit(train_loader(), val_loader(), 1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    graph = events.Graph()
    assert [node.op for node in graph.node][:3] == ["placeholder", "Conv2d", "BatchNorm2d"]
    assert graph.node[2].input == ["0"]
