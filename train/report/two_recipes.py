"""Lay what changes do within two recipes side by side: `train-report effects A B`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from train.errors import UsageError
from train.escape import line
from train.report import metric as metrics
from train.report import table_text
from train.report.arms import Arm, Study
from train.report.contracts import SMALLEST_EFFECT, Effect, Sample, ends
from train.report.history import read_histories
from train.report.make import read_study
from train.report.metric import Metric
from train.report.options import ReportOptions
from train.report.outcome import outcomes
from train.report.results_csv import table_text as csv_text
from train.report.samples import build_sample
from train.report.statistics.side_by_side import Pair, Reading, SideBySide, side_by_side
from train.store.inside import Folder
from train.text import plural

FIGURE, NUMBERS = "effects.svg", "effects.csv"
COLUMNS = ("change", "difference_a", "low_a", "high_a", "difference_b", "low_b", "high_b", "dependence", "low", "high", "reading")
_EMPTY = "none"
"""The level that has nothing of a group."""


@dataclass(frozen=True)
class _Side:
    """One of the two recipes. `levels`: factor -> level -> the arm that differs from the baseline in it alone."""

    study: Study
    samples: Mapping[str, Sample]
    levels: Mapping[str, Mapping[str, Arm]]

    def pair(self, factor: str, before: str, after: str) -> Pair:
        return self.samples[self.levels[factor][before].id], self.samples[self.levels[factor][after].id]

    def base(self, factor: str) -> str:
        return self.study.baseline.levels[factor]


def lay_side_by_side(first: Path, second: Path, out: Path, options: ReportOptions) -> str:
    """Write a figure and a table of what changes do in two sweeps into `out`, and return the table as text.

    A change starts at the level of the baseline of `second`. UsageError for folders without such changes in both, and a folder
    that cannot be written.
    """
    metric = Metric(options.metric)
    sides = [_side(folder, metric, options) for folder in (first, second)]
    changes = _changes(*sides)
    found = side_by_side(*changes)
    if not any(name in changes[1] for name in changes[0]):
        raise UsageError(f"{first} and {second} have no change in common. Name two sweeps that vary the same ingredients.")
    path = _write(found, (first, second), metric, out, options.smallest_effect)
    lines = [
        f"{name}  {folder}: {plural(len(side.study.arms), 'arm')}, {plural(len(side.study.runs), 'run')}"
        for name, folder, side in zip("AB", (first, second), sides, strict=True)
    ]
    lines += [
        "",
        f"Differences in {metric.name}{' in percentage points' if metric.is_share else ''}; all 95 % intervals hold jointly.",
    ]
    lines += ["", *_table(found, metric), "", *_notes(found), f"figure: {path}"]
    return "\n".join(map(line, lines))


def _side(folder: Path, metric: Metric, options: ReportOptions) -> _Side:
    study = read_study([folder], options)
    histories = read_histories((*study.runs, *study.unchosen_runs), (metric.tag,))
    metrics.check_metric(metric, study.runs, histories)
    found = outcomes(study.runs, metric, histories)
    samples = {arm.id: replace(build_sample(arm, metric, histories, found), arm=study.labels[arm.id]) for arm in study.arms}
    return _Side(study, samples, _levels(study))


def _levels(study: Study) -> dict[str, dict[str, Arm]]:
    """Return the arms with one change. Factors that move together go by the name of the first."""
    base = study.baseline
    levels = {group[0]: {base.levels[group[0]]: base} for group in study.groups}
    for arm in study.arms:
        changed = [group for group in study.groups if any(arm.levels[factor] != base.levels[factor] for factor in group)]
        if len(changed) == 1:
            levels[changed[0][0]].setdefault(arm.levels[changed[0][0]], arm)
    return levels


def _changes(first: _Side, second: _Side) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Return name -> arms of each change. A change of `first` is one that `second` has, too, where there is one."""
    of_second = {
        _name(factor, second.base(factor), level): second.pair(factor, second.base(factor), level)
        for factor, levels in second.levels.items()
        for level in levels
        if level != second.base(factor)
    }
    of_first: dict[str, Pair] = {}
    for factor, levels in first.levels.items():
        reference = second.base(factor) if factor in second.levels else first.base(factor)
        reference = reference if reference in levels else first.base(factor)
        for level in levels:
            starts = [start for start in (first.base(factor), reference) if start != level]
            names = {_name(factor, start, level): start for start in starts}
            name = next((name for name in names if name in of_second), _name(factor, reference, level))
            if level != reference or name in of_second:
                of_first[name] = first.pair(factor, names.get(name, reference), level)
    return of_first, of_second


def _name(factor: str, before: str, after: str) -> str:
    """Return a change in words: what is added to a level that lists it, or to none, or what takes its place."""
    had, has = _parts(before), _parts(after)
    if set(had) < set(has):
        return f"{factor}: + {', '.join(part for part in has if part not in had)}"
    return f"{factor}: {after} for {before}"


def _parts(level: str) -> list[str]:
    return [part.strip() for part in level.strip("[]").split(",") if part.strip() not in ("", _EMPTY)]


def _reading(reading: Reading, metric: Metric) -> str:
    if metric.higher_is_better is None:
        return reading
    words = ("better", "worse") if metric.higher_is_better else ("worse", "better")
    return reading.replace("higher", words[0]).replace("lower", words[1])


def _table(found: Mapping[str, SideBySide], metric: Metric) -> Iterator[str]:
    rows = [("change", "in A", "in B", "A minus B", "")]
    for name, both in found.items():
        first, second, dependence = (_cell(effect, metric) for effect in (both.first, both.second, both.dependence))
        rows.append((name, first, second, dependence, _reading(both.reading, metric)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cell(effect: Effect | None, metric: Metric) -> str:
    if effect is None:
        return table_text.UNKNOWN
    return f"{table_text.difference(metric, effect.difference)} {table_text.interval(metric, effect)}".rstrip()


def _notes(found: Mapping[str, SideBySide]) -> list[str]:
    notes = [
        f"{name}: not compared in {side}: {note}."
        for name, both in found.items()
        for side, note in zip("AB", both.notes, strict=True)
        if note and note != "no such arms"
    ]
    return [*notes, ""] if notes else []


def _write(
    found: Mapping[str, SideBySide], folders: tuple[Path, Path], metric: Metric, out: Path, smallest: float | None
) -> Path:
    from train.figures.paired import PairedRow, draw_pairs  # imports matplotlib

    scale = metric.scale
    rows = [
        PairedRow(name, (ends(both.first, scale), ends(both.second, scale)), _reading(both.reading, metric))
        for name, both in found.items()
    ]
    limit = smallest or (SMALLEST_EFFECT if metric.is_share else None)
    names = (f"A  {folders[0].name}", f"B  {folders[1].name}")
    axis = f"difference in {metric.name}{' in percentage points' if metric.is_share else ''}, 95 % intervals that hold jointly"
    numbers: list[Sequence[object]] = [COLUMNS, *(_numbers(name, both) for name, both in found.items())]
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = Folder(out)
        folder.write(FIGURE, draw_pairs(rows, names, axis, limit and scale * limit))
        folder.write(NUMBERS, csv_text(numbers).encode())
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write the figure ({error.strerror}). Name another folder.") from None
    return out / FIGURE


def _numbers(name: str, both: SideBySide) -> Sequence[object]:
    """Return a row of effects.csv; unknown values are empty."""
    numbers = [
        value
        for effect in (both.first, both.second, both.dependence)
        for value in ((effect.difference, effect.low, effect.high) if effect else (None, None, None))
    ]
    return (name, *("" if value is None else value for value in numbers), both.reading)
