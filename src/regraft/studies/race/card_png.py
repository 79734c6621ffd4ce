"""The decision card as a picture: the curves and where they cross, where the data stand, the arms."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from regraft.files import write_bytes
from regraft.studies.race.outcome import Outcome, Raced
from regraft.studies.race.words import images, paragraph, phrase

INK, QUIET, LINE, PAPER = "#1a2230", "#566072", "#dde2ea", "#ffffff"
COLOURS = {
    "linear_probe": "#1f5f9e", "light": "#c8871b", "lp_ft": "#b8432f", "full": "#7a4fa3", "scratch": "#6b7280",
}  # fmt: skip
"""Told apart by people who see no red or no green as well (checked by lightness: 38, 61, 44, 42, 48)."""

MARKERS = {"linear_probe": "o", "light": "s", "lp_ft": "D", "full": "^", "scratch": "v"}

FONTS = ("DejaVu Sans",)


def colour(strategy: str) -> str:
    """Of an arm, the same in every picture."""
    return COLOURS.get(strategy, "#3a7d5d")


def write_card(path: Path, outcome: Outcome, *, title: str) -> None:
    """Write the card as PNG, atomically; 1,760 × 1,180 pixels."""
    write_bytes(path, card_png(outcome, title=title))


def card_png(outcome: Outcome, *, title: str) -> bytes:
    """The card as PNG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.sans-serif": list(FONTS), "svg.hashsalt": "regraft"}):
        figure = Figure(figsize=(11, 7.375), dpi=160, facecolor=PAPER)
        FigureCanvasAgg(figure)
        _head(figure, outcome, title)
        _curves(figure.add_axes((0.062, 0.335, 0.54, 0.42)), outcome)
        _place(figure.add_axes((0.745, 0.335, 0.225, 0.42)), outcome)
        _arms(figure.add_axes((0.04, 0.03, 0.93, 0.205)), outcome)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def headline(outcome: Outcome) -> str:
    """The decision in a few words."""
    name = phrase(outcome, outcome.chosen.strategy, outcome.chosen.backbone)
    return f"Take {name}" if outcome.resolved else f"Unresolved; meanwhile {name}"


def _head(figure: Any, outcome: Outcome, title: str) -> None:
    figure.text(0.04, 0.955, _short(title, 70), fontsize=9, color=QUIET, weight="bold", va="top", parse_math=False)
    figure.text(0.04, 0.93, headline(outcome), fontsize=19, color=INK, weight="bold", va="top", parse_math=False)
    wrapped = textwrap.wrap(paragraph(outcome), 142)
    said = wrapped if len(wrapped) <= 4 else [*wrapped[:3], f"{wrapped[3]} …"]
    figure.text(
        0.04, 0.873, "\n".join(said), fontsize=9.5, color=INK, va="top", linespacing=1.45, parse_math=False
    )  # fmt: skip


def _curves(axes: Any, outcome: Outcome) -> None:
    """Values over training images, beyond n dashed, with 80 % bands and the crossing."""
    shown = [one for one in outcome.arms if one.curve is not None]
    last = outcome.num_train
    seen: list[float] = []
    for one in reversed(shown):
        assert one.curve is not None
        tint, curve = colour(one.arm.strategy), one.curve
        keep = curve.grid >= curve.sizes[0] * 0.999
        low, high = np.quantile(curve.draws[:, keep], [0.1, 0.9], axis=0)
        grid, line = curve.grid[keep], curve.line[keep]
        axes.fill_between(grid, 100 * low, 100 * high, color=tint, alpha=0.11, linewidth=0)
        near = grid <= curve.sizes[-1] * 1.001
        axes.plot(grid[near], 100 * line[near], color=tint, linewidth=2.2, solid_capstyle="round")
        beyond = grid >= curve.sizes[-1] * 0.999
        axes.plot(grid[beyond], 100 * line[beyond], color=tint, linewidth=1.8, linestyle=(0, (4, 2.5)))
        seen += [*(100 * line), *(100 * v.low for v in curve.values), *(100 * v.high for v in curve.values)]
        seen += [100 * float(low[-1]), 100 * float(high[-1])]
    for one in shown:
        _points(axes, one, last)
    # without a curve (given up early): in the picture where it does not press the curves together, else in the table
    bare = [one for one in outcome.arms if one.curve is None]
    named = [*shown, *(one for one in bare if not shown or 100 * one.value.low >= min(seen))]
    for one in named[len(shown) :]:
        seen += _points(axes, one, last)
    low_end, high_end = (min(seen), max(seen)) if seen else (0.0, 100.0)
    air = max(0.06 * (high_end - low_end), 1.0)
    axes.set_ylim(max(low_end - air, 0), min(high_end + air, 101))
    axes.set_xscale("log")
    axes.set_xlim(outcome.sizes[0] / 1.12, 4 * last * 1.02)
    axes.axvspan(last, 4 * last * 1.02, color="#f3f5f8", zorder=0, linewidth=0)
    axes.axvline(last, color=QUIET, linewidth=0.9, zorder=1)
    top = axes.get_ylim()[1]
    axes.annotate(
        "predicted →", (last, top), xytext=(5, -5), textcoords="offset points", fontsize=8, color=QUIET, va="top"
    )  # fmt: skip
    axes.annotate(
        "← measured", (last, top), xytext=(-5, -5), textcoords="offset points", fontsize=8, color=QUIET, va="top",
        ha="right",
    )  # fmt: skip
    _crossing(axes, outcome)
    _names(axes, named)
    ticks = sorted({*outcome.sizes, 2 * last, 4 * last})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("training images (logarithmic)", fontsize=8.5, color=QUIET)
    axes.set_title(
        f"{outcome.metric.replace('_', ' ')}, %, with 80 % intervals",
        fontsize=9.5,
        color=INK,
        loc="left",
        weight="bold",
    )
    _plain(axes)


