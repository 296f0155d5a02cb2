"""The minimum detectable effect of a planned sweep, as lines for a dry run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from train.report.contracts import SMALLEST_EFFECT
from train.report.history import read_histories
from train.report.metric import Metric
from train.report.sentence_text import at_least, plain, points
from train.report.statistics.contrasts import POWER, detectable, moments, pooled_variance, runs_needed
from train.store.run import find_runs, read_run
from train.text import percent, plural

SEEDS = (2, 3, 5, 10, 20)


@dataclass(frozen=True)
class Spread:
    """The standard deviation `sd` of a metric between seeds, in the metric's unit, and the `source` of that number."""

    sd: float
    source: str


def measured_spread(folder: Path, metric: Metric) -> Spread | None:
    """Return the standard deviation of the completed runs in `folder`, pooled over their arms.

    None when no arm has two completed runs, or none of them differ. UsageError for a run whose files are invalid.
    """
    completed = [run for run in map(read_run, find_runs([folder])) if run.state == "done"]
    histories = read_histories(completed, [metric.tag])
    values: defaultdict[str, list[float]] = defaultdict(list)
    for run in completed:
        if math.isfinite(value := metric.value(run, histories[run.folder])):
            values[run.arm].append(value)
    groups = [moments(group) for group in values.values() if len(group) > 1]
    variance, _ = pooled_variance(groups)
    count = sum(group.n for group in groups)
    return Spread(sqrt(variance), f"{plural(count, 'run')} of {plural(len(groups), 'arm')} in {folder}") if variance > 0 else None


def power_lines(
    seeds: int, comparisons: int, metric: Metric, spread: Spread | None, smallest_effect: float | None
) -> Iterator[str]:
    """Yield what `comparisons` of an arm with the baseline can detect with `seeds` runs per arm, and with other numbers of them.

    `smallest_effect`: the smallest effect of interest in the metric's unit; None for the default.
    """
    if comparisons < 1:
        return
    condition = f"{percent(POWER, 0)} power, {plural(comparisons, 'comparison')} with the baseline"
    if seeds > 1:
        yield f"power  {seeds} seeds detect a difference of {_in_sd(detectable(1, seeds, comparisons))} or more ({condition})"
    else:
        yield f"power  one seed detects nothing: the spread between seeds stays unknown ({condition})"
    columns = sorted(set(SEEDS) | ({seeds} if seeds > 1 else set()))
    unit = points(metric).strip() or metric.name
    width = max(len("standard deviations"), len(unit))
    yield _row("seeds per arm", [str(count) for count in columns], width)
    yield _row("standard deviations", [_rounded_up(detectable(1, count, comparisons)) for count in columns], width)
    if spread is None:
        yield f"       in {unit}: set sweep.spread to the expected standard deviation between seeds"
        return
    decimals = _decimals(spread.sd, metric)
    detected = [at_least(detectable(spread.sd, count, comparisons), metric, decimals) for count in columns]
    yield _row(unit, detected, width)
    yield f"       at a standard deviation of {plain(spread.sd, metric, decimals + 1)} between seeds ({spread.source})"
    yield f"       {_needed(smallest_effect or SMALLEST_EFFECT, comparisons, metric, spread.sd)}"


def _needed(effect: float, comparisons: int, metric: Metric, sd: float) -> str:
    count = runs_needed(effect, sd, comparisons)
    size = f"{plain(effect, metric, _decimals(effect, metric))}{points(metric)}"
    return f"a difference of {size} (report.smallest_effect) needs {f'{count} seeds' if count else 'thousands of seeds'} per arm"


def _in_sd(effect: float) -> str:
    return f"{_rounded_up(effect)} standard deviations between seeds"


def _rounded_up(value: float) -> str:
    return f"{math.ceil(value * 10 - 1e-9) / 10:.1f}"


def _decimals(value: float, metric: Metric) -> int:
    """Return the decimals that show one digit of `value`, at least one."""
    return max(1, -math.floor(math.log10(value * metric.scale)))


def _row(name: str, cells: list[str], width: int) -> str:
    return f"       {name:{width}}  {'  '.join(f'{cell:>5}' for cell in cells)}"
