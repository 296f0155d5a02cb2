"""Runs sorted into arms, what the arms differ in, and which of them is the baseline.

Where keys are tuned, the configurations that differ in those alone are one arm, which holds the runs at its chosen level; those
at the other levels lie beside it (`train.report.tuning`), so that what is computed of arms is computed of what is compared.
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
from train.report.tuning import Choice, Level, choose
from train.store.identity import SEEDS, arm_id
from train.store.manifest import Design, Manifest
from train.store.overrides import dotted_key, key_of
from train.store.run import Run, State


@dataclass(frozen=True)
class Arm:
    """All runs of one configuration, whatever their seeds. `levels`: factor -> level, for all factors of the study;
    `differences`: those in which it is not at the baseline's level; `planned`: runs, 0 where no plan says; `choice`: where keys
    are tuned, the levels tried and the one at which these runs are."""

    id: str
    levels: Mapping[str, str]
    differences: Mapping[str, str]
    overrides: tuple[str, ...]
    runs: tuple[Run, ...]
    planned: int = 0
    is_baseline: bool = False
    choice: Choice | None = None

    @property
    def label(self) -> str:
        """What it differs in; of the baseline, that it is."""
        if self.is_baseline:
            return "baseline"
        return " ".join(f"{factor}={level}" for factor, level in self.differences.items()) or f"like the baseline ({self.id[:6]})"

    @property
    def full_label(self) -> str:
        """All its levels."""
        return " ".join(f"{factor}={level}" for factor, level in self.levels.items() if level != ABSENT) or "defaults"

    @property
    def set_aside(self) -> tuple[Run, ...]:
        """Its runs at levels that were not chosen."""
        return tuple(run for level in self.choice.others for run in level.runs) if self.choice else ()

    def having(self, *states: State) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.state in states)

    @cached_property
    def missing(self) -> int:
        """Planned and not even begun."""
        return max(self.planned - len(self.runs), 0)


@dataclass(frozen=True)
class Study:
    """`arms`: the baseline first, then as planned or found; `factors`: factor -> its levels, the baseline's first;
    `baseline_because`: one sentence; `tune`: keys of which a level was chosen for every arm; `design`: of the sweep, None for a
    collection of runs."""

    collection: Collection
    arms: tuple[Arm, ...]
    factors: Mapping[str, tuple[str, ...]]
    baseline_because: str
    manifest: Manifest | None = None
    tune: tuple[str, ...] = ()

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    @property
    def design(self) -> Design | None:
        return self.manifest.design if self.manifest else None

    @property
    def runs(self) -> tuple[Run, ...]:
        """Those that are compared."""
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def set_aside(self) -> tuple[Run, ...]:
        """Those that only served to choose a level."""
        return tuple(run for arm in self.arms for run in arm.set_aside)

    @property
    def is_grid(self) -> bool:
        """Whether two factors or more were crossed, so that each has an effect at every level of the others."""
        crossed = [len(levels) for levels in self.factors.values() if len(levels) > 1]
        together = any(len(arm.differences) > 1 for arm in self.arms)
        return len(crossed) > 1 and together and self.design in (None, "grid") and 2 * len(self.arms) > math.prod(crossed)


@dataclass(frozen=True)
class _ArmDraft:
    """An arm before it is known what it is compared with."""

    id: str
    setting: Setting
    overrides: tuple[str, ...]
    runs: tuple[Run, ...]
    planned: int
    planned_levels: Mapping[str, str]
    tuned: str = ""
    choice: Choice | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all configurations that it stands for."""
        return tuple(level.arm for level in self.choice.levels) if self.choice else (self.id,)


