"""Print the tables of docs/statistics.md on looks at a growing sweep: false claims, coverage, runs saved, power.

python scripts/sequential_errors.py [SWEEPS]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from train.report.statistics.sequential import look_level  # noqa: E402

SWEEPS, CHUNK = 20_000, 5_000
LOOKS = (5, 10, 15, 20, 25)
FIXED = (23, 24, 25)
"""Seeds of the sweeps without looks that are compared."""
MARGIN = 1.5
EFFECTS = (8.0, 4.0, 2.0, 1.0, 0.0)
"""Differences to the baseline, and the margin of equivalence, in standard deviations between seeds."""
ARMS = (1, 2, 3, 5, 8, 12)

UNEQUAL = (2 / 17) ** 0.5
"""With another that is 4 times as large, it has the root mean square 1."""
Array = NDArray[np.float64]
Verdicts = NDArray[np.int64]
DIFFERENT, EQUIVALENT = 1, 2
SPREADS: dict[str, Callable[[int], list[float]]] = {
    "equal": lambda arms: [1.0] * (arms + 1),
    "baseline 4 times": lambda arms: [4 * UNEQUAL] + [UNEQUAL] * arms,
    "arms 4 times": lambda arms: [UNEQUAL] + [4 * UNEQUAL] * arms,
    "all different": lambda arms: [1.0] + [(2.0, 0.25, 1.0, 0.5, 4.0)[i % 5] for i in range(arms)],
}
"""Standard deviations of the baseline and the arms. The root mean square of two sides is 1, or else the baseline's is."""


@dataclass(frozen=True)
class Intervals:
    """The differences of all arms to the baseline and the half widths of their intervals, each [sweeps, arms]."""

    difference: Array
    half: Array

    def decided(self, margin: float) -> Verdicts:
        """Return the verdict of each, 0 where there is none."""
        size = np.abs(self.difference)
        return np.where(size + self.half <= margin, EQUIVALENT, np.where(size > self.half, DIFFERENT, 0))

    def covers(self, truth: Array) -> NDArray[np.bool_]:
        return np.abs(self.difference - truth) <= self.half


@dataclass(frozen=True)
class Ends:
    """How sweeps end: `verdicts`, and `seeds` of each arm, [sweeps, arms]; its final `intervals`; `runs` of each sweep."""

    verdicts: Verdicts
    seeds: Verdicts
    intervals: Intervals
    runs: Verdicts


def draw(generator: np.random.Generator, sweeps: int, seeds: int, spreads: Sequence[float], truth: Array) -> Array:
    """Return values [sweeps, 1 + arms, seeds], the baseline first."""
    values = generator.standard_normal((sweeps, len(spreads), seeds))
    return values * np.asarray(spreads)[:, None] + np.concatenate([[0.0], truth])[:, None]


def intervals(values: Array, seeds: int, level: float) -> Intervals:
    """Return Welch's intervals of the first `seeds` seeds."""
    seen = values[:, :, :seeds]
    means, variances = seen.mean(axis=2), seen.var(axis=2, ddof=1) / seeds
    total = variances[:, 1:] + variances[:, :1]
    df = total**2 / (variances[:, 1:] ** 2 + variances[:, :1] ** 2) * (seeds - 1)
    return Intervals(means[:, 1:] - means[:, :1], -special.stdtrit(df, level / 2) * np.sqrt(total))


def in_looks(values: Array, looks: Sequence[int], margin: float) -> Ends:
    """Return how sweeps end that stop the seeds of each arm at the look that decides it; the baseline goes on as long as any."""
    sweeps, arms = values.shape[0], values.shape[1] - 1
    verdicts, seeds = np.zeros((sweeps, arms), np.int64), np.full((sweeps, arms), looks[-1])
    difference, half = np.zeros((sweeps, arms)), np.zeros((sweeps, arms))
    for number, count in enumerate(looks, start=1):
        is_open = verdicts == 0
        if not is_open.any():
            break
        found = intervals(values, count, look_level(looks, number, arms))
        difference, half = np.where(is_open, found.difference, difference), np.where(is_open, found.half, half)
        decided = np.where(is_open, found.decided(margin), 0)
        verdicts, seeds = verdicts + decided, np.where(decided > 0, count, seeds)
    return Ends(verdicts, seeds, Intervals(difference, half), seeds.sum(axis=1) + seeds.max(axis=1))


def at_once(values: Array, seeds: int, margin: float) -> Ends:
    """Return how sweeps of a fixed number of seeds end."""
    return in_looks(values[:, :, :seeds], (seeds,), margin)


