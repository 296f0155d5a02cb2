"""Group runs into arms, find the factors in which the arms differ, and choose the baseline.

With tuned keys, configurations that differ in these keys alone form one arm. `Arm.runs` are the runs at its chosen level; runs at
the other levels are in `Arm.choice` (`train.report.tuning`). Statistics of arms therefore use only the runs that are compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from train.errors import UsageError, did_you_mean
from train.report.collect import Collection
from train.report.levels import ABSENT, Setting, factors_of, levels_in_order, setting_of
from train.report.tuning import Level, TunedLevel, choose
from train.store.identity import SEEDS, arm_id
from train.store.manifest import Design, Manifest
from train.store.overrides import dotted_key, key_of
from train.store.run import Run, State


@dataclass(frozen=True)
class Arm:
    """All runs of one configuration, whatever their seeds.

    `levels`: factor -> level, for all factors of the study; `differences`: the factors whose level is not the baseline's;
    `planned`: number of planned runs, 0 without a plan; `choice`: with tuned keys, the levels tried and the chosen one, at which
    these runs are.
    """

    id: str
    levels: Mapping[str, str]
    differences: Mapping[str, str]
    overrides: tuple[str, ...]
    runs: tuple[Run, ...]
    planned: int = 0
    is_baseline: bool = False
    choice: TunedLevel | None = None

    @property
    def label(self) -> str:
        """`baseline`, or the factors in which the arm differs from it."""
        if self.is_baseline:
            return "baseline"
        return " ".join(f"{factor}={level}" for factor, level in self.differences.items()) or f"like the baseline ({self.id[:6]})"

    @property
    def full_label(self) -> str:
        """All levels of the arm."""
        return " ".join(f"{factor}={level}" for factor, level in self.levels.items() if level != ABSENT) or "defaults"

    @property
    def unchosen_runs(self) -> tuple[Run, ...]:
        """The runs at levels that were not chosen."""
        return tuple(run for level in self.choice.others for run in level.runs) if self.choice else ()

    def runs_in(self, *states: State) -> tuple[Run, ...]:
        """Return the runs in any of `states`."""
        return tuple(run for run in self.runs if run.state in states)

    @cached_property
    def missing(self) -> int:
        """The number of planned runs that have not started."""
        return max(self.planned - len(self.runs), 0)


@dataclass(frozen=True)
class Study:
    """The arms that a report compares.

    `arms`: the baseline first, then in the order of the plan, or of their first start; `factors`: factor -> its levels, the
    baseline's first; `baseline_reason`: why it is the baseline, in one sentence; `manifest`: None for runs without one plan that
    covers them all; `tune`: the tuned keys, of which one level was chosen per arm.
    """

    collection: Collection
    arms: tuple[Arm, ...]
    factors: Mapping[str, tuple[str, ...]]
    baseline_reason: str
    manifest: Manifest | None = None
    tune: tuple[str, ...] = ()

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Arm's id -> unique label: two arms have the same when they differ in something that is no factor of the plan."""
        plain = Counter(arm.label for arm in self.arms)
        return {arm.id: f"{arm.label} ({arm.id[:6]})" if plain[arm.label] > 1 else arm.label for arm in self.arms}

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
        crossed = [len(levels) for levels in self.factors.values() if len(levels) > 1]
        combined = any(len(arm.differences) > 1 for arm in self.arms)
        return len(crossed) > 1 and combined and self.design in (None, "grid") and 2 * len(self.arms) > math.prod(crossed)


