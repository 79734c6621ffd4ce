"""What the default precision costs: features in bf16 against fp32, and the heads solved on each.

    python benchmarks/precision.py --images 4000

Fashion-MNIST (Debian: dataset-fashion-mnist) through the default backbone at 224 px on OpenVINO; the head's accuracy by
5-fold cross-validation on the same folds, the difference with a 95 % interval.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from images import write_fashion

from regraft.data import assign_folds
from regraft.evaluate.calibration import softmax
from regraft.evaluate.intervals import paired_difference
from regraft.features.engines import choose
from regraft.features.extract import extract
from regraft.fit.linear_probe import fit_linear_probe
from regraft.models.backbones import resolve
from regraft.pipeline import read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        manifest = read(write_fashion(Path(scratch) / "fashion", options.images), cache_dir=cache).manifest
        backbone = resolve("tf_efficientnet_lite0", cache_dir=cache)
        values = {
            precision: extract(
                manifest, backbone, transform=backbone.transform, choice=choose("openvino", precision), cache_dir=cache
            ).values.astype(np.float32)
            for precision in ("fp32", "bf16")
        }
    norms = {name: np.linalg.norm(rows, axis=1) for name, rows in values.items()}
    cosines = (values["fp32"] * values["bf16"]).sum(1) / norms["fp32"] / norms["bf16"]
    print(f"{len(manifest)} images; cosine to fp32: mean {cosines.mean():.4f}, least {cosines.min():.4f}")
    groups = np.arange(len(manifest))
    folds = assign_folds(manifest.labels, groups, manifest.hashes)
    probs = {}
    for name, rows in values.items():
        probe = fit_linear_probe(rows, manifest.labels, num_classes=10, folds=folds, metric="accuracy")
        probs[name] = softmax(probe.oof_chosen_logits()).mean(axis=0)
        print(f"{name}: accuracy {np.mean(probs[name].argmax(1) == manifest.labels):.4f}")
    difference = paired_difference(manifest.labels, probs["bf16"], probs["fp32"], group_ids=groups)["accuracy"]
    low, high = 100 * difference.low, 100 * difference.high
    print(f"bf16 - fp32: {100 * difference.estimate:+.2f} points ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
