"""`fit --balance auto`: the remedy that the comparison picks is the head that is evaluated and kept."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import SIZE, borrow
from drawn import draw_folder
from regraft.config import FitConfig
from regraft.errors import UsageError
from regraft.pipeline import fit
from regraft.predictor import load


@pytest.mark.real
def test_the_picked_remedy_is_what_the_run_holds(converted, tmp_path):
    data = draw_folder(tmp_path / "shapes", per_class=(30, 12, 6))
    borrow(converted, tmp_path / "cache")
    run = fit(
        data, FitConfig(balance="auto", image_size=SIZE, resize="squash", runs_dir=tmp_path / "runs", repeats=1,
                        cache_dir=tmp_path / "cache", metric="balanced_accuracy"),
    )  # fmt: skip
    remedies = {row["remedy"] for row in run.result["balance"]["rows"]}
    assert {"nothing", "logit_adjustment"} <= remedies
    assert run.result["balance"]["pick"] in remedies
    assert run.predictions.out_of_fold.all()
    probs = load(run.path, cache_dir=tmp_path / "cache").predict_proba([data / "star" / "0000.png"])
    assert np.isfinite(probs).all()


def test_it_is_for_solved_heads():
    with pytest.raises(UsageError, match="give --loss or --sampling"):
        FitConfig(strategy="lp_ft", balance="auto")
