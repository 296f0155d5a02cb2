"""Group runs into arms, find the factors in which the arms differ, and choose the baseline.

With tuned keys, configurations that differ in these keys alone form one arm. `Arm.runs` are the runs at its chosen level; all
others, at other levels or only to try levels, are in `Arm.choice` (`train.report.tuning`). Statistics of arms therefore use only
the runs that are compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from train.errors import UsageError, did_you_mean
from train.naming import arm_names, levels_text
from train.report.collect import Collection, Setting, factors_of, levels_in_order, setting_of
from train.report.joined import joined
from train.report.trials import Trials, trials_of
from train.report.tuning import Level, TunedLevel, choose
from train.store.choices import Tuning
from train.store.identity import SEEDS, arm_id, run_id
from train.store.manifest import Design, Manifest, PlannedArm
from train.store.overrides import dotted_key, key_of
from train.store.run import Run, State


@dataclass(frozen=True, kw_only=True)
class Arm(PlannedArm):
    """All runs of one configuration, whatever their seeds: a planned arm, or one found in folders without a plan.

    `planned`: number of planned runs, 0 without a plan; `choice`: with tuned keys, the levels tried and the chosen one, at which
    these runs are. In a study, `levels` has all its factors, and `labels` the name of the arm.
    """

    runs: tuple[Run, ...]
    planned: int = 0
    choice: TunedLevel | None = None
    is_baseline: bool = False

    @property
    def all_levels(self) -> str:
        """All levels of the arm, as one text."""
        return levels_text(self.levels) or "defaults"

    @property
    def unchosen_runs(self) -> tuple[Run, ...]:
        """The runs at levels that were not chosen, and those that only tried levels."""
        return self.choice.unchosen if self.choice else ()

    def runs_in(self, *states: State) -> tuple[Run, ...]:
        """Return the runs in any of `states`."""
        return tuple(run for run in self.runs if run.state in states)

    @cached_property
    def setting(self) -> Setting:
        """The configuration; for an arm without runs, what its overrides tell."""
        if self.runs:
            return setting_of(self.runs[0])
        return Setting({}, {key_of(override): override.partition("=")[2] for override in self.overrides})

    def levels_of(self, factors: Sequence[str]) -> dict[str, str]:
        """Return factor -> level, as planned or else as configured."""
        return {factor: self.levels.get(factor) or self.setting.level(factor) for factor in factors}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all configurations that the arm includes."""
        return tuple(level.arm for level in self.choice.levels) if self.choice else (self.id,)

    @cached_property
    def missing(self) -> int:
        """The number of planned runs that have not started."""
        return max(self.planned - len(self.runs), 0)


@dataclass(frozen=True)
class Study:
    """The arms that a report compares.

    `arms`: the baseline first, then in the order of the plan, or of their first start; `factors`: factor -> its levels, the
    baseline's first; `baseline_reason`: why it is the baseline, in one sentence; `manifest`: None for runs without one plan that
    covers them all; `tune`: the tuned keys, of which one level was chosen per arm; `tuning`: how runs of their own tried the
    levels, None without such runs.
    """

    collection: Collection
    arms: tuple[Arm, ...]
    factors: Mapping[str, tuple[str, ...]]
    baseline_reason: str
    manifest: Manifest | None = None
    tune: tuple[str, ...] = ()
    tuning: Tuning | None = None

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Arm's id -> its name, by which every output calls it."""
        levels = {arm.id: arm.levels for arm in self.arms}
        return arm_names(levels, self.baseline.id, combinations=self.has_combinations)

    @property
    def design(self) -> Design | None:
        """The design of the sweep; None without a manifest."""
        return self.manifest.design if self.manifest else None

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that are compared."""
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def unchosen_runs(self) -> tuple[Run, ...]:
        """The runs that only served to choose a level."""
        return tuple(run for arm in self.arms for run in arm.unchosen_runs)

    @property
    def is_grid(self) -> bool:
        """Whether at least two factors were crossed, so that each has an effect at every level of the others."""
        crossed = [len({tuple(arm.levels[factor] for factor in group) for arm in self.arms}) for group in self.groups]
        combined = any(len(self.changes(arm)) > 1 for arm in self.arms)
        return len(crossed) > 1 and combined and self.design in (None, "grid") and 2 * len(self.arms) > math.prod(crossed)

    @property
    def has_combinations(self) -> bool:
        """Whether an arm is a combination of levels, and no change of a baseline."""
        return self.design == "grid" or (self.design is None and (self.is_grid or len(sum(self.groups, ())) == 1))

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The varied factors; those that move together are one."""
        return joined(tuple(self.factors), [arm.levels for arm in self.arms])

    def changes(self, arm: Arm) -> tuple[str, ...]:
        """Return the factors in which an arm differs from the baseline; with one of those that move together all of them."""
        reference = self.baseline.levels
        changed = [group for group in self.groups if any(arm.levels[factor] != reference[factor] for factor in group)]
        return tuple(factor for group in changed for factor in group)


