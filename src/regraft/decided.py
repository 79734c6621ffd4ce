"""Where the decisions of reviewers are found, and what a run says of them.

with_decisions   a scan with the verdicts of its project's history
told             what `result.json`, the report and the terminal say: counts, and the test set judged both ways
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from regraft.data import Corrected, Decisions, Scan
from regraft.data.corrected import some
from regraft.errors import DataError
from regraft.evaluate.intervals import group_bootstrap
from regraft.outcome import MEASURES, Evaluated
from regraft.types import JSON, Decision, Interval, Manifest, Split

URL_VARIABLE, FILE_NAME = "REGRAFT_DATABASE_URL", "regraft.db"
"""As in `regraft.store.db`, whose import costs a quarter of a second and is spared where there is no database."""

_NAMED = 5
"""Other projects of a database that are named."""


def with_decisions(
    scan: Scan,
    project: str,
    *,
    database: str | None = None,
    runs_dir: Path = Path("runs"),
    keep_ambiguous: bool = False,
    up_to: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Scan:
    """The scan with what reviewers decided about its images, for whoever splits it to apply (`regraft.data.part`).

    The whole history is read and its chain of hashes checked. Nothing is written; without a database there is nothing
    to find, and none is made.

    Args:
        scan: what `read` gave.
        project: whose history.
        database: its address; by default `$REGRAFT_DATABASE_URL`, else `RUNS_DIR/regraft.db` where that exists.
        runs_dir: folder of the run folders.
        keep_ambiguous: fit on images whose picture does not tell their class, too.
        up_to: number of the last event that counts; all of them by default.
        say: hears where nothing was found in a database that was named.

    Raises:
        DataError: the history is not whole, or the file is no database.
        UsageError: the address is none.
        RegraftError: the database does not answer.
    """
    named = database or os.environ.get(URL_VARIABLE) or None
    if up_to == 0 or (named is None and not (runs_dir / FILE_NAME).is_file()):
        return scan
    from regraft.store.db import open_database
    from regraft.store.decisions import Ledger, projects
    from regraft.store.fold import fold

    opened = open_database(named, runs_dir=runs_dir)
    try:
        ledger = Ledger(opened, project)
        verified = ledger.verify()
        if not verified.ok:
            raise DataError(
                f"a history of decisions must be whole: that of {project!r} in {opened.url_shown} breaks at event "
                f"{verified.first_bad:,}; look with regraft decisions verify, or fit without it: --no-decisions"
            )
        last = verified.num_events if up_to is None else min(up_to, verified.num_events)
        events: list[Decision] = []
        head = ""
        for seq, _, chain, event in ledger.links():
            if seq > last:
                break
            events.append(event)
            head = chain
        if not events:
            if named is not None:
                others = [name for name in projects(opened) if name != project]
                shown = ", ".join(map(repr, others[:_NAMED])) + (", …" if len(others) > _NAMED else "")
                say(f"no decisions about {project!r} in {opened.url_shown}" + (f"; it has {shown}" if others else ""))
            return scan
        return dataclasses.replace(
            scan,
            decisions=Decisions(
                verdicts=fold(events), project=project, database=opened.url_shown, seq=len(events), head=head,
                keep_ambiguous=keep_ambiguous,
            ),
        )  # fmt: skip
    finally:
        opened.close()


def record(decisions: Decisions | None) -> JSON | None:
    """Which decisions: for `config.yaml`, so that a resumed run finds the same."""
    if decisions is None:
        return None
    return {
        "database": decisions.database, "project": decisions.project, "seq": decisions.seq, "head": decisions.head,
    }  # fmt: skip


def with_findings(scan: Scan, corrected: Corrected | None) -> Scan:
    """The scan with a finding for each image that decisions leave out or name otherwise, for the report's lists."""
    if corrected is None:
        return scan
    return dataclasses.replace(scan, findings=(*scan.findings, *corrected.findings))


def told(
    scan: Scan, corrected: Corrected | None, manifest: Manifest, split: Split, found: Evaluated, seed: int
) -> JSON | None:
    """What `result.json` says of decisions; None where there are none.

    The headline of a test set is judged by its labels as given: no decision can change it. Where reviewers corrected
    test images, the same predictions are judged once more by the labels as corrected. Without a test set the headline
    is cross-validated on development images, by their labels as corrected.

    Args:
        scan: with its decisions.
        corrected: what they did.
        manifest: the images of the run.
        split: of these.
        found: the headline, of the rows `split.test`, or `split.development` without a test set.
        seed: of the resamples.

    Returns:
        `{"database", "project", "seq", "head", "num_applied", …, "judged_by": "given" | "corrected",
        "test_as_corrected": {"metrics", "num_images"} | null, "notes", "words"}`.
    """
    if corrected is None or scan.decisions is None:
        return None
    second = _second_score(corrected, manifest, split, found, seed) if found.split == "test" else None
    words = [f"{said[0].upper()}{said[1:]}." for said in corrected.sentences]
    if found.split != "test":
        if corrected.num_applied:
            words.append("The scores are judged by the labels as corrected, which lean towards what models say.")
    else:
        words.append("The scores of the test set are judged by its labels as given, which no decision changes.")
        if second is not None:
            words.append(_words(corrected, found, *second))
    return {
        **(record(scan.decisions) or {}),
        **corrected.as_dict(),
        "judged_by": "given" if found.split == "test" else "corrected",
        "test_as_corrected": None
        if second is None
        else {"metrics": {name: value.as_dict() for name, value in second[0].items()}, "num_images": second[1]},
        "notes": list(corrected.notes),
        "words": words,
    }


def _second_score(
    corrected: Corrected, manifest: Manifest, split: Split, found: Evaluated, seed: int
) -> tuple[dict[str, Interval], int] | None:
    """The test images' predictions judged by the labels as corrected, and their number; None where none differs."""
    if not corrected.num_kept_apart:
        return None
    rows = {key.tobytes(): row for row, key in enumerate(corrected.manifest.hashes)}
    labels = np.array([corrected.as_corrected[rows[key.tobytes()]] for key in manifest.hashes[split.test]], np.int64)
    known = labels >= 0
    if not known.any():
        return None
    intervals = group_bootstrap(
        labels[known], found.predictions.pred_probs[known], group_ids=split.group_ids[split.test][known], seed=seed
    )
    return {name: intervals[name] for name in MEASURES}, int(known.sum())


def _words(corrected: Corrected, found: Evaluated, second: dict[str, Interval], num_images: int) -> str:
    changes = [
        some(corrected.num_test_relabelled, "label") + " changed" if corrected.num_test_relabelled else "",
        some(corrected.num_test_left_out, "image") + " left out" if corrected.num_test_left_out else "",
    ]
    given, after = found.intervals["macro_f1"], second["macro_f1"]
    return (
        f"As corrected by reviewers ({', '.join(change for change in changes if change)}) its macro-F1 is {after} on "
        f"{some(num_images, 'image')}, where it is {given} as given. Labels that were changed because a model doubted "
        "them lean towards models: the second score is as good as what people saw in the pictures."
    )