@dataclass
class Tally:
    """Sums over sweeps."""

    sweeps: int = 0
    false: int = 0
    covered: int = 0
    runs: int = 0
    true: Array | int = 0
    different: Array | int = 0

    def add(self, ends: Ends, truth: Array, margin: float) -> None:
        """Count. A claim is false if the difference has another sign or is 0, or if it is at least the margin."""
        wrong_sign = np.sign(ends.intervals.difference) != np.sign(truth)
        false = ((ends.verdicts == DIFFERENT) & wrong_sign) | ((ends.verdicts == EQUIVALENT) & (np.abs(truth) >= margin))
        self.sweeps += len(ends.runs)
        self.false += int(false.any(axis=1).sum())
        self.covered += int(ends.intervals.covers(truth).all(axis=1).sum())
        self.runs += int(ends.runs.sum())
        self.true = self.true + ((ends.verdicts > 0) & ~false).sum(axis=0)
        self.different = self.different + ((ends.verdicts == DIFFERENT) & ~wrong_sign).sum(axis=0)

    @property
    def power(self) -> float:
        """The share of arms with a true verdict."""
        return float(np.mean(self.true)) / self.sweeps

    @property
    def limit(self) -> float:
        """The upper 95 % limit of the rate of sweeps with a false claim (Clopper & Pearson 1934)."""
        return 1.0 if self.false == self.sweeps else float(special.betaincinv(self.false + 1, self.sweeps - self.false, 0.95))

    @property
    def coverage(self) -> float:
        return self.covered / self.sweeps

    @property
    def runs_each(self) -> float:
        return self.runs / self.sweeps


@dataclass(frozen=True)
class Cell:
    """Sweeps of one kind. `truth`: the differences of the arms to the baseline."""

    spreads: str
    truth: tuple[float, ...]
    looks: tuple[int, ...] = LOOKS
    margin: float = MARGIN

    @property
    def arms(self) -> int:
        return len(self.truth)


def effects(arms: int, values: Sequence[float] = EFFECTS) -> tuple[float, ...]:
    """Return the effects of so many arms, from the list, over and over."""
    return tuple(values[i % len(values)] for i in range(arms))


def simulate(cell: Cell, sweeps: int, fixed_seeds: Sequence[int] = ()) -> tuple[Tally, dict[int, Tally]]:
    """Return the tally of sweeps with looks, and of those with fixed numbers of seeds, which have the same draws."""
    truth, spreads = np.asarray(cell.truth), SPREADS[cell.spreads](cell.arms)
    looked, fixed = Tally(), {seeds: Tally() for seeds in fixed_seeds}
    generator = np.random.default_rng([cell.arms, len(cell.looks), cell.looks[-1], list(SPREADS).index(cell.spreads)])
    for start in range(0, sweeps, CHUNK):
        values = draw(generator, min(CHUNK, sweeps - start), cell.looks[-1], spreads, truth)
        looked.add(in_looks(values, cell.looks, cell.margin), truth, cell.margin)
        for seeds, tally in fixed.items():
            tally.add(at_once(values, seeds, cell.margin), truth, cell.margin)
    return looked, fixed


