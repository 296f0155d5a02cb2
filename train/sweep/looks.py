"""Sweeps that grow in blocks of seeds, with a planned look at every arm after each block (`sweep.max_seeds`, `sweep.until`).

A look compares every arm that is not decided with the baseline, at the level that `train.report.statistics.sequential` gives it,
so that all looks together make no more false claims than a single one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.errors import UsageError
from train.report.metric import Metric
from train.report.options import ReportOptions
from train.report.sentence_text import at_least, points
from train.store.decisions import MOST_LOOKS, Decision, PlannedLooks
from train.store.manifest import Manifest
from train.store.plans import closing
from train.store.run import Run
from train.sweep.axes import SweepRequest
from train.sweep.design import ComposedArm
from train.sweep.plan import SweepPlan
from train.sweep.settings import SweepSettings
from train.sweep.stages import Stage
from train.text import listed, plural

BLOCK = "as in 'seed=range(5)'"


def validate(request: SweepRequest, settings: SweepSettings, report: ReportOptions) -> None:
    """Check the settings of planned looks. UsageError names the option and the remedy."""
    if settings.until and settings.max_seeds is None:
        remedy = "Say how many seeds an arm gets at most, as in sweep.max_seeds=20."
        raise UsageError(f"sweep.until={settings.until}: an arm without an effect might go on for ever. {remedy}")
    if settings.margin is not None and not settings.until:
        remedy = "Add that, or leave the margin out; report.smallest_effect is that of other sweeps."
        raise UsageError(f"sweep.margin={settings.margin:g}: only sweep.until=decided uses it. {remedy}")
    if settings.max_seeds is None:
        return
    option = f"sweep.max_seeds={settings.max_seeds}"
    if report.pairs:
        raise UsageError(f"{option}: looks compare each arm with the baseline, not all pairs of arms. Omit report.pairs=true.")
    if settings.margin is not None and report.smallest_effect not in (None, settings.margin):
        raise UsageError(
            f"sweep.margin={settings.margin:g}: report.smallest_effect={report.smallest_effect:g} is another limit. Differences "
            "within either do not matter, so leave one of them out."
        )
    axes = {axis.name for axis in request.axes if len(set(axis.levels)) > 1} - set(settings.tuned)
    joined = [axes.intersection(group) for group in settings.zip]
    factors = len(axes) - sum(len(group) - 1 for group in joined if group)
    if settings.design == "grid" and factors > 1:
        remedy = "Use sweep.design=one_at_a_time or leave_one_out, or omit sweep.max_seeds and sweep.until."
        raise UsageError(
            f"{option}: a grid of {factors} factors is compared by averages over the others, not arm by arm. {remedy}"
        )


def in_blocks(request: SweepRequest, settings: SweepSettings) -> tuple[SweepRequest, tuple[int, ...]]:
    """Return the request with the seeds of all blocks, and the seeds per arm at each look; none without `max_seeds`.

    After the seeds of the command come the numbers above them. UsageError when it does not name those of a first block.
    """
    if settings.max_seeds is None:
        return request, ()
    option = f"sweep.max_seeds={settings.max_seeds}"
    if not request.seeds:
        raise UsageError(f"{option}: no seed is an axis. Give the seeds of the first block, {BLOCK}.")
    axis, *others = request.seeds
    if others:
        names = listed([axis.name for axis in request.seeds])
        raise UsageError(f"{option}: blocks of seeds are those of one axis, not of {names}. Give one, {BLOCK}.")
    first = tuple(dict.fromkeys(axis.levels))
    if not all(level.isdecimal() for level in first):
        raise UsageError(f"{option}: {axis.name}={','.join(first)} cannot be continued. Give whole numbers from 0, {BLOCK}.")
    if settings.max_seeds < len(first):
        raise UsageError(f"{option}: the first block has {len(first)} seeds already. Raise the limit, or give fewer, {BLOCK}.")
    start = max(map(int, first)) + 1
    later = tuple(str(seed) for seed in range(start, start + settings.max_seeds - len(first)))
    looks = (*range(len(first), settings.max_seeds, len(first)), settings.max_seeds)
    if len(looks) > MOST_LOOKS:
        least = -(-settings.max_seeds // MOST_LOOKS)
        problem = f"blocks of {plural(len(first), 'seed')} give {len(looks)} looks, and {MOST_LOOKS} is the most"
        raise UsageError(f"{option}: {problem}. Give a larger first block, as in 'seed=range({least})'.")
    return replace(request, seeds=(replace(axis, levels=(*first, *later)),)), looks


def plan_looks(plan: SweepPlan, settings: SweepSettings, report: ReportOptions, looks: tuple[int, ...]) -> PlannedLooks:
    """Return the planned looks at the arms of a plan. UsageError when it has nothing to compare, or seeds make arms differ."""
    option, axis = f"sweep.max_seeds={settings.max_seeds}", plan.request.seeds[0]
    if len(plan.compared) < 2:
        raise UsageError(f"{option}: there is one arm only, so nothing is compared. Give an axis several levels.")
    if any(len(arm.runs) != looks[-1] for arm in plan.arms):
        raise UsageError(f"{option}: {axis.name} changes more than the seed of a run. Sweep a seed that nothing else depends on.")
    names = tuple(arms[0].tuned or arms[0].id for arms in plan.compared)
    return PlannedLooks(axis.key, axis.levels, looks, settings.margin, settings.until is not None, report.metric, names)


def refuse_other_looks(manifest: Manifest | None, planned: PlannedLooks, folder: Path) -> None:
    """Raise UsageError when the arms in the folder were looked at already, in another way than it is planned now."""
    if manifest is None or manifest.planned_looks == planned:
        return
    old, remedy = manifest.planned_looks, "or start another, with seeds that this one does not have: omit hydra.sweep.dir."
    if old is None and (look := closing(manifest.looks)) is not None:
        option = f"sweep.max_seeds={planned.looks[-1]}"
        seen = f"the verdicts of the sweep in {folder} were seen already ({look.when[:16]}), and no look was planned before"
        raise UsageError(f"{option}: {seen}. Leave it out, {remedy}")
    if old is None or not manifest.decisions:
        return
    taken = max(decision.look for decision in manifest.decisions.values())
    raise UsageError(
        f"{_difference(old, planned)}: {plural(taken, 'look')} at the sweep in {folder} {'was' if taken == 1 else 'were'} taken, "
        f"and later ones would not be those that were planned before. Repeat the sweep as it was planned, {remedy}"
    )


def _difference(old: PlannedLooks, new: PlannedLooks) -> str:
    """Return in what the two plans differ, as an option and the value it had."""
    if old.looks != new.looks:
        before, now = old.looks[-1], new.looks[-1]
        was = f"it was {before}" if before != now else f"the blocks had {plural(old.looks[0], 'seed')}, not {new.looks[0]}"
        return f"sweep.max_seeds={now} ({was})"
    if old.seeds != new.seeds or old.axis != new.axis:
        return f"{new.axis} (the seeds were {old.axis}={','.join(old.seeds)})"
    for option, before, now in (
        ("sweep.until", *("decided" if looks.stops else "null" for looks in (old, new))),
        ("sweep.margin", *("null" if looks.margin is None else f"{looks.margin:g}" for looks in (old, new))),
        ("report.metric", old.metric, new.metric),
    ):
        if before != now:
            return f"{option}={now} (it was {before})"
    return f"sweep.max_seeds={new.looks[-1]} (with other arms, another baseline, or from other data)"


@dataclass(frozen=True)
class LookPolicy:
    """The policy of a sweep with planned looks: one block of seeds after the other, for all arms that need it."""

    plan: SweepPlan
    looks: PlannedLooks

    def stage(self, manifest: Manifest | None) -> Stage:
        """Return all runs that the next look counts, or after the last one those that all looks counted."""
        decisions = manifest.decisions if manifest else {}
        look = self.next_look(decisions)
        seeds = self.seeds(decisions, look)
        wanted = {run.identity for name, arms in self.arms.items() for run in arms[0].runs[: seeds[name]]}
        runs = tuple(run for run in self.plan.runs if run.identity in wanted)
        growing = sum(count == self.looks.looks[look - 1] for count in seeds.values()) - 1
        name = f"look {look} of {len(self.looks.looks)}, after {plural(self.looks.looks[look - 1], 'seed')}"
        return Stage(runs, f"{name}: the baseline and {growing} of {plural(len(seeds) - 1, 'other arm')}")

    def decide(self, stage: Stage, manifest: Manifest, runs: Sequence[Run]) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Take the look at the arms that are open."""
        del stage  # the decisions tell which look it is
        from train.report.looks import decision_line, take_look  # imports scipy

        look = self.next_look(manifest.decisions)
        names = [name for name in self.looks.arms[1:] if is_open(manifest.decisions.get(name))]
        if not names:
            return {}, ()
        taken, labels = take_look(manifest, runs, look, names)
        lines = [decision_line(labels[name], decision, self.looks) for name, decision in taken.items()]
        return {"decisions": {**manifest.decisions, **taken}}, list(filter(None, lines))

    def planned(self, manifest: Manifest) -> Manifest:
        """Return the manifest of a stage with the planned looks."""
        return replace(manifest, planned_looks=self.looks)

    @property
    def arms(self) -> dict[str, tuple[ComposedArm, ...]]:
        return dict(zip(self.looks.arms, self.plan.compared, strict=True))

    def next_look(self, decisions: Mapping[str, Decision]) -> int:
        """Return the number of the next look; of the last one that is needed, if there is none."""
        taken = max((decisions[name].look for name in self.looks.arms[1:] if name in decisions), default=0)
        if any(is_open(decisions.get(name)) for name in self.looks.arms[1:]):
            return min(taken + 1, len(self.looks.looks))
        return taken if self.looks.stops else len(self.looks.looks)

    def seeds(self, decisions: Mapping[str, Decision], look: int) -> dict[str, int]:
        """Return the seeds of every arm at a look."""
        now = self.looks.looks[look - 1]
        seeds = dict.fromkeys(self.looks.arms, now)
        if self.looks.stops:
            seeds |= {name: decisions[name].seeds for name in self.looks.arms[1:] if not is_open(decisions.get(name))}
        return seeds

    @property
    def lines(self) -> list[str]:
        """The plan in words."""
        looks, arms, last = self.looks, len(self.looks.arms), self.looks.looks[-1]
        seeds = listed([str(seeds) for seeds in looks.looks])
        least = arms * looks.looks[0]
        runs = f"{least} to {arms * last} runs" if looks.stops and looks.looks[0] < last else f"{arms * last} runs in all"
        lines = [f"looks  after {seeds} seeds per arm, {runs} (sweep.max_seeds={last})"]
        if not looks.stops:
            return [*lines, f"       every arm goes on to {last} seeds; with sweep.until=decided, decided ones stop"]
        if looks.margin is None:
            lines.append("       an arm that is different from the baseline gets no more seeds (sweep.until=decided)")
            lines.append(f"       without sweep.margin, an arm without an effect never stops before {last} seeds")
        else:
            metric = Metric(looks.metric)
            limit = at_least(looks.margin, metric, 2 if metric.is_share else 4) + points(metric)
            lines.append(f"       an arm that is different from the baseline, or equivalent within {limit} (sweep.margin),")
            lines.append("       gets no more seeds (sweep.until=decided)")
        return lines

    @property
    def sizes(self) -> dict[str, tuple[int, float]]:
        """What the sweep may come to, with its number of runs, which are as long as those of a block."""
        arms = len(self.looks.arms)
        return {f"all seeds, to {self.looks.looks[-1]} per arm": (arms * self.looks.looks[-1], 1.0)}


def is_open(decision: Decision | None) -> bool:
    return decision is None or decision.verdict == "open"