def build_study(collection: Collection, baseline: str = "", tune: Sequence[str] = ()) -> Study:
    """`baseline`: the id of an arm or overrides (`init=kaiming norm=none`); empty for the plan's, or a choice that is explained.
    `tune`: keys of which every arm's best level counts; empty for the plan's. UsageError, with what there is, where `baseline`
    names no arm or several, or `tune` nothing that runs have."""
    manifest = _only_manifest(collection)
    found = _find_arms(collection, manifest)
    keys = _tuned_keys(collection, found, tune)
    found = _at_their_best(found, keys, as_planned=not tune) if keys else found
    axes = tuple(manifest.axes) if manifest else factors_of([arm.setting for arm in found])
    factors = tuple(factor for factor in axes if not _concerns(factor, keys))
    levels = {arm.id: _levels(arm, factors) for arm in found}
    chosen, because = _choose(found, levels, baseline, collection)
    ordered = sorted(found, key=lambda arm: arm.id != chosen)
    reference = levels[chosen]
    arms = [
        Arm(
            id=arm.id,
            levels=levels[arm.id],
            differences=_differences(levels[arm.id], reference),
            overrides=arm.overrides,
            runs=arm.runs,
            planned=arm.planned,
            is_baseline=arm.id == chosen,
            choice=arm.choice,
        )
        for arm in ordered
    ]
    spread = {factor: _baseline_first(reference[factor], [levels[arm.id][factor] for arm in ordered]) for factor in factors}
    return Study(collection, tuple(arms), spread, because, manifest, keys)


def _differences(levels: Mapping[str, str], reference: Mapping[str, str]) -> dict[str, str]:
    """Keys that the arm lacks say nothing beside the choice that brought them to the baseline."""
    differing = {factor: level for factor, level in levels.items() if level != reference[factor]}
    return {factor: level for factor, level in differing.items() if level != ABSENT} or differing


def _only_manifest(collection: Collection) -> Manifest | None:
    """The plan, where there is one and it speaks of every run."""
    if len(collection.plans) != 1:
        return None
    manifest = collection.plans[0].manifest
    planned = {arm.id for arm in manifest.arms}
    return manifest if all(run.arm in planned for run in collection.runs) else None


def _find_arms(collection: Collection, manifest: Manifest | None) -> list[_ArmDraft]:
    """As planned, or in the order of their first run's start."""
    by_arm: dict[str, list[Run]] = {}
    for run in sorted(collection.runs, key=lambda run: str(run.status.get("started", ""))):
        by_arm.setdefault(run.arm or run.identity or str(run.folder), []).append(run)
    planned = Counter(run.arm for run in manifest.runs) if manifest else Counter()
    ids = [arm.id for arm in manifest.arms] if manifest else list(by_arm)
    typed = {arm.id: arm for arm in manifest.arms} if manifest else {}
    found = []
    for name in ids:
        runs = sorted(by_arm.get(name, []), key=lambda run: (run.seed, str(run.folder)))
        overrides = typed[name].overrides if name in typed else runs[0].arm_overrides
        setting = setting_of(runs[0]) if runs else _typed_setting(overrides)
        levels = typed[name].levels if name in typed else {}
        tuned = typed[name].tuned if name in typed else ""
        found.append(_ArmDraft(name, setting, tuple(overrides), tuple(runs), planned[name], levels, tuned))
    return found


def _tuned_keys(collection: Collection, found: Sequence[_ArmDraft], asked: Sequence[str]) -> tuple[str, ...]:
    """As dotted keys. Sweeps that do not agree about it tune nothing."""
    if not asked:
        planned = {plan.manifest.tune for plan in collection.plans}
        return tuple(map(dotted_key, planned.pop())) if len(planned) == 1 else ()
    known = {name for arm in found for name in (*arm.setting.choices, *arm.setting.values)}
    for key in (keys := tuple(dict.fromkeys(map(dotted_key, asked)))):
        if key.partition(".")[0] in SEEDS:
            raise UsageError(f"--tune {key}: seeds are what a level is averaged over; choosing the best of them proves nothing.")
        if not any(_concerns(name, [key]) for name in known):
            varied = factors_of([arm.setting for arm in found])
            hint = did_you_mean(key, varied) if varied else "They differ in nothing but their seeds."
            raise UsageError(f"--tune {key}: no run has such a key. Name one in which the runs differ. {hint}")
    return keys


def _concerns(factor: str, keys: Sequence[str]) -> bool:
    """Whether it is one of `keys`, or lies below one."""
    return any(f"{dotted_key(factor)}.".startswith(f"{key}.") for key in keys)


