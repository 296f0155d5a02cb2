"""The command `train-runs`: a list of runs and sweeps, and what is said of them. Imports no torch."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.errors import RunError, UsageError
from train.escape import csv_cell
from train.listing.arguments import COMMANDS, change_parser, list_parser
from train.listing.by import HEADS, check_metric, group_cells
from train.listing.found import Found, find
from train.listing.layout import table_text
from train.listing.rows import Columns, columns_of
from train.listing.table import as_text, in_order, rows_of_runs, rows_of_sweeps
from train.report.collect import deduplicated
from train.store.metrics import encode_float
from train.store.run import Run
from train.store.where import conditions_of, groups_of, refuse_unknown_key, select, why_none
from train.streams import protect_output, replace_unprintable, say, say_error
from train.text import plural

DEFAULT = Path("outputs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the console command and exit. The exit code is 2, with one message, for errors that the user can fix."""
    protect_output()
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    replace_unprintable()
    try:
        if arguments[:1] and arguments[0] in COMMANDS:
            return _change(arguments[0], change_parser(arguments[0]).parse_args(arguments[1:]))
        return _list(list_parser().parse_args(arguments))
    except (UsageError, RunError) as error:
        say_error("train-runs", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _change(command: str, asked: argparse.Namespace) -> int:
    from train.listing.changes import change
    from train.listing.prune import prune

    return prune(asked) if command == "prune" else change(command, asked)


def _list(asked: argparse.Namespace) -> int:
    conditions = conditions_of(asked.where)
    found = find(asked.folders or [DEFAULT], asked.archived)
    runs = select(found.runs, conditions)
    for key, option in ((asked.sort, "--sort"), *((key, "--show") for key in asked.show)):
        if key:
            refuse_unknown_key(key, found.runs, f"{option} {key}")
    if asked.json or asked.csv:
        _say_data(columns_of(found, _sorted(runs, found, asked)[: asked.limit]), is_json=asked.json)
    elif asked.by:
        _say_groups(runs, asked)
    elif table := _table(found, runs, asked):
        say(table)
    _say_notes(found, runs, why_none(found.runs, conditions) if conditions and not runs else "")
    return 0


def _table(found: Found, runs: Sequence[Run], asked: argparse.Namespace) -> str:
    named = len(found.folders) == 1 and found.folders[0] in found.sweeps
    is_open = named or asked.runs or asked.where or asked.sort or asked.show
    rows = rows_of_runs(found, runs, asked.show, asked.sort) if is_open else rows_of_sweeps(found)
    return as_text(in_order(rows, asked.sort, asked.reverse)[: asked.limit], asked.show) if rows else ""


def _sorted(runs: Sequence[Run], found: Found, asked: argparse.Namespace) -> list[Run]:
    rows = rows_of_runs(found, runs, (), asked.sort)
    places = {id(row): place for place, row in enumerate(rows)}
    return [runs[places[id(row)]] for row in in_order(rows, asked.sort, asked.reverse)]


def _say_data(columns: Columns, *, is_json: bool) -> None:
    rows = [*zip(*columns.values(), strict=True)]
    if is_json:
        say(json.dumps([dict(zip(columns, map(_plain, row), strict=True)) for row in rows], indent=1, allow_nan=False))
        return
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([map(csv_cell, columns), *(map(_cell, row) for row in rows)])
    say(buffer.getvalue().rstrip("\n"))


def _plain(value: Any) -> Any:
    return encode_float(value) if isinstance(value, float) else value


def _cell(value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(value)
    return "" if value is None else csv_cell(str(value).lower() if isinstance(value, bool) else value)


def _say_groups(runs: Sequence[Run], asked: argparse.Namespace) -> None:
    check_metric(runs, asked.metric)
    counted, copies = deduplicated(runs)
    rows = [[*key, *group_cells(members, asked.metric)] for key, members in groups_of(counted, asked.by).items()]
    note = f"; {len(copies)} of the {plural(len(runs), 'run')} repeat another and are left out" if copies else ""
    if rows:
        say(f"{asked.metric}, of runs that are done{note}\n{table_text((*asked.by, *HEADS), sorted(rows), asked.by)}")


def _say_notes(found: Found, runs: Sequence[Run], nothing: str) -> None:
    """Say on standard error what the list does not hold."""
    notes = [nothing or ("" if runs or found.sweeps else f"{', '.join(map(str, found.folders))}: there are no runs.")]
    if found.archived:
        notes.append(f"{found.archived} archived: listed with --archived.")
    if found.unreadable:
        folder, reason = next(iter(found.unreadable.items()))
        notes.append(f"{plural(len(found.unreadable), 'folder')} cannot be read, the first is {folder}: {reason}")
    for note in filter(None, notes):
        say(note.replace("\n", " "), error=True)
