"""Whether an evaluation gives the numbers of the run's own, to the bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.evaluation.images import Split
from train.run.device import Placement
from train.run.step import Score
from train.store.code import code_difference
from train.store.metrics import decode_float
from train.store.run import Run


@dataclass(frozen=True)
class Equality:
    """Whether accuracy and loss are those in summary.json, to the bit. `equal`: None where there is nothing to compare with."""

    equal: bool | None
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The answer in one line."""
        answer = {True: "yes, to the bit", False: "no", None: "not comparable"}[self.equal]
        return f"{answer}: {self.reason}" if self.reason else answer


def compare_with_run(
    run: Run, split: Split, score: Score, placement: Placement, batch_size: int, differences: str | None
) -> Equality:
    """Compare a score with the run's own. `differences`: how the data differ from the run's, None if it did not record them."""
    if differences:
        return Equality(None, f"other images than the run's ({differences})")
    own = [run.summary.get(f"{split}_{name}") for name in ("accuracy", "loss")]
    if None in own or not run.summary.get(f"{split}_examples"):
        return Equality(None, f"the run, which is {run.state}, has no {split} score of its own")
    pairs = list(zip((score.accuracy, score.loss), map(_number, own), strict=True))
    unknown = "the run did not record its data" if differences is None else ""
    named = dict(zip(("accuracy", "loss"), pairs, strict=True))
    texts = [f"{name} {here!r} here and {there!r} in the run" for name, (here, there) in named.items() if not _same(here, there)]
    if not texts:
        return Equality(True, unknown)
    return Equality(False, "; ".join(filter(None, [*texts, *_causes(run, placement, batch_size), unknown])))


def _causes(run: Run, placement: Placement, batch_size: int) -> list[str]:
    """Return what differs between here and the run that may change bits."""
    here = {"device": placement.describe(), "precision": placement.precision, "memory_format": placement.layout}
    sizes = run.config["trainer"]["batch_size"], batch_size
    differing = {name: value for name, value in here.items() if run.status.get(name) not in (None, value)}
    found = [f"{name}: {run.status[name]} -> {value}" for name, value in differing.items()]
    found += [f"trainer.batch_size: {sizes[0]} -> {sizes[1]}"] if sizes[0] != sizes[1] else []
    return [*found, *filter(None, [code_difference(run.status)])]


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


def _number(value: object) -> float:
    return decode_float(value) if isinstance(value, str | float | int) else math.nan
