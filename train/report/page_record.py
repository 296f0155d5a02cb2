"""The record of pages with verdicts in `sweep.json`, by which later pages know what was planned before anybody looked."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from train.errors import UsageError
from train.report.analysis import Analysis
from train.report.standing import is_open
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
    for plan in study.collection.plans:
        manifest = plan.manifest
        planned = {run.identity for run in manifest.runs}
        look = Look(
            when=now(),
            standing=analysis.standing.kind or "exploratory",
            plans=max(1, len(manifest.plans)),
            closes=has_interval and not is_open(manifest, study.collection.runs),
            runs=dict(Counter(run.arm for run in valued if run.identity in planned)),
            metric=analysis.metric.tag,
            level=round(1 - analysis.wording.confidence, 6),
        )
        with suppress(OSError, UsageError):
            add_look(plan.folder, look)
