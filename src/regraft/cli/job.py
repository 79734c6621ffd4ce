"""The main job: demo, scan, fit, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from regraft.cli.options import CacheDir, ColumnOptions, Json, print_json, scanned
from regraft.cli.tta import Tta, TtaFlip, change, num_views, print_change
from regraft.config import FitConfig


def demo(folder: Path = Path("regraft-demo"), *, json_: Json = False) -> None:
    """The whole job on real data, offline: handwritten digits, ImageNet weights, a report.

    Parameters
    ----------
    folder
        Where the images and the run are written.
    """
    from regraft.demo import write_digits
    from regraft.pipeline import fit as fit_
    from regraft.terminal import TerminalListener

    listener = TerminalListener()
    images = write_digits(folder / "digits")
    listener.say(f"1,797 handwritten digits (scikit-learn) in {images}")
    _finish(fit_(images, FitConfig(runs_dir=folder / "runs"), listener=listener), json_)


def scan(
    data: Path,
    *,
    issues: Path | None = None,
    columns: ColumnOptions = None,
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """What was understood of the data, and what is wrong with it. Nothing on disk is changed.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    issues
        Write the issues table, one row per image, to this .csv, .parquet or .json file.
    """
    from regraft.data import write_issues
    from regraft.terminal import TerminalListener

    listener = TerminalListener()
    found = scanned(data, columns, cache_dir, listener)
    if issues is not None:
        write_issues(found, issues)
        listener.say(f"issues table: {issues}")
    if json_:
        print_json(found.as_dict())
    else:
        _print_scan(found.as_dict(), issues)


def fit(data: Path, config: Annotated[FitConfig | None, Parameter(name="*")] = None, *, json_: Json = False) -> None:
    """Fit a classifier and estimate honestly how good it is; the last line is the run's folder.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    """
    from regraft.pipeline import fit as fit_
    from regraft.store.push import after_fit
    from regraft.terminal import TerminalListener

    listener = TerminalListener()
    run = fit_(data, config or FitConfig(), listener=listener)
    after_fit(run.path, listener.say)
    _finish(run, json_)


def evaluate(
    run: Path,
    data: Path,
    *,
    output: Path | None = None,
    tta: Tta = "none",
    tta_flip: TtaFlip = None,
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """The same measures on other labelled data, which the model has not seen; with --tta, also what that changed.

    Parameters
    ----------
    run
        A run folder, or the model folder in it.
    data
        Labelled images: what `fit` takes.
    output
        Write the predictions to this .csv, .parquet or .json file.
    """
    from regraft.outcome import evaluation_json
    from regraft.pipeline import evaluate as evaluate_
    from regraft.pipeline import read
    from regraft.predictions import check_suffix, write_predictions
    from regraft.predictor import load
    from regraft.progress import Stopwatch
    from regraft.terminal import TerminalListener, print_metrics

    if output is not None:
        check_suffix(output)
    listener = TerminalListener()
    watch = Stopwatch(listener)
    model = load(run, cache_dir=cache_dir)
    wanted = model.test_time(num_views(tta), tta_flip)  # a wrong number is refused before the images are read
    with watch.stage("scan"):
        found = read(data, cache_dir=cache_dir, listener=listener)
    with watch.stage("evaluate"):
        evaluated = evaluate_(model, found, tta=num_views(tta), tta_flip=tta_flip, listener=listener)
    result = evaluation_json(evaluated) | {"num_excluded": found.num_excluded, "model": str(run)}
    if output is not None:
        write_predictions(output, evaluated.predictions, proba=True)
    changed = {}
    if wanted is not None:
        with watch.stage("without"):
            changed = change(found.manifest, evaluated, evaluate_(model, found, listener=listener))
        told = {name: interval.as_dict() for name, interval in changed.items()}
        result["tta"] = {"num_views": wanted.num_views, "flip": wanted.flip, "change": told}
    if json_:
        print_json(result)
        return
    print_metrics(result)
    if wanted is not None:
        print_change(wanted.num_views, changed)


def _finish(run: Any, json_: bool) -> None:
    from regraft.terminal import print_metrics

    if json_:
        print_json(run.result | {"run": str(run.path)})
        return
    print_metrics(run.result)
    print(f"report: {run.report}")
    print(run.path)


def _print_scan(found: dict[str, Any], issues: Path | None) -> None:
    from regraft.terminal import print_table

    print(found["source"])
    print(f"{found['num_images']:,} usable images of {found['num_files']:,} files, {found['num_excluded']:,} left out")
    for note in found["notes"]:
        print(note)
    print_table("", ("class", "images"), list(found["classes"].items()))
    for title, part in (("left out", found["excluded"]), ("kept, with a remark", found["remarks"])):
        rows = [(kind, row["num_images"], row["examples"][0]["reason"]) for kind, row in part.items()]
        if rows:
            print()
            print_table(title, ("kind", "images", "for example"), rows)
    if issues is None and (found["excluded"] or found["remarks"]):
        print("\nlist all: regraft scan DATA --issues issues.csv")
