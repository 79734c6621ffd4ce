"""The command line: `regraft VERB …`, one function per verb. Parse, call, print.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 the data do not allow it, 130 interrupted. With --json, JSON
goes to stdout alone; everything else goes to stderr.

The table of verbs is all that `regraft --help` needs: a verb's module, and the parser, are imported when it is used.
"""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module

from regraft.cli.ctrl_c import CODE, INTERRUPTED, CtrlC
from regraft.errors import RegraftError, UsageError, nearest

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("job", "The whole job on real data, offline: handwritten digits, ImageNet weights, a report."),
    "scan": ("job", "What was understood of the data, and what is wrong with it. Nothing on disk is changed."),
    "describe": ("models", "Lay a model open: modules, shapes, costs, and where its classifier begins."),
    "backbones": ("models", "Which pretrained models there are, with size, licence, and whether they are at hand."),
    "rank": ("rank", "Measure backbones on labelled images and say which one to take."),
    "audit": ("audit", "What to look at: wrong labels, duplicates, leaks, outliers, odd images; table and report."),
    "review": ("review", "Look at the suspects in the browser, one key per image; every decision is kept."),
    "decisions": ("decisions", "The history of review decisions, as JSONL: export, import, verify."),
    "balance": ("balance", "What to do about classes with few images: every remedy compared, and which to use."),
    "race": ("race", "Which strategy, measured: frozen features or fine-tuning, how sure, and what would change it."),
    "similarity": ("rank", "How far the images are from what a backbone was trained on."),
    "fit": ("job", "Fit a classifier and estimate honestly how good it is; the last line is the run's folder."),
    "lr-find": ("lr_find", "Propose a learning rate for fine-tuning: a short range test that leaves nothing changed."),
    "preview": ("preview", "A picture of what an augmentation does to your images, before any training."),
    "evaluate": ("job", "The same measures on other labelled data, which the model has not seen."),
    "predict": ("predict", "Predict the classes of images: a table, or a CSV, Parquet or JSON file."),
    "runs": ("runs", "What has been run, best first within each project; compare, export, import, sync."),
    "up": ("up", "The board and TensorBoard in the background; they stay up when the terminal closes."),
    "status": ("up", "What is up: addresses, since when, memory, and whether it answers."),
    "logs": ("up", "What the board and TensorBoard said."),
    "down": ("up", "End exactly what `up` started."),
    "journal": ("journal", "What a day brought: runs, the best so far, decisions, time; and what was written down."),
    "cache": ("cache", "Look after cached features: list, verify, prune."),
}
"""Verb to (module of this package that has a function or app of that name, its summary)."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # file names hold any bytes, and a terminal's encoding may be small
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        from regraft import __version__

        print(__version__)
        return 0
    if words[0] not in VERBS:
        return complain(f"{words[0]!r} is not a verb{nearest(words[0], VERBS)}; regraft --help lists them", 2)
    with CtrlC() as ctrl_c:
        try:
            return _run(words)
        except KeyboardInterrupt:
            heard = ctrl_c.first is not None
            ctrl_c.came()
            code = complain(INTERRUPTED, CODE)
            if heard:  # threads of an engine that still compute would abort the interpreter's own end
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            return code


def overview() -> str:
    """What `regraft --help` prints."""
    verbs = [f"  {verb:<12}{summary}" for verb, (_, summary) in VERBS.items()]
    return "\n".join(
        [
            "From a folder of labelled images to a classifier you can trust.",
            "",
            "Usage: regraft VERB …        regraft VERB --help explains a verb",
            "",
            *verbs,
            "",
            "  --version   the version",
        ]
    )


def complain(message: str, code: int) -> int:
    """Print a one-line error on stderr; returns the exit code."""
    from regraft.types import printable

    print(f"regraft: {printable(message)}", file=sys.stderr)
    return code


def _run(words: list[str]) -> int:
    from cyclopts import App, CycloptsError

    verb = words[0]
    app = App(
        name="regraft", help_format="plaintext", version_flags=[], result_action="return_value",
        suppress_keyboard_interrupt=False,  # said below, in one line
    )  # fmt: skip
    app.command(getattr(import_module(f"regraft.cli.{VERBS[verb][0]}"), verb.replace("-", "_")), name=verb)
    try:
        app(words, exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        error.console = None  # its own drawing of the message would be a box; ours is one line
        return complain(f"{' '.join(str(error).split())} (regraft {verb} --help)", UsageError.exit_code)
    except RegraftError as error:
        return complain(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output left; nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return complain(f"{error.strerror or error}{where}", RegraftError.exit_code)
    return 0
