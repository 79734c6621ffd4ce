from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.fit.lr_finder import LearningRates
from regraft.lr_range import LrRange, draw


def ranged(valley: float | None = 1e-3, *, strategy: str = "lp_ft") -> LrRange:
    lrs = tuple(np.logspace(-6, 0, 40).tolist())
    losses = tuple(0.7 - 0.3 * min(i, 25) / 25 + 3.0 * max(i - 30, 0) for i in range(40))
    return LrRange(
        found=LearningRates(
            lrs=lrs, losses=losses, smoothed=losses, valley=valley, steepest=valley, reason="all 40 steps were run"
        ),
        strategy=strategy, usual=(1e-3, "a recipe's"), num_images=320, batch_size=8,
    )  # fmt: skip


def test_a_curve_is_proposed_from_images_and_drawn(cli, trained, tmp_path: Path) -> None:
    answer = cli(
        "lr-find", trained.data, "--image-size", 32, "--cache-dir", trained.cache, "--steps", 8, "--high", 0.1,
        "--output", tmp_path / "curve.png", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["strategy"] == "lp_ft"
    assert 3 <= found["num_steps"] <= 8
    assert found["lrs"][0] == 1e-6
    assert len(found["lrs"]) == len(found["losses"]) == len(found["smoothed"]) == found["num_steps"]
    assert {"proposed", "steepest", "reason", "usual", "num_images", "batch_size"} <= set(found)
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (1152, 704)


def test_a_file_is_replaced_only_where_it_is_named(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr-find.png").touch()
    answer = cli("lr-find", tmp_path)
    assert answer.code == 2
    assert "a file is only replaced when it is named" in answer.err
    assert cli("lr-find", tmp_path, "--output", "curve.gif").code == 2


def test_people_are_told_what_the_proposal_is_worth_and_how_to_use_it() -> None:
    text = "\n".join(ranged(4.2e-4).sentences("photos"))
    assert "regraft fit photos --strategy lp_ft --lr 4.2e-04" in text
    assert "A fit takes lr 1.0e-03 unless told otherwise: a recipe's." in text
    assert "not known" in text


def test_where_the_loss_never_falls_the_usual_rate_stays() -> None:
    lines = ranged(None).sentences("photos")
    assert lines[-1] == "No rate is proposed, as a solved head leaves little to gain in a few steps: stay with 1.0e-03."
    assert ranged(None, strategy="full").sentences("photos")[-1] == "No rate is proposed: stay with 1.0e-03."


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.PDF"])
@pytest.mark.parametrize("valley", [1e-3, None])
def test_the_picture_is_of_the_kind_that_its_name_says(tmp_path: Path, name: str, valley: float | None) -> None:
    draw(tmp_path / name, ranged(valley))
    head = (tmp_path / name).read_bytes()[:5]
    assert head in (b"\x89PNG\r", b"<?xml", b"%PDF-")
