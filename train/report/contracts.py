"""Inputs and results of the statistics and claims: plain values, independent of files and pages. Arms are named by their ids.

Accuracies and their differences are fractions; percentage points appear only in sentences. `None` means that the runs do not
determine the value, such as an interval from one run; `note` then gives the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, get_args

from train.report.input_facts import InputFacts

Verdict: TypeAlias = Literal["better", "worse", "different", "equivalent", "inconclusive", "not_comparable"]
VERDICTS: dict[str, str] = {verdict: verdict.replace("_", " ") for verdict in get_args(Verdict)}
"""How a verdict reads, in the order of headings."""
Severity: TypeAlias = Literal["note", "caution", "serious"]


SMALLEST_EFFECT = 0.005
"""Half a percentage point: 1.7 binomial standard errors of an accuracy of 90 % on 10,000 test images."""


class MetricInfo(Protocol):
    """The metric that the values belong to. `is_share`: a fraction, which sentences give in percentage points; other metrics keep
    their unit. `higher_is_better`: None where neither direction is."""

    @property
    def name(self) -> str: ...
    @property
    def is_share(self) -> bool: ...
    @property
    def higher_is_better(self) -> bool | None: ...


@dataclass(frozen=True)
class Sample:
    """The results of one arm: `values`, the metric of every completed run, and `seeds`, those of the same runs in the same order.

    The other fields count runs that are in no mean: `diverged` and `untrained`, which learned nothing, are outcomes; `failed`
    runs raised, were killed or ran out of memory; `missing` runs were planned and are queued, running, interrupted or were never
    started.
    """

    arm: str
    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    diverged: int = 0
    failed: int = 0
    missing: int = 0
    untrained: int = 0

    def __post_init__(self) -> None:
        if self.seeds and len(self.seeds) != len(self.values):
            raise ValueError(f"{self.arm}: {len(self.values)} values, but {len(self.seeds)} seeds")

    @property
    def ended(self) -> int:
        """Return the number of runs with a result: a value, divergence, or nothing learned."""
        return len(self.values) + self.diverged + self.untrained


@dataclass(frozen=True)
class Effect:
    """A difference of means with its simultaneous interval: all intervals of a family cover together at the given confidence.

    `p_adjusted` is adjusted for the family and matches the interval: it is below 1 - confidence exactly where the interval
    excludes 0. `detectable`: the minimum detectable effect of this design at this spread, with 80 % power.
    `standard_error`, `df`: of the difference.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    standard_error: float | None = None
    df: float | None = None
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def nearest(self) -> float:
        """Return the end of an interval that excludes 0 which is nearer to 0, as a size; 0 for any other."""
        return min(abs(self.low or 0.0), abs(self.high or 0.0)) if self.excludes_zero else 0.0

    @property
    def bound(self) -> float | None:
        """Return the end of the interval that is farther from 0, an upper bound on the size of the effect."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))


def ends(effect: Effect | None, scale: float = 1.0) -> tuple[float, float, float]:
    """Return the difference and the ends of its interval, times `scale`, as figures draw them: NaN for what is not known."""
    known = (None, None, None) if effect is None else (effect.difference, effect.low, effect.high)
    difference, low, high = (math.nan if value is None else scale * value for value in known)
    return difference, low, high


@dataclass(frozen=True)
class Probability:
    """The probability that a new run of an arm is better than a new run of the baseline, with its own, unadjusted interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison(Effect):
    """The comparison of an arm (`n` runs) with the baseline (`n_baseline` runs)."""

    arm: str = ""
    n: int = 0
    n_baseline: int = 0
    probability_better: Probability | None = None


@dataclass(frozen=True)
class Rate:
    """The share `count` / `total` with Wilson's interval, which is (0, 1) when `total` is 0."""

    count: int
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class Pairwise(Effect):
    """The difference `first` minus `second`, one of all pairs of arms or levels (Games & Howell)."""

    first: str = ""
    second: str = ""


