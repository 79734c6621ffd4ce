"""regraft: from a folder of labelled images to a classifier that can be trusted.

    import regraft as rg
    run = rg.fit("photos/")                     # run.report, run.metrics, run.model
    rg.load("runs/photos/1").predict(["a.jpg"])

Names are loaded when they are first used: `import regraft` itself costs milliseconds.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.config import FitConfig as FitConfig
    from regraft.errors import RegraftError as RegraftError
    from regraft.estimator import ImageClassifier as ImageClassifier
    from regraft.fit.callbacks import Callback as Callback
    from regraft.fit.loop import Trainer as Trainer
    from regraft.models.backbones import Backbone as Backbone
    from regraft.models.backbones import resolve as resolve
    from regraft.models.checkpoints import load_state as load_state
    from regraft.models.checkpoints import save_state as save_state
    from regraft.models.describe import describe as describe
    from regraft.models.freezing import freeze as freeze
    from regraft.models.freezing import unfreeze as unfreeze
    from regraft.models.heads import graft as graft
    from regraft.models.layer_decay import param_groups as param_groups
    from regraft.models.split import split as split
    from regraft.models.zoo import backbones as backbones
    from regraft.pipeline import Run as Run
    from regraft.pipeline import evaluate as evaluate
    from regraft.pipeline import fit as fit
    from regraft.pipeline import read as read
    from regraft.predictor import Predictor as Predictor
    from regraft.predictor import load as load
    from regraft.studies.rank import rank as rank
    from regraft.studies.similarity import similarity_profile as similarity_profile

_HOMES = {
    "Callback": "regraft.fit.callbacks",
    "Backbone": "regraft.models.backbones",
    "FitConfig": "regraft.config",
    "ImageClassifier": "regraft.estimator",
    "Predictor": "regraft.predictor",
    "RegraftError": "regraft.errors",
    "Run": "regraft.pipeline",
    "backbones": "regraft.models.zoo",
    "describe": "regraft.models.describe",
    "Trainer": "regraft.fit.loop",
    "evaluate": "regraft.pipeline",
    "fit": "regraft.pipeline",
    "freeze": "regraft.models.freezing",
    "graft": "regraft.models.heads",
    "load": "regraft.predictor",
    "load_state": "regraft.models.checkpoints",
    "param_groups": "regraft.models.layer_decay",
    "rank": "regraft.studies.rank",
    "read": "regraft.pipeline",
    "resolve": "regraft.models.backbones",
    "save_state": "regraft.models.checkpoints",
    "similarity_profile": "regraft.studies.similarity",
    "split": "regraft.models.split",
    "unfreeze": "regraft.models.freezing",
}

__all__ = sorted(_HOMES)


class _Package(ModuleType):
    """Keeps `regraft.fit` the function: importing the subpackage of that name would put a module in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("regraft")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module 'regraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
