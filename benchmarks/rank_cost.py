"""What ranking costs beside the passes it cannot avoid.

    python benchmarks/rank_cost.py [--images 1500]

Last seen, on two cores that other work loaded two to four times over (nothing here was seen on an idle machine):
300 photographs, three offline backbones: ranking took 0.90 to 0.92 of the three single passes; beside the passes 0.5 s
screening, 0.7 s head, 0.2 s decision (8 % of the whole).
Once cached, 10,000 x 1280, 10 classes, three backbones: 23 to 60 s, at 20 to 25 s of CPU time. At 23 s, summed over two
candidates at a time: ridge 10 s, neighbours 4 s, columns 2 s, head of two 23 s; decision 1.4 s. The head costs most.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from regraft import data as data_stage
from regraft.features.engines import choose
from regraft.features.extract import extract
from regraft.models.backbones import offline_backbones, resolve
from regraft.progress import Listener
from regraft.studies.decide import Entry, decide
from regraft.studies.options import RankOptions
from regraft.studies.rank import rank, shortlist
from regraft.studies.scores import Targets, each, screen, solve
from regraft.types import Manifest


def photographs(folder: Path, number: int) -> Path:
    """JPEG crops (500 x 375) of scikit-learn's two photographs, shaken, in four classes."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    images = load_sample_images().images
    for i in range(number):
        image = images[i % 2]
        left = int(rng.integers(0, image.shape[1] - 320)) if i // 2 % 2 else int(rng.integers(0, 60))
        top = int(rng.integers(0, image.shape[0] - 240))
        cut = image[top : top + 240, left : left + 320].astype(np.int16) + rng.integers(-12, 13, (240, 320, 3))
        path = folder / f"c{i % 4}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(cut, 0, 255).astype(np.uint8)).resize((500, 375)).save(path, quality=90)
    return folder


def forget_features(cache: Path) -> None:
    shutil.rmtree(cache / "features", ignore_errors=True)


def against_passes(number: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        cache = Path(root) / "cache"
        scan = data_stage.read(photographs(Path(root) / "photos", number), cache_dir=cache)
        names, choice = offline_backbones(), choose()
        options = RankOptions(cache_dir=cache, test=0)

        def single(name: str, manifest: Manifest) -> float:
            backbone = resolve(name, cache_dir=cache)
            transform = dataclasses.replace(backbone.transform, policy="squash")
            began = time.perf_counter()
            extract(manifest, backbone, transform=transform, choice=choice, cache_dir=cache)
            return time.perf_counter() - began

        rank(scan, names, RankOptions(cache_dir=cache, test=0))  # converts, compiles, warms up
        ratios = []
        for _ in range(2):
            forget_features(cache)
            passes = sum(single(name, scan.manifest) for name in names)
            forget_features(cache)
            began = time.perf_counter()
            found = rank(scan, names, options, listener=Listener())
            whole = time.perf_counter() - began
            ratios.append(whole / passes)
            print(
                f"{number:,} photographs, {len(names)} backbones: single passes {passes:.1f} s, ranking {whole:.1f} s"
            )
        parts = {step: round(seconds, 2) for step, seconds in found.seconds.items()}
        print(f"ratio {min(ratios):.2f} to {max(ratios):.2f}; parts of the last: {parts}")


def once_cached() -> None:
    """10,000 x 1280, 10 classes: features with a spectrum like that of real ones, three backbones."""
    rng = np.random.default_rng(0)
    num, width, num_classes = 10_000, 1280, 10
    labels = rng.integers(0, num_classes, num)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
    spectrum = np.geomspace(3, 0.05, width).astype(np.float32)
    targets = Targets(
        labels=labels, num_classes=num_classes, group_ids=np.arange(num), folds=rng.integers(0, 5, (1, num))
    )  # fmt: skip
    features = []
    for apart in (0.05, 0.06, 0.07):
        centres = (apart * rng.normal(size=(num_classes, width)) * spectrum).astype(np.float32)
        values = rng.normal(size=(num, width)).astype(np.float32) * spectrum + centres[labels]
        features.append((values @ basis).astype(np.float16))
    began = time.perf_counter()
    scores = each(lambda one: screen(one, targets), features)
    chosen = shortlist(scores, [(75.1, 0.0), (76.7, 0.0), (77.6, 0.0)], 2)
    for i, solved in zip(chosen, each(lambda i: solve(features[i], targets, scores[i]), chosen), strict=True):
        scores[i] = solved
    middle = time.perf_counter()
    entries = [
        Entry(
            ridge=one.ridge_probs.argmax(axis=1), images_per_second=1.0,
            probe=None if one.probe_probs is None else one.probe_probs.argmax(axis=1),
        )
        for one in scores
    ]  # fmt: skip
    decide(entries, labels, num_classes=num_classes, group_ids=targets.group_ids)
    ended = time.perf_counter()
    steps = {
        step: sum(one.seconds.get(step, 0) for one in scores) for step in ("ridge", "neighbours", "columns", "head")
    }
    told = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in steps.items())
    print(f"once cached, 10,000 x 1280, 3 backbones: {ended - began:.1f} s")
    print(f"  {told} for {len(chosen)} (summed over two at a time), decide {ended - middle:.1f} s")
    print(f"accuracy {[round(one.ridge_accuracy, 3) for one in scores]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1500)
    once_cached()
    against_passes(parser.parse_args().images)
