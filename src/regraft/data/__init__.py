"""Data in: what a folder or a manifest holds, what is wrong with it, and how it is split.

files.py     finding files without opening one
layout.py    class folders, train/val/test folders → a listing
tables.py    CSV, TSV and Parquet manifests → a listing
verdicts.py  every file read, hashed and decoded once; remembered by content
checks.py    identical images, labels that look alike, classes too small
read.py      the above in order → a Scan
scan.py      what a scan found
issues.py    the issues table
folds.py     stratified, grouped folds
split.py     development and test
corrections.py   decisions of reviewers applied: labels changed, images left out
parting.py   split and corrections for every verb that learns from the data
version.py   a short name for exactly these data
kinds.py     the words for what can be wrong
"""

from regraft.data.corrected import Corrected, Decisions
from regraft.data.files import list_images
from regraft.data.folds import assign_folds, one_group_classes
from regraft.data.issues import issues_rows, write_issues
from regraft.data.kinds import KINDS, printable
from regraft.data.parting import Parting, part
from regraft.data.read import read
from regraft.data.scan import Scan
from regraft.data.split import split
from regraft.data.version import data_version

__all__ = [
    "KINDS", "Corrected", "Decisions", "Parting", "Scan", "assign_folds", "data_version", "issues_rows", "list_images",
    "one_group_classes", "part", "printable", "read", "split", "write_issues",
]  # fmt: skip
