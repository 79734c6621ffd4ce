"""Which learning rate: the way from labelled images to a range test of the training that `fit` would run."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regraft import data as data_stage
from regraft import decided, pipeline, training
from regraft.config import FitConfig
from regraft.data import Scan
from regraft.features.extract import extract
from regraft.files import default_cache_dir, write_bytes
from regraft.progress import Listener, Stopwatch
from regraft.settling import settle
from regraft.store.runs import project_name
from regraft.types import JSON
from regraft.usable import labelled, without_failed

if TYPE_CHECKING:
    from regraft.fit.lr_finder import LearningRates


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LrRange:
    """What was found.

    Attributes:
        found: the curve and the proposal.
        strategy: that would be trained.
        usual: the learning rate that a fit takes by itself, and why.
        num_images: to train on.
        batch_size: images a step.
    """

    found: LearningRates
    strategy: str
    usual: tuple[float, str]
    num_images: int
    batch_size: int

    def as_dict(self) -> JSON:
        """For `--json`."""
        found = self.found
        return {
            "proposed": found.valley, "steepest": found.steepest, "reason": found.reason,
            "usual": {"lr": self.usual[0], "reason": self.usual[1]}, "strategy": self.strategy,
            "num_images": self.num_images, "batch_size": self.batch_size, "num_steps": len(found.lrs),
            "lrs": list(found.lrs), "losses": list(found.losses), "smoothed": list(found.smoothed),
        }  # fmt: skip

    def sentences(self, data: str) -> list[str]:
        """What to make of it, for people."""
        found, (usual, why) = self.found, self.usual
        tried = (
            f"{len(found.lrs)} steps of {self.batch_size} images with {self.strategy}, "
            f"lr from {found.lrs[0]:.1e} to {found.lrs[-1]:.1e}"
        )
        lines = [f"{tried}: {found.reason}.", f"A fit takes lr {usual:.1e} unless told otherwise: {why}."]
        if found.valley is None:
            begins = (
                ", as a solved head leaves little to gain in a few steps" if self.strategy in ("light", "lp_ft") else ""
            )
            return [*lines, f"No rate is proposed{begins}: stay with {usual:.1e}."]
        lines.append(
            "The proposal is what the first steps bear; whether it ends in a better model is not known. Try it beside "
            "the usual rate, and judge by validation:"
        )
        return [*lines, f"  regraft fit {shlex.quote(data)} --strategy {self.strategy} --lr {found.valley:.1e}"]


def lr_range(
    data: str | Path | Scan,
    config: FitConfig | None = None,
    *,
    num_steps: int = 100,
    low: float = 1e-6,
    high: float = 1.0,
    listener: Listener | None = None,
) -> LrRange:
    """Run the range test on the images that a fit with this config would train on; nothing is kept.

    Args:
        data: what `regraft.read` takes, or gave.
        config: options of the fit; strategy linear_probe, which has no rate, becomes lp_ft.
        num_steps: at most so many steps.
        low: first rate of the head.
        high: last one.
        listener: hears of progress.

    Raises:
        DataError: the data do not allow it, or the loss is never finite.
        UsageError: options that do not go together.
    """
    from regraft.fit.lr_search import search_lr

    config = config if config is not None else FitConfig()
    if config.strategy == "linear_probe":
        config = dataclasses.replace(config, strategy="lp_ft")
    listener = listener if listener is not None else Listener()
    watch = Stopwatch(listener)
    cache_dir = config.cache_dir if config.cache_dir is not None else default_cache_dir()
    with watch.stage("scan"):
        scan = (
            data
            if isinstance(data, Scan)
            else pipeline.read(data, config=config, cache_dir=cache_dir, listener=listener)
        )
    labelled(scan)
    if config.decisions and scan.decisions is None:
        source = scan.manifest.root if isinstance(data, Scan) else Path(data)
        scan = decided.with_decisions(
            scan, config.project or project_name(source), database=config.database, runs_dir=config.runs_dir,
            keep_ambiguous=config.keep_ambiguous, say=listener.say,
        )  # fmt: skip
    parted = data_stage.part(scan, test=config.test, seed=config.seed, say=listener.say)
    manifest, split = parted.manifest, parted.split
    settled = settle(config, manifest, split, cache_dir=cache_dir, listener=listener, watch=watch)
    with watch.stage("extract"):
        features = extract(
            manifest, settled.backbone, transform=settled.backbone.transform, choice=settled.choice,
            cache_dir=cache_dir, progress=listener.progress,
        )  # fmt: skip
    manifest, split, features = without_failed(manifest, split, features, listener)
    job = training.Job(
        manifest=manifest, split=split, features=features, config=config, backbone=settled.backbone,
        choice=settled.choice, folder=Path(), cache_dir=cache_dir, resume=False, listener=listener, watch=watch,
    )  # fmt: skip
    rows = training.split_off_validation(job)[0] if len(split.test) else split.development
    module, recipe = training.begin(job, len(rows), has_validation=bool(len(split.test)), quiet=True)
    head = None
    if config.strategy in ("light", "lp_ft"):
        with watch.stage("fit"):
            probe = training.probe_on(job, rows)
        head = probe.weight, probe.bias - probe.prior_adjustment
    with watch.stage("lr-find"):
        found = search_lr(
            module, recipe, training.images_of(job, rows),
            num_classes=manifest.num_classes, transform=settled.backbone.transform, head=head, num_steps=num_steps,
            low=low, high=high, seed=config.seed, listener=listener,
        )  # fmt: skip
    return LrRange(
        found=found, strategy=config.strategy, usual=(float(recipe["lr"].value), recipe["lr"].reason),
        num_images=len(rows), batch_size=int(recipe["batch_size"].value),
    )  # fmt: skip


def draw(path: Path, ranged: LrRange) -> None:
    """The curve as a picture: .png, .svg or .pdf by the name."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = ranged.found
    figure = Figure(figsize=(7.2, 4.4), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.135, 0.865, 0.755))
    axes.set_xscale("log")
    axes.grid(color="#eceff4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.plot(found.lrs, found.losses, "o", color="#9ac2e6", markersize=3, label="each step")
    axes.plot(found.lrs, found.smoothed, color="#1f5f9e", linewidth=2, label="smoothed")
    # The blow-up at the end would squeeze the descent, which is what one looks for, into a line.
    lowest, first = min(found.smoothed), found.smoothed[0]
    span = max(first - lowest, 0.02 * abs(first))
    axes.set_ylim(lowest - 0.6 * span, first + 1.2 * span)
    for rate, text, style in (
        (ranged.usual[0], f"usual {ranged.usual[0]:.1e}", ":"),
        (found.valley, f"proposed {found.valley:.1e}" if found.valley is not None else "", "--"),
    ):
        if rate is not None and found.lrs[0] <= rate <= found.lrs[-1]:
            axes.axvline(rate, color="#b85410" if style == "--" else "#566072", linestyle=style, label=text)
    axes.set_xlabel("learning rate of the head")
    axes.set_ylabel("loss, batches made comparable")
    axes.set_title(
        f"Range test: {ranged.strategy}, {len(found.lrs)} steps of {ranged.batch_size} images", loc="left", fontsize=11
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower())
    write_bytes(path, buffer.getvalue())
