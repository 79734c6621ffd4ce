"""The verbs, and `fit --backbone auto`, with the real backbone at 32 px."""

import json

import pytest

from drawn import draw_folder
from regraft.studies import rank as rank_module
from regraft.studies.shelf import Taken

LITE = "tf_efficientnet_lite0"


@pytest.mark.real
def test_fit_auto_ranks_first_and_says_what_it_took(cli, cache_dir, tmp_path, monkeypatch):
    data = draw_folder(tmp_path / "photos", per_class=10)
    monkeypatch.setattr(rank_module, "take", lambda wanted: Taken(names=(LITE,), notes=("auto: for a reason",)))
    words = ("fit", data, "--backbone", "auto", "--image-size", 32, "--runs-dir", tmp_path / "runs", "--json")
    answer = cli(*words)
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert result["backbone"] == LITE
    ranking = json.loads((tmp_path / "runs" / "photos" / "1" / "ranking.json").read_text("utf-8"))
    assert ranking["pick"] == f"{LITE}@32"
    assert ranking["notes"] == ["auto: for a reason"]
    assert [row["image_size"] for row in ranking["rows"]] == [32]
    assert ranking["rows"][0]["columns"]["leep"] < 0
    assert LITE in (tmp_path / "runs" / "photos" / "1" / "config.yaml").read_text("utf-8")


def test_rank_prints_a_list_and_nothing_else(cli, tmp_path, monkeypatch):
    from studies_fake import backbone

    data = draw_folder(tmp_path / "photos", per_class=10)
    made = {"clear": backbone("clear"), "noisy": backbone("noisy", 3.0)}
    monkeypatch.setattr(rank_module, "resolve", lambda name, cache_dir: made[name])
    words = ("rank", data, "--backbones", "clear,noisy", "--engine", "torch", "--cache-dir", tmp_path / "cache")
    answer = cli(*words, "--json", "--html", tmp_path / "page.html")
    assert answer.code == 0, answer.err
    assert [row["backbone"] for row in json.loads(answer.out)] == ["clear", "noisy"]
    assert "clear" in (tmp_path / "page.html").read_text("utf-8")
    table = cli(*words)
    assert table.code == 0
    assert "→" in table.out
    assert "looks better than it is" in table.out


def test_wrong_words_are_usage(cli, tmp_path):
    data = draw_folder(tmp_path / "photos", per_class=4)
    assert cli("rank", data, "--sizes", "big").code == 2
    assert cli("rank", data, "--combine", 7).code == 2
    assert cli("rank", tmp_path / "none").code in (1, 2, 3)
