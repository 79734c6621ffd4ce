"""Contents for the report's tests: drawn images, made-up results, and names that mean harm."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from regraft.evaluate.metrics import ReliabilityBin, evaluate_predictions, reliability_bins
from regraft.evaluate.report import ReportContents
from regraft.evaluate.report_training import Beside, Training
from regraft.types import Finding, Interval, Predictions

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} & 'quotes'",
    "قطة صغيرة",
    "🐈‍⬛ cat",
    "a\u202eb\x00c\ud800d",
    "x" * 300,
)


def thumbnail(path: str, pixels: int) -> bytes | None:
    """A small drawn picture; `missing…` cannot be read."""
    from PIL import Image, ImageDraw

    if path.startswith("missing"):
        return None
    seed = sum(path.encode("utf-8", "replace"))
    image = Image.new("RGB", (pixels, 60 + seed % (pixels - 60)), (seed % 256, seed * 7 % 256, seed * 13 % 256))
    ImageDraw.Draw(image).ellipse((20, 10, pixels - 30, 50), fill=(seed * 3 % 256, 200, seed * 5 % 256))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    return stream.getvalue()


def contents(
    *,
    names: tuple[str, ...] = ("ant", "bee", "cat", "dog"),
    num_images: int = 400,
    error_rate: float = 0.1,
    split: str = "test",
    num_findings: int = 120,
    bins: bool = True,
    **changes: Any,
) -> ReportContents:
    """A report's contents with `num_images` evaluated images, as imbalanced as Zipf's law with exponent 0.7."""
    rng = np.random.default_rng(0)
    k = len(names)
    shares = 1 / np.arange(1, k + 1) ** 0.7
    labels = np.sort(rng.choice(k, num_images, p=shares / shares.sum()))
    said = np.where(rng.random(num_images) < error_rate, (labels + rng.integers(1, max(k, 2), num_images)) % k, labels)
    logits = rng.normal(0, 1, (num_images, k))
    logits[np.arange(num_images), said] += rng.gamma(4, 1.2, num_images) + 2
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    images = np.array(
        [f"{'missing/' if i % 37 == 0 else ''}{names[y][:40]}/IMG_{i:05d}.jpg" for i, y in enumerate(labels)]
    )
    predictions = Predictions(images=images, pred_probs=probs, class_names=names, labels=labels)
    if num_images:
        measured = evaluate_predictions(labels, probs)
        half = 1.96 * np.sqrt(error_rate * (1 - error_rate) / num_images) + 2 / num_images
        metrics = {
            name: {
                "estimate": v,
                "low": max(v - half, 0.0),
                "high": min(v + half, 1.0) if v <= 1 else v + half,
                "level": 0.95,
            }
            for name, v in measured.as_dict().items()
        }
        per_class = {
            name: {key: float(column[i]) for key, column in measured.per_class.items()} for i, name in enumerate(names)
        }
        matrix = measured.confusion
    else:
        metrics, per_class, matrix = {}, {}, np.zeros((k, k), np.int64)
    reliability: tuple[ReliabilityBin, ...] = reliability_bins(labels, probs) if bins and num_images else ()
    counts = np.bincount(labels, minlength=k)
    result = {
        "split": split,
        "metrics": metrics,
        "baseline": {"accuracy": float(counts.max() / max(counts.sum(), 1)), "balanced_accuracy": 1 / k,
                     "macro_f1": 0.05, "log_loss": float(np.log(k)), "ece": 0.01},
        "per_class": per_class,
        "num_images": int(5 * num_images),
        "num_excluded": num_findings * 2 // 3,
        "strategy": "linear_probe",
        "backbone": "tf_efficientnet_lite0",
        "seconds": {"scan": 1.83, "split": 0.02, "extract": 14.2, "fit": 6.4, "evaluate": 1.1, "bundle": 0.3},
        "class_counts": {
            name: {"development": int(4 * c) + 2 * (split == "test"), "test": int(c) if split == "test" else 0}
            for name, c in zip(names, counts, strict=True)
        },
        "temperature": 1.31,
        "warnings": [],
    }  # fmt: skip
    kinds = (("exact_duplicate", True, "the same bytes as {}"), ("truncated", True, "cut off after 1,204 bytes"),
             ("animated", False, "only the first of 12 frames is used"))  # fmt: skip
    found = [
        Finding(image=f"{names[i % k]}/bad_{i}.jpg", label=names[i % k], kind=kinds[i % 3][0],
                reason=kinds[i % 3][2].format(f"{names[0]}/IMG_1.jpg"), excluded=kinds[i % 3][1])
        for i in range(num_findings)
    ]  # fmt: skip
    strengths = np.logspace(-5, 2, 20)
    path = [
        {"strength": float(s), "log_loss": float(0.25 + 0.02 * (np.log10(s) + 1.7) ** 2), "log_loss_se": 0.012,
         "accuracy": float(0.935 - 0.004 * (np.log10(s) + 1.7) ** 2), 
         "macro_f1": float(0.91 - 0.006 * (np.log10(s) + 1.2) ** 2)}
        for s in strengths
    ]  # fmt: skip
    values: dict[str, Any] = {
        "title": "photos",
        "command": "regraft fit photos/ --backbone tf_efficientnet_lite0 --seed 0",
        "result": result,
        "config": {
            "precision": {"value": "bf16", "reason": "AVX512_BF16 found"},
            "engine": {"value": "openvino", "reason": "the fastest engine on this processor"},
            "test_size": {"value": 0.2, "reason": "2,000 images are enough to lock a fifth away"},
            "seed": {"value": 0, "reason": "default"},
        },
        "env": {"python": "3.11.9", "cpu": {"model": "a processor", "cores": 2}, "packages": {"numpy": "2.3.4"}},
        "understood": [
            f"Class folders: 2,000 images in {k} classes.",
            "The data gave no split: a fifth of every class was locked away for the test.",
        ],
        "findings": found,
        "predictions": predictions,
        "confusion": matrix,
        "reliability": reliability,
        "path": path,
        "chosen": 11,
        "choice": "20 strengths, 5 folds: the strongest within one standard error of the lowest log loss.",
        "thumbnail": thumbnail,
        "image_examples": {name: [f"{name[:40]}/{i}.jpg" for i in range(4)] for name in names},
    }  # fmt: skip
    return ReportContents(**(values | changes))


def trained(num_epochs: int = 14) -> Training:
    """A training with everything that its section shows."""
    measures = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
    differences = (0.024, 0.019, 0.022, -0.06, 0.014)
    return Training(
        history=[
            {"step": 40 * e, "epoch": e, "train/loss": 0.2 + 1 / e, "val/loss": 0.3 + 1 / e, "lr": 1e-3 / e,
             "val/macro_f1": 0.9 - 0.3 / e, "images_per_second": 210.0, "seconds": 12.0 * e}
            for e in range(1, num_epochs + 1)
        ],
        settings=[("lr", 1e-3, "fastai's fine_tune"), ("flip", False, HOSTILE[0]), ("epochs", num_epochs, "asked for")],
        notes=["14 epochs are done", "the soup of the 3 best epochs has the lowest validation loss"],
        beside=Beside(
            metrics={name: Interval(estimate=0.5, low=0.4, high=0.6) for name in measures},
            difference={
                name: Interval(estimate=d, low=d - 0.02, high=d + 0.02)
                for name, d in zip(measures, differences, strict=True)
            },
            seconds=(3.4, 212.0),
        ),
    )  # fmt: skip