def _points(axes: Any, one: Raced, last: int) -> list[float]:
    tint, mark = colour(one.arm.strategy), MARKERS.get(one.arm.strategy, "o")
    if one.curve is None:
        sizes, values, hollow = [last], [one.value], True
    else:
        sizes, values, hollow = one.curve.sizes.tolist(), list(one.curve.values), False
    middle = np.array([100 * v.estimate for v in values])
    ends = np.abs(np.array([[100 * v.low for v in values], [100 * v.high for v in values]]) - middle)
    axes.errorbar(
        sizes, middle, yerr=ends, fmt=mark, color=tint, markersize=6, elinewidth=1.2, capsize=0,
        markerfacecolor=PAPER if hollow else tint, markeredgecolor=tint if hollow else PAPER, markeredgewidth=1.1,
        zorder=4,
    )  # fmt: skip
    return [float(v) for v in middle]


def _crossing(axes: Any, outcome: Outcome) -> None:
    found = outcome.crossing
    probe = outcome[outcome.reference].curve
    if found.median is None or found.low is None or probe is None:
        return
    bottom, top = axes.get_ylim()
    level = bottom + 0.055 * (top - bottom)
    left, right = axes.get_xlim()
    end = min(found.high if found.high is not None else right, right)
    axes.plot([max(found.low, left), end], [level, level], color=INK, linewidth=3.2, solid_capstyle="round", zorder=5)
    value = 100 * float(np.interp(np.log(found.median), np.log(probe.grid), probe.line))
    axes.plot([found.median] * 2, [level, value], color=INK, linewidth=0.9, linestyle=":", zorder=3)
    axes.plot([found.median], [level], marker="o", color=INK, markersize=6.5, markeredgecolor=PAPER, zorder=6)
    axes.plot([found.median], [value], marker="o", color=PAPER, markersize=8, markeredgecolor=INK, zorder=6)
    until = f"–{images(found.high)}" if found.high is not None else f" to beyond {4 * outcome.num_train:,}"
    right_half = np.log(found.median) > np.log(left * right) / 2
    axes.annotate(
        f"they cross at {images(found.median)} ({images(found.low)}{until})", (found.median, level),
        xytext=(-8 if right_half else 8, 7), textcoords="offset points", fontsize=8.5, color=INK,
        ha="right" if right_half else "left", weight="bold", zorder=7,
    )  # fmt: skip


def _names(axes: Any, named: list[Raced]) -> None:
    """Names at the right ends of the curves, moved apart; names of arms without a curve at their mark."""
    bottom, top = axes.get_ylim()
    gap = 0.062 * (top - bottom)
    ends = []
    for one in named:
        place = 100 * (float(one.curve.line[-1]) if one.curve is not None else one.value.estimate)
        ends.append((place, one))
    ends.sort(key=lambda pair: pair[0])
    places: list[float] = []
    for value, _ in ends:
        low = min(max(value, bottom), top)
        places.append(max(low, places[-1] + gap) if places else low)
    over = places[-1] - top if places and places[-1] > top else 0.0
    for (_, one), place in zip(ends, places, strict=True):
        text = one.arm.strategy.replace("_", " ")
        axes.annotate(
            text, (1, (place - over - bottom) / (top - bottom)), xycoords="axes fraction", xytext=(5, 0),
            textcoords="offset points", fontsize=8.5, color=colour(one.arm.strategy), va="center", weight="bold",
            annotation_clip=False,
        )  # fmt: skip


