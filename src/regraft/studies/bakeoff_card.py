"""A comparison of remedies as one picture: the class sizes, and what each remedy changes, with its interval."""

from __future__ import annotations

import io
from pathlib import Path
from textwrap import fill

from regraft.errors import UsageError, nearest
from regraft.files import write_bytes
from regraft.studies.bakeoff import BakeOff

FORMATS = ("png", "svg", "pdf")
MOST_BARS = 30
"""Of more classes the sizes are one line."""

_BANDS = {"many": "#1b5e8c", "medium": "#6fa8c9", "few": "#d98b2b"}
_PICK, _PLAIN = "#b3261e", "#3a3f45"


def check_picture(path: Path) -> None:
    """Raise UsageError where the file's ending is none that can be drawn."""
    if (ending := path.suffix.lower().lstrip(".")) not in FORMATS:
        raise UsageError(f"a picture is a .png, .svg or .pdf file: {str(path)!r} is not{nearest(ending, FORMATS)}")


def draw_bakeoff(path: Path, found: BakeOff, *, title: str) -> None:
    """Draw the picture and write it, atomically.

    Raises:
        UsageError: a file ending that cannot be drawn.
    """
    check_picture(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(4.6, 1.9 + 0.36 * max(len(found.rows), min(len(found.class_names), MOST_BARS) * 0.72))
    figure = Figure(figsize=(12.5, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: {fill(found.reason, 120)}", ha="left", x=0.01, fontsize=11, fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.75))
    _sizes(left, found)
    _differences(right, found)
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix.lower().lstrip("."), dpi=130)
    write_bytes(path, data.getvalue())


def _sizes(axes: object, found: BakeOff) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    band_of = {name: band for band, names in found.bands.items() for name in names}
    order = sorted(range(len(found.class_names)), key=lambda k: (-found.class_counts[k], k))
    counts = [int(found.class_counts[k]) for k in order]
    colours = [_BANDS.get(band_of.get(found.class_names[k], ""), "#bbbbbb") for k in order]
    if len(order) <= MOST_BARS:
        places = list(range(len(order)))
        axes.barh(places, [max(count, 0.7) for count in counts], color=colours)
        axes.set_yticks(places, [_plain(found.class_names[k], 22) for k in order])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(0.7, max(counts) * 2.6)
        axes.set_xlabel("development images (logarithmic)")
        for place, count in zip(places, counts, strict=True):
            axes.annotate(f"{count:,}", (max(count, 0.7), place), (4, 0), textcoords="offset points", va="center",
                          fontsize=8)  # fmt: skip
    else:
        axes.scatter(range(len(order)), counts, c=colours, s=9)
        axes.set_yscale("log")
        axes.set_xlabel("classes, largest first")
        axes.set_ylabel("development images (logarithmic)")
    used = [band for band in _BANDS if found.bands.get(band)]
    for band in used:
        axes.plot([], [], "s", color=_BANDS[band], label=band)
    axes.legend(frameon=False, fontsize=8, loc="lower right" if len(order) <= MOST_BARS else "upper right")
    axes.set_title(f"{found.num_images:,} images, ratio {found.ratio:,.1f}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _differences(axes: object, found: BakeOff) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    names = []
    for place, row in enumerate(found.rows):
        pick = row.name == found.pick
        colour = _PICK if pick else _PLAIN
        value, low, high = (100 * v for v in (row.difference.estimate, row.difference.low, row.difference.high))
        axes.plot([low, high], [place, place], color=colour, lw=2.4 if pick else 1.4, solid_capstyle="round")
        axes.plot(value, place, "D" if pick else "o", color=colour, ms=7 if pick else 5,
                  mfc=colour if row.unbeaten else "white")  # fmt: skip
        said = f"{100 * getattr(row, found.metric):.1f} %" + (f"  {row.setting}" if row.setting else "")
        axes.annotate(said, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)
        names.append(("→ " if pick else "") + row.title)
    axes.axvline(0, color="#999999", lw=1, ls="--")
    axes.set_yticks(range(len(names)), names)
    for label, row in zip(axes.get_yticklabels(), found.rows, strict=True):
        label.set_color(_PICK if row.name == found.pick else _PLAIN)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{found.metric_words} minus that of nothing, points, with 95 % interval (paired, by groups)")
    axes.set_title("diamond: take this; filled: none is better beyond noise", loc="left", fontsize=10)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(name: str, most: int) -> str:
    """A class name as matplotlib shows it literally: `$` would begin a formula."""
    short = name if len(name) <= most else name[: most - 1] + "…"
    return short.replace("$", r"\$")
