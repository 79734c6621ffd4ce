"""Write src/regraft/models/zoo.csv: every image classifier of timm and torchvision with what one asks of it.

    nice python tools/zoo_table.py        # after a new release of timm or torchvision; 6 minutes on two cores

Building 1,451 models, even without values (meta device), takes minutes, and importing timm alone takes seconds; a
table that is shipped answers in milliseconds. Its first line names the releases that it describes.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from regraft.files import write_text

TARGET = Path(__file__).parents[1] / "src/regraft/models/zoo.csv"
COLUMNS = ("name", "family", "num_parameters", "num_features", "size", "licence", "weights")


def family(architecture: str) -> str:
    """`vit` of vit_small_patch16_224, `efficientnet` of tf_efficientnet_lite0, `resnet` of wide_resnet50_2."""
    first = re.sub(r"^(tf|test|wide|nf|eca|ese|legacy|dm)_", "", architecture).split("_")[0]
    return re.sub(r"\d{2,}.*$", "", first)


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def built(make: Any) -> nn.Module | None:
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                module: nn.Module = make()
        except Exception as error:
            print(f"  {device}: {type(error).__name__}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
        else:
            return module
    return None


def timm_rows() -> list[tuple[Any, ...]]:
    rows = []
    for architecture in timm.list_models(exclude_filters="test_*"):  # timm's own tests use those
        module = built(lambda name=architecture: timm.create_model(name, num_classes=0))
        count, width = ("", "") if module is None else (numbers(module), getattr(module, "head_hidden_size", None))
        width = width or getattr(module, "num_features", "")
        tags = [n for n in timm.list_pretrained(architecture) if n.split(".")[0] == architecture]
        for name in tags or [architecture]:
            cfg = timm.get_pretrained_cfg(name)
            size = cfg.input_size[-1] if cfg is not None else ""
            weights = cfg.hf_hub_id if tags and cfg is not None and cfg.hf_hub_id else ""
            licence = (cfg.license or "unknown") if tags and cfg is not None else ""
            rows.append((f"timm/{name}", family(architecture), count, width, size, licence, weights))
        print(architecture, count, width, file=sys.stderr)
    return rows


def torchvision_rows() -> list[tuple[Any, ...]]:
    rows = []
    for architecture in torchvision.models.list_models(module=torchvision.models):
        kwargs = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
        module = built(lambda name=architecture, kw=kwargs: torchvision.models.get_model(name, weights=None, **kw))
        assert module is not None
        last = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
        width = last.in_features if isinstance(last, nn.Linear) else last.in_channels
        count = numbers(module) - numbers(last)
        count -= sum(numbers(child) for name, child in module.named_children() if name.lower().startswith("aux"))
        for weights in torchvision.models.get_model_weights(architecture):
            licence = "cc-by-nc-4.0" if "SWAG" in weights.name else "bsd-3-clause"
            size = weights.transforms().crop_size[0]
            name = f"torchvision/{architecture}.{weights.name}"
            rows.append((name, family(architecture), count, width, size, licence, weights.url))
    return rows


def main() -> None:
    warnings.simplefilter("ignore")
    out = io.StringIO()
    out.write(f"# timm {timm.__version__}, torchvision {torchvision.__version__.partition('+')[0]}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*timm_rows(), *torchvision_rows()])
    write_text(TARGET, out.getvalue())


if __name__ == "__main__":
    main()
