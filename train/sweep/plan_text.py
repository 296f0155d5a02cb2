"""Terminal output about a plan: short before a sweep, complete for a dry run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from train.escape import line
from train.naming import levels_text
from train.report.metric import Metric
from train.report.options import ReportOptions
from train.streams import say
from train.sweep.calibrate import Timing
from train.sweep.design import ComposedArm
from train.sweep.plan import SweepPlan
from train.sweep.reuse import RERUN_KINDS, RunStatus
from train.sweep.settings import Rerun
from train.text import plural, rough_duration

FEW_SEEDS = 5
MAX_DROPS = 10
MAX_REASONS = 3
KIND_TEXT = {
    "done": "done",
    "diverged": "diverged",
    "failed": "failed, interrupted or incomplete",
    "outdated": "made from other data, code or settings",
    "missing": "missing",
}


def show(lines: Iterable[str]) -> None:
    """Print the lines. What they quote from stored runs is a part of its line."""
    say("\n".join(map(line, lines)), wraps=True)


def plan_lines(plan: SweepPlan, statuses: Sequence[RunStatus], rerun: Rerun, folder: Path) -> Iterator[str]:
    """Yield the size of the sweep, its baseline, dropped combinations and reused runs."""
    arms, runs = len(plan.compared), len(statuses)
    per_arm = Counter(status.planned.arm for status in statuses).values()
    seeds, planned_seeds = max(per_arm, default=0), max(len(arm.runs) for arm in plan.arms)
    seeds_text = plural(seeds, "seed") if len(set(per_arm)) == 1 or seeds == planned_seeds else f"up to {plural(seeds, 'seed')}"
    levels = max(len(levels) for levels in plan.compared)
    tries = plan.tuning is None or any(status.planned.tries for status in statuses)
    tried = f" x {plural(levels, 'level')} of {' x '.join(plan.tune)}" if plan.tune and tries else ""
    yield f"sweep  {plural(arms, 'arm')}{tried} x {seeds_text} = {plural(runs, 'run')} ({plan.design}) in {folder}"
    if arms > 1:
        yield f"       baseline: {levels_text(plan.ingredients(plan.baseline)) or 'defaults'}"
    if plan.tune and plan.tuning is None:
        yield f"       {', '.join(plan.tune)}: each arm is compared at the level with the best validation accuracy (sweep.tune)"
        yield "       by the runs that are compared, as this sweep was begun; in a new folder, other seeds choose the level first"
    yield from dropped_lines(plan)
    yield from reuse_lines(statuses, rerun)
    if arms > 1 and planned_seeds < FEW_SEEDS:
        yield f"hint   {few_seeds_hint(planned_seeds)}"


def reuse_lines(statuses: Iterable[RunStatus], rerun: Rerun) -> Iterator[str]:
    """Yield which runs are reused, which are rerun, and why."""
    statuses = list(statuses)
    counts = Counter(status.kind for status in statuses)
    kept = {kind: count for kind, count in counts.items() if kind not in RERUN_KINDS[rerun] and kind != "running"}
    rerun_counts = {kind: count for kind, count in counts.items() if kind in RERUN_KINDS[rerun] and kind != "missing"}
    if kept:
        yield f"       {'reused' if kept.keys() <= {'done', 'diverged'} else 'not rerun'}: {_counts(kept)} (sweep.rerun={rerun})"
    if rerun_counts:
        yield f"       rerun: {_counts(rerun_counts)} (resumed from a checkpoint where possible, else archived in previous/)"
    yield from outdated_lines(statuses)
    if counts["running"]:
        yield f"       skipped: {plural(counts['running'], 'run')} still running in another process"


def outdated_lines(statuses: Iterable[RunStatus]) -> Iterator[str]:
    """Yield why stored runs are not those of the plan, the most frequent reasons first."""
    reasons = Counter((status.reason, status.is_other_code) for status in statuses if status.kind == "outdated")
    for (reason, _), count in reasons.most_common(MAX_REASONS):
        yield f"       {plural(count, 'stored run')}, {reason}"
    if len(reasons) > MAX_REASONS:
        yield f"       and {plural(len(reasons) - MAX_REASONS, 'other reason')}"
    if any(is_other_code for _, is_other_code in reasons):
        yield "       runs by another version of the code are reused only with sweep.reuse_other_code=true"


def dropped_lines(plan: SweepPlan) -> Iterator[str]:
    """Yield a line per dropped combination, named by its levels."""
    constants = set(plan.request.constants.values())
    for item in plan.dropped[:MAX_DROPS]:
        levels = [override for override in item.overrides if override not in constants]
        yield f"       dropped: {' '.join(levels) or 'the unchanged configuration'}: {item.reason}"
    if len(plan.dropped) > MAX_DROPS:
        yield f"       dropped: {len(plan.dropped) - MAX_DROPS} more, listed in sweep.json"


def few_seeds_hint(count: int) -> str:
    """Return the hint for fewer than five seeds: the smallest p of an exact test with n runs per arm is 2 / (2n choose n)."""
    if count == 1:
        return "one seed per arm does not show the spread between runs. Use five: 'seed=range(5)'."
    return (
        f"with {count} seeds no exact test of two arms can reach p < .05, and intervals are wide. Use five: 'seed=range(5)'."
        if count < 4
        else "five seeds per arm are recommended: 'seed=range(5)'."
    )


def arm_lines(plan: SweepPlan) -> Iterator[str]:
    """Yield a line per arm: its name, and the levels of tuned keys that it is tried at."""
    yield "arms"
    for first, *others in plan.compared:
        tried = f"  at {_tried(plan, (first, *others))}" if plan.tune else ""
        yield f"  {plan.names[first.id]}{tried}"


def power_lines(plan: SweepPlan, folder: Path, spread: float | None, report: ReportOptions) -> Iterator[str]:
    """Return which differences of arms the planned seeds can detect. `spread`: between seeds; None: as the runs in `folder`."""
    if report.analysis != "arms":
        return iter(())
    from train.report import power_text  # imports scipy

    metric, seeds = Metric(report.metric), max(len(arm.runs) for arm in plan.arms)
    source = power_text.Spread(spread, "sweep.spread") if spread else power_text.measured_spread(folder, metric)
    return power_text.power_lines(seeds, len(plan.compared) - 1, metric, source, report.smallest_effect)


def estimate_lines(timed: Sequence[Timing], seconds: float | None, runs: int, at_once: int | None) -> Iterator[str]:
    """Yield the estimated run time from the timings of the calibration; `seconds`: wall time of the sweep."""
    if not runs:
        yield "time   no run to launch"
        return
    if seconds is None:
        yield "time   unknown: no arm could be timed"
        return
    steps = [1000 * timing.step_s for timing in timed]
    spread = f"{min(steps):.1f} to {max(steps):.1f} ms per step" if len(steps) > 1 else f"{steps[0]:.1f} ms per step"
    mean_s = sum(timing.run_s for timing in timed) / len(timed)
    parallel = f", {at_once} at a time" if at_once else ", one after the other (how many this launcher runs at once is unknown)"
    yield f"time   about {rough_duration(seconds)} for {plural(runs, 'run')} of about {rough_duration(mean_s)}{parallel}"
    yield f"       timed on {plural(len(timed), 'arm')}: {spread}, {max(t.start_s for t in timed):.1f} s to the first step"


def size_lines(what: str, seconds: float | None, runs: int) -> Iterator[str]:
    """Yield the time of something that the sweep may come to. `seconds`: wall time, None if it is unknown."""
    if seconds is not None:
        yield f"       {what}: {plural(runs, 'run')}, about {rough_duration(seconds)}"


def _tried(plan: SweepPlan, arms: Sequence[ComposedArm]) -> str:
    """Format the tried levels as `optimizer.lr=0.1,0.2`, with the number of combinations if several keys are tuned."""
    levels = {key: list(dict.fromkeys(arm.levels[key] for arm in arms)) for key in plan.tune}
    text = " ".join(f"{key}={','.join(values)}" for key, values in levels.items())
    return f"{text} ({plural(len(arms), 'combination')})" if len(plan.tune) > 1 else text


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {KIND_TEXT[kind]}" for kind, count in counts.items())