def _place(axes: Any, outcome: Outcome) -> None:
    """Where the data stand: similarity to what the backbone was trained on, images a class."""
    per_class = outcome.num_images / max(outcome.num_classes, 1)
    low, high = min(5.0, per_class / 1.5), max(1000.0, per_class * 1.5)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(0, 1)
    middle = float(np.sqrt(low * high))
    axes.axhline(middle, color=LINE, linewidth=0.9)
    axes.axvline(0.5, color=LINE, linewidth=0.9)
    corners = [
        (0.03, 0.97, "left", "top", "much, unlike:\nthe textbook trains all"),
        (0.97, 0.97, "right", "top", "much, alike:\nfine-tune all"),
        (0.03, 0.03, "left", "bottom", "little, unlike:\nearly stages"),
        (0.97, 0.03, "right", "bottom", "little, alike:\nfeature extraction"),
    ]
    for x, y, ha, va, text in corners:
        axes.text(
            x, y, text, transform=axes.transAxes, ha=ha, va=va, fontsize=7, color="#8a94a3", linespacing=1.3
        )  # fmt: skip
    tint = colour(outcome.chosen.strategy)
    if outcome.similarity is None:
        axes.axhline(per_class, color=tint, linewidth=2.2, zorder=4)
        axes.text(
            0.5, per_class * 1.12, "your data (similarity not measured)", ha="center", fontsize=7.5, color=QUIET,
            backgroundcolor=PAPER,
        )  # fmt: skip
    else:
        at = outcome.similarity
        axes.plot([at.low, at.high], [per_class, per_class], color=tint, linewidth=2.4, solid_capstyle="round")
        axes.plot(
            [at.estimate], [per_class], marker="o", markersize=11, color=tint, markeredgecolor=PAPER,
            markeredgewidth=1.5, clip_on=False, zorder=5,
        )  # fmt: skip
        side = -1 if at.estimate > 0.5 else 1
        axes.annotate(
            "your data", (at.estimate, per_class), xytext=(11 * side, 9), textcoords="offset points", fontsize=8.5,
            color=INK, weight="bold", ha="right" if side < 0 else "left",
        )  # fmt: skip
    axes.set_xticks([0, 0.5, 1], ["like noise", "", "like photographs"])
    axes.get_xticklabels()[0].set_ha("left")
    axes.get_xticklabels()[2].set_ha("right")
    decades = [10.0**p for p in range(-1, 8) if low <= 10.0**p <= high]
    axes.set_yticks(decades, [f"{d:,.0f}" for d in decades])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("images a class", fontsize=8.5, color=QUIET, labelpad=2)
    axes.set_xlabel("similarity to the backbone's training images", fontsize=7.8, color=QUIET)
    axes.set_title("Where your data stand", fontsize=9.5, color=INK, loc="left", weight="bold")
    _plain(axes)


def _arms(axes: Any, outcome: Outcome) -> None:
    """The arms as a small table with intervals drawn."""
    axes.axis("off")
    rows = list(outcome.arms)[:6]
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(rows), 3) - 0.4, -1.35)
    columns = [(0.022, "left", "arm"), (0.31, "right", f"{outcome.metric.replace('_', ' ')}, %"),
               (0.42, "right", "80 % interval"), (0.765, "right", "P(best)"), (0.885, "right", "P(good enough)"),
               (0.985, "right", "one training")]  # fmt: skip
    for x, ha, text in columns:
        axes.text(x, -0.95, text, ha=ha, va="center", fontsize=8, color=QUIET, weight="bold")
    ends = [v for one in rows for v in (one.value.low, one.value.high)]
    low, high = min(ends), max(ends)
    wide = max(high - low, 1e-6)

    def at(value: float) -> float:
        return 0.45 + 0.24 * (value - low) / wide

    for y, one in enumerate(rows):
        tint = colour(one.arm.strategy)
        chosen = one.arm == outcome.chosen
        weight = "bold" if chosen else "normal"
        if chosen:
            axes.axhspan(y - 0.5, y + 0.5, color="#eef3f9", linewidth=0, zorder=0)
        axes.plot([0.008], [y], marker=MARKERS.get(one.arm.strategy, "o"), color=tint, markersize=7, clip_on=False)
        name = phrase(outcome, one.arm.strategy, one.arm.backbone)
        star = " (carried over)" if one.extrapolated else ""
        cells = [
            (0.022, "left", _short(name[0].upper() + name[1:] + star, 44)),
            (0.31, "right", f"{100 * one.value.estimate:.1f}"),
            (0.42, "right", f"{100 * one.value.low:.1f}–{100 * one.value.high:.1f}"),
            (0.765, "right", f"{one.p_best:.2f}"), (0.885, "right", f"{one.p_within:.2f}"),
            (0.985, "right", _seconds(one.seconds)),
        ]  # fmt: skip
        for x, ha, text in cells:
            axes.text(x, y, text, ha=ha, va="center", fontsize=9, color=INK, weight=weight, parse_math=False)
        axes.plot([at(one.value.low), at(one.value.high)], [y, y], color=tint, linewidth=4, alpha=0.35,
                  solid_capstyle="butt")  # fmt: skip
        axes.plot([at(one.value.estimate)] * 2, [y - 0.27, y + 0.27], color=tint, linewidth=2.2)


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 100 else f"{value / 60:,.1f} min"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
