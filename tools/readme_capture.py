"""Put a real run of `regraft demo` into the README: its terminal output, and a picture of its report.

.venv/bin/python tools/readme_capture.py      # needs Chromium and the dev extra
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = f"{sys.executable} -m regraft demo 2>&1"
        environment = {**os.environ, "REGRAFT_CACHE_DIR": str(Path(scratch) / "cache")}  # a first run, nothing cached
        done = subprocess.run(
            command, shell=True, cwd=scratch, env=environment, check=True, capture_output=True, text=True
        )
        shown = done.stdout
        report = Path(scratch) / shown.strip().splitlines()[-1] / "report.html"
        picture(report, ROOT / "docs" / "images" / "report.png")
    lines = [line.rstrip() for line in shown.splitlines() if not re.match(r"\w+: [\d,]+ of ", line)]
    readme = ROOT / "README.md"
    text = "\n".join(
        ["<!-- capture: regraft demo -->", "```", "$ regraft demo", *lines, "```", "<!-- end of capture -->"]
    )
    pattern = r"<!-- capture: regraft demo -->.*?<!-- end of capture -->"
    readme.write_text(re.sub(pattern, lambda _: text, readme.read_text("utf-8"), flags=re.DOTALL), "utf-8")


def picture(report: Path, target: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 1100, "height": 1250}, color_scheme="light")
        page.goto(report.as_uri())
        target.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=target)
        browser.close()
    Image.open(target).quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main()
