"""TensorBoard's event files: `tensorboard --logdir runs` shows every run.

The package `tensorboard` writes the records (its protocol buffers and checksums) and is what shows them, so one
dependency does both. Not `torch.utils.tensorboard`, which imports torch: a linear probe on cached features needs none.
Nor its EventFileWriter, whose thread holds records back for two minutes, so that a killed run loses them, and which
tells of a full disk in another place than the one that wrote: a record here is one `write`, 20 to 60 µs.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.tracking.base import GraphNode, Tracker, Trackers
from regraft.tracking.whole import Whole

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FOLDER = "tensorboard"
"""Of the event files in a run folder."""


class TensorBoard(Tracker):
    """Appends to the event files of a folder; every instance begins a file of its own, as TensorBoard wants it.

    Args:
        folder: of the run's event files.
        purge_step: what the files already there say of this step and later ones is not shown any more: the step at
            which a resumed run begins.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, so a resume within a second needs more.
        count = len(list(event_files(folder)))
        name = f"events.out.tfevents.{int(time.time()):010d}.{count:04d}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(Whole(folder / name))
        self._event = Event
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(session_log=SessionLog(status=SessionLog.START), step=purge_step)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._summary([{"tag": name, "simple_value": float(value)} for name, value in metrics.items()], step)

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        """Columns of the HParams page, and a table with the reasons on the page of texts."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, (value, _) in settings.items()
        }
        self._write(summary=hparams_pb(plain, trial_id=str(self.folder.resolve())), step=0)
        rows = [(name, value, why) for name, (value, why) in settings.items()]
        self.log_table("settings", ("setting", "value", "why"), rows, step=0)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        """On the page of texts."""
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        lines = [f"| {' | '.join(map(_cell, row))} |" for row in (columns, *rows)]
        lines.insert(1, "|---" * len(columns) + "|")
        tensor = TensorProto(
            dtype=DT_STRING, string_val=["\n".join(lines).encode("utf-8", "backslashreplace")],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )  # fmt: skip
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._summary([{"tag": name, "metadata": plugin, "tensor": tensor}], step)

    def log_graph(self, nodes: Sequence[GraphNode]) -> None:
        """On the page of graphs; modules within modules are opened by a double click."""
        from tensorboard.compat.proto.attr_value_pb2 import AttrValue
        from tensorboard.compat.proto.graph_pb2 import GraphDef
        from tensorboard.compat.proto.node_def_pb2 import NodeDef
        from tensorboard.compat.proto.versions_pb2 import VersionDef

        graph = GraphDef(versions=VersionDef(producer=22))
        for node in nodes:
            attributes = {"about": AttrValue(s=node.about.encode())} if node.about else {}
            graph.node.append(NodeDef(name=node.name, op=node.op, input=node.inputs, attr=attributes))
        self._write(graph_def=graph.SerializeToString())

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=picture)
        self._summary([{"tag": name, "image": image}], step)

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        from tensorboard.compat.proto.histogram_pb2 import HistogramProto

        total, middles = int(counts.sum()), (edges[:-1] + edges[1:]) / 2
        histogram = HistogramProto(
            min=float(edges[0]), max=float(edges[-1]), num=total, sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2), bucket_limit=[float(edges[0]), *map(float, edges[1:])],
            bucket=[0.0, *map(float, counts)],
        )  # fmt: skip
        self._summary([{"tag": name, "histo": histogram}], step)

    def _summary(self, values: list[dict[str, Any]], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(summary=Summary(value=[Summary.Value(**value) for value in values]), step=step)

    def _write(self, **fields: Any) -> None:
        event: Event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def open_tensorboard(folder: Path, warn: Callable[[str], None], *, purge_step: int | None = None) -> Trackers:
    """A tracker that stands a full disk, or a folder that cannot be written: both are said once, and nothing stops."""
    trackers: list[Tracker] = []
    try:
        trackers.append(TensorBoard(folder, purge_step=purge_step))
    except OSError as error:
        warn(f"TensorBoard's files cannot be written and are left out; the run goes on ({error})")
    return Trackers(trackers, warn)


def event_files(folder: Path) -> Iterator[Path]:
    """The event files of a folder, in the order in which they were begun."""
    yield from sorted(folder.glob("events.out.tfevents.*"))


def steps_of(folder: Path, name: str) -> set[int]:
    """The steps at which a metric was written to the files of a folder, purged ones left out.

    Args:
        folder: of event files, or none yet.
        name: of the metric.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    steps: set[int] = set()
    for path in event_files(folder):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                steps = {step for step in steps if step < event.step}
            elif any(value.tag == name for value in event.summary.value):
                steps.add(event.step)
    return steps


def _cell(value: Any) -> str:
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")
