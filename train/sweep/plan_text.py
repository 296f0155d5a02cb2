"""What the terminal says of a plan: briefly before a sweep, in full for a dry run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from train.sinks.number_text import plural
from train.sweep.arm import ComposedArm
from train.sweep.calibrate import Timing
from train.sweep.plan import SweepPlan
from train.sweep.reuse import RERUN_KINDS, RunStatus
from train.sweep.settings import Rerun

FEW_SEEDS = 5
SHOWN_DROPS = 10
KEPT = {
    "done": "done",
    "diverged": "diverged",
    "failed": "failed or interrupted",
    "outdated": "made by other code",
    "missing": "missing",
}


def plan_lines(plan: SweepPlan, standings: Sequence[RunStatus], rerun: Rerun, folder: Path) -> Iterator[str]:
    """Lines: size, baseline, what is dropped, what is there already."""
    arms, runs = len(plan.compared), len(standings)
    seeds = max(len(arm.runs) for arm in plan.arms)
    levels = max(len(levels) for levels in plan.compared)
    tried = f" x {plural(levels, 'level')} of {' x '.join(plan.tune)}" if plan.tune else ""
    yield f"sweep  {plural(arms, 'arm')}{tried} x {plural(seeds, 'seed')} = {plural(runs, 'run')} ({plan.design}) in {folder}"
    if arms > 1:
        yield f"       baseline: {_pairs(plan.ingredients(plan.baseline)) or 'defaults'}"
    if plan.tune:
        yield f"       {', '.join(plan.tune)}: each arm is compared at the level with the best validation accuracy (sweep.tune)"
    yield from dropped_lines(plan)
    yield from reuse_lines(standings, rerun)
    if arms > 1 and seeds < FEW_SEEDS:
        yield f"hint   {few_seeds_hint(seeds)}"


def reuse_lines(standings: Iterable[RunStatus], rerun: Rerun) -> Iterator[str]:
    """What is kept, what is made again and why."""
    counts = Counter(standing.kind for standing in standings)
    kept = {kind: count for kind, count in counts.items() if kind not in RERUN_KINDS[rerun] and kind != "running"}
    again = {kind: count for kind, count in counts.items() if kind in RERUN_KINDS[rerun] and kind != "missing"}
    if kept:
        yield f"       not made again: {_kinds(kept)} (sweep.rerun={rerun})"
    if again:
        yield f"       made again: {_kinds(again)}; what cannot go on from a checkpoint moves to previous/ first"
    if "outdated" in again:
        yield "       runs by another version of the code count only with sweep.reuse_other_code=true"
    if counts["running"]:
        yield f"       left alone: {plural(counts['running'], 'run')} still going on in another process"


def dropped_lines(plan: SweepPlan) -> Iterator[str]:
    """Each by what varies in it."""
    constants = set(plan.request.constants.values())
    for item in plan.dropped[:SHOWN_DROPS]:
        levels = [override for override in item.overrides if override not in constants]
        yield f"       dropped: {' '.join(levels) or 'the configuration as it is'}: {item.reason}"
    if len(plan.dropped) > SHOWN_DROPS:
        yield f"       dropped: {len(plan.dropped) - SHOWN_DROPS} more, listed in sweep.json"


def few_seeds_hint(count: int) -> str:
    """Why five: with n runs a side, an exact test of two arms has the smallest p of 2 / (2n over n)."""
    if count == 1:
        return "one seed per arm says nothing about chance. Take five: seed=range(5)."
    return (
        f"with {count} seeds no exact test of two arms can reach p < .05 and intervals are wide. Take five: seed=range(5)."
        if count < 4
        else "five seeds per arm are advised: seed=range(5)."
    )


def arm_lines(plan: SweepPlan) -> Iterator[str]:
    """One line per arm: in what it differs from the baseline, and at which levels of tuned keys it is tried."""
    yield "arms"
    baseline = plan.ingredients(plan.baseline)
    for first, *others in plan.compared:
        levels = plan.ingredients(first)
        differs = {axis: level for axis, level in levels.items() if baseline.get(axis) != level}
        lead, text = ("baseline", _pairs(levels)) if first is plan.baseline else ("", _pairs(differs))
        tried = f"  at {_tried(plan, (first, *others))}" if plan.tune else ""
        yield f"  {lead:8}  {text or 'the configuration as it is'}{tried}"


def estimate_lines(timed: Sequence[Timing], seconds: float | None, runs: int, at_once: int | None) -> Iterator[str]:
    """From the calibration."""
    if not runs:
        yield "time   nothing to run"
        return
    if seconds is None:
        yield "time   unknown: no arm could be timed"
        return
    steps = [1000 * timing.step_s for timing in timed]
    spread = f"{min(steps):.1f} to {max(steps):.1f} ms a step" if len(steps) > 1 else f"{steps[0]:.1f} ms a step"
    each = sum(timing.run_s for timing in timed) / len(timed)
    where = f", {at_once} at a time" if at_once else ", one after the other (how many this launcher runs at once is not known)"
    yield f"time   about {rough_duration(seconds)} for {plural(runs, 'run')} of about {rough_duration(each)}{where}"
    yield f"       timed on {plural(len(timed), 'arm')}: {spread}, {max(t.start_s for t in timed):.1f} s to the first step"


def rough_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _tried(plan: SweepPlan, arms: Sequence[ComposedArm]) -> str:
    """`optimizer.lr=0.1,0.2`, and how many combinations those are of several keys."""
    levels = {key: list(dict.fromkeys(arm.levels[key] for arm in arms)) for key in plan.tune}
    said = " ".join(f"{key}={','.join(tried)}" for key, tried in levels.items())
    return f"{said} ({plural(len(arms), 'combination')})" if len(plan.tune) > 1 else said


def _pairs(levels: Mapping[str, str]) -> str:
    return " ".join(f"{axis}={level}" for axis, level in levels.items())


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {KEPT[kind]}" for kind, count in counts.items())