def build_study(collection: Collection, baseline: str = "", tune: Sequence[str] = ()) -> Study:
    """Group the runs of `collection` into arms.

    `baseline`: an arm's id or overrides (`init=kaiming norm=none`); empty for the plan's, or else a choice that
    `Study.baseline_reason` explains. `tune`: keys of which the best level per arm is compared; empty for the plan's. UsageError,
    listing what is available, when `baseline` matches no arm or several, or when no run has a key of `tune`.
    """
    trials = trials_of(collection)
    compared = [run for run in collection.runs if run.identity not in trials.runs]
    manifest = _only_manifest(collection, compared)
    arms = _collected_arms(compared, manifest, trials)
    keys = _tuned_keys(collection, arms, tune)
    if tune and set(keys) != {dotted_key(key) for plan in collection.plans for key in plan.manifest.tune}:
        trials = Trials()  # other keys than those that these runs tried
    arms = _choose_levels(arms, keys, trials, as_planned=not tune or bool(trials.runs)) if keys else arms
    axes = tuple(manifest.axes) if manifest else factors_of([arm.setting for arm in arms])
    factors = tuple(factor for factor in axes if not _is_below(factor, keys))
    arms = [replace(arm, levels=arm.levels_of(factors)) for arm in arms]
    study = study_of(collection, arms, *_choose_baseline(arms, baseline, collection))
    return replace(study, manifest=manifest, tune=keys, tuning=trials.tuning)


def study_of(collection: Collection, arms: Sequence[Arm], baseline: str, reason: str) -> Study:
    """Return the study of arms whose levels are known; `baseline`: the id of one, and the `reason` for it."""
    ordered = [replace(arm, is_baseline=arm.id == baseline) for arm in sorted(arms, key=lambda arm: arm.id != baseline)]
    reference = ordered[0].levels
    varied = {factor: _baseline_first(reference[factor], [arm.levels[factor] for arm in ordered]) for factor in reference}
    return Study(collection, tuple(ordered), varied, reason)


def _only_manifest(collection: Collection, compared: Sequence[Run]) -> Manifest | None:
    """Return the manifest if there is exactly one and it includes every run that is compared."""
    if len(collection.plans) != 1:
        return None
    manifest = collection.plans[0].manifest
    planned = {arm.id for arm in manifest.arms}
    return manifest if all(run.arm in planned for run in compared) else None


def _collected_arms(compared: Sequence[Run], manifest: Manifest | None, trials: Trials) -> list[Arm]:
    """Return the arms in the order of the plan, or else of their first start, those whose levels were only tried last."""
    by_arm: dict[str, list[Run]] = {}
    for run in sorted(compared, key=lambda run: str(run.status.get("started", ""))):
        by_arm.setdefault(run.arm or run.identity or str(run.folder), []).append(run)
    if manifest is None:
        with_runs = [Arm(id, {}, _by_seed(runs)[0].arm_overrides, runs=_by_seed(runs)) for id, runs in by_arm.items()]
        return with_runs + [Arm(a.id, a.levels, a.overrides, a.tuned, runs=()) for a in trials.arms if a.id not in by_arm]
    planned = Counter(run.arm for run in manifest.runs if not run.tries)
    return [
        Arm(arm.id, arm.levels, arm.overrides, arm.tuned, runs=_by_seed(by_arm.get(arm.id, ())), planned=planned[arm.id])
        for arm in manifest.arms
    ]


def _by_seed(runs: Sequence[Run]) -> tuple[Run, ...]:
    return tuple(sorted(runs, key=lambda run: (run.seed, str(run.folder))))


def _tuned_keys(collection: Collection, arms: Sequence[Arm], requested: Sequence[str]) -> tuple[str, ...]:
    """Return the tuned keys as dotted keys: the requested ones, or those on which all plans agree. UsageError for a bad key."""
    if not requested:
        planned = {plan.manifest.tune for plan in collection.plans}
        return tuple(map(dotted_key, planned.pop())) if len(planned) == 1 else ()
    available = {name for arm in arms for name in (*arm.setting.choices, *arm.setting.values)}
    for key in (keys := tuple(dict.fromkeys(map(dotted_key, requested)))):
        if key.partition(".")[0] in SEEDS:
            raise UsageError(f"--tune {key}: levels are averaged over seeds, so choosing the best seed proves nothing.")
        if not any(_is_below(name, [key]) for name in available):
            varied = factors_of([arm.setting for arm in arms])
            hint = did_you_mean(key, varied) if varied else "The runs differ only in their seeds."
            raise UsageError(f"--tune {key}: no run has this key. Name a key in which the runs differ. {hint}")
    return keys