def _at_their_best(found: Sequence[_ArmDraft], keys: Sequence[str], *, as_planned: bool) -> list[_ArmDraft]:
    """Of configurations that differ in `keys` alone the one that is compared, with its choice."""
    groups: dict[str, list[_ArmDraft]] = {}
    typed: dict[tuple[str, ...], str] = {}
    for arm in sorted(found, key=lambda arm: not arm.runs):  # of one without a run, only what was typed is known
        rest = tuple(sorted(line for line in arm.overrides if not _concerns(line, keys)))
        name = (arm.tuned if as_planned else "") or (arm_id(arm.runs[0].config, keys) if arm.runs else typed.get(rest, arm.id))
        typed.setdefault(rest, name)
        groups.setdefault(name, []).append(arm)
    best = []
    for arms in groups.values():
        choice = choose([Level(arm.id, _levels(arm, keys), arm.runs, arm.planned) for arm in arms])
        best.append(replace(next(arm for arm in arms if arm.id == choice.chosen.arm), choice=choice))
    place = {arm.id: i for i, arm in enumerate(found)}
    return sorted(best, key=lambda arm: min(place[name] for name in arm.ids))


def _typed_setting(overrides: Sequence[str]) -> Setting:
    """All that is known of an arm without a run."""
    return Setting({}, {key_of(override): override.partition("=")[2] for override in overrides})


def _levels(arm: _ArmDraft, factors: Sequence[str]) -> dict[str, str]:
    return {factor: arm.planned_levels.get(factor) or arm.setting.level(factor) for factor in factors}


def _baseline_first(level: str, levels: Sequence[str]) -> tuple[str, ...]:
    return (level, *(other for other in levels_in_order(levels) if other != level))


def _choose(
    found: Sequence[_ArmDraft], levels: Mapping[str, Mapping[str, str]], asked: str, collection: Collection
) -> tuple[str, str]:
    """The baseline's id and why it is the baseline."""
    if asked:
        return _named(found, levels, asked), "as asked for."
    owner = {name: arm.id for arm in found for name in arm.ids}
    planned = [owner[plan.manifest.baseline] for plan in collection.plans if plan.manifest.baseline in owner]
    if len(set(planned)) == 1:
        return planned[0], "as planned in the sweep."
    with_runs = [arm for arm in found if arm.runs] or list(found)
    common = {factor: Counter(levels[arm.id][factor] for arm in found).most_common(1)[0][0] for factor in levels[found[0].id]}
    scores = [sum(levels[arm.id][factor] == level for factor, level in common.items()) for arm in with_runs]
    best = [arm for arm, score in zip(with_runs, scores, strict=True) if score == max(scores)]
    fewest = min(len(arm.overrides) for arm in best)
    chosen = next(arm for arm in best if len(arm.overrides) == fewest)  # the first of them to start
    if len(found) == 1:
        return chosen.id, "the only arm."
    return chosen.id, (
        "no plan names one, so it was taken to be the arm that shares most settings with the others, then the one with the "
        "fewest overrides, then the one that started first. --baseline chooses otherwise."
    )


def _named(found: Sequence[_ArmDraft], levels: Mapping[str, Mapping[str, str]], asked: str) -> str:
    by_id = [arm.id for arm in found if any(name == asked or (len(asked) >= 4 and name.startswith(asked)) for name in arm.ids)]
    pairs = [part.lstrip("+").partition("=") for part in asked.split() if "=" in part]
    wanted = {key: level for key, _, level in pairs}
    by_levels = [arm.id for arm in found if wanted and all(arm.setting.level(key) == level for key, level in wanted.items())]
    matching = by_id or by_levels
    if len(matching) == 1:
        return matching[0]
    arms = "\n".join(
        f"  {arm.id}  {' '.join(f'{key}={level}' for key, level in levels[arm.id].items()) or 'defaults'}" for arm in found
    )
    problem = "fits several arms; name more of its settings" if matching else "fits no arm"
    raise UsageError(f"--baseline '{asked}' {problem}. There are:\n{arms}")
