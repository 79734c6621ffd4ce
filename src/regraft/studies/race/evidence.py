"""What was measured, one immutable file per finished measurement, so that a killed race goes on where it was."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.files import write_bytes
from regraft.studies.race.subsets import Cell

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmKey:
    """Which arm: a strategy on a backbone.

    Attributes:
        strategy: linear_probe, light, lp_ft, full or scratch.
        backbone: its name.
        version: names the settings, weights and transform; evidence of others is another arm's.
    """

    strategy: str
    backbone: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.strategy} on {self.backbone}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """What an arm, trained once, said of images that it had not seen.

    Attributes:
        arm: who.
        cell: on which occasion.
        num_train: images it learnt from.
        rows: int64 (m,), development rows it was judged on, sorted.
        predicted: int32 (m,), its answers.
        seconds: of the training and the answers.
    """

    arm: ArmKey
    cell: Cell
    num_train: int
    rows: NDArray[np.int64]
    predicted: NDArray[np.int32]
    seconds: float


class Evidence:
    """All measurements of one race, in memory and, where a folder is given, on the disk.

    A file is written aside and renamed; it is never changed. One that cannot be read, or is of other data, counts as
    not measured.

    Args:
        folder: where they are kept; None keeps them in memory alone.
        data: names the data, the split and the folds; evidence of others is not mixed in.
    """

    def __init__(self, folder: Path | None = None, *, data: str = "") -> None:
        self.folder, self.data = folder, data
        self.unreadable: list[str] = []
        self._found: dict[tuple[ArmKey, Cell], Measurement] = {}
        if folder is not None and folder.is_dir():
            for path in sorted(folder.glob("*.npz")):
                measurement = self._read(path)
                if measurement is not None:
                    self._found[measurement.arm, measurement.cell] = measurement

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._found.values())

    def get(self, arm: ArmKey, cell: Cell) -> Measurement | None:
        """The measurement of an arm on an occasion, or None."""
        return self._found.get((arm, cell))

    def of(self, arm: ArmKey, halvings: int) -> list[Measurement]:
        """An arm's measurements at one size, in the order of the cells."""
        found = [m for (who, cell), m in self._found.items() if who == arm and cell.halvings == halvings]
        return sorted(found, key=lambda m: m.cell)

    def add(self, measurement: Measurement) -> None:
        """Keep a finished measurement."""
        if self.folder is not None:
            write_bytes(self.folder / self._file_name(measurement), self._written(measurement))
        self._found[measurement.arm, measurement.cell] = measurement

    def _written(self, measurement: Measurement) -> bytes:
        about = {
            "format": FORMAT, "data": self.data, "arm": asdict(measurement.arm), "cell": asdict(measurement.cell),
            "num_train": measurement.num_train, "seconds": measurement.seconds,
        }  # fmt: skip
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(about).encode("utf-8"), np.uint8)
        np.savez_compressed(buffer, about=text, rows=measurement.rows, predicted=measurement.predicted)
        return buffer.getvalue()

    def _read(self, path: Path) -> Measurement | None:
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                about = json.loads(arrays["about"].tobytes().decode("utf-8"))
                if about["format"] != FORMAT or about["data"] != self.data:
                    return None
                return Measurement(
                    arm=ArmKey(**about["arm"]), cell=Cell(**about["cell"]), num_train=int(about["num_train"]),
                    rows=arrays["rows"].astype(np.int64), predicted=arrays["predicted"].astype(np.int32),
                    seconds=float(about["seconds"]),
                )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            self.unreadable.append(path.name)
            return None

    def _file_name(self, measurement: Measurement) -> str:
        """Short, printable and the arm's own, whatever its backbone is called."""
        arm, cell = measurement.arm, measurement.cell
        who = blake3("\0".join((self.data, arm.strategy, arm.backbone, arm.version)).encode("utf-8", "surrogateescape"))
        return f"{who.hexdigest()[:16]}-h{cell.halvings}-r{cell.repeat}-f{cell.fold}-s{cell.seed}.npz"
