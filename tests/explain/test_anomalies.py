"""`AnomalySearch` against a search of all records at once, on random records."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from tests.harness import thresholds_for
from train.explain.anomalies import GROWTH, HISTORY_LENGTH, LARGE_UPDATE, SMALL_UPDATE, AnomalySearch, Fault
from train.store.metrics import Record
from train.tags import split

THRESHOLDS = thresholds_for()
LAYERS = ("conv1", "act1", "conv2", "head")
USUAL = {
    "activation_std": 1.0,
    "activation_dead": 0.1,
    "activation_nonfinite": 0.0,
    "gradient_std": 0.01,
    "parameter_gradient_norm": 0.1,
    "gradient_nonfinite": 0.0,
    "weight_std": 0.2,
    "update_ratio": 1e-3,
}
ODD = (math.nan, math.inf, -math.inf, 1e-9, 0.0, 0.4, 0.6, 1.0, 5.0, 50.0, 1e4)


def random_records(seed: int) -> Iterator[Record]:
    """Yield records of a run that ends with a replay: steps between those that were observed before."""
    dice = random.Random(seed)
    oddity = dice.choice([0.0, 0.002, 0.02])
    small = dice.random() < 0.3
    steps = [*range(0, 100, 5), *range(81 + dice.randrange(10), 100)]
    for step in steps:
        layers = LAYERS if dice.random() < 0.8 else LAYERS[:2]
        values = {f"{name}/{layer}": value * dice.uniform(0.5, 2) for layer in layers for name, value in USUAL.items()}
        values = {tag: value * 1e-6 if small and tag.startswith("update") else value for tag, value in values.items()}
        yield Record(step, 0, 0, {tag: dice.choice(ODD) if dice.random() < oddity else v for tag, v in values.items()})
        yield Record(step, 0, 0, {"loss/train": dice.choice(ODD)})


class SearchOfAll:
    """The same search, written plainly, over a list of all records."""

    def __init__(self, records: list[Record]) -> None:
        self.observed = [r for r in records if any(split(tag)[0] == "activation_std" for tag in r.values)]
        self.start = self.observed[0].values

    def broken_step(self) -> int | None:
        def is_broken(tag: str, value: float) -> bool:
            name = split(tag)[0]
            return (name not in ("activation_dead",) and not math.isfinite(value)) or ("nonfinite" in name and value > 0)

        return next((r.step for r in self.observed if any(is_broken(*pair) for pair in r.values.items())), None)

    def excess(self) -> tuple[int, str] | None:
        for record in self.observed[1:]:
            ratios = {tag: self.ratio(tag, value) for tag, value in record.values.items() if math.isfinite(value)}
            worst = max(ratios, key=lambda tag: ratios[tag])
            if ratios[worst] >= 1:
                return record.step, worst
        return None

    def ratio(self, tag: str, value: float) -> float:
        """Return a value relative to its limit."""
        name = split(tag)[0]
        if name in GROWTH:
            largest = max((v for other, v in self.start.items() if split(other)[0] == name and v > 0), default=math.inf)
            return value / largest / GROWTH[name]
        if name == "update_ratio":
            return value / LARGE_UPDATE
        rises = name == "activation_dead" and THRESHOLDS.dead > self.start.get(tag, math.inf)
        return value / THRESHOLDS.dead if rises else 0.0

    def small_update(self) -> tuple[int, str] | None:
        pairs = [(v, tag, r.step) for r in self.observed for tag, v in r.values.items() if tag.startswith("update_ratio/")]
        value, tag, step = max(pairs)
        return (step, tag) if value < SMALL_UPDATE else None

    def before(self, fault: Fault) -> tuple[tuple[int, float], ...]:
        tag = fault.history_tag
        return tuple((r.step, r.values[tag]) for r in self.observed if r.step < fault.step and tag in r.values)[-HISTORY_LENGTH:]


@pytest.mark.parametrize("seed", range(60))
def test_search_finds_what_a_search_of_all_records_finds(seed: int) -> None:
    records = list(random_records(seed))
    search, slow = AnomalySearch(THRESHOLDS), SearchOfAll(records)
    for record in records:
        search.add(record)
    assert search.last_step == slow.observed[-1].step
    assert (search.not_finite and search.not_finite.step) == slow.broken_step()
    assert (search.excess and (search.excess.step, f"{search.excess.statistic}/{search.excess.layer}")) == slow.excess()
    found = [fault for fault in (search.not_finite, search.excess) if fault is not None]
    small = search.small_update
    if not found:
        assert (small and (small.step, f"{small.statistic}/{small.layer}")) == slow.small_update()
        found = [] if small is None else [small]
    for fault in found:
        assert repr(search.before(fault)) == repr(slow.before(fault)), "as text, where NaN equals NaN"


def test_random_records_have_every_kind_of_fault() -> None:
    """Otherwise the test above would compare nothing with nothing."""
    found = set()
    for seed in range(60):
        search = AnomalySearch(THRESHOLDS)
        for record in random_records(seed):
            search.add(record)
        found |= {fault.finding for fault in (search.not_finite, search.excess, search.small_update) if fault is not None}
    assert found == {"not_finite", "growth", "large_update", "dying", "small_update"}


def test_search_keeps_as_much_of_a_long_run_as_of_a_short_one() -> None:
    search, sizes = AnomalySearch(THRESHOLDS), []
    for step in range(1000):
        search.add(Record(step, 0, 0, {f"{name}/{layer}": value for layer in LAYERS for name, value in USUAL.items()}))
        sizes.append(sum(len(values) for values in search._values.values()))
    assert sizes[999] == sizes[100] > sizes[10]
