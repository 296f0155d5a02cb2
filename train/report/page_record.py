"""The record of pages with verdicts in `sweep.json`, by which later pages know what was planned before anybody looked."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from train.errors import UsageError
from train.report.analysis import Analysis
from train.report.standing import is_open
from train.report.statistics.rates import equal_rates_p, rate
from train.store.manifest_update import add_look
from train.store.plans import Look, now


def record_looks(analysis: Analysis) -> None:
    """Add a page with verdicts to the record of every sweep that it shows.

    A sweep whose folder cannot be written, such as somebody else's, is not the reader's to repeat, and keeps no record.
    """
    study, claims = analysis.study, analysis.claims
    if not claims:
        return
    valued = [run for arm in study.arms for run in analysis.runs_with_value(arm)]
    has_interval = any(level.effect.low is not None for claim in claims for level in claim.levels)
    has_test = has_interval or _could_tell_rates(analysis)
    for plan in study.collection.plans:
        manifest = plan.manifest
        planned = {run.identity for run in manifest.runs}
        look = Look(
            when=now(),
            standing=analysis.standing.kind or "exploratory",
            plans=max(1, len(manifest.plans)),
            closes=has_test and not is_open(manifest, study.collection.runs),
            runs=dict(Counter(run.arm for run in valued if run.identity in planned)),
            metric=analysis.metric.tag,
            level=round(1 - analysis.wording.confidence, 6),
        )
        with suppress(OSError, UsageError):
            add_look(plan.folder, look)


def _could_tell_rates(analysis: Analysis) -> bool:
    """Return whether two arms have so many runs that the rates at which they trained or diverged could differ significantly.

    Pages without an interval compare the rates, too. A test that cannot reject with so few runs is no chance for a false claim.
    """
    *_, fewer, more = [0, 0, *sorted(each.total for each in analysis.rates.values())]
    return fewer > 0 and equal_rates_p([(rate(fewer, fewer), rate(0, more))]) < 1 - analysis.wording.confidence