def as_powerful(looked: Tally, fixed: dict[int, Tally]) -> int:
    """Return the smallest fixed number of seeds that has at least the power of the looks."""
    return next((seeds for seeds, tally in fixed.items() if tally.power >= looked.power), max(fixed))


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["--:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def planned_rows(sweeps: int) -> Iterator[list[str]]:
    """Yield, by spreads and arms, errors with all effects, with none, and with all at the margin, where equivalence is false.

    Without effects also without a margin: no arm stops early as equivalent. Few arms are drawn more often, as they err most.
    """
    for spreads in SPREADS:
        for arms in ARMS:
            none, at_margin = Cell(spreads, (0.0,) * arms), Cell(spreads, (MARGIN,) * arms)
            others = (none, replace(none, margin=0.0), at_margin)
            count = sweeps * (4 if arms <= 3 else 1)
            found = [simulate(Cell(spreads, effects(arms)), count, FIXED), *(simulate(cell, count) for cell in others)]
            limits = [percent(looked.limit, 2) for looked, _ in found]
            coverage = min(looked.coverage for looked, _ in found)
            yield [spreads, str(arms), *limits, percent(coverage), *savings(*found[0])]


def savings(looked: Tally, fixed: dict[int, Tally]) -> list[str]:
    """Return how many runs fewer than with all seeds, the power, that of all seeds, and how many fixed seeds have this power."""
    most = fixed[max(fixed)]
    equal = as_powerful(looked, fixed)
    number = f"{equal}" if equal > min(fixed) else f"{equal} or fewer"
    return [percent(1 - looked.runs_each / most.runs_each, 0), percent(looked.power), percent(most.power), number]


SAVINGS = ["fewer runs", "power", "of 25 seeds", "seeds of this power"]
HEAD = [
    "spreads",
    "arms",
    *(f"false, {what}" for what in ("all effects", "none", "none, no margin", "at the margin")),
    "coverage",
    *SAVINGS,
]


def single_rows(sweeps: int) -> Iterator[list[str]]:
    """Yield the savings of sweeps whose arms all have the same effect."""
    for arms in (1, 5, 12):
        for effect in EFFECTS:
            yield [str(arms), f"{effect:g}", *savings(*simulate(Cell("equal", (effect,) * arms), sweeps, FIXED))]


def other_looks() -> Iterator[Cell]:
    """Yield sweeps of no effect, without a margin, in other blocks: small ones, and a look after every seed."""
    for looks in ((2, 4, 6, 8, 10), (3, 6, 9, 12, 15), (5, 10), (10, 20, 30, 40, 50), tuple(range(3, 26))):
        for spreads in ("equal", "baseline 4 times", "arms 4 times"):
            yield Cell(spreads, (0.0,) * 5, looks, margin=0.0)


def small_row(cell: Cell, sweeps: int) -> list[str]:
    looked, _ = simulate(cell, sweeps)
    looks = cell.looks if len(cell.looks) < 7 else (*cell.looks[:3], "...", cell.looks[-1])
    return [", ".join(map(str, looks)), cell.spreads, percent(looked.limit, 2), percent(looked.coverage)]


def unplanned(looks: Sequence[int], arms: int, sweeps: int) -> tuple[Tally, float, float]:
    """Simulate sweeps without effects that grow, unplanned, until a page claims something or nobody wants more.

    Return the tally of the verdicts that are final, those of the first page; the share of sweeps in which any page makes a false
    claim; and that with a level of alpha / (k (k + 1)) at page k.
    """
    truth, generator = np.zeros(arms), np.random.default_rng([arms, len(looks)])
    final, any_page, shrinking = Tally(), 0, 0
    for start in range(0, sweeps, CHUNK):
        values = draw(generator, min(CHUNK, sweeps - start), looks[-1], [1.0] * (arms + 1), truth)
        final.add(at_once(values, looks[0], 0.0), truth, 0.0)
        pages, levels = np.zeros(len(values), bool), np.zeros(len(values), bool)
        for number, seeds in enumerate(looks, start=1):
            pages |= (intervals(values, seeds, look_level((seeds,), 1, arms)).decided(0.0) > 0).any(axis=1)
            level = look_level((seeds,), 1, arms, 0.05 / (number * (number + 1)))
            levels |= (intervals(values, seeds, level).decided(0.0) > 0).any(axis=1)
        any_page, shrinking = any_page + int(pages.sum()), shrinking + int(levels.sum())
    return final, any_page / final.sweeps, shrinking / final.sweeps


def unplanned_rows(sweeps: int) -> Iterator[list[str]]:
    for arms in (1, 5, 12):
        for looks in ((5, 10), (5, 10, 15, 20, 25), tuple(range(3, 26))):
            final, any_page, shrinking = unplanned(looks, arms, sweeps)
            pages = ", ".join(map(str, looks)) if len(looks) < 7 else f"every seed from {looks[0]} to {looks[-1]}"
            yield [str(arms), pages, percent(final.limit, 2), percent(final.coverage), percent(any_page), percent(shrinking)]


def tables(sweeps: int = SWEEPS) -> Iterator[str]:
    """Yield the four tables as Markdown."""
    yield table(HEAD, planned_rows(sweeps))
    yield table(["arms", "effect", *SAVINGS], single_rows(sweeps))
    head = ["looks after", "spreads", "false claims, upper limit", "coverage"]
    yield table(head, (small_row(cell, sweeps) for cell in other_looks()))
    head = [
        "arms",
        "pages after",
        "final verdicts: false claims, upper limit",
        "coverage",
        "any page",
        "page k at alpha / (k (k + 1))",
    ]
    yield table(head, unplanned_rows(sweeps))


if __name__ == "__main__":
    for text in tables(int(sys.argv[1]) if len(sys.argv) > 1 else SWEEPS):
        print(text, flush=True)