def _is_below(factor: str, keys: Sequence[str]) -> bool:
    """Return whether `factor` is one of `keys` or nested in one."""
    return any(f"{dotted_key(factor)}.".startswith(f"{key}.") for key in keys)


def _choose_levels(arms: Sequence[Arm], keys: Sequence[str], trials: Trials, *, as_planned: bool) -> list[Arm]:
    """Merge configurations that differ in `keys` alone into one arm at its chosen level."""
    tuned = {level.arm: name for name, levels in trials.levels.items() for level in levels}
    groups: dict[str, list[Arm]] = {}
    names: dict[tuple[str, ...], str] = {}
    for arm in sorted(arms, key=lambda arm: not arm.runs):  # an arm without runs has no configuration, only overrides
        rest = tuple(sorted(override for override in arm.overrides if not _is_below(override, keys)))
        own = _id_without(arm.runs[0], keys) if arm.runs else names.get(rest, arm.id)
        name = tuned.get(arm.id) or (arm.tuned if as_planned else "") or own
        names.setdefault(rest, name)
        groups.setdefault(name, []).append(arm)
    merged = []
    for name, group in groups.items():
        if name in trials.levels:
            choice = trials.choice(name, {arm.id: arm.runs for arm in group})
        else:
            choice = choose([Level(arm.id, arm.levels_of(keys), arm.runs, arm.planned) for arm in group])
        merged.append(replace(next((arm for arm in group if arm.id == choice.chosen.arm), group[0]), choice=choice))
    position = {arm.id: i for i, arm in enumerate(arms)}
    return sorted(merged, key=lambda arm: min(position.get(name, len(arms)) for name in arm.ids))


def _id_without(run: Run, keys: Sequence[str]) -> str:
    """Return the id that the run shares with those that differ from it in `keys` and seeds alone."""
    return run_id(arm_id(run.config, keys), run.config, run.data)


def _baseline_first(baseline_level: str, levels: Sequence[str]) -> tuple[str, ...]:
    return (baseline_level, *(level for level in levels_in_order(levels) if level != baseline_level))


def _choose_baseline(arms: Sequence[Arm], requested: str, collection: Collection) -> tuple[str, str]:
    """Return the baseline's id and why it is the baseline."""
    if requested:
        return find_baseline(arms, requested), "as requested."
    arm_of = {name: arm.id for arm in arms for name in arm.ids}
    planned = [arm_of[plan.manifest.baseline] for plan in collection.plans if plan.manifest.baseline in arm_of]
    if len(set(planned)) == 1:
        return planned[0], "as planned in the sweep."
    with_runs = [arm for arm in arms if arm.runs] or list(arms)
    common = {factor: Counter(arm.levels[factor] for arm in arms).most_common(1)[0][0] for factor in arms[0].levels}
    scores = [sum(arm.levels[factor] == level for factor, level in common.items()) for arm in with_runs]
    best = [arm for arm, score in zip(with_runs, scores, strict=True) if score == max(scores)]
    fewest = min(len(arm.overrides) for arm in best)
    baseline = next(arm for arm in best if len(arm.overrides) == fewest)  # the first to start
    if len(arms) == 1:
        return baseline.id, "the only arm."
    return baseline.id, (
        "the arm that shares most settings with the others. Ties go to the arm with the fewest overrides, then to the one that "
        "started first. Choose another with --baseline."
    )


def find_baseline(arms: Sequence[Arm], requested: str) -> str:
    """Return the id of the arm that `requested` (an id, its first 4 characters or more, or overrides) matches. UsageError when
    there is none or several."""
    by_id = [
        arm.id
        for arm in arms
        if any(name == requested or (len(requested) >= 4 and name.startswith(requested)) for name in arm.ids)
    ]
    pairs = [part.lstrip("+").partition("=") for part in requested.split() if "=" in part]
    wanted = {key: level for key, _, level in pairs}
    by_levels = [arm.id for arm in arms if wanted and all(arm.setting.level(key) == level for key, level in wanted.items())]
    matching = by_id or by_levels
    if len(matching) == 1:
        return matching[0]
    listed = "\n".join(
        f"  {arm.id}  {' '.join(f'{key}={level}' for key, level in arm.levels.items()) or 'defaults'}" for arm in arms
    )
    problem = "matches several arms; name more of its settings" if matching else "matches no arm"
    raise UsageError(f"--baseline '{requested}' {problem}. The arms are:\n{listed}")
