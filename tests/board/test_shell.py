"""The shell around the parts: static files, pages, filters, the way in."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from board_samples import TOKEN, client_of, site_at

from regraft.board import assets, pages
from regraft.board.server import address
from regraft.types import Interval

STATIC = assets.FOLDER
TEMPLATES = pages.TEMPLATES


# --- static files


def test_vendored_files_are_what_they_say():
    lines = (STATIC / "vendor" / "HASHES").read_text().splitlines()
    written = {name: digest for digest, name, _, _ in (line.split() for line in lines if not line.startswith("#"))}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (STATIC / "vendor").iterdir()}
    found.pop("HASHES")
    assert found == written
    versions = {name: version for _, name, version, _ in (line.split() for line in lines if not line.startswith("#"))}
    assert f'version:"{versions["htmx.min.js"]}"' in (STATIC / "vendor" / "htmx.min.js").read_text()
    assert f"v{versions['uPlot.iife.min.js']}" in (STATIC / "vendor" / "uPlot.iife.min.js").read_text()[:200]


def test_static_files_are_kept_for_good_by_a_name_that_changes_with_them(tmp_path):
    client = client_of(site_at(tmp_path))
    page = client.get("/who").text
    links = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert {link.rpartition("/")[2] for link in links} >= {"board.css", "board.js", "htmx.min.js", "icon.png"}
    for link in links:
        answer = client.get(link)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == assets.FOREVER
        assert answer.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript", "image/png")
        assert answer.content == (STATIC / link.split("/", 3)[3]).read_bytes()
    old = client.get("/static/0123456789abcdef/board.css")
    assert old.status_code == 200
    assert old.headers["cache-control"] == "no-store"


def test_static_files_travel_small(tmp_path):
    client = client_of(site_at(tmp_path))
    link = assets.static("vendor/htmx.min.js")
    plain = client.get(link, headers={"accept-encoding": "identity"})
    packed = client.get(link, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < 0.5 * len(plain.content)
    assert len(gzip.compress(plain.content)) < 0.5 * len(plain.content)
    assert packed.content == plain.content


@pytest.mark.parametrize(
    "name",
    ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "vendor/../../app.py", "/etc/passwd", "vendor/HASHES", "vendor/",
     "vendor/htmx.LICENSE", "", "board.css/", "board.css%00.js"],
)  # fmt: skip
def test_nothing_else_is_static(tmp_path, name):
    assert client_of(site_at(tmp_path)).get(f"/static/{assets.digest()}/{name}").status_code == 404


def test_a_name_that_is_no_file_is_found_out_at_once():
    with pytest.raises(KeyError):
        assets.static("board.cs")


# --- templates


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.jinja")), ids=lambda path: path.name)
def test_templates_hold_nothing_that_the_policy_forbids(path):
    text = re.sub(r"\{#.*?#\}", "", path.read_text("utf-8"), flags=re.DOTALL)
    assert not re.findall(r"<style|\sstyle\s*=", text)
    assert not re.findall(r"\son[a-z]+\s*=|\shx-on|javascript:|\bjs:", text)
    for tag in re.findall(r"<script[^>]*>", text):
        assert "src=" in tag
    assert not re.findall(r"https?://", re.sub(r'"http://www.w3.org/[^"]*"', "", text))
    assert not re.findall(r"\|\s*safe", re.sub(r"'[^'{}]*'\s*\|\s*safe", "", text))  # but for a constant
    assert "autoescape" not in text


@pytest.mark.parametrize(
    "path", sorted(path for path in STATIC.rglob("*.[cj]s*") if "vendor" not in path.parts), ids=lambda path: path.name
)
def test_scripts_and_styles_load_nothing_from_elsewhere(path):
    text = re.sub(r"http://www\.w3\.org/\S+", "", path.read_text("utf-8"))
    assert not re.findall(r"https?://|@import|\beval\(|new Function|document\.write", text)


def test_a_template_that_names_nothing_fails():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        pages.environment().from_string("{{ nowhere }}").render()


def test_filters():
    whole = Interval(estimate=0.934, low=0.92, high=0.946)
    better = {"estimate": 0.012, "low": 0.004, "high": 0.028}
    assert pages.share(whole) == "93.4\u00a0%"
    assert pages.share(None) == "–"
    assert pages.share_range(whole) == "92.0–94.6\u00a0%"
    assert (pages.points(better), pages.points(-0.004), pages.points(0.0001)) == ("+1.2", "\u22120.4", "0.0")
    assert pages.points_range({"estimate": 0, "low": -0.004, "high": 0.028}) == "\u22120.4 to +2.8 points"
    assert [pages.direction({"estimate": 0, "low": a, "high": b}) for a, b in ((0.1, 0.2), (-0.2, -0.1), (-1, 1))] == [
        "better", "worse", "",
    ]  # fmt: skip
    assert pages.places(whole, 0.9, 1.0) == {"estimate": 34.0, "low": 20.0, "width": 26.0}
    assert pages.places({"estimate": 5, "low": -5, "high": 9}) == {"estimate": 100.0, "low": 0.0, "width": 100.0}
    assert (pages.seconds(None), pages.seconds(200.0)) == ("–", "3\u00a0min 20\u00a0s")
    assert [pages.ago(1e6, 1e6 + past) for past in (-9, 5, 300, 7300, 90_000, 500_000)] == [
        "just now", "just now", "5\u00a0min ago", "2\u00a0h ago", "yesterday", "5\u00a0days ago",
    ]  # fmt: skip
    assert pages.ago(0.0, 1e9) == "1970-01-01"
    assert pages.shown("a\x00b\u202ec" + "x" * 99, 20).startswith("a\ufffdb\ufffdcx")
    assert len(pages.shown("x" * 99, 20)) == 20


# --- the application


def test_starting_needs_no_framework(tmp_path):
    site_at(tmp_path)
    program = """
