"""A description as a tree on the terminal, with the PyTorch call behind each column."""

from __future__ import annotations

import io
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from regraft.models.describe import Description, ModuleRow

READABLE_ROWS = 40
"""Levels are shown as long as the tree has no more rows than this, unless a depth is given."""

_LEGEND = (
    ("module, type", "for name, m in model.named_modules(); all of them: list(model.modules())"),
    ("output", "m.register_forward_hook(lambda m, x, y: print(y.shape)); model(x)"),
    ("own, total", "sum(p.numel() for p in m.parameters(recurse=False)), … in m.parameters()"),
    ("buffers", "sum(b.numel() for b in m.buffers())   (not trained: running statistics, tables)"),
    ("MB", "t.numel() * t.element_size() for t in m.state_dict().values()   (10^6 bytes)"),
    ("FLOPs", "with torch.utils.flop_counter.FlopCounterMode(): model(x)   (two a multiply-add)"),
    ("grad", "p.requires_grad for p in m.parameters()"),
    ("dtype, device", "p.dtype, p.device"),
    ("every tensor", "model.state_dict(), list(model.parameters()); here: describe(model).parameters()"),
)


_COLUMNS = ("module", "type", "output", "own", "total", "buffers", "MB", "FLOPs", "grad", "dtype, device")
_DROPPED_FIRST = ("dtype, device", "buffers", "own", "MB", "type", "grad", "FLOPs")
"""What a narrow terminal does without, in this order."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The tree, where it is cut, and the legend; as many columns as fit."""

    told: Description

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        told = self.told
        depth = told.depth if told.depth is not None else _readable_depth(told)
        dropped: list[str] = []
        table = _table(told, depth, dropped)
        for column in _DROPPED_FIRST:
            if Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width:
                break
            dropped.append(column)
            table = _table(told, depth, dropped)
        yield table
        if hidden := len(told.modules) - len(told.rows(depth)):
            yield Text(f"  … and {hidden} modules further inside: depth={depth + 1}")
        if dropped:
            yield Text(f"  (left out, the screen is narrow: {'; '.join(dropped)})")
        yield Text("\n" + "\n".join(_sentences(told)) + "\n")
        legend = Table(box=None, pad_edge=False, show_header=False, style="dim")
        for heading, call in _LEGEND:
            legend.add_row(heading, escape(call))
        yield legend


def _table(told: Description, depth: int, dropped: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    kept = [i for i, heading in enumerate(_COLUMNS) if heading not in dropped]
    for i in kept:
        table.add_column(_COLUMNS[i], justify="right" if 3 <= i <= 7 else "left", no_wrap=True)
    boundaries = told.split.boundary.split(" + ") if told.split is not None else []
    by_hand = told.split is not None and told.split.rule == "by hand"
    mark = " ◂ features" if by_hand else " ◂ classifier"
    for row in (told.total, *told.rows(depth)):
        label = "  " * row.depth + row.name.rpartition(".")[2] if row.name else "the whole model"
        in_head = not by_hand and any(row.name == b or row.name.startswith(f"{b}.") for b in boundaries)
        cells = _cells(row, label + (mark if row.name and row.name in boundaries else ""))
        table.add_row(*[cells[i] for i in kept], style="green" if in_head else None if row.name else "bold")
    return table


def as_text(told: Description) -> str:
    """The same as plain text, without colours."""
    stream = io.StringIO()
    Console(file=stream, width=160, color_system=None, force_terminal=False, emoji=False).print(Drawing(told))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _sentences(told: Description) -> list[str]:
    facts = told.as_dict()
    size = "" if told.input_shape is None else f", input {_shape(told.input_shape)}"
    first = (
        f"{told.total.num_parameters:,} parameters, {told.num_trainable:,} of them trainable; "
        f"{told.total.size_mb:,.1f} MB{size}"
    )
    if told.split is None:
        return [first, f"Where the backbone ends cannot be told: {told.note}"]
    cut, parts = told.split, (facts["backbone"], facts["classifier"])
    by_hand = cut.rule == "by hand"
    lines = [
        first,
        f"backbone: {parts[0]['num_parameters']:,} parameters, gives {cut.num_features:,} features, "
        f"ends {'behind' if by_hand else 'before'} {cut.boundary}",
    ]
    if cut.num_classes is not None:
        name = "what comes behind" if by_hand else cut.boundary
        lines.append(f"classifier: {name}, {parts[1]['num_parameters']:,} parameters, {cut.num_classes:,} classes")
    return [*lines, f"because {cut.reason}" + (f"; {cut.note}" if cut.note else "")]


def _readable_depth(told: Description) -> int:
    deepest = max((row.depth for row in told.modules), default=0)
    return next((d for d in range(deepest, 1, -1) if len(told.rows(d)) <= READABLE_ROWS), min(deepest, 1))


def _cells(row: ModuleRow, label: str) -> list[str]:
    return [
        escape(label),
        row.type,
        "-" if row.output_shape is None else _shape(row.output_shape),
        f"{row.own_parameters:,}" if row.own_parameters else "",
        f"{row.num_parameters:,}" if row.num_parameters else "",
        f"{row.num_buffers:,}" if row.num_buffers else "",
        f"{row.size_mb:,.2f}" if row.size_mb else "",
        _metric(row.flops),
        row.requires_grad,
        f"{row.dtype} {row.device}".strip(),
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"


def _metric(number: int | None) -> str:
    if not number:
        return "" if number == 0 else "?"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
