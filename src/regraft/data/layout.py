"""From a folder or a manifest to a plain listing of images with labels, splits and groups; no image is opened here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from regraft.data.files import Found, is_hidden, printable_path, problem_of, walk
from regraft.data.kinds import printable
from regraft.errors import DataError

SPLIT_WORDS: dict[str, str] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""How people write splits, and how we do; compared without case."""

SPLIT_FOLDERS: dict[str, str] = {
    word: SPLIT_WORDS[word] for word in ("train", "val", "valid", "validation", "test")
}  # fmt: skip
"""The folder names that mean a split; fewer than the words of a manifest, because a class may be called `dev`."""

MANIFEST_ENDINGS = (".csv", ".tsv", ".parquet", ".pq")

LAYOUTS = (
    "a folder of class folders (DATA/cat/1.jpg), train/ val/ test/ of class folders (DATA/train/cat/1.jpg), "
    "or a CSV or Parquet manifest with the columns image and label"
)


@dataclass(slots=True)
class Listing:
    """What the source names, column by column; `labels[i]` is None where no class is known.

    Attributes:
        root: folder the images are relative to.
        source: what was understood, in words.
        images: paths relative to `root` with `/`, or absolute; as the operating system knows them.
        labels: class names, fit to print.
        splits: "train", "val", "test" or "".
        groups: group names or "".
        problems: row number to a word of `BAD_FILES`: entries that must not be opened.
        repeated: row numbers that a manifest lists again in the same way.
        notes: remarks on the source as a whole.
        num_hidden: hidden and system files that were passed over.
    """

    root: Path
    source: str
    images: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    repeated: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    num_hidden: int = 0

    def add(self, found: Found, *, prefix: str = "", label: str | None = None, split: str = "") -> None:
        """Append one entry of a folder."""
        if found.problem == "hidden":
            self.num_hidden += 1
            return
        if found.problem:
            self.problems[len(self.images)] = found.problem
        self.images.append(f"{prefix}{found.path}".rstrip("/"))
        self.labels.append(label)
        self.splits.append(split)
        self.groups.append("")


def list_folder(root: Path, *, unlabelled: bool = False) -> Listing:
    """Read a folder's layout.

    Args:
        root: the folder.
        unlabelled: take every image below it, without labels.

    Raises:
        DataError: the layout is none of those that are understood.
    """
    if unlabelled:
        listing = Listing(root=root, source="images without labels")
        for found in walk(root):
            listing.add(found)
        return listing
    try:
        with os.scandir(root) as entries:
            top = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the data must be readable: {printable_path(root)} is not ({error.strerror})") from None
    folders = [entry.name for entry in top if not is_hidden(entry.name) and problem_of(entry) == "is_directory"]
    manifests = [e.name for e in top if not is_hidden(e.name) and e.name.lower().endswith(MANIFEST_ENDINGS)]
    if not folders:
        raise _flat(root, [entry.name for entry in top if not is_hidden(entry.name)], manifests)
    split_folders = _split_folders(root, folders)
    listing = Listing(root=root, source="train/val/test folders of class folders" if split_folders else "class folders")
    for name in manifests:
        listing.notes.append(
            f"the folders were read, not {printable(name)!r}; to use that manifest name it: "
            f"regraft scan {printable_path(root / name)}"
        )
    for entry in top:
        if entry.name in folders:
            continue
        problem = "hidden" if is_hidden(entry.name) else problem_of(entry)
        listing.add(Found(entry.name, problem))
    if not split_folders:
        _add_classes(listing, root, "", folders, "")
    for name in folders if split_folders else ():
        if name not in split_folders:
            listing.notes.append(f"the folder {printable(name)!r} is neither train, val nor test; it has no labels")
            for found in walk(root / name, outside=[root]):
                listing.add(found, prefix=f"{name}/")
            continue
        inside = _folders(root / name)
        for loose in _loose(root / name, inside):
            listing.add(loose, prefix=f"{name}/", split=split_folders[name])
        _add_classes(listing, root, f"{name}/", inside, split_folders[name])
    return listing


def _add_classes(listing: Listing, root: Path, prefix: str, folders: list[str], split: str) -> None:
    nested = 0
    for name in folders:
        label, before = printable(name), len(listing.images)
        for found in walk(root / prefix / name, outside=[root]):
            listing.add(found, prefix=f"{prefix}{name}/", label=label, split=split)
            nested += "/" in found.path and not found.problem
        if len(listing.images) == before:
            listing.notes.append(f"the class folder {printable(prefix + name)!r} holds no file")
    if nested:
        listing.notes.append(
            f"{nested:,} images lie in folders inside class folders; their class is the first level"
            + (f" (if not, name the folder below: {printable_path(root / folders[0])})" if len(folders) == 1 else "")
        )


def _split_folders(root: Path, folders: list[str]) -> dict[str, str]:
    """Folder name to split, or {} where the folders are classes.

    Folders are splits where all of them are called so, or at least two different ones; and where there are class
    folders in one of them (a class may well be called `train`).
    """
    named = {name: SPLIT_FOLDERS[name.casefold()] for name in folders if name.casefold() in SPLIT_FOLDERS}
    with_classes = {split for name, split in named.items() if _folders(root / name)}
    if with_classes and (len(named) == len(folders) or len(set(named.values())) >= 2):
        return named
    return {}


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not is_hidden(e.name) and problem_of(e) == "is_directory")
    except OSError:
        return []


def _loose(folder: Path, inside: list[str]) -> list[Found]:
    """The entries of a split folder that are no class folders."""
    try:
        with os.scandir(folder) as entries:
            loose = sorted((entry for entry in entries if entry.name not in inside), key=lambda entry: entry.name)
    except OSError:
        return [Found("", "unreadable")]
    return [Found(e.name, "hidden" if is_hidden(e.name) else problem_of(e)) for e in loose]


def _flat(root: Path, names: list[str], manifests: list[str]) -> DataError:
    where = printable_path(root)
    if len(manifests) == 1:
        return DataError(
            f"a manifest must be named itself: {where} holds {printable(manifests[0])!r} beside {len(names) - 1:,} "
            f"other files; use {printable_path(root / manifests[0])}"
        )
    if not names:
        return DataError(f"the data need images: {where} is empty; give {LAYOUTS}")
    return DataError(
        f"labels must come from somewhere: {where} has {len(names):,} files and no class folders; give {LAYOUTS}"
    )
