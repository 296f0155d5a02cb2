"""The stages of a tuned sweep: levels are tried, one is chosen for each arm, and what is compared is made at it alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from train.report.metric import Metric
from train.report.table_text import value
from train.report.tuning import Level, TunedLevel, choose
from train.store.choices import Choice, Tried
from train.store.manifest import Manifest, PlannedArm
from train.store.run import Run
from train.sweep.design import ComposedArm, Levels
from train.sweep.plan import SweepPlan, seed_by_seed
from train.sweep.ranges import next_settings
from train.sweep.reuse import latest_attempts
from train.sweep.stages import Policy, Stage
from train.text import listed, plural

VALIDATION = Metric("accuracy/val")


@dataclass(frozen=True)
class TuneFirst:
    """The policy that tries levels before the comparison.

    `compare`: returns the policy of the comparison for the plan at the chosen levels; `kept`: the choices that were there when
    the command began, for what is said about the plan.
    """

    plan: SweepPlan
    compare: Callable[[SweepPlan], Policy]
    kept: Mapping[str, Choice] = field(default_factory=dict)

    def stage(self, manifest: Manifest | None) -> Stage:
        """Return the runs that try the levels of arms without a choice; with none left, the stage of the comparison."""
        open_arms = self._open(manifest.choices if manifest else {})
        if open_arms:
            return self._tuning(open_arms, manifest)
        assert manifest is not None
        stage = self._comparison(manifest).stage(manifest)
        return replace(stage, name=stage.name or f"comparison: {plural(len(stage.runs), 'run')} at the chosen levels")

    def decide(self, stage: Stage, manifest: Manifest, runs: Sequence[Run]) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Choose a level for each arm whose levels the stage tries, or name further levels to try."""
        tried = {run.tries for run in stage.runs}
        if not any(tried):
            return self._comparison(manifest).decide(stage, manifest, runs)
        attempts, lines, decided = latest_attempts(runs), list[str](), manifest
        for tuned in self._levels:
            planned = [arm for arm in self._planned(tuned, manifest) if arm.id in tried]
            if planned:
                decided, line = self._decide(tuned, planned, decided, attempts)
                lines.append(f"tuned  {self._name(tuned)}: {line}")
        return {"arms": decided.arms, "runs": decided.runs, "choices": decided.choices}, lines

    def planned(self, manifest: Manifest) -> Manifest:
        """Return the manifest of a stage; that of the comparison with what its policy plans."""
        if any(run.tries for run in manifest.runs):
            return manifest
        return self.compare(self.plan.at({run.arm for run in manifest.runs})).planned(manifest)

    @property
    def lines(self) -> Sequence[str]:
        """The plan in words."""
        keys, tuning = ", ".join(self.plan.tune), self.plan.tuning
        assert tuning is not None
        kept = {tuned: self.kept[tuned] for tuned in self._levels if tuned in self.kept}
        lines = [f"tuned  {self._name(tuned)}: {_text_of_kept(choice)}, as sweep.json has it" for tuned, choice in kept.items()]
        if self._open(self.kept):
            seeds = f"{'seed' if len(tuning.seeds) == 1 else 'seeds'} {listed([str(seed) for seed in tuning.seeds])}"
            share = "" if tuning.epochs == 1 else f" for {100 * tuning.epochs:g} % of the epochs, rounded up"
            lines.append(f"tuning {keys}: each level with the {seeds}{share};")
            lines.append("       then the seeds of the comparison at the level with the best validation accuracy alone")
        return [*lines, *self.compare(self._first_levels).lines]

    @property
    def sizes(self) -> Mapping[str, tuple[int, float]]:
        """The further levels that may be tried, and the comparison."""
        open_arms, tuning = self._open(self.kept), self.plan.tuning
        assert tuning is not None
        comparison = self.compare(self._first_levels)
        if not open_arms:
            return comparison.sizes
        further = len(open_arms) * len(self.plan.ladders) * tuning.extend * len(tuning.seeds)
        beyond = {"to try levels beyond the range, if the best lies at its edge: up to": (further, 1.0)} if further else {}
        compared = {"comparison at the best levels": (len(comparison.stage(None).runs), 1 / tuning.epochs)}
        later = {what: (runs, length / tuning.epochs) for what, (runs, length) in comparison.sizes.items()}
        return {**beyond, **compared, **later}

    def _open(self, choices: Mapping[str, Choice]) -> list[str]:
        return [tuned for tuned in self._levels if tuned not in choices]

    def _comparison(self, manifest: Manifest) -> Policy:
        return self.compare(self.plan.at({choice.arm for choice in manifest.choices.values()}))

    @property
    def _first_levels(self) -> SweepPlan:
        """The plan of a comparison of all arms, at any levels."""
        return replace(self.plan, arms=tuple(arms[0] for arms in self.plan.compared), reserve=())

    def _decide(
        self, tuned: str, planned: Sequence[ComposedArm], manifest: Manifest, attempts: Mapping[str, Run]
    ) -> tuple[Manifest, str]:
        choice = choose([_level(arm, self.plan.setting(arm), attempts) for arm in planned])
        if further := self._further(tuned, planned, choice):
            return _with_trials(manifest, further), _text_of_further(choice, [self.plan.setting(arm) for arm in further])
        return replace(manifest, choices={**manifest.choices, tuned: record_of(choice)}), text_of(choice)

    def _further(self, tuned: str, planned: Sequence[ComposedArm], choice: TunedLevel) -> list[ComposedArm]:
        """Return the arms at the levels that are tried next, as the best one lies at an edge."""
        settings, tried = next_settings(choice, self.plan.ladders), {arm.id for arm in planned}
        return [arm for arm in self._levels[tuned] if arm.id not in tried and self.plan.setting(arm) in settings]

    def _tuning(self, open_arms: Sequence[str], manifest: Manifest | None) -> Stage:
        planned = [arm for tuned in open_arms for arm in self._planned(tuned, manifest)]
        runs = seed_by_seed([arm.trial for arm in planned if arm.trial])
        return Stage(runs, f"tuning: levels of {', '.join(self.plan.tune)} for {plural(len(open_arms), 'arm')}")

    def _planned(self, tuned: str, manifest: Manifest | None) -> Iterator[ComposedArm]:
        """Yield the arms at the levels that are tried: those of the command, and those further ones that `sweep.json` plans."""
        tried = {run.tries for run in manifest.runs} if manifest else set[str]()
        named = {arm.id for arm in self.plan.arms}
        return (arm for arm in self._levels[tuned] if arm.id in named or arm.id in tried)

    @property
    def _levels(self) -> dict[str, list[ComposedArm]]:
        """`tuned` of an arm -> the arm at all levels, those in reserve included."""
        levels: dict[str, list[ComposedArm]] = {arm.tuned: [] for arm in self.plan.arms}  # not those with no possible level
        for arm in (*self.plan.arms, *self.plan.reserve):
            if arm.tuned in levels:
                levels[arm.tuned].append(arm)
        return levels

    def _name(self, tuned: str) -> str:
        levels = self.plan.ingredients(self._levels[tuned][0])
        return " ".join(f"{axis}={level}" for axis, level in levels.items()) or "defaults"