import sys
from pathlib import Path
from regraft.board.app import create_app
from regraft.board.site import Site
from regraft.store.db import open_database
import regraft.board.server
folder = Path(sys.argv[1])
create_app(Site(runs_dir=folder / "runs", cache_dir=folder, database=open_database(runs_dir=folder / "runs")))
print(*{name.partition(".")[0] for name in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"fastapi", "regraft"} <= loaded
    assert not loaded & {
        "torch",
        "timm",
        "torchvision",
        "sklearn",
        "scipy",
        "matplotlib",
        "openvino",
        "pandas",
        "mlflow",
    }


def test_health_needs_no_token(tmp_path):
    import os

    import regraft

    client = client_of(site_at(tmp_path, token=TOKEN), signed_in=False)
    assert client.get("/healthz").json() == {"regraft": regraft.__version__, "pid": os.getpid()}


def test_the_way_home(tmp_path):
    assert client_of(site_at(tmp_path)).get("/").headers["location"] == "/runs"


def test_the_bar_shows_what_there_is(tmp_path):
    client = client_of(site_at(tmp_path, desk=None, tensorboard="http://127.0.0.1:6006/"))
    page = client.get("/who").text
    assert 'href="http://127.0.0.1:6006/" target="_blank" rel="noopener noreferrer"' in page
    assert 'href="/review"' not in page
    assert "TensorBoard" not in client_of(site_at(tmp_path)).get("/who").text


def test_errors_are_pages_for_people_and_words_for_scripts(tmp_path):
    client = client_of(site_at(tmp_path))
    page = client.get("/nowhere", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "No page has this address." in page.text
    for headers in ({}, {"accept": "text/html", "hx-request": "true"}):
        assert client.get("/nowhere", headers=headers).json() == {"error": "No page has this address."}
    assert client.get("/api/nowhere", headers={"accept": "text/html"}).json()["error"]


def test_it_can_all_be_done_without_a_script(tmp_path):
    client = client_of(site_at(tmp_path, token=TOKEN, host="192.0.2.7"), signed_in=False)
    client.headers["accept"] = "text/html"
    page = client.get("/who?next=/healthz")
    assert page.status_code == 401
    form = dict(re.findall(r'name="(\w+)"[^>]*?value="([^"]*)"', page.text))
    inside = client.post("/login", data={**form, "token": TOKEN, "name": "Ada"})
    assert inside.headers["location"] == "/who?next=/healthz"
    page = client.get(inside.headers["location"])
    assert "Ada" in page.text
    form = dict(re.findall(r'name="(\w+)"[^>]*?value="([^"]*)"', page.text))
    changed = client.post("/who", data={**form, "name": "Grace"})
    assert (changed.status_code, changed.headers["location"]) == (303, "/healthz")
    assert "Grace" in client.get("/who").text
    refused = client.post("/who", data={**form, "name": "\u202e"})
    assert refused.status_code == 400
    assert "characters that can be seen" in refused.text


def test_an_address_names_a_machine_that_others_reach(tmp_path):
    site = site_at(tmp_path, token=TOKEN, host="0.0.0.0", port=1234)
    assert re.fullmatch(rf"http://[^0/][^/]*:1234/#token={TOKEN}", address(site))
    assert address(site_at(tmp_path)) == "http://127.0.0.1:8765/"
    assert address(site_at(tmp_path, host="::1")) == "http://[::1]:8765/"


def test_every_template_is_one_of_a_page(tmp_path: Path):
    for path in TEMPLATES.rglob("*.jinja"):
        pages.environment().get_template(path.relative_to(TEMPLATES).as_posix())
