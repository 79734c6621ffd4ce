"""What is cheap stays cheap: by what is imported, not by the clock."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "torchvision", "sklearn", "scipy", "openvino", "cv2", "PIL", "pyarrow", "jinja2", "numpy")


def imported(program: str) -> set[str]:
    listing = "; import sys; print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program + listing], capture_output=True, text=True, check=True)
    return {line.partition(".")[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "program",
    [
        "import regraft",
        "import regraft; dir(regraft); regraft.__version__",
        "from regraft.cli import main; main(['--help'])",
        "from regraft.cli import main; main(['--version'])",
        "from regraft import FitConfig; FitConfig()",
    ],
)
def test_light(program):
    found = imported(program)
    assert "regraft" in found
    assert not found & set(HEAVY)


@pytest.mark.parametrize("verb", ["fit", "predict", "scan", "runs", "cache"])
def test_help_of_a_verb_imports_no_framework(verb):
    found = imported(f"from regraft.cli import main; main([{verb!r}, '--help'])")
    assert not found & (set(HEAVY) - {"numpy"})


def test_predict_needs_no_torch_sklearn_or_pandas(trained):
    image = next(trained.data.rglob("*.png"))
    found = imported(
        f"from regraft.cli import main; assert not main(['predict', {str(trained.run)!r}, {str(image)!r}])"
    )
    assert not found & {"torch", "timm", "torchvision", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib"}


def test_a_second_fit_needs_no_torch(trained, tmp_path):
    words = [
        "fit",
        str(trained.data),
        "--image-size",
        "32",
        "--runs-dir",
        str(tmp_path),
        "--cache-dir",
        str(trained.cache),
    ]
    found = imported(f"from regraft.cli import main; assert not main({words!r})")
    # pyarrow imports pandas where it is installed, whatever it is asked for
    assert not found & {"torch", "timm", "torchvision", "matplotlib"}
