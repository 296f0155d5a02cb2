"""The arguments of `train-runs`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from train.help.parser import Parser
from train.store.where import HELP

DESCRIPTION = """\
Lists runs and sweeps, and keeps what you say of them.

  train-runs                                  # everything below outputs: a row for each run and each sweep, newest first
  train-runs outputs/2026-01-31_sweep         # the runs of a sweep
  train-runs --where norm=batch 'accuracy/test>0.9' --sort accuracy/test --reverse
  train-runs --by norm,optimizer.lr           # mean, sd and range of the accuracy for each norm and learning rate
  train-runs --csv > runs.csv                 # every run with settings and results; --json likewise
  train-runs note RUN "learns too slowly"     # also: tag, untag, archive, unarchive, prune; each has --help
"""

EPILOG = """\
A sweep is one row: how many runs are in each state, and the range of the means of its arms. Named itself, or with --runs,
--where, --sort or --show, it is opened: each of its runs is a row. --json and --csv have one row a run.
A KEY is an option group or a key of the configuration (norm, optimizer.lr), a metric (accuracy/test), whose last value counts, a
name in summary.json or status.json (test_loss, versions.torch), or status, arm, seed, run, sweep, started, time, size, note, tag.
Status, settings and results are read, and of the records the end: what train-report finds missing further up is not looked for.
For more than that: train.runs(FOLDER) in Python is the same table for pandas, polars and DuckDB.
"""

NOTE = "Keeps a note on a run or a sweep, in place of the last one. An empty text removes it."
TAG = "Keeps tags on a run or a sweep. They are found by --where tag=NAME."
UNTAG = "Removes tags from a run or a sweep."
ARCHIVE = """\
Archives runs and sweeps: they stay where they are, and lists and pages of the folders above them leave them out and say how many.
--archived lists them; named itself, an archived run or sweep is reported as before. A run of a sweep is archived with its sweep
alone: without it, the sweep's comparison would be another.
"""
UNARCHIVE = "Takes runs and sweeps out of the archive."
PRUNE = """\
Removes checkpoints or figures of runs that have ended, in and below folders. It says first what it would free, and asks.
Results, records and weights.pt stay, and reports are the same. A run without checkpoints cannot be made longer.
Runs that are running, and those that could be resumed, keep everything. No run is ever removed.
"""
COMMANDS = {"note": NOTE, "tag": TAG, "untag": UNTAG, "archive": ARCHIVE, "unarchive": UNARCHIVE, "prune": PRUNE}
"""Command -> what it does."""


def list_parser() -> argparse.ArgumentParser:
    """Return the parser of the list."""
    made = _parser("train-runs", DESCRIPTION, EPILOG)
    made.add_argument("folders", nargs="*", type=_folder, metavar="FOLDER", help="folders with runs; default: outputs")
    made.add_argument("--where", nargs="+", action="extend", default=[], metavar="CONDITION", help=HELP.replace("%", "%%"))
    made.add_argument("--sort", default="", metavar="KEY", help="sort by this key, lowest first; default: newest first")
    made.add_argument("--reverse", action="store_true", help="the other way round; runs without a value stay last")
    made.add_argument("--limit", type=_positive, metavar="N", help="the first N rows")
    made.add_argument(
        "--show", action="extend", type=_keys, default=[], metavar="KEY", help="also show this key; several with commas"
    )
    made.add_argument("--by", action="extend", type=_keys, default=[], metavar="KEY", help="a row for each value of this key")
    made.add_argument("--metric", default="accuracy/test", metavar="TAG", help="metric of --by; default: %(default)s")
    made.add_argument("--runs", action="store_true", help="a row for each run of a sweep")
    made.add_argument("--archived", action="store_true", help="also what is archived")
    form = made.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list of objects, one a run; NaN and infinities are texts")
    form.add_argument("--csv", action="store_true", help="a table, one row a run")
    return made


def change_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of one of `COMMANDS`."""
    made = _parser(f"train-runs {command}", COMMANDS[command], "RUN is a folder, or a part of the name of one below outputs.")
    if command == "prune":
        made.epilog = None
        made.add_argument("folders", nargs="+", type=_folder, metavar="FOLDER", help="runs, sweeps or folders above them")
        made.add_argument("--checkpoints", action="store_true", help="checkpoints/*.pt")
        made.add_argument("--figures", action="store_true", help="figures/*.png and *.svg of runs")
        made.add_argument("--where", nargs="+", action="extend", default=[], metavar="CONDITION", help=HELP.replace("%", "%%"))
        made.add_argument("--yes", action="store_true", help="do not ask")
        return made
    made.add_argument("runs", nargs="+" if command.endswith("archive") else 1, metavar="RUN", help="a run or a sweep")
    if command == "note":
        made.add_argument("text", metavar="TEXT", help="the note")
    elif command.endswith("tag"):
        made.add_argument("tags", nargs="+", metavar="TAG", help="a word")
    return made


def _parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return Parser(prog=program, description=description, epilog=epilog)


def _folder(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111  # pathlib raises for a user who does not exist


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return value
