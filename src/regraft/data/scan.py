"""What a scan found: the images that can be used, and what there is to say about the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from regraft.data.corrected import Decisions
from regraft.data.kinds import KINDS
from regraft.types import JSON, Finding, Manifest

NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a scan found.

    Attributes:
        manifest: the usable images.
        findings: one or more for each image that was left out, and remarks on images that stay.
        num_files: files that were seen, hidden ones apart.
        source: what was understood of the layout, in words.
        formats: format to number of usable images.
        seconds: wall time.
        num_decoded: files decoded now; the content of the others was known.
        notes: remarks on the data as a whole, one sentence each.
        num_hidden: hidden and system files (`.DS_Store`, `Thumbs.db`, `__MACOSX`, …) that were passed over.
        decisions: what reviewers decided about these images, for the verbs that follow to apply; None for none. All
            else here is as found on disk.
    """

    manifest: Manifest
    findings: tuple[Finding, ...]
    num_files: int
    source: str
    formats: dict[str, int]
    seconds: float
    num_decoded: int
    notes: tuple[str, ...] = ()
    num_hidden: int = 0
    decisions: Decisions | None = None

    @property
    def num_excluded(self) -> int:
        """How many images were left out, each counted once."""
        return len({finding.image for finding in self.findings if finding.excluded})

    @property
    def counts_by_kind(self) -> dict[str, int]:
        """Number of images by kind of finding, most frequent first."""
        pairs = {(finding.kind, finding.image) for finding in self.findings}
        counts = Counter(kind for kind, _ in pairs)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def as_dict(self) -> JSON:
        """The JSON object of `regraft scan --json`."""
        manifest, sizes = self.manifest, self.manifest.sizes
        counts = manifest.class_counts()
        groups = np.unique(manifest.groups[manifest.groups != ""])
        splits = Counter(manifest.given_splits.tolist())
        return {
            "source": self.source,
            "root": str(manifest.root).encode("utf-8", "backslashreplace").decode("utf-8"),
            "num_files": self.num_files,
            "num_images": len(manifest),
            "num_excluded": self.num_excluded,
            "num_hidden": self.num_hidden,
            "classes": {name: int(count) for name, count in zip(manifest.class_names, counts, strict=True)},
            "excluded": self._by_kind(excluded=True),
            "remarks": self._by_kind(excluded=False),
            "splits": {split: splits[split] for split in ("train", "val", "test", "") if splits[split]},
            "num_groups": len(groups),
            "sizes": {
                name: {"min": int(column.min()), "median": int(np.median(column)), "max": int(column.max())}
                for name, column in zip(("height", "width"), sizes.T, strict=True)
                if len(column)
            },
            "formats": self.formats,
            "notes": list(self.notes),
            "num_decoded": self.num_decoded,
            "seconds": round(self.seconds, 3),
        }

    def _by_kind(self, *, excluded: bool) -> JSON:
        table: JSON = {}
        for finding in self.findings:
            if finding.excluded != excluded:
                continue
            entry = table.setdefault(
                finding.kind, {"meaning": KINDS.get(finding.kind, ""), "num_images": 0, "examples": []}
            )
            entry["num_images"] += 1
            if len(entry["examples"]) < NUM_EXAMPLES:
                entry["examples"].append({"image": finding.image, "label": finding.label, "reason": finding.reason})
        return dict(sorted(table.items(), key=lambda item: (-item[1]["num_images"], item[0])))
