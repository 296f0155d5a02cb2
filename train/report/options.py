"""The options of a report, as the keys of `report` and the command line give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Gt

from train.report.metric import DEFAULT

AnalysisName: TypeAlias = Literal["arms", "variance", "budget", "width", "depth"]
"""What a page can answer: which arm is better, or what `train.report.analyses` has."""


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report: the keys of `report`, documented in `conf/config.yaml`, and two of `train-report` alone.

    `analysis`: what the page answers, see `train.report.analyses`, None for what the plan names; `metric`: a tag, such as
    accuracy/test; `baseline`: an arm's id or overrides, empty for the plan's; `pairs`: compare all pairs
    of arms; `smallest_effect`: the smallest effect of interest, in the metric's unit (a fraction for accuracies), None for the
    default; `tensorboard`: also write charts of the arms into the folder of the runs; `tune`: tuned keys, of which a level is
    chosen per arm, empty for those of the sweep.
    """

    metric: str = DEFAULT
    baseline: str = ""
    pairs: bool = False
    smallest_effect: Annotated[float, Gt(0)] | None = None
    tensorboard: bool = True
    tune: tuple[str, ...] = ()
    analysis: AnalysisName | None = None