@dataclass(frozen=True)
class _ArmDraft:
    """An arm before the baseline is known."""

    id: str
    setting: Setting
    overrides: tuple[str, ...]
    runs: tuple[Run, ...]
    planned: int
    planned_levels: Mapping[str, str]
    tuned: str = ""
    choice: TunedLevel | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all configurations that the arm includes."""
        return tuple(level.arm for level in self.choice.levels) if self.choice else (self.id,)


def build_study(collection: Collection, baseline: str = "", tune: Sequence[str] = ()) -> Study:
    """Group the runs of `collection` into arms.

    `baseline`: an arm's id or overrides (`init=kaiming norm=none`); empty for the plan's, or else a choice that
    `Study.baseline_reason` explains. `tune`: keys of which the best level per arm is compared; empty for the plan's. UsageError,
    listing what is available, when `baseline` matches no arm or several, or when no run has a key of `tune`.
    """
    manifest = _only_manifest(collection)
    drafts = _draft_arms(collection, manifest)
    keys = _tuned_keys(collection, drafts, tune)
    drafts = _choose_levels(drafts, keys, as_planned=not tune) if keys else drafts
    axes = tuple(manifest.axes) if manifest else factors_of([arm.setting for arm in drafts])
    factors = tuple(factor for factor in axes if not _is_below(factor, keys))
    levels = {arm.id: _levels(arm, factors) for arm in drafts}
    baseline_id, reason = _choose_baseline(drafts, levels, baseline, collection)
    ordered = sorted(drafts, key=lambda arm: arm.id != baseline_id)
    reference = levels[baseline_id]
    arms = [
        Arm(
            id=arm.id,
            levels=levels[arm.id],
            differences=_differences(levels[arm.id], reference),
            overrides=arm.overrides,
            runs=arm.runs,
            planned=arm.planned,
            is_baseline=arm.id == baseline_id,
            choice=arm.choice,
        )
        for arm in ordered
    ]
    varied = {factor: _baseline_first(reference[factor], [levels[arm.id][factor] for arm in ordered]) for factor in factors}
    return Study(collection, tuple(arms), varied, reason, manifest, keys)


def _differences(levels: Mapping[str, str], reference: Mapping[str, str]) -> dict[str, str]:
    """Return the levels that differ from `reference`. Absent keys are dropped when another factor explains their absence."""
    differing = {factor: level for factor, level in levels.items() if level != reference[factor]}
    return {factor: level for factor, level in differing.items() if level != ABSENT} or differing


def _only_manifest(collection: Collection) -> Manifest | None:
    """Return the manifest if there is exactly one and it includes every run."""
    if len(collection.plans) != 1:
        return None
    manifest = collection.plans[0].manifest
    planned = {arm.id for arm in manifest.arms}
    return manifest if all(run.arm in planned for run in collection.runs) else None


def _draft_arms(collection: Collection, manifest: Manifest | None) -> list[_ArmDraft]:
    """Return the arms in the order of the plan, or else of their first start."""
    by_arm: dict[str, list[Run]] = {}
    for run in sorted(collection.runs, key=lambda run: str(run.status.get("started", ""))):
        by_arm.setdefault(run.arm or run.identity or str(run.folder), []).append(run)
    run_counts = Counter(run.arm for run in manifest.runs) if manifest else Counter()
    ids = [arm.id for arm in manifest.arms] if manifest else list(by_arm)
    planned = {arm.id: arm for arm in manifest.arms} if manifest else {}
    drafts = []
    for name in ids:
        runs = sorted(by_arm.get(name, []), key=lambda run: (run.seed, str(run.folder)))
        overrides = planned[name].overrides if name in planned else runs[0].arm_overrides
        setting = setting_of(runs[0]) if runs else _setting_from_overrides(overrides)
        levels = planned[name].levels if name in planned else {}
        tuned = planned[name].tuned if name in planned else ""
        drafts.append(_ArmDraft(name, setting, tuple(overrides), tuple(runs), run_counts[name], levels, tuned))
    return drafts


def _tuned_keys(collection: Collection, drafts: Sequence[_ArmDraft], requested: Sequence[str]) -> tuple[str, ...]:
    """Return the tuned keys as dotted keys: the requested ones, or those on which all plans agree. UsageError for a bad key."""
    if not requested:
        planned = {plan.manifest.tune for plan in collection.plans}
        return tuple(map(dotted_key, planned.pop())) if len(planned) == 1 else ()
    available = {name for arm in drafts for name in (*arm.setting.choices, *arm.setting.values)}
    for key in (keys := tuple(dict.fromkeys(map(dotted_key, requested)))):
        if key.partition(".")[0] in SEEDS:
            raise UsageError(f"--tune {key}: levels are averaged over seeds, so choosing the best seed proves nothing.")
        if not any(_is_below(name, [key]) for name in available):
            varied = factors_of([arm.setting for arm in drafts])
            hint = did_you_mean(key, varied) if varied else "The runs differ only in their seeds."
            raise UsageError(f"--tune {key}: no run has this key. Name a key in which the runs differ. {hint}")
    return keys


def _is_below(factor: str, keys: Sequence[str]) -> bool:
    """Return whether `factor` is one of `keys` or nested in one."""
    return any(f"{dotted_key(factor)}.".startswith(f"{key}.") for key in keys)


def _choose_levels(drafts: Sequence[_ArmDraft], keys: Sequence[str], *, as_planned: bool) -> list[_ArmDraft]:
    """Merge configurations that differ in `keys` alone into one arm at its chosen level."""
    groups: dict[str, list[_ArmDraft]] = {}
    names: dict[tuple[str, ...], str] = {}
    for arm in sorted(drafts, key=lambda arm: not arm.runs):  # an arm without runs has no configuration, only overrides
        rest = tuple(sorted(override for override in arm.overrides if not _is_below(override, keys)))
        name = (arm.tuned if as_planned else "") or (arm_id(arm.runs[0].config, keys) if arm.runs else names.get(rest, arm.id))
        names.setdefault(rest, name)
        groups.setdefault(name, []).append(arm)
    merged = []
    for arms in groups.values():
        choice = choose([Level(arm.id, _levels(arm, keys), arm.runs, arm.planned) for arm in arms])
        merged.append(replace(next(arm for arm in arms if arm.id == choice.chosen.arm), choice=choice))
    position = {arm.id: i for i, arm in enumerate(drafts)}
    return sorted(merged, key=lambda arm: min(position[name] for name in arm.ids))


def _setting_from_overrides(overrides: Sequence[str]) -> Setting:
    """Return what is known of an arm without a run."""
    return Setting({}, {key_of(override): override.partition("=")[2] for override in overrides})


def _levels(arm: _ArmDraft, factors: Sequence[str]) -> dict[str, str]:
    return {factor: arm.planned_levels.get(factor) or arm.setting.level(factor) for factor in factors}


def _baseline_first(baseline_level: str, levels: Sequence[str]) -> tuple[str, ...]:
    return (baseline_level, *(level for level in levels_in_order(levels) if level != baseline_level))


def _choose_baseline(
    drafts: Sequence[_ArmDraft], levels: Mapping[str, Mapping[str, str]], requested: str, collection: Collection
) -> tuple[str, str]:
    """Return the baseline's id and why it is the baseline."""
    if requested:
        return _find_baseline(drafts, levels, requested), "as requested."
    arm_of = {name: arm.id for arm in drafts for name in arm.ids}
    planned = [arm_of[plan.manifest.baseline] for plan in collection.plans if plan.manifest.baseline in arm_of]
    if len(set(planned)) == 1:
        return planned[0], "as planned in the sweep."
    with_runs = [arm for arm in drafts if arm.runs] or list(drafts)
    common = {factor: Counter(levels[arm.id][factor] for arm in drafts).most_common(1)[0][0] for factor in levels[drafts[0].id]}
    scores = [sum(levels[arm.id][factor] == level for factor, level in common.items()) for arm in with_runs]
    best = [arm for arm, score in zip(with_runs, scores, strict=True) if score == max(scores)]
    fewest = min(len(arm.overrides) for arm in best)
    baseline = next(arm for arm in best if len(arm.overrides) == fewest)  # the first to start
    if len(drafts) == 1:
        return baseline.id, "the only arm."
    return baseline.id, (
        "no plan names a baseline, so this is the arm that shares most settings with the others. Ties go to the arm with the "
        "fewest overrides, then to the one that started first. Choose another with --baseline."
    )


def _find_baseline(drafts: Sequence[_ArmDraft], levels: Mapping[str, Mapping[str, str]], requested: str) -> str:
    """Return the id of the arm that `requested` (an id, its first 4 characters or more, or overrides) matches. UsageError when
    there is none or several."""
    by_id = [
        arm.id
        for arm in drafts
        if any(name == requested or (len(requested) >= 4 and name.startswith(requested)) for name in arm.ids)
    ]
    pairs = [part.lstrip("+").partition("=") for part in requested.split() if "=" in part]
    wanted = {key: level for key, _, level in pairs}
    by_levels = [arm.id for arm in drafts if wanted and all(arm.setting.level(key) == level for key, level in wanted.items())]
    matching = by_id or by_levels
    if len(matching) == 1:
        return matching[0]
    arms = "\n".join(
        f"  {arm.id}  {' '.join(f'{key}={level}' for key, level in levels[arm.id].items()) or 'defaults'}" for arm in drafts
    )
    problem = "matches several arms; name more of its settings" if matching else "matches no arm"
    raise UsageError(f"--baseline '{requested}' {problem}. The arms are:\n{arms}")
