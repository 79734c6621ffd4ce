"""What a person should look at before trusting the labels: audit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from regraft.cli.options import CacheDir, ColumnOptions, Json, ReviewOptions, print_json, reviewed, scanned

if TYPE_CHECKING:
    from regraft.auditing import Audit


def audit(
    data: Path,
    *,
    export: Path | None = None,
    output: Path | None = None,
    backbone: str = "tf_efficientnet_lite0",
    metric: Literal["macro_f1", "balanced_accuracy", "accuracy"] = "macro_f1",
    price: Annotated[bool, Parameter(negative="--no-price")] = True,
    detector: str | None = None,
    engine: Literal["auto", "openvino", "torch", "compiled"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    folds: int = 5,
    test: float | Literal["auto"] = "auto",
    seed: int = 0,
    columns: ColumnOptions = None,
    review: ReviewOptions = None,
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """Wrong labels, duplicates, leaks, outliers, odd images, in the order of looking. No file and no label is changed.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    export
        Write what was found: issues.csv, .parquet or .json (one row per image), x.labelstudio.json (tasks with
        predictions) or x.fiftyone.json (labels with attributes).
    output
        The report; by default audit-NAME.html in this folder. Only a report of regraft's is replaced.
    backbone
        Whose features.
    metric
        What the price of leaks is told in.
    price
        Measure what leaks are worth: the head is solved twice more.
    detector
        A further judge of outliers, from PyOD: iforest, ecod, copod, lof, pca or hbos.
    engine
        What runs the backbone.
    precision
        Its arithmetic.
    folds
        Number of folds in which labels are held out.
    test
        Share that is locked away, as in fit: what lies across that border is a leak.
    seed
        Of the split and the folds.
    """
    from regraft.audit_tables import check_export, summary
    from regraft.auditing import AuditOptions
    from regraft.store.runs import project_name

    options = AuditOptions(
        backbone=backbone, metric=metric, price=price, detector=detector, engine=engine, precision=precision,
        folds=folds, test=test, seed=seed, cache_dir=cache_dir,
    )  # fmt: skip
    report = output if output is not None else Path(f"audit-{project_name(data)}.html")
    if export is not None:
        check_export(export)
    from regraft.audit_report import check_report, write_audit_report

    check_report(report)

    from regraft import audit_tables
    from regraft.auditing import audit as audit_
    from regraft.progress import Stopwatch
    from regraft.terminal import TerminalListener

    listener = TerminalListener()
    watch = Stopwatch(listener)
    scan = reviewed(scanned(data, columns, cache_dir, listener), data, review, listener)
    found = audit_(scan, options, listener=listener)
    with watch.stage("report"):
        write_audit_report(report, found, title=project_name(data), command=_command(data, export))
    if export is not None:
        audit_tables.export(found, export)
        listener.say(f"written: {export}")
    if json_:
        print_json(summary(found) | {"report": str(report), "export": None if export is None else str(export)})
        return
    _print(found, data, report, export)


def _command(data: Path, export: Path | None) -> str:
    return f"regraft audit {shlex.quote(str(data))}" + (
        "" if export is None else f" --export {shlex.quote(str(export))}"
    )


def _print(found: Audit, data: Path, report: Path, export: Path | None) -> None:
    from regraft.audit_report import headline, kinds, sentences
    from regraft.terminal import print_table

    print(headline(found))
    print_table("", ("what", "images", ""), [(one.title, f"{one.count:,}", one.detail) for one in kinds(found)])
    for sentence in sentences(found):
        print(sentence)
    print(f"report: {report}")
    if export is None:
        print(f"next: look through the report, then list all: {_command(data, Path('issues.csv'))}")
    else:
        print(f"next: regraft fit {shlex.quote(str(data))} keeps near-duplicates in one fold")
