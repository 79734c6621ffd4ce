"""The code of docs/plain-pytorch.md runs as it stands (at 32 px), block after block, in a folder with photographs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drawn import draw_folder

PAGE = Path(__file__).parents[2] / "docs" / "plain-pytorch.md"


@pytest.mark.real
def test_plain_pytorch(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import torch

    torch.manual_seed(0)
    draw_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8").replace("96", "32"), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
        if "loss" in names:
            assert names["loss"] < 0.7, "three colours are learnt in nine steps"
    assert names["run"].metrics["accuracy"].estimate > 0.9
    assert (tmp_path / "mine.safetensors").is_file()
    trained = {n.partition(".")[0] for n, p in names["parts"].backbone.named_parameters()}
    assert trained == {"0", "1"}
    assert "5" in capsys.readouterr().out
