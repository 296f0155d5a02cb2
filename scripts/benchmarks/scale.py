"""How the cost of a kind of work grows: CPU time and memory at a size and at twice that size, side by side.

What else the machine does adds to CPU time, through shared caches and cores, and never takes from it: on a busy machine a row is
measured more often, and the lowest counts. A ratio of 2 is linear growth, less has a constant part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from train.errors import UsageError, did_you_mean

from . import scale_report, scale_sweep
from .scale_work import Cost, Work, cost_of

if TYPE_CHECKING:
    from rich.console import Console

WORKS: Sequence[Work] = (*scale_sweep.WORKS, *scale_report.WORKS)
"""The rows of the table. A module of further ones is imported above and named here."""


AGREE, NOISE_S = 0.05, 0.02
"""By how much two CPU times of the same work may differ: in part, and in seconds besides."""


@dataclass(frozen=True)
class Growth:
    """What a work takes at its size, and at twice its size."""

    work: Work
    once: Cost
    twice: Cost

    @property
    def ratio(self) -> float:
        return self.twice.cpu_s / self.once.cpu_s if self.once.cpu_s else 0.0


def wanted(only: frozenset[str]) -> list[Work]:
    """Return the rows that `--only` names, all if it names none. UsageError for a name that does not exist."""
    names = [work.name for work in WORKS]
    for name in only:
        if name not in names:
            raise UsageError(f"--only={name}: there is no such row. {did_you_mean(name, names)}")
    return [work for work in WORKS if not only or work.name in only]


def grown(work: Work, rounds: int, say: Callable[[str], None]) -> Growth:
    """Measure a row: the lowest CPU time and memory of at most so many rounds, of fewer where these settle it."""
    say(f"measuring {work.name}: {work.size:,} and {2 * work.size:,} {work.unit}")
    once: list[Cost] = []
    twice: list[Cost] = []
    while len(once) < rounds and not (is_settled(once) and is_settled(twice)):
        once.append(cost_of(work, work.size))
        twice.append(cost_of(work, 2 * work.size))
    return Growth(work, _lowest(once), _lowest(twice))


def is_settled(costs: Sequence[Cost]) -> bool:
    """Return whether the two lowest CPU times agree. Neighbours on the machine only ever add to one, each time differently."""
    lowest = sorted(cost.cpu_s for cost in costs)[:2]
    return len(lowest) == 2 and lowest[1] <= lowest[0] * (1 + AGREE) + NOISE_S


def _lowest(costs: Sequence[Cost]) -> Cost:
    return Cost(min(cost.cpu_s for cost in costs), min(cost.peak_mb for cost in costs))


def show(console: Console, rows: Sequence[Growth]) -> None:
    from rich.table import Table

    table = Table(title="Growth: CPU time and peak memory at a size n and at 2n", title_justify="left")
    for column in ("work", "n", "CPU s", "at 2n", "ratio", "peak MB", "at 2n"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for row in rows:
        size = f"{row.work.size:,} {row.work.unit}"
        seconds = (f"{row.once.cpu_s:.2f}", f"{row.twice.cpu_s:.2f}", f"{row.ratio:.2f}")
        table.add_row(row.work.name, size, *seconds, f"{row.once.peak_mb:.0f}", f"{row.twice.peak_mb:.0f}")
    console.print(table)


def as_json(rows: Sequence[Growth]) -> list[dict[str, Any]]:
    return [
        {"work": row.work.name, "unit": row.work.unit, "size": row.work.size, "ratio": row.ratio}
        | {"once": asdict(row.once), "twice": asdict(row.twice)}
        for row in rows
    ]
