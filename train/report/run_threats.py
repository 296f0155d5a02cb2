"""Threats that lie in the runs of a page, whatever it asks of them: what every analysis besides that of arms says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from train.report.arms import Study
from train.report.contracts import Threat
from train.report.facts import collect_facts
from train.report.metric import Metric
from train.report.statistics.threats import RANK, condition_threats, input_threats
from train.store.run import FINISHED
from train.text import plural


def run_threats(study: Study, metric: Metric, *, conditions: bool = True) -> Iterator[Threat]:
    """Yield that runs are not what their arms say, or differ in what went into them.

    `conditions`: also in which versions of the code, devices and precisions they differ.
    """
    facts = collect_facts(study, metric)
    yield from input_threats(facts)
    yield from condition_threats(facts) if conditions else ()


def missing_runs(study: Study) -> Iterator[Threat]:
    """Yield that runs of the plan did not end or failed."""
    if missing := sum(max(arm.planned, len(arm.runs)) - sum(run.state in FINISHED for run in arm.runs) for arm in study.arms):
        yield Threat(
            "missing_runs", f"{plural(missing, 'run')} of the plan did not end or failed, and may change this.", "caution"
        )


def ranked(threats: Iterable[Threat]) -> tuple[Threat, ...]:
    """Return threats, the most serious first."""
    return tuple(sorted(threats, key=lambda threat: RANK[threat.severity]))
