"""The command line: one subcommand per verb. Parse, call, print.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 the data do not allow it, 130 interrupted. With --json, JSON
goes to stdout alone; everything else goes to stderr. Each verb imports what it needs when it runs, so that --help
answers at once.
"""

from __future__ import annotations

import glob
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from regraft.config import FitConfig
from regraft.errors import DataError, RegraftError, UsageError

app = App(
    name="regraft",
    help="From a folder of labelled images to a classifier you can trust.",
    help_format="plaintext",  # Markdown would import a parser: half of the time of --help
    version_flags=["--version"],
    version=lambda: _version(),
    result_action="return_value",
)
cache_app = App(name="cache", help="Look after cached features: list, verify, prune.")
app.command(cache_app)

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on stdout, and nothing else there.")]
RunsDir = Annotated[Path, Parameter(help="Folder in which runs are kept.")]
CacheDir = Annotated[Path | None, Parameter(help="Folder for features; by default the user's cache folder.")]


@app.command
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


@app.command
def scan(
    data: Path,
    *,
    issues: Path | None = None,
    image_column: str = "image",
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
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
    image_column
        Column of a manifest that holds the image paths.
    label_column
        Column that holds the class names.
    split_column
        Column that holds train, val or test.
    group_column
        Column of groups that must not straddle two splits.
    """
    from regraft.data import write_issues
    from regraft.pipeline import read
    from regraft.progress import Stopwatch
    from regraft.terminal import TerminalListener

    listener = TerminalListener()
    with Stopwatch(listener).stage("scan"):
        found = read(
            data, cache_dir=cache_dir, listener=listener, image_column=image_column, label_column=label_column,
            split_column=split_column, group_column=group_column,
        )  # fmt: skip
    if issues is not None:
        write_issues(found, issues)
        listener.say(f"issues table: {issues}")
    if json_:
        _print_json(found.as_dict())
    else:
        _print_scan(found.as_dict(), issues)


@app.command
def fit(data: Path, config: Annotated[FitConfig | None, Parameter(name="*")] = None, *, json_: Json = False) -> None:
    """Fit a classifier and estimate honestly how good it is; the last line is the run's folder.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    """
    from regraft.pipeline import fit as fit_
    from regraft.terminal import TerminalListener

    _finish(fit_(data, config or FitConfig(), listener=TerminalListener()), json_)


@app.command
def evaluate(
    run: Path, data: Path, *, output: Path | None = None, cache_dir: CacheDir = None, json_: Json = False
) -> None:
    """The same measures on other labelled data, which the model has not seen.

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
    with watch.stage("scan"):
        found = read(data, cache_dir=cache_dir, listener=listener)
    with watch.stage("evaluate"):
        evaluated = evaluate_(model, found, listener=listener)
    if output is not None:
        write_predictions(output, evaluated.predictions, proba=True)
    result = evaluation_json(evaluated) | {"num_excluded": found.num_excluded, "model": str(run)}
    if json_:
        _print_json(result)
    else:
        print_metrics(result)


@app.command
def predict(
    run: Path,
    images: Annotated[list[str], Parameter(allow_leading_hyphen=True)],  # for a single -
    *,
    output: Path | None = None,
    proba: Annotated[bool, Parameter(negative="")] = False,
    engine: Literal["auto", "openvino", "torch", "compiled"] = "auto",
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """Predict the classes of images: a table, or a CSV, Parquet or JSON file. Any number of images.

    Parameters
    ----------
    run
        A run folder, or the model folder in it.
    images
        Files, folders, glob patterns; a single - reads paths from stdin, one a line.
    output
        Write to this .csv, .parquet or .json file.
    proba
        Add one column p_<class> for each class.
    engine
        What runs the backbone.
    """
    from regraft.predictions import check_suffix, columns, stream_predictions
    from regraft.predictor import load

    if output is not None:
        check_suffix(output)
    paths = _paths(images)
    model = load(run, engine=engine, cache_dir=cache_dir)
    failures: list[str] = []

    def on_failure(path: str, reason: str) -> None:
        failures.append(path)
        if len(failures) <= 20:
            print(f"image {path!r} cannot be used: {reason}; it has no prediction", file=sys.stderr)

    parts = model.stream(paths, on_failure=on_failure)
    count = 0
    if output is not None:
        parts = stream_predictions(output, parts, proba=proba)
    for part in parts:
        count += len(part)
        if json_:
            _print_json_rows(columns(part, proba=proba), first=count == len(part))
        elif output is None:
            _print_predictions(columns(part, proba=proba), first=count == len(part))
        if count > len(part):
            print(f"{count:,} images", file=sys.stderr)
    if json_:
        print("\n]" if count else "[]")
    if failures:
        print(f"{len(failures):,} of {count:,} images could not be used", file=sys.stderr)
    if not count or len(failures) == count:
        raise DataError(f"at least one image must be usable: {count} given, {len(failures)} unusable")
    if output is not None and not json_:
        print(output)


@app.command
def runs(runs_dir: RunsDir = Path("runs"), *, metric: str = "macro_f1", json_: Json = False) -> None:
    """What has been run, best first within each project.

    Parameters
    ----------
    runs_dir
        Folder in which runs are kept.
    metric
        What best means: accuracy, balanced_accuracy, macro_f1, log_loss or ece.
    """
    from regraft.outcome import MEASURES, ranked_runs
    from regraft.terminal import print_table

    if metric not in MEASURES:
        raise UsageError(f"a metric is one of {', '.join(MEASURES)}: {metric!r} is not")
    if not runs_dir.is_dir():
        raise UsageError(f"a runs folder must exist: {str(runs_dir)!r} does not; regraft fit DATA makes one")
    rows = ranked_runs(runs_dir, metric)
    if json_:
        _print_json(rows)
        return
    header = ("run", metric, "95 % interval", "accuracy", "by", "images", "strategy", "backbone", "seconds")
    print_table("", header, [[row[name] for name in header] for row in rows] or [["none"] + [""] * 8])


@cache_app.command(name="list")
def cache_list(*, cache_dir: CacheDir = None, json_: Json = False) -> None:
    """What is cached: one row per backbone, weights, transform and precision."""
    from regraft.features.cache import list_entries
    from regraft.files import default_cache_dir
    from regraft.terminal import print_table

    rows = list_entries(cache_dir or default_cache_dir())
    if json_:
        _print_json(rows)
        return
    table = [
        (
            row["fingerprint"][:12], row["backbone"], row["size"], row["precision"], row["num_images"],
            f"{row['num_bytes'] / 2**20:,.1f} MiB",
        )
        for row in rows
    ]  # fmt: skip
    print_table(
        str(cache_dir or default_cache_dir()),
        ("fingerprint", "backbone", "size", "precision", "images", "on disk"),
        table,
    )


@cache_app.command(name="verify")
def cache_verify(*, cache_dir: CacheDir = None, json_: Json = False) -> None:
    """Read every shard and check it against the hash it carries; exit code 1 where one is damaged."""
    from regraft.features.cache import verify
    from regraft.files import default_cache_dir

    reports = list(verify(cache_dir or default_cache_dir()))
    damaged = [str(report.path) for report in reports if report.damage is not None]
    images = sum(report.num_images for report in reports)
    if json_:
        _print_json({"num_shards": len(reports), "num_images": images, "damaged": damaged})
    else:
        print(f"{len(reports):,} shards, {images:,} images, {len(damaged):,} damaged")
    if damaged:
        raise RegraftError(
            f"a shard must hold what was written: {damaged[0]} does not ({len(damaged)} in all); "
            "the next fit sets them aside and computes their images again"
        )


@cache_app.command(name="prune")
def cache_prune(*, older_than_days: float = 30.0, fingerprint: str | None = None, cache_dir: CacheDir = None) -> None:
    """Delete cached features that were not added to for a while; they are computed again when needed.

    Parameters
    ----------
    older_than_days
        How long ago the last image was added; 0 deletes everything.
    fingerprint
        Only this entry (the beginning of its name is enough).
    """
    import time

    from regraft.features.cache import prune
    from regraft.files import default_cache_dir

    freed = prune(
        cache_dir or default_cache_dir(), older_than_seconds=older_than_days * 86_400, now=time.time(),
        fingerprint=fingerprint,
    )  # fmt: skip
    print(f"{freed / 2**20:,.1f} MiB freed")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # file names hold any bytes, and a terminal's encoding may be small
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(argv, exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        error.console = None  # its own drawing of the message would be a box; ours is one line
        return _complain(f"{_message(error)} (regraft --help)", UsageError.exit_code)
    except RegraftError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted; what was computed is kept", 130)
    except BrokenPipeError:  # the reader of our output left; nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _complain(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), RegraftError.exit_code)
    return 0


def _complain(message: str, code: int) -> int:
    from regraft.types import printable

    print(f"regraft: {printable(message)}", file=sys.stderr)
    return code


def _message(error: CycloptsError) -> str:
    return " ".join(str(error).split())


def _version() -> str:
    from regraft import __version__

    return str(__version__)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _finish(run: Any, json_: bool) -> None:
    from regraft.terminal import print_metrics

    if json_:
        _print_json(run.result | {"run": str(run.path)})
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


def _paths(images: list[str]) -> Iterator[Path]:
    from regraft.data import list_images

    if images == ["-"]:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # file names hold any bytes
        return (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
    parts: list[Iterator[Path]] = []
    for name in images:
        if os.path.lexists(name) or glob.has_magic(name):
            found = list_images(name)
            parts += [iter([next(found)]), found]  # a folder without images is refused now, not hours later
        elif name.startswith("-"):
            raise UsageError(f"{name!r} is no option of predict, and no file (regraft predict --help)")
        else:  # it gets a row without a prediction, and the others go on
            parts.append(iter([Path(name)]))
    return itertools.chain.from_iterable(parts)


def _print_predictions(table: dict[str, Any], *, first: bool) -> None:
    from regraft.types import printable

    extra = [name for name in table if name.startswith("p_")]
    if first:
        print("\t".join(["image", "predicted_label", "confidence", *extra]))
    for number, image in enumerate(table["image"]):
        label, confidence = table["predicted_label"][number], table["confidence"][number]
        cells = [printable(image), "" if label is None else label, "" if confidence is None else f"{confidence:.4f}"]
        print("\t".join([*cells, *(f"{table[name][number]:.4f}" for name in extra)]))


def _print_json_rows(table: dict[str, Any], *, first: bool) -> None:
    plain = [values.tolist() if hasattr(values, "tolist") else values for values in table.values()]
    for number, row in enumerate(zip(*plain, strict=True)):
        record = {name: None if value != value else value for name, value in zip(table, row, strict=True)}
        print(("[\n" if first and number == 0 else ",\n") + json.dumps(record, ensure_ascii=False), end="")


if __name__ == "__main__":
    sys.exit(main())
