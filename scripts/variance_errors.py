"""Print the table of docs/statistics.md on where the spread between runs comes from: coverage of intervals, false advice.

python scripts/variance_errors.py [STUDIES]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from train.report.spread_text import LITTLE, MOST  # noqa: E402
from train.report.statistics.components import Estimate, Spread, spread_of  # noqa: E402
from train.sweep.roles import ROLES, design  # noqa: E402

STUDIES = 1_000
Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]
DISTRIBUTIONS: Mapping[str, Draw] = {
    "normal": lambda generator, count: generator.standard_normal(count),
    "skewed": lambda generator, count: generator.exponential(size=count) - 1,
    "heavy tails": lambda generator, count: generator.standard_t(5, count) * (3 / 5) ** 0.5,
}
"""Of the rest, all with variance 1."""


@dataclass(frozen=True)
class Truth:
    """Shares of the variance: of single roles, and of pairs of roles that interact; what is left comes from all together."""

    name: str
    roles: Sequence[float]
    pairs: Mapping[tuple[int, int], float]
    rest: str = "normal"

    @property
    def all_roles(self) -> float:
        return max(0.0, 1 - sum(self.roles) - sum(self.pairs.values()))

    @property
    def shares(self) -> list[float]:
        """The shares of the roles, and the rest."""
        return [*self.roles, 1 - sum(self.roles)]

    def alone(self, role: int) -> float:
        """The variance of a role with everything else the same."""
        return self.roles[role] + sum(share for pair, share in self.pairs.items() if role in pair) + self.all_roles


def truths(roles: int) -> Iterator[Truth]:
    none = (0.0,) * (roles - 1)
    yield Truth("all together", (0.0, *none), {})
    for rest in ("skewed", "heavy tails"):
        yield Truth(f"all together, {rest}", (0.0, *none), {}, rest)
    yield Truth("each role 15 %", (0.15,) * roles, {})
    yield Truth("one role 50 %", (0.5, *none), {})
    yield Truth("one role 80 %", (0.8, *none), {})
    yield Truth("one 40 %, two interact 40 %", (0.4, *none), {(0, 1): 0.4})
    yield Truth("two interact 80 %", (0.0, *none), {(0, 1): 0.8})


def draw(truth: Truth, rows: Sequence[tuple[int, ...]], generator: np.random.Generator) -> Array:
    """Return the values of the runs with these seeds."""
    values = truth.all_roles**0.5 * DISTRIBUTIONS[truth.rest](generator, len(rows))
    terms = {(role,): share for role, share in enumerate(truth.roles)} | dict(truth.pairs)
    for roles, share in terms.items():
        effects: dict[tuple[int, ...], float] = {}
        for place, row in enumerate(rows):
            seeds = tuple(row[role] for role in roles)
            values[place] += share**0.5 * effects.setdefault(seeds, float(generator.standard_normal()))
    return values


@dataclass
class Tally:
    """Counts over studies: of those in which all shares are covered, other intervals that cover, and advice, false or any."""

    studies: int = 0
    shares: int = 0
    total: int = 0
    alone: Array | int = 0
    false: int = 0
    most: int = 0
    little: int = 0

    def add(self, found: Spread, truth: Truth) -> None:
        shares = [*(role.share for role in found.roles), found.rest]
        self.studies += 1
        self.shares += all(covers(item, share) for item, share in zip(shares, truth.shares, strict=True))
        self.total += covers(found.total, 1.0)
        sds = [truth.alone(role) ** 0.5 for role in range(len(found.roles))]
        self.alone = self.alone + np.array([covers(role.alone, sd) for role, sd in zip(found.roles, sds, strict=True)])
        known = [(item, share) for item, share in zip(shares, truth.shares, strict=True) if item is not None]
        most = [share for item, share in known if item.low > MOST]
        little = [(item.high, share) for item, share in known[:-1] if 1 - (1 - item.high) ** 0.5 <= LITTLE]
        self.most += bool(most)
        self.little += len(little)
        self.false += any(share <= MOST for share in most) or any(share > limit for limit, share in little)

    def rate(self, count: Array | int) -> float:
        return float(np.min(count)) / self.studies


def covers(estimate: Estimate | None, truth: float) -> bool:
    return estimate is not None and estimate.low <= truth <= estimate.high


def simulate(truth: Truth, seeds: int, studies: int) -> Tally:
    """Return the tally of studies with so many seeds."""
    roles = len(truth.roles)
    rows = design(roles, range(seeds))
    named = [dict(zip(ROLES[:roles], row, strict=True)) for row in rows]
    generator, tally = np.random.default_rng([seeds, roles, len(truth.name)]), Tally()
    for _ in range(studies):
        tally.add(spread_of(draw(truth, rows, generator).tolist(), named), truth)
    return tally


HEAD = ["roles", "seeds", "where the variance comes from", "all shares", "all vary", "one role alone"]
HEAD += ["false advice", "a part is named most", "roles of little"]
SIZES = ((5, 5), (5, 7), (3, 5))


def rows(studies: int) -> Iterator[list[str]]:
    """Yield, by number of roles and seeds: the coverage of all shares jointly, of the standard deviation if all vary, and of
    that of the worst role alone; how often advice is false, and how often there is some."""
    for roles, seeds in SIZES:
        for truth in truths(roles):
            tally = simulate(truth, seeds, studies)
            rates = [tally.rate(count) for count in (tally.shares, tally.total, tally.alone, tally.false, tally.most)]
            yield [str(roles), str(seeds), truth.name, *map(percent, rates), f"{tally.little / tally.studies:.1f} of {roles}"]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def table(studies: int = STUDIES) -> Iterator[str]:
    """Yield the lines of the table as Markdown."""
    for cells in (HEAD, ["--:"] * len(HEAD)):
        yield f"| {' | '.join(cells)} |"
    for cells in rows(studies):
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES):
        print(line, flush=True)
