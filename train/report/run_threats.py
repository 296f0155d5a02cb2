"""Threats that lie in the runs of a page, whatever it asks of them: what every analysis besides that of arms says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from train.report.arms import Study
from train.report.contracts import Threat
from train.report.facts import collect_facts
from train.report.metric import Metric
from train.report.plan_threats import chosen_threats, plan_threats
from train.report.statistics.threats import RANK, condition_threats, input_threats
from train.store.run import FINISHED
from train.text import plural


def with_run_threats(
    own: Iterable[Threat], study: Study, metric: Metric, *, smallest_effect: float | None = None, conditions: bool = True
) -> tuple[Threat, ...]:
    """Return the threats of a page, the most serious first: `own`, and that runs were chosen or differ in what went into them.

    `smallest_effect`: of a page with verdicts on differences, which also says where it does not follow the plan; `conditions`:
    say in which versions of the code, devices and precisions runs differ.
    """
    facts = collect_facts(study, metric)
    planned = chosen_threats(study) if smallest_effect is None else plan_threats(study, metric, smallest_effect)
    found = [*own, *planned, *input_threats(facts), *(condition_threats(facts) if conditions else ())]
    return tuple(sorted(found, key=lambda threat: RANK[threat.severity]))


def missing_runs(study: Study) -> Iterator[Threat]:
    """Yield that runs of the plan did not end or failed."""
    if missing := sum(max(arm.planned, len(arm.runs)) - sum(run.state in FINISHED for run in arm.runs) for arm in study.arms):
        yield Threat(
            "missing_runs", f"{plural(missing, 'run')} of the plan did not end or failed, and may change this.", "caution"
        )
