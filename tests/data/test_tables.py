"""Manifests: CSV, TSV and Parquet, whatever the writer's habits."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawn import draw_folder, png
from regraft.data import read
from regraft.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(8):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    return tmp_path


def rows(*columns, header):
    return "\n".join([header, *[",".join(map(str, row)) for row in zip(*columns, strict=True)]]) + "\n"


def test_all_columns_are_read(photos):
    text = rows(
        [f"{i}.png" for i in range(8)], "aabbabab", ["train"] * 5 + ["Validation", "test", ""], "ppqqrsst",
        header="image,label,split,group",
    )  # fmt: skip
    (photos / "m.csv").write_text(text)
    scan = read(photos / "m.csv")
    manifest = scan.manifest
    assert scan.source == "CSV manifest"
    assert manifest.root == photos
    assert manifest.class_names == ("a", "b")
    assert manifest.labels.tolist() == [0, 0, 1, 1, 0, 1, 0, 1]
    assert manifest.given_splits.tolist() == ["train"] * 5 + ["val", "test", ""]
    assert "".join(manifest.groups.tolist()) == "ppqqrsst"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "delimiter"), [("m.csv", ","), ("m.csv", ";"), ("m.csv", "\t"), ("m.tsv", "\t")])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_delimiters(photos, encoding, name, delimiter, newline):
    lines = [
        delimiter.join(("image", "label")),
        *[delimiter.join((f"{i}.png", "été" if i % 2 else "hiver")) for i in range(8)],
    ]
    (photos / name).write_bytes(newline.join(lines).encode(encoding))
    assert read(photos / name).as_dict()["classes"] == {"hiver": 4, "été": 4}


def test_other_column_names(photos):
    (photos / "m.csv").write_text(rows([f"{i}.png" for i in range(8)], "aabbaabb", "ppqqrrss", header="file,y,patient"))
    with pytest.raises(DataError, match=r"has no 'image' and no 'label'.*'file', 'y', 'patient'"):
        read(photos / "m.csv")
    scan = read(photos / "m.csv", image_column="file", label_column="y", group_column="patient")
    assert scan.as_dict()["num_groups"] == 4


def test_parquet_with_null_numbers_and_categories(photos):
    table = pa.table({
        "image": [f"{i}.png" for i in range(8)],
        "label": pa.array([1.0, 1.0, 2.0, 2.0, None, float("nan"), 1.0, 2.0]),
        "group": pa.array(["x", "y"] * 4).dictionary_encode(),
        "junk": [[1]] * 8,
    })  # fmt: skip
    pq.write_table(table, photos / "m.parquet")
    scan = read(photos / "m.parquet")
    assert scan.source == "Parquet manifest"
    assert scan.as_dict()["classes"] == {"1": 3, "2": 3}
    assert scan.counts_by_kind == {"unlabelled": 2}


def test_images_inside_the_parquet_are_refused_with_the_way_out(photos):
    pq.write_table(pa.table({"image": [b"x"], "label": ["a"]}), photos / "m.parquet")
    with pytest.raises(DataError, match="must hold text"):
        read(photos / "m.parquet")


def test_rows_that_name_no_usable_image_are_findings(photos):
    (photos / "m.csv").write_text(
        "image,label\n0.png,a\n1.png,a\n2.png,b\n3.png,b\ngone.png,a\n,b\n4.png,\n5.png,  \n.,a\n"
        "http://example.org/x.jpg,a\n"
        "\n" + "x" * 5000 + ".png,a\n"
    )
    scan = read(photos / "m.csv")
    kinds = {finding.image[:24]: finding.kind for finding in scan.findings}
    assert kinds == {
        "gone.png": "missing_file", "(row 6 names no image)": "missing_file", "4.png": "unlabelled",
        "5.png": "unlabelled", ".": "is_directory",
        "http://example.org/x.jpg": "missing_file", "x" * 24: "missing_file",
    }  # fmt: skip
    assert any("web addresses" in note for note in scan.notes)
    assert len(scan.manifest) == 4


def test_absolute_and_windows_paths(photos, tmp_path_factory):
    elsewhere = draw_folder(tmp_path_factory.mktemp("elsewhere"), classes=("a",), per_class=2)
    draw_folder(photos, classes=("sub",), per_class=2, seed=40)
    (photos / "m.csv").write_text(
        f"image,label\n{elsewhere}/a/0000.png,a\n{elsewhere}/a/0001.png,a\nsub\\0000.png,b\n.\\sub\\0001.png,b\n"
    )
    manifest = read(photos / "m.csv").manifest
    assert len(manifest) == 4
    assert all(manifest.path(row).is_file() for row in range(4))


def test_rows_that_say_the_same_twice_count_once_and_contradictions_not_at_all(photos):
    (photos / "m.csv").write_text(
        "image,label\n0.png,a\n0.png,a\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n4.png,a\n4.png,b\n"
    )
    scan = read(photos / "m.csv")
    assert len(scan.manifest) == 4
    assert scan.counts_by_kind == {"conflicting_duplicate": 1, "listed_twice": 1}
    assert "3 times" in next(f.reason for f in scan.findings if f.kind == "listed_twice")
    assert scan.num_files == len(scan.manifest) + scan.num_excluded


def test_an_unknown_split_is_refused_with_the_nearest(photos):
    (photos / "m.csv").write_text("image,label,split\n0.png,a,trian\n")
    with pytest.raises(DataError, match=r"'trian'.*did you mean 'train'"):
        read(photos / "m.csv")


@pytest.mark.parametrize(("name", "content"), [
    ("m.csv", b""), ("m.csv", b"\x00\x01\x02\xff"), ("m.parquet", b"PAR1 no"), ("m.parquet", b""),
    ("m.csv", b'image,label\n"' + b"x" * 200_000 + b'",a\n'),
])  # fmt: skip
def test_what_is_no_table_is_one_line_of_error(photos, name, content):
    (photos / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(photos / name)
    assert "\n" not in str(caught.value)


def test_a_table_of_no_rows_has_no_images(photos):
    (photos / "m.csv").write_text("image,label\n")
    with pytest.raises(DataError, match="has none"):
        read(photos / "m.csv")


def test_short_rows_and_no_labels_at_all(photos):
    (photos / "m.csv").write_text("image,label\n0.png\n1.png,a\n2.png,a\n")
    assert read(photos / "m.csv").counts_by_kind == {"unlabelled": 1}
    (photos / "n.csv").write_text("image\n0.png\n1.png\n")
    manifest = read(photos / "n.csv", unlabelled=True).manifest
    assert manifest.labels.tolist() == [-1, -1]
    assert manifest.class_names == ()
