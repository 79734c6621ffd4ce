"""Models laid open, cut, grafted, frozen, saved: the public names in one place.

describe       what is in a model                      describe.py, drawing.py
split          backbone and head of any classifier     split.py ← boundary.py, passes.py, surgery.py, middle.py
graft          a new head on a backbone                heads.py
freeze         no gradients, no new statistics         freezing.py
param_groups   layer-wise learning rates               layer_decay.py
save_state     weights as safetensors, and back        checkpoints.py
"""

from __future__ import annotations

from regraft.models.checkpoints import LoadReport, load_state, read_state, save_state
from regraft.models.describe import Description, ModuleRow, ParameterRow, describe
from regraft.models.freezing import freeze, unfreeze
from regraft.models.heads import Classifier, graft
from regraft.models.layer_decay import param_groups
from regraft.models.split import SplitModel, split

__all__ = [
    "Classifier",
    "Description",
    "LoadReport",
    "ModuleRow",
    "ParameterRow",
    "SplitModel",
    "describe",
    "freeze",
    "graft",
    "load_state",
    "param_groups",
    "read_state",
    "save_state",
    "split",
    "unfreeze",
]
