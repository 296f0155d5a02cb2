"""Overlay the layers of two runs: `train-report signals A B`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.errors import UsageError
from train.escape import line
from train.report.history import SIGNAL_MARK
from train.store.inside import Folder
from train.store.metrics import Record, complete_lines, parse_record
from train.store.run import Run, read_run
from train.tags import join, layers_of
from train.text import three_digits

FIGURE = "signals.svg"
STATISTICS = {
    "activation_std": "std of the activations",
    "activation_mean": "mean of the activations",
    "gradient_std": "std of the gradients",
}
_UNKNOWN = "-"


@dataclass(frozen=True)
class Signals:
    """The first and the last record of a run that observes every layer."""

    first: Record
    last: Record


def overlay(first: Path, second: Path, out: Path) -> str:
    """Write a figure with the layers of both runs into `out`, and return a table of them as text.

    UsageError for a folder that is no run, a run without records of its layers, and a folder that cannot be written.
    """
    runs = [read_run(folder) for folder in (first, second)]
    signals = [_signals(run) for run in runs]
    names = ["A", "B"]
    lines = [f"{name}  {run.folder}" for name, run in zip(names, runs, strict=True)]
    steps = [f"{name}: steps {found.first.step} and {found.last.step}" for name, found in zip(names, signals, strict=True)]
    lines += ["", f"at the first and the last observation ({'; '.join(steps)})"]
    for statistic, title in STATISTICS.items():
        layers = _layers(statistic, signals)
        lines += ["", *_table(title, statistic, layers, signals)] if layers else []
    path = _write_figure(signals, out)
    return "\n".join(map(line, [*lines, "", f"figure: {path}"]))


def _signals(run: Run) -> Signals:
    found = [text for text in complete_lines(run.metrics_file) if SIGNAL_MARK in text]
    if not found:
        raise UsageError(f"{run.folder}: no record observes its layers. Train with observe=basic or observe=full.")
    return Signals(parse_record(found[0]), parse_record(found[-1]))


def _layers(statistic: str, signals: Sequence[Signals]) -> list[str]:
    """Return the layers of both runs in the order of the network; those of the second alone come last."""
    return list(dict.fromkeys(layer for found in signals for layer in layers_of(statistic, found.first.values)))


def _table(title: str, statistic: str, layers: Sequence[str], signals: Sequence[Signals]) -> list[str]:
    rows = [[title, "A first", "B first", "A last", "B last"]]
    for layer in layers:
        records = [*(found.first for found in signals), *(found.last for found in signals)]
        rows.append([layer, *(_number(record.values, join(statistic, layer)) for record in records)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _number(values: Mapping[str, float], tag: str) -> str:
    return three_digits(values[tag]) if tag in values else _UNKNOWN


def _write_figure(signals: Sequence[Signals], out: Path) -> Path:
    from train.figures.overlay import Overlay, draw_overlays  # imports matplotlib

    charts = []
    for statistic, title in STATISTICS.items():
        layers = _layers(statistic, signals)
        lines = [
            (name, when, [record.values.get(join(statistic, layer), math.nan) for layer in layers])
            for name, found in zip("AB", signals, strict=True)
            for when, record in ((f"step {found.first.step:,}", found.first), (f"step {found.last.step:,}", found.last))
        ]
        if layers:
            charts.append(Overlay(title, layers, lines, is_log=statistic != "activation_mean"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        Folder(out).write(FIGURE, draw_overlays(charts))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write the figure ({error.strerror}). Name another folder.") from None
    return out / FIGURE
