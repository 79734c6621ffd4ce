from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from test_tensorboard import points, read

from regraft.tracking.pictures import _percent, confusion_picture, mistakes_picture
from regraft.tracking.results import NUM_BINS, write_linear_probe, write_results

NAMES = ("ant", "bee", "قطة\x00")
LABELS = np.array([0, 0, 1, 2, -1])
PROBS = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.05, 0.99, 0.05], [0.0, 1.0, 0.0]])


def thumbnail(path: str, pixels: int) -> bytes | None:
    if path == "3.png":
        return None
    stream = io.BytesIO()
    Image.new("RGB", (pixels, 40), (200, 20, 20)).save(stream, "JPEG")
    return stream.getvalue()


def written(folder: Path, *, probs: np.ndarray = PROBS, labels: np.ndarray = LABELS) -> list[str]:
    said: list[str] = []
    write_results(
        folder, split="test", step=12, metrics={"accuracy": 0.5, "log_loss": float("inf")}, labels=labels,
        pred_probs=probs, class_names=NAMES, paths=[f"{i}.png" for i in range(len(labels))], thumbnail=thumbnail,
        warn=said.append,
    )  # fmt: skip
    return said


def test_results_are_numbers_pictures_and_histograms(tmp_path: Path) -> None:
    assert written(tmp_path) == []
    events = read(tmp_path)
    assert points(tmp_path, "test/accuracy") == [(12, 0.5)]
    assert "test/log_loss" not in events.Tags()["scalars"]
    assert set(events.Tags()["images"]) == {"test/confusion", "test/worst_mistakes"}
    for name in events.Tags()["images"]:
        event = events.Images(name)[0]
        assert Image.open(io.BytesIO(event.encoded_image_string)).size == (event.width, event.height)
    right = events.Histograms("test/confidence_of_right_answers")[0].histogram_value
    wrong = events.Histograms("test/confidence_of_wrong_answers")[0].histogram_value
    assert (right.num, wrong.num) == (2, 2)  # the image without a label is neither
    assert len(wrong.bucket) == NUM_BINS + 1
    assert wrong.bucket[-1] == 1  # 0.99


def test_without_mistakes_or_labels_there_is_nothing_to_draw(tmp_path: Path) -> None:
    assert written(tmp_path / "right", probs=np.eye(3)[[0, 0, 1, 2, 1]]) == []
    assert read(tmp_path / "right").Tags()["images"] == ["test/confusion"]
    assert written(tmp_path / "none", labels=np.full(5, -1)) == []
    assert read(tmp_path / "none").Tags()["images"] == []


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(written(tmp_path / "file" / "x")) == 1


def test_the_path_of_a_linear_probe_is_a_curve(tmp_path: Path) -> None:
    rows = [
        {"step": i, "cv/strength": 10.0**-i, "cv/log_loss": 0.5 + i, "cv/accuracy": None, "chosen": i == 1}
        for i in range(4)
    ]
    write_linear_probe(tmp_path, rows, settings={"strategy": ("linear_probe", "asked for")}, warn=lambda text: None)
    assert points(tmp_path, "cv/log_loss") == [(i, 0.5 + i) for i in range(4)]
    assert set(read(tmp_path).Tags()["scalars"]) == {"cv/strength", "cv/log_loss"}
    assert "settings" in read(tmp_path).Tags()["tensors"]


def test_writing_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from regraft.tracking.results import write_linear_probe; "
        f"write_linear_probe(Path({str(tmp_path)!r}), [{{'step': 0, 'cv/log_loss': 1.0}}], warn=print); "
        "assert not {'torch', 'tensorflow', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert points(tmp_path, "cv/log_loss") == [(0, 1.0)]


def test_the_confusion_matrix_is_blue_where_it_is_right_and_orange_where_it_is_wrong() -> None:
    picture = confusion_picture(np.array([[0, 0], [0, 7]]), ("a", "b"))
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
    assert pixels.shape == (picture.height, picture.width, 3)
    assert (pixels == (31, 95, 158)).all(axis=2).sum() > 500
    wrong = confusion_picture(np.array([[0, 0], [7, 0]]), ("a", "b"))
    pixels = np.asarray(Image.open(io.BytesIO(wrong.png)).convert("RGB"))
    assert (pixels == (184, 84, 16)).all(axis=2).sum() > 500
    assert not (pixels == (31, 95, 158)).all(axis=2).any()


def test_any_number_of_classes_gives_a_picture_of_bounded_size() -> None:
    for k in (1, 25, 26, 40, 41, 1000):
        picture = confusion_picture(
            np.eye(k, dtype=np.int64), [f"a class with a rather long name {i}" for i in range(k)]
        )
        assert max(picture.width, picture.height) < 2200, k


def test_the_worst_mistakes_come_first_and_are_bounded() -> None:
    asked: list[str] = []

    def seen(path: str, pixels: int) -> bytes | None:
        asked.append(path)
        return thumbnail(path, pixels)

    paths = [f"{i}.png" for i in range(5)]
    assert mistakes_picture(paths, LABELS, PROBS, NAMES, seen) is not None
    assert asked == ["3.png", "1.png"]
    asked.clear()
    assert mistakes_picture(paths, LABELS, PROBS, NAMES, seen, most=1) is not None
    assert asked == ["3.png"]


def test_a_confidence_is_never_rounded_up_to_certainty() -> None:
    assert [_percent(share) for share in (1.0, 0.9999, 0.994, 0.4)] == ["100 %", ">99 %", "99 %", "40 %"]