@dataclass(frozen=True)
class Conditions:
    """The conditions under which the runs of one arm were trained; more than one value in a field means that the runs differ.

    `budgets`: training images seen by the completed runs (steps x batch size); `learning_rates`: peak values;
    `device_counts`: on how many devices a run trained; `hosts`: names of machines, of all parts of resumed runs;
    `contradictions`: sentence -> the number of runs, of `ended` ones, whose network lacks a chosen ingredient.
    """

    arm: str
    budgets: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    versions: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    contradictions: Mapping[str, int] = field(default_factory=dict)
    ended: int = 0
    device_counts: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts about the study beyond the values.

    `labels`: arm -> its name in sentences, where that is not its id. `test_size`: images that the metric was evaluated on.
    `tuned_over`: learning rates tried for every arm, empty where the rate was fixed. `tuned`: whether a level (of the learning
    rate or another key) was selected for each arm. `lost_at_every_level`: arms whose runs were all lost at every level.
    `budget_factors`: factors that set the training budget, such as `trainer.epochs`; `rate_factors`: factors that set the
    learning rate. `inputs`: what went into the runs besides their configuration.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    conditions: tuple[Conditions, ...] = ()
    test_size: int | None = None
    tuned_over: tuple[float, ...] = ()
    tuned: bool = False
    lost_at_every_level: tuple[str, ...] = ()
    budget_factors: tuple[str, ...] = ()
    rate_factors: tuple[str, ...] = ()
    inputs: InputFacts = field(default_factory=InputFacts)

    def label(self, arm: str) -> str:
        return self.labels.get(arm, arm)


@dataclass(frozen=True)
class Wording:
    """What sentences need besides the numbers.

    `smallest_effect`: the smallest effect of interest, in units of the metric; `is_default`: whether nobody has set it;
    `confidence`: that of the intervals; `scope`: text that ends every claim, such as "with everything else at its baseline";
    `facts`: what is known of the study and its arms.
    """

    metric: MetricInfo
    smallest_effect: float = SMALLEST_EFFECT
    is_default: bool = True
    confidence: float = 0.95
    scope: str = ""
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True)
class Threat:
    """A threat to the validity of the conclusions. `kind` is a stable name, such as `shared_seeds`."""

    kind: str
    sentence: str
    severity: Severity


@dataclass(frozen=True)
class LevelClaim:
    """The claim about one level (or arm) against its baseline.

    `seeds`: how many per arm would detect the smallest effect of interest; None where that is unknown or needs no more; `tag`:
    a word on the standing of the verdict, such as `exploratory`.
    """

    level: str
    verdict: Verdict
    sentence: str
    effect: Effect
    seeds: int | None = None
    tag: str = ""

    @property
    def heading(self) -> str:
        """Return the verdict and its standing, such as `better (exploratory)`."""
        return _with_tags(VERDICTS[self.verdict], [self.tag])


def _with_tags(text: str, tags: Sequence[str]) -> str:
    """Return a text and the tag that all of `tags` are."""
    return f"{text} ({tags[0]})" if tags and tags[0] and len(set(tags)) == 1 else text


@dataclass(frozen=True)
class Claim:
    """The claims about all levels of one factor, and sentences about its interactions."""

    factor: str
    levels: tuple[LevelClaim, ...]
    interactions: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Return the number of levels by verdict, such as `1 better, 2 inconclusive`; of a single level its verdict."""
        verdicts = [level.verdict for level in self.levels]
        if len(verdicts) == 1:
            return self.levels[0].heading
        counts = ", ".join(f"{verdicts.count(verdict)} {text}" for verdict, text in VERDICTS.items() if verdict in verdicts)
        return _with_tags(counts, [level.tag for level in self.levels])

    @property
    def sentence(self) -> str:
        return " ".join([*(level.sentence for level in self.levels), *self.interactions])
