"""Inputs and results of a factorial analysis, as those of `contracts.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from train.report.contracts import Effect, Sample

JOINED = " and "
"""Between the names, and between the levels, of factors that move together and count as one."""


def named(factor: str, level: str) -> str:
    """Return `norm=batch`, and for joined factors `trainer.batch_size=2 optimizer.lr=0.1`."""
    factors, levels = factor.split(JOINED), level.split(JOINED)
    pairs = zip(factors, levels, strict=True) if len(factors) == len(levels) else [(factor, level)]
    return " ".join(f"{name}={value}" for name, value in pairs)


@dataclass(frozen=True)
class Cell:
    """One arm of a factorial grid, at `levels` (factor -> level)."""

    levels: Mapping[str, str]
    sample: Sample


@dataclass(frozen=True)
class MainEffect(Effect):
    """The effect of one factor's `level` against its `baseline`, averaged over the levels of the other factors.

    The average has equal weights over the `combinations` of the other factors (out of `of_combinations`) in which both levels
    have runs: `n` at the level, `n_baseline` at the baseline.
    """

    factor: str = ""
    level: str = ""
    baseline: str = ""
    n: int = 0
    n_baseline: int = 0
    combinations: int = 0
    of_combinations: int = 0


@dataclass(frozen=True)
class Interaction(Effect):
    """The difference between the effects of `first` (level against its baseline) at the level and at the baseline of `second`."""

    first: str = ""
    first_level: str = ""
    first_baseline: str = ""
    second: str = ""
    second_level: str = ""
    second_baseline: str = ""


@dataclass(frozen=True)
class MarginalMean:
    """The mean at one level of one factor, or at one level of each of two, for tables and interaction plots.

    The interval is for this mean alone. Cells count equally; `n` is the number of runs in them.
    """

    levels: Mapping[str, str]
    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Grid:
    """A factorial analysis. The intervals of `main` are one family, those of `interactions` another. `notes`: excluded cells."""

    main: tuple[MainEffect, ...]
    interactions: tuple[Interaction, ...]
    means: tuple[MarginalMean, ...]
    notes: tuple[str, ...] = ()
