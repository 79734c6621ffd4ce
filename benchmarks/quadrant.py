"""Does the race choose well? Data size x similarity: the textbook's quadrants, measured, and the card held to them.

    python benchmarks/quadrant.py measure --data fashion-mnist --backbones tf_efficientnet_lite0 --hours 2
    python benchmarks/quadrant.py report                            needs dataset-fashion-mnist and openclipart-png

A cell is (data, backbone, arm, images a class, seed): an arm trained on so many images a class and asked about 1,000
others, the same for all arms. Cells are files; `measure` goes on where it stopped, smallest sizes first, and `report`
says what the cells so far say:

    truth          macro-F1 of each arm by images a class, mean over seeds
    extrapolation  error of the curve through three sizes at the next one, on the same test images (published tables:
                   1.0 point on average, 2.2 at worst)
    coverage       how often the 80 % interval holds what was measured at that size (70 to 90 % wanted), on the same
                   test images (the doubt that both share cancels), and on others: the curve is fitted on half of the
                   test images and held to the other half, whose own doubt is added, in both directions over 40 random
                   halvings (with 10, the halvings' own luck moved it by several percent)
    sign           "fine-tuning beats the probe at 200 a class", told from the three sizes up to 50, against what was
                   measured on the other half
    regret         of the arm that is chosen by the evidence at a size alone (the cheapest within a point of the best
                   with probability 0.9, else the most probable), against the best arm there, on the other half

Last seen (64 px, 3 seeds; scratch at 5 a class only, full not on lite1):

    macro-F1, lite0               5      10      25      50     100     200 a class
    Fashion-MNIST  probe       61.7    68.2    75.5    78.0    80.4    82.3
                   light       65.4    71.4    77.5    79.7    82.5    84.7
                   lp_ft       66.8    73.6    79.2    81.6    84.7    86.6
                   full        61.4    66.9    78.0    79.7    83.1    84.4
                   scratch     47.9
    openclipart    probe       38.3    42.9    49.4    53.2    55.8    57.9
                   light       37.9    44.8    51.3    56.6    61.6    65.2
                   lp_ft       40.4    44.9    53.5    58.4    62.5    68.1
                   full        35.3    41.4    47.6    57.7    62.0    64.7
                   scratch     23.7 (2 seeds)

    macro-F1, lite1
    Fashion-MNIST  probe       61.5    70.7    76.2    79.3    81.1    83.0
                   light       65.4    71.9    78.3    81.2    83.0    85.2
                   lp_ft       65.1    73.4    80.2    82.7    84.2    87.0
    openclipart    probe       37.6    42.5    49.8    53.6    56.1    58.7
                   light       38.8    44.1    51.7    56.9    62.0    67.1
                   lp_ft       39.3    45.1    52.9    57.9    63.3    67.9

    one size ahead (42 curves): off by 1.0 points on average, 6.4 at worst (2.6 without full), -0.3 signed; 80 %
    intervals hold 95 % on the same images, 89 % on others
    sign at 200 a class, told from 50: right in 373 of 373 halves, not told in 427
    regret of the choice, points, mean and worst of the halves, from 5 to 200 a class: 0.17 and 2.64, 0.16 and 4.35,
    0.02 and 3.27, 0.17 and 3.32, 0.26 and 2.83, 0.12 and 4.20
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import os
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from selection import CLIPART, FASHION

from regraft import data as data_stage
from regraft.features.engines import choose
from regraft.files import default_cache_dir
from regraft.models.backbones import resolve
from regraft.studies.passes import run_pass
from regraft.studies.race.arms import Arm, LinearProbeArm, key_of
from regraft.studies.race.crossing import SURE
from regraft.studies.race.curves import Curve, fit_curve
from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.standing import noisy
from regraft.studies.race.subsets import Cell
from regraft.studies.race.tuned_arm import TunedArm
from regraft.studies.race.values import Difference, Resampled, images_variance, training_variance
from regraft.types import Manifest

PER_CLASS = (5, 10, 25, 50, 100, 200)
ARMS = ("linear_probe", "light", "lp_ft", "full", "scratch")
BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
SEEDS = (0, 1, 2)
HALVINGS = 40
NUM_TEST = 1000
SIZE = 64
"""Side of the input in pixels: a training at 224 takes ten times as long, and there are hundreds."""

CLASSES = 10
"""Of openclipart the ten largest; with 240 images or more each there are 200 to learn from."""


def fashion(folder: Path) -> Path:
    """4,000 images of the training part as PNG files in class folders."""
    pixels = np.frombuffer(gzip.decompress((FASHION / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((FASHION / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    for i, image in enumerate(pixels.reshape(-1, 28, 28)[:4000]):
        path = folder / str(labels[i]) / f"{i:05d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


def clipart(folder: Path) -> Path:
    """A manifest of up to 400 drawings of each of the ten largest subjects (the two that are no subject apart)."""
    rng = np.random.default_rng(0)
    by_subject: dict[str, list[str]] = {}
    for path in sorted(CLIPART.rglob("*.png")):
        subject = path.relative_to(CLIPART).parts[0]
        if subject not in ("unsorted", "special") and path.is_file():
            by_subject.setdefault(subject, []).append(str(path))
    largest = sorted(by_subject, key=lambda name: -len(by_subject[name]))[:CLASSES]
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in sorted(largest):
        for i in sorted(rng.permutation(len(by_subject[name]))[:400].tolist()):
            small = folder / name / f"{i:05d}.png"  # made small once: most of a training would else be decoding
            if not small.exists():
                small.parent.mkdir(exist_ok=True)
                try:
                    picture = Image.open(by_subject[name][i]).convert("RGBA")
                except (OSError, Image.DecompressionBombError):
                    continue
                picture.thumbnail((2 * SIZE, 2 * SIZE))
                picture.save(small)
            lines.append(f"{name}/{small.name},{name}")
    (folder / "clipart.csv").write_text("image,label\n" + "\n".join(lines) + "\n", "utf-8")
    return folder / "clipart.csv"


SOURCES = {"fashion-mnist": fashion, "openclipart": clipart}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ground:
    """A data set: who may be learnt from, in which order, and who is asked about.

    Attributes:
        manifest: all images.
        groups: int64 (N,).
        test: rows that every arm is asked about.
        pool: rows that may be learnt from.
    """

    name: str
    manifest: Manifest
    groups: NDArray[np.int64]
    test: NDArray[np.int64]
    pool: NDArray[np.int64]

    @classmethod
    def of(cls, name: str, cache: Path) -> Ground:
        manifest = data_stage.read(SOURCES[name](cache / name), cache_dir=cache).manifest
        split = data_stage.split(manifest, test=NUM_TEST / len(manifest), seed=0)
        return cls(name=name, manifest=manifest, groups=split.group_ids, test=split.test, pool=split.development)

    def rows(self, per_class: int, seed: int) -> NDArray[np.int64]:
        """The first so many of each class in an order of this seed: nested over sizes."""
        order = np.random.default_rng(seed).permutation(self.pool)
        labels = self.manifest.labels[order]
        return np.sort(np.concatenate([order[labels == k][:per_class] for k in range(self.manifest.num_classes)]))

    def evidence(self, cache: Path) -> Evidence:
        return Evidence(cache / "quadrant" / self.name, data=f"quadrant {self.name} {SIZE}")


def cell_of(per_class: int, seed: int) -> Cell:
    """Sizes are told apart by the field for halvings; a seed stands for a repeat: each asks about all test images."""
    return Cell(halvings=PER_CLASS.index(per_class), repeat=seed, fold=0, seed=seed)


def arms_of(ground: Ground, backbone: str, names: Sequence[str], cache: Path) -> list[Arm]:
    trunk = resolve(backbone, cache_dir=cache)
    transform = dataclasses.replace(trunk.transform, policy="squash", size=SIZE)
    one = run_pass(ground.manifest, trunk, transform, choice=choose(), cache_dir=cache)
    made: list[Arm] = []
    for name in names:
        if name == "linear_probe":
            made.append(
                LinearProbeArm(
                    features=one.values, labels=ground.manifest.labels, num_classes=ground.manifest.num_classes,
                    group_ids=ground.groups, hashes=ground.manifest.hashes, backbone=backbone,
                )
            )  # fmt: skip
        else:
            made.append(
                TunedArm(
                    name=name, manifest=ground.manifest, features=one.values, group_ids=ground.groups,
                    trunk=one.backbone, images_per_second=one.images_per_second, metric="macro_f1", cache_dir=cache,
                )
            )  # fmt: skip
    return made


def measure(names: Sequence[str], backbones: Sequence[str], arms: Sequence[str], hours: float, cache: Path) -> None:
    """Every cell that is missing, smallest sizes first, until the time is up."""
    end = time.monotonic() + 3600 * hours
    grounds = {name: Ground.of(name, cache) for name in names}
    kept = {name: ground.evidence(cache) for name, ground in grounds.items()}
    made = {(n, b): arms_of(grounds[n], b, arms, cache) for n, b in product(names, backbones)}
    for per_class, seed, (name, backbone) in product(PER_CLASS, SEEDS, made):
        for arm in made[name, backbone]:
            ground, evidence, cell = grounds[name], kept[name], cell_of(per_class, seed)
            if evidence.get(key_of(arm), cell) is not None:
                continue
            train = ground.rows(per_class, seed)
            if time.monotonic() + arm.estimate_seconds(len(train)) > end:
                print(f"the time is up before {name} {backbone} {arm.name} {per_class} a class, seed {seed}")
                return
            answers = arm.measure(train, ground.test, seed)
            evidence.add(
                Measurement(
                    arm=key_of(arm), cell=cell, num_train=len(train), rows=ground.test,
                    predicted=answers.predicted.astype(np.int32), seconds=answers.seconds,
                )
            )  # fmt: skip
            accuracy = float((answers.predicted == ground.manifest.labels[ground.test]).mean())
            print(
                f"{name} {backbone} {arm.name} {per_class} a class, seed {seed}: {accuracy:.3f}, "
                f"{answers.seconds:.1f} s (expected {arm.estimate_seconds(len(train)):.1f})",
                flush=True,
            )


def report(names: Sequence[str], cache: Path) -> None:
    """What the cells say."""
    errors: list[float] = []
    same: list[bool] = []
    held: list[bool] = []
    signs: list[tuple[bool | None, bool]] = []
    regrets: dict[int, list[float]] = {}
    for name in names:
        ground = Ground.of(name, cache)
        evidence = ground.evidence(cache)
        keys = sorted({m.arm for m in evidence}, key=lambda key: (key.backbone, ARMS.index(key.strategy)))
        by_backbone = {b: [key for key in keys if key.backbone == b] for b in sorted({key.backbone for key in keys})}
        whole = _with(ground, evidence, ground.test)
        for backbone, arms in by_backbone.items():
            _print_truth(name, backbone, arms, whole)
        for arm in keys:
            for curve, there in _ahead(arm, whole):
                told = curve.at(PER_CLASS[there] * CLASSES).estimate
                truth = float(whole[arm, there].values[0])
                errors.append(told - truth)
                same.append(_holds(curve, whole[arm, there], there))
                print(
                    f"{arm.strategy:<14}at {PER_CLASS[there]:>3} a class: {100 * told:.1f} told, {100 * truth:.1f} came"
                )
        for half in np.random.default_rng(0).random((HALVINGS, len(ground.test))) < 0.5:
            parts = [_with(ground, evidence, ground.test[part]) for part in (half, ~half)]
            for fitted, other in (parts, parts[::-1]):
                for arm in keys:
                    held += [_holds(curve, other[arm, there], there) for curve, there in _ahead(arm, fitted)]
                for arms in by_backbone.values():
                    signs += list(_signs(arms, fitted, other))
                    for per_class, regret in _regrets(arms, fitted, other):
                        regrets.setdefault(per_class, []).append(regret)
    if errors:
        off = 100 * np.abs(errors)
        print(
            f"one size ahead ({len(off)} curves): off by {off.mean():.1f} points on average, {off.max():.1f} at worst, "
            f"{100 * np.mean(errors):+.1f} signed; 80 % intervals hold {100 * np.mean(same):.0f} % on the same images, "
            f"{100 * np.mean(held):.0f} % on others"
        )
    known = [(said, true) for said, true in signs if said is not None]
    if signs:
        right = sum(said == true for said, true in known)
        print(
            f"sign at {PER_CLASS[-1]} a class, told from 50: right in {right} of {len(known)} halves, not told in "
            f"{len(signs) - len(known)}"
        )
    for per_class, lost in sorted(regrets.items()):
        mean, worst = 100 * float(np.mean(lost)), 100 * max(lost)
        print(f"regret of the choice at {per_class} a class: {mean:.2f} points, {worst:.2f} at worst")


Values = dict[tuple[ArmKey, int], Difference]


def _with(ground: Ground, evidence: Evidence, rows: NDArray[np.int64]) -> Values:
    """Values of every arm and size (position in PER_CLASS), paired over arms, judged on some of the test images."""
    place = np.full(len(ground.manifest), -1)
    place[rows] = np.arange(len(rows))
    resampled = Resampled(ground.manifest.labels[rows], ground.groups[rows], ground.manifest.num_classes, "macro_f1")
    found: Values = {}
    for arm in {m.arm for m in evidence}:
        by_size: dict[int, list[Measurement]] = {}
        for position in range(len(PER_CLASS)):
            for m in evidence.of(arm, position):
                keep = place[m.rows] >= 0
                part = dataclasses.replace(m, rows=place[m.rows[keep]], predicted=m.predicted[keep])
                by_size.setdefault(position, []).append(part)
        each = [resampled.each(some) for some in by_size.values()]
        sizes = [PER_CLASS[position] for position in by_size]
        for position, some in by_size.items():
            values = resampled.value(some)
            one = Difference(
                values=values, images_variance=images_variance(values, resampled.num_groups(some)),
                training_variance=training_variance(each, sizes, PER_CLASS[position], same_images=True),
                num_trainings=len(some),
            )  # fmt: skip
            # the doubt of trainings is each arm's own, that of the images is shared through the resamples
            rng = np.random.default_rng([position, *str(arm).encode("utf-8")])
            found[arm, position] = dataclasses.replace(one, values=noisy(one, rng))
    return found


def _curve(arm: ArmKey, positions: Sequence[int], values: Values) -> Curve | None:
    if any((arm, p) not in values for p in positions):
        return None
    found = {p: values[arm, p] for p in positions}
    sizes = {p: PER_CLASS[p] * CLASSES for p in positions}
    return fit_curve(found, sizes, last=sizes[positions[-1]], seed=sum(str(arm).encode("utf-8")))


def _ahead(arm: ArmKey, values: Values) -> Iterator[tuple[Curve, int]]:
    """Curves through three sizes, and the position of the next size, where that was measured too."""
    for first in range(len(PER_CLASS) - 3):
        curve = _curve(arm, range(first, first + 3), values)
        if curve is not None and (arm, first + 3) in values:
            yield curve, first + 3


def _holds(curve: Curve, measured: Difference, there: int) -> bool:
    """Whether the 80 % interval of "told minus measured", both with their doubt, holds 0."""
    where = int(np.argmin(np.abs(np.log(curve.grid) - np.log(PER_CLASS[there] * CLASSES))))
    low, high = np.quantile(curve.draws[:, where] - measured.values[1:], [0.1, 0.9])
    return bool(low <= 0 <= high)


def _signs(arms: Sequence[ArmKey], fitted: Values, held: Values) -> Iterator[tuple[bool | None, bool]]:
    """Whether each arm beats the probe at 200 a class, told from 10, 25 and 50; None where it was not told."""
    probe = next((arm for arm in arms if arm.strategy == "linear_probe"), None)
    last = len(PER_CLASS) - 1
    for arm in arms:
        if probe is None or arm == probe or (arm, last) not in held or (probe, last) not in held:
            continue
        ours, theirs = (_curve(one, (1, 2, 3), fitted) for one in (arm, probe))
        if ours is None or theirs is None:
            continue
        chance = float((ours.draws[:, -1] > theirs.draws[:, -1]).mean())
        said = True if chance >= SURE else False if chance <= 1 - SURE else None
        yield said, bool(held[arm, last].values[0] > held[probe, last].values[0])


def _regrets(arms: Sequence[ArmKey], fitted: Values, held: Values) -> Iterator[tuple[int, float]]:
    """What is lost by the choice at each size; the order of arms is that of their cost."""
    for position, per_class in enumerate(PER_CLASS):
        known = [arm for arm in arms if (arm, position) in fitted]
        if len(known) < 2:
            continue
        draws = np.stack([fitted[arm, position].values[1:] for arm in known], axis=1)
        good = (draws.max(axis=1, keepdims=True) - draws <= 0.01).mean(axis=0)
        enough = [i for i, p in enumerate(good) if p >= 0.9]
        taken = enough[0] if enough else int(np.argmax(good))
        truth = np.array([held[arm, position].values[0] for arm in known])
        yield per_class, float(truth.max() - truth[taken])


def _print_truth(name: str, backbone: str, arms: Sequence[ArmKey], values: Values) -> None:
    print(f"{name}, {backbone}: macro-F1 (x 100) by images a class")
    print("    " + " " * 14 + "".join(f"{per_class:>8}" for per_class in PER_CLASS))
    for arm in arms:
        row = [values.get((arm, p)) for p in range(len(PER_CLASS))]
        cells = "".join("       –" if one is None else f"{100 * one.values[0]:8.1f}" for one in row)
        print(f"    {arm.strategy:<14}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "report"))
    parser.add_argument("--data", nargs="+", choices=tuple(SOURCES), default=tuple(SOURCES))
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS[:4])
    parser.add_argument("--hours", type=float, default=1.0)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    cache = default_cache_dir() / "benchmarks"
    if args.what == "measure":
        measure(args.data, args.backbones, args.arms, args.hours, cache)
    else:
        report(args.data, cache)


if __name__ == "__main__":
    main()
