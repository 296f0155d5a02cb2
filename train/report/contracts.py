"""What the statistics take and what they give back: plain values, no files and no pages.

Accuracies and differences of them are fractions in here; percentage points exist only in sentences. `None` stands for what
the runs cannot tell, such as an interval from one run; `note` then says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

Verdict: TypeAlias = Literal["supported", "no_effect_larger_than", "underpowered", "not_comparable"]
Severity: TypeAlias = Literal["note", "caution", "serious"]
Method: TypeAlias = Literal["welch", "pooled", "none"]
"""How the spread of a difference is estimated: `welch` from the groups that it is made of, `pooled` from all groups together."""


class MetricInfo(Protocol):
    """What the values are. `is_share`: a fraction, which sentences show in percentage points; anything else is shown as it is."""

    @property
    def name(self) -> str: ...
    @property
    def is_share(self) -> bool: ...
    @property
    def higher_is_better(self) -> bool: ...


@dataclass(frozen=True)
class Sample:
    """One arm: `values`, the metric of every run that came to its end, and `seeds`, those of the same runs in the same order.

    The other counts are runs without a value: `diverged` is an outcome, `failed` one that raised, was killed or ran out of
    memory, `missing` one that was planned and is queued, running, interrupted or was never made.
    """

    arm: str
    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    diverged: int = 0
    failed: int = 0
    missing: int = 0

    def __post_init__(self) -> None:
        if self.seeds and len(self.seeds) != len(self.values):
            raise ValueError(f"{self.arm}: {len(self.values)} values, but {len(self.seeds)} seeds")

    @property
    def ended(self) -> int:
        """Runs that are a result: with a value, or diverged."""
        return len(self.values) + self.diverged


@dataclass(frozen=True)
class Effect:
    """A difference of means with its interval: all intervals of a family hold together with the confidence asked for.

    `p` is of this difference alone; `p_adjusted` is adjusted for the family and belongs to the interval: it is below
    1 - confidence exactly where the interval excludes 0. `critical`: half the interval's width in standard errors.
    `detectable`: the smallest true difference that this design would have shown with 80 % probability at this spread.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    standard_error: float | None = None
    df: float | None = None
    critical: float | None = None
    detectable: float | None = None
    method: Method = "none"
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def bound(self) -> float | None:
        """The end of the interval that is farther from 0: no effect larger than this."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Probability:
    """That one new run of an arm is better than one new run of the baseline; its interval is of this number alone."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison(Effect):
    """An arm against the baseline, `n` runs against `n_baseline`. `p_holm`: Holm's step-down adjustment of `p`, which can be
    below `p_adjusted` but has no interval (None where the spread is pooled)."""

    arm: str = ""
    baseline: str = ""
    n: int = 0
    n_baseline: int = 0
    p_holm: float | None = None
    probability_better: Probability | None = None


@dataclass(frozen=True)
class Rate:
    """`count` of `total` with Wilson's interval, which is (0, 1) where there is nothing to count."""

    count: int
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """The arm of a factorial grid at `levels` (factor -> level)."""

    levels: Mapping[str, str]
    sample: Sample


@dataclass(frozen=True)
class MainEffect(Effect):
    """`level` against `baseline` of one factor, averaged with equal weights over the combinations of the other factors in which
    both have runs; `combinations` of `of_combinations`. `n` runs at the level, `n_baseline` at the baseline."""

    factor: str = ""
    level: str = ""
    baseline: str = ""
    n: int = 0
    n_baseline: int = 0
    combinations: int = 0
    of_combinations: int = 0


@dataclass(frozen=True)
class Interaction(Effect):
    """How much the effect of `first` (level against its baseline) differs at the level and at the baseline of `second`."""

    first: str = ""
    first_level: str = ""
    first_baseline: str = ""
    second: str = ""
    second_level: str = ""
    second_baseline: str = ""


@dataclass(frozen=True)
class FTest:
    """All contrasts of a term at once, type III. `term`: one factor, or two for their interaction. None where a cell is empty."""

    term: tuple[str, ...]
    statistic: float | None
    df: int
    df_residual: int
    p: float | None


@dataclass(frozen=True)
class MarginalMean:
    """Of one level of one factor, or of one level of each of two: for tables and interaction plots. The interval is of this
    mean alone; cells count equally, and `n` is the number of runs in them."""

    levels: Mapping[str, str]
    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Grid:
    """A factorial analysis. The intervals of `main` are a family, those of `interactions` another. `notes`: what was left out."""

    main: tuple[MainEffect, ...]
    interactions: tuple[Interaction, ...]
    tests: tuple[FTest, ...]
    means: tuple[MarginalMean, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairwise(Effect):
    """`first` minus `second`, one of all pairs of arms or levels (Games-Howell; Tukey-Kramer where pooled)."""

    first: str = ""
    second: str = ""


@dataclass(frozen=True)
class Conditions:
    """What the runs of one arm were made under, as plain values; more than one value per field means that they differ.

    `budgets`: examples or steps that they were to train on, of diverged runs too; `learning_rates`: their peak.
    """

    arm: str
    budgets: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    versions: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What is known beyond the values. `test_size`: images that the metric was counted on; `tuned_over`: the learning rates tried
    for every arm, empty where it was fixed; `tuned`: whether arms stand at levels, of a rate or else, that were chosen for them;
    `never_ended`: arms of which every run was lost at every level; `budget_factors`: factors that are the budget itself, such as
    `trainer.epochs`, and `rate_factors`: those that are the learning rate."""

    conditions: tuple[Conditions, ...] = ()
    test_size: int | None = None
    tuned_over: tuple[float, ...] = ()
    tuned: bool = False
    never_ended: tuple[str, ...] = ()
    budget_factors: tuple[str, ...] = ()
    rate_factors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Threat:
    """A reason to trust the conclusions less. `kind` is a stable name, such as `shared_seeds`."""

    kind: str
    sentence: str
    severity: Severity


@dataclass(frozen=True)
class LevelClaim:
    """What can be said of one level (or arm) against its baseline."""

    level: str
    verdict: Verdict
    sentence: str
    effect: Effect


@dataclass(frozen=True)
class Claim:
    """One factor. Its verdict is the first of supported, not_comparable, underpowered, no_effect_larger_than that a level has;
    `sentence` says all of them, level by level."""

    factor: str
    verdict: Verdict
    sentence: str
    levels: tuple[LevelClaim, ...] = field(default=())
