"""Rows of `--scale`: the report of a large sweep, and the comparison of all pairs of its arms."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from math import isqrt
from pathlib import Path

from train.report.contracts import Sample
from train.report.make import ReportOptions, make_report
from train.report.statistics.pairs import pairwise

from .scale_work import Work
from .stored import write_sweep

ARMS, SEEDS = 5, 5


def report(size: int, folder: Path) -> Callable[[], object]:
    """Return the call that makes the report of so many runs in `ARMS` arms, one in fifty of which diverged."""
    sweep = write_sweep(folder / "sweep", size, ARMS, diverged=50)
    return partial(make_report, [sweep], sweep, ReportOptions())


def pairs(size: int, folder: Path) -> Callable[[], object]:  # noqa: ARG001
    """Return the call that compares about so many pairs of arms of `SEEDS` runs."""
    return partial(pairwise, samples(isqrt(2 * size) + 1))


def samples(arms: int) -> list[Sample]:
    """Return arms whose means and spreads differ."""
    noise = random.Random(arms)
    spreads = [(noise.uniform(0.6, 0.7), noise.uniform(0.002, 0.02)) for _ in range(arms)]
    return [Sample(str(arm), tuple(noise.gauss(*spread) for _ in range(SEEDS))) for arm, spread in enumerate(spreads)]


WORKS = (
    Work("report", "runs in 5 arms", 2500, report),
    Work("pairs", "pairs of arms", 19_900, pairs),
)