def reopened(manifest: Manifest | None) -> Manifest | None:
    """Return the manifest as a command that repeats the sweep sees it: arms whose levels all failed are tried again."""
    if manifest is None:
        return None
    return replace(manifest, choices={tuned: choice for tuned, choice in manifest.choices.items() if choice.is_final})


def _level(arm: ComposedArm, setting: Levels, attempts: Mapping[str, Run]) -> Level:
    planned = arm.trial.runs if arm.trial else ()
    runs = tuple(attempts[run.identity] for run in planned if run.identity in attempts)
    return Level(arm.id, setting, runs, len(planned))


def _with_trials(manifest: Manifest, arms: Sequence[ComposedArm]) -> Manifest:
    """Return the manifest with further levels that are tried."""
    known = {arm.id for arm in manifest.arms}
    added = [PlannedArm(arm.id, dict(arm.levels), arm.overrides, arm.tuned, arm.data) for arm in arms if arm.id not in known]
    plan = max(0, len(manifest.plans) - 1)
    runs = [replace(run, plan=plan) for run in seed_by_seed([arm.trial for arm in arms if arm.trial])]
    return replace(manifest, arms=(*manifest.arms, *added), runs=(*manifest.runs, *runs))


def record_of(choice: TunedLevel) -> Choice:
    """Return the choice as `sweep.json` has it."""
    tried = tuple(
        Tried(
            level.setting,
            level.mean if math.isfinite(level.mean) else None,
            len(level.values),
            level.diverged,
            level.failed + level.pending,
        )
        for level in choice.levels
    )
    chosen = choice.chosen if choice.was_measured else None
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return Choice(chosen.arm if chosen else "", chosen.setting if chosen else {}, tried, when)


def _text_of_kept(choice: Choice) -> str:
    return " ".join(f"{key}={level}" for key, level in choice.setting.items()) or "no level, as every run was lost"


def text_of(choice: TunedLevel) -> str:
    """Return what was chosen, for the terminal."""
    tried = ", ".join(" ".join(level.setting.values()) for level in choice.levels)
    if not choice.was_measured:
        return f"every run at {tried} diverged or failed, so that there is no level to compare it at"
    return f"{choice.chosen.name} of {tried} (validation accuracy {value(VALIDATION, choice.chosen.mean)})"


def _text_of_further(choice: TunedLevel, settings: Sequence[Levels]) -> str:
    further = ", ".join(" ".join(f"{key}={level}" for key, level in setting.items()) for setting in settings)
    best = f"{choice.chosen.name} is the best and at the edge" if choice.was_measured else "every run was lost"
    return f"{best}; next: {further}"
