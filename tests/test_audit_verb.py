"""`regraft audit` on drawn folders: what it finds, its exports, its page, its exit codes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from drawn import draw_folder, encode, photo
from regraft.data.issues import COLUMNS
from regraft.images import Transform
from regraft.models.backbones import Backbone
from studies.studies_fake import backbone as colours

HOSTILE = "<img src=x onerror=alert(1)>&'\".png"
CLASSES = ("blue", "green", "red")


def drawing(seed: int, kind: int, size: int = 40) -> np.ndarray:
    """A noisy picture with blobs of its own, mostly of one of three colours."""
    rng = np.random.default_rng([seed, 7])
    coarse = rng.uniform(0, 90, (5, 5, 3))
    coarse[..., 2 - kind] += 130
    image = Image.fromarray(coarse.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def draw(root: Path, *, per_class: int = 16, classes: tuple[str, ...] = CLASSES) -> Path:
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            picture = drawing(100 * kind + number, kind)
            (root / name / f"{number:03d}.png").write_bytes(encode(picture))
    return root


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A backbone of mean colours instead of a network, a cache and a working folder of one's own."""
    found: Backbone = colours("colours", noise=0.01, width=4)
    assert isinstance(found.transform, Transform)
    monkeypatch.setattr("regraft.auditing.resolve", lambda name, **_: found)
    monkeypatch.setenv("REGRAFT_CACHE_DIR", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Wrong labels, a copy under another label, identical files, dark and blank images, hostile names."""
    root = draw(tmp_path / "photos")
    for number, (kind, wrong) in enumerate([(0, "red"), (1, "blue"), (2, "green")]):
        (root / wrong / f"wrong{number}.png").write_bytes(encode(drawing(900 + number, kind)))
    copied = drawing(3, 0)
    small = np.asarray(Image.fromarray(copied).resize((36, 36), Image.Resampling.BILINEAR))
    (root / "green" / "copied.png").write_bytes(encode(small))
    shutil.copy(root / "red" / "005.png", root / "red" / "again.png")
    shutil.copy(root / "red" / "006.png", root / "blue" / "torn.png")
    (root / "red" / "dark.png").write_bytes(encode((drawing(500, 2) // 8).astype(np.uint8)))
    (root / "red" / "blank.png").write_bytes(encode(np.full((40, 40, 3), 200, np.uint8)))
    (root / "red" / HOSTILE.replace("/", "")).write_bytes(encode(drawing(905, 1)))
    (root / "blue" / "cut.png").write_bytes(encode(drawing(902, 0))[:60])
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def strict(text: str):
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def issues(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["image"]: row for row in csv.DictReader(stream)}


class TestFinds:
    @pytest.fixture
    def table(self, planted, cli, fake):
        before = contents(planted)
        answer = cli("audit", planted, "--export", "issues.csv")
        assert answer.code == 0, answer.err
        assert contents(planted) == before  # no file was moved or changed
        return issues(fake / "issues.csv")

    def test_wrong_labels(self, table):
        wrong = ["red/wrong0.png", "blue/wrong1.png", "green/wrong2.png", f"red/{HOSTILE}"]
        suggested = ["blue", "green", "red", "green"]
        assert [table[image]["is_label_issue"] for image in wrong] == ["True"] * 4
        assert [table[image]["suggested_label"] for image in wrong] == suggested
        scores = {image: float(row["label_score"]) for image, row in table.items() if row["outlier_score"]}
        worst = sorted(scores, key=scores.__getitem__)[:7]  # the copy under another label, dark and blank beside them
        assert set(wrong) <= set(worst)

    def test_one_row_per_image_in_the_promised_columns(self, table, planted):
        assert set(table) == set(contents(planted))
        assert all(tuple(row) == COLUMNS for row in table.values())

    def test_duplicates_with_another_label(self, table):
        copy, source = table["green/copied.png"], table["blue/003.png"]
        assert copy["is_near_duplicate_issue"] == source["is_near_duplicate_issue"] == "True"
        assert copy["near_duplicate_set"] == source["near_duplicate_set"] != ""
        assert "under another label" in copy["reason"]
        torn = table["blue/torn.png"]
        assert torn["near_duplicate_set"] == table["red/006.png"]["near_duplicate_set"] != ""
        assert torn["near_duplicate_set"] != copy["near_duplicate_set"]
        assert table["red/again.png"]["near_duplicate_set"] == table["red/005.png"]["near_duplicate_set"] != ""

    def test_odd_images_and_those_left_out(self, table):
        assert table["red/dark.png"]["is_odd_image_issue"] == table["red/blank.png"]["is_odd_image_issue"] == "True"
        assert "dark" in table["red/dark.png"]["reason"]
        assert "blank" in table["red/blank.png"]["reason"]
        assert table["blue/cut.png"]["is_odd_image_issue"] == "True"
        assert table["blue/cut.png"]["is_outlier_issue"] == ""  # never looked at


class TestSplits:
    def test_given_splits_that_leak_and_test_labels(self, tmp_path, cli, fake):
        root = tmp_path / "photos"
        draw(root / "train", per_class=14)
        for kind, name in enumerate(CLASSES):
            (root / "test" / name).mkdir(parents=True)
            for number in range(6):
                (root / "test" / name / f"t{number}.png").write_bytes(encode(drawing(700 + 20 * kind + number, kind)))
        small = Image.fromarray(drawing(2, 0)).resize((36, 36), Image.Resampling.BILINEAR)
        (root / "test" / "blue" / "leak.png").write_bytes(encode(np.asarray(small)))
        (root / "test" / "red" / "wrong.png").write_bytes(encode(drawing(999, 1)))
        answer = cli("audit", root, "--json", "--export", "issues.csv")
        assert answer.code == 0, answer.err
        found = strict(answer.out)
        assert found["splits"] == "given"
        assert {"split": "test", "into": "train", "num_images": 1} in found["leaks"]
        assert found["price"] is not None
        table = issues(fake / "issues.csv")
        assert table["test/blue/leak.png"]["is_leakage_issue"] == "True"
        assert table["train/blue/002.png"]["is_leakage_issue"] == "True"
        wrong = table["test/red/wrong.png"]
        assert (wrong["given_label"], wrong["suggested_label"], wrong["is_label_issue"]) == ("red", "green", "True")
        assert "it is a test image" in wrong["reason"]


class TestExports:
    @pytest.mark.parametrize("name", ["x.parquet", "x.json"])
    def test_the_table_reads_back(self, planted, cli, fake, name):
        assert cli("audit", planted, "--export", name, "--no-price").code == 0
        rows = pq.read_table(name).to_pylist() if name.endswith("parquet") else strict((fake / name).read_text("utf-8"))
        assert [row["image"] for row in rows] == sorted(contents(planted))
        assert list(rows[0]) == list(COLUMNS)
        judged = [row for row in rows if row["outlier_score"] is not None]
        assert len(judged) == len(rows) - 4  # one cut off, one copy, two that are one file under two labels
        for kind in ("label", "near_duplicate", "leakage", "outlier", "odd_image"):
            assert all(0 <= row[f"{kind}_score"] <= 1 for row in judged)

    def test_label_studio(self, planted, cli, fake):
        assert cli("audit", planted, "--export", "x.labelstudio.json", "--no-price").code == 0
        tasks = strict((fake / "x.labelstudio.json").read_text("utf-8"))
        first = tasks[0]
        assert set(first) == {"data", "predictions"}
        files = [task["data"]["file"] for task in tasks]
        assert {"red/wrong0.png", "red/dark.png", "green/copied.png"} <= set(files)
        assert all(task["data"]["image"].startswith("/data/local-files/?d=") for task in tasks)
        assert not any("<" in task["data"]["image"] for task in tasks)  # quoted
        by_file = {task["data"]["file"]: task["predictions"][0] for task in tasks}
        result = by_file["red/wrong0.png"]["result"][0]
        assert result == {
            "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["blue"]},
        }  # fmt: skip
        assert all(0 <= prediction["score"] <= 1 for prediction in by_file.values())

    def test_fiftyone(self, planted, cli, fake):
        assert cli("audit", planted, "--export", "x.fiftyone.json", "--no-price").code == 0
        labels = strict((fake / "x.fiftyone.json").read_text("utf-8"))["labels"]
        wrong = labels[str(planted / "red" / "wrong0.png")]
        assert wrong["label"] == "red"
        assert wrong["attributes"]["suggested_label"] == "blue"
        assert wrong["attributes"]["is_label_issue"] is True
        assert all(Path(path).is_file() for path in labels)

    def test_another_ending_is_refused_before_any_work(self, planted, cli):
        answer = cli("audit", planted, "--export", "x.xlsx")
        assert answer.code == 2
        assert ".labelstudio.json" in answer.err


class TestPage:
    def test_hostile_names_are_escaped_and_nothing_is_loaded(self, planted, cli, fake):
        (planted / "<script>alert(2)<").mkdir()
        for number in range(6):
            path = planted / "<script>alert(2)<" / f"{number}.png"
            path.write_bytes(encode(photo(40 + number, size=(40, 40))))
        answer = cli("audit", planted)
        assert answer.code == 0, answer.err
        page = (fake / "audit-photos.html").read_text("utf-8")
        assert "onerror=alert(1)" in page  # shown, as text
        assert "<img src=x" not in page
        assert "<script>alert" not in page
        assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
        assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
        assert page.count("data:image/jpeg;base64,") > 10

    @pytest.mark.browser
    @pytest.mark.parametrize("width", [390, 1280])
    def test_a_browser_shows_it_without_complaint_network_or_overflow(self, planted, cli, fake, width):
        sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if chromium is None:
            pytest.skip("no Chromium was found on the PATH")
        assert cli("audit", planted).code == 0
        heard = []
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: heard.append(message.text))
            page.on("pageerror", lambda error: heard.append(str(error)))
            page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda request: heard.append(request.url))
            page.goto((fake / "audit-photos.html").as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            first = page.locator("#labels .gallery li").first.inner_text()
            browser.close()
        assert [one for one in heard if not one.startswith(("file:", "data:"))] == []
        assert wide <= width
        assert "suggested" in first

    def test_only_a_report_of_ours_is_replaced(self, planted, cli, fake):
        (fake / "mine.html").write_text("<p>my own page</p>")
        answer = cli("audit", planted, "--output", "mine.html")
        assert answer.code == 2
        assert (fake / "mine.html").read_text() == "<p>my own page</p>"
        assert cli("audit", planted, "--output", "ours.html", "--no-price").code == 0
        assert cli("audit", planted, "--output", "ours.html", "--no-price").code == 0


class TestFewImages:
    def test_two_classes_and_a_class_of_one_image(self, tmp_path, cli):
        root = draw(tmp_path / "photos", per_class=12, classes=("blue", "green"))
        (root / "red").mkdir()
        (root / "red" / "only.png").write_bytes(encode(drawing(1, 2)))
        (root / "grey").mkdir()
        for number in range(2):
            (root / "grey" / f"{number}.png").write_bytes(encode(photo(number, size=(40, 40))))
        answer = cli("audit", root, "--json")
        assert answer.code == 0, answer.err
        found = strict(answer.out)
        assert found["num_left_out"] == 1  # a class of one image
        assert found["too_small_to_judge"] == ["grey"]
        assert found["num_images"] == 26

    def test_three_images_of_two_classes(self, tmp_path, cli):
        root = draw(tmp_path / "photos", per_class=2, classes=("blue", "green"))
        answer = cli("audit", root, "--json")
        assert answer.code == 0, answer.err
        assert strict(answer.out)["near_duplicates"]["threshold"].startswith("no views were given")

    def test_all_images_are_one_picture(self, tmp_path, cli):
        root = tmp_path / "photos"
        picture = drawing(1, 0)
        for name in ("a", "b"):
            (root / name).mkdir(parents=True)
            for number in range(8):
                changed = picture.copy()
                changed[0, 0, 0] = number + 8 * (name == "b")
                (root / name / f"{number}.png").write_bytes(encode(changed))
        answer = cli("audit", root, "--json")
        assert answer.code == 0, answer.err
        found = strict(answer.out)
        assert found["num_images"] == 16
        assert found["near_duplicates"]["num_images"] == 16

    def test_identical_files_only(self, tmp_path, cli):
        root = draw_folder(tmp_path / "photos", classes=("a", "b"), per_class=1)
        for name in ("a", "b"):
            shutil.copy(root / "a" / "0000.png", root / name / "copy.png")
        answer = cli("audit", root)
        assert answer.code == 3
        assert "2 classes" in answer.err

    def test_one_class(self, tmp_path, cli):
        answer = cli("audit", draw(tmp_path / "photos", classes=("blue",)))
        assert answer.code == 3
        assert "Traceback" not in answer.err
