"""The runs of a sweep that only try the levels of tuned keys, and the choices that it made from them before the comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from train.report.collect import ABSENT, Collection
from train.report.tuning import Level, TunedLevel, choose
from train.store.choices import Choice, Tuning
from train.store.manifest import PlannedArm
from train.store.overrides import dotted_key
from train.store.run import Run


@dataclass(frozen=True)
class Trials:
    """What the plans of a collection say of runs that try levels.

    `runs`: identities of these runs; `arms`: those that they try; `levels`: `tuned` of an arm -> its levels, with these runs;
    `choices`: `tuned` -> the stored choice; `tuning`: how the levels were tried, None without such runs.
    """

    runs: frozenset[str] = frozenset()
    arms: tuple[PlannedArm, ...] = ()
    levels: Mapping[str, Sequence[Level]] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    tuning: Tuning | None = None

    def choice(self, tuned: str, compared: Mapping[str, tuple[Run, ...]]) -> TunedLevel:
        """Return the stored choice for an arm, else what its runs show so far.

        `compared`: by the id of the configuration, runs of the arm that try no level.
        """
        choice, stored = choose(self.levels[tuned]), self.choices.get(tuned)
        kept = next((level for level in choice.levels if stored and level.arm == stored.arm), None)
        chosen = kept or choice.chosen  # of runs that have been deleted, the choice stays
        others = tuple(run for arm, runs in compared.items() if arm != chosen.arm for run in runs)
        return TunedLevel(choice.levels, chosen, compared.get(chosen.arm, ()), others, is_kept=kept is not None)


def trials_of(collection: Collection) -> Trials:
    """Return the trials of all plans of a collection."""
    manifests = [plan.manifest for plan in collection.plans if plan.manifest.tuning]
    planned = {run.identity: run.tries for manifest in manifests for run in manifest.runs if run.tries}
    if not planned:
        return Trials()
    tried: dict[str, list[Run]] = {}
    for run in collection.runs:
        if run.identity in planned:
            tried.setdefault(planned[run.identity], []).append(run)
    counts = Counter(planned.values())
    levels: dict[str, list[Level]] = {}
    arms = {arm.id: (arm, manifest.tune) for manifest in manifests for arm in manifest.arms if arm.id in counts}
    for arm, keys in arms.values():
        setting = {dotted_key(key): arm.levels.get(key, ABSENT) for key in keys}
        levels.setdefault(arm.tuned, []).append(Level(arm.id, setting, tuple(tried.get(arm.id, ())), counts[arm.id]))
    choices = {tuned: choice for manifest in reversed(manifests) for tuned, choice in manifest.choices.items()}
    return Trials(frozenset(planned), tuple(arm for arm, _ in arms.values()), levels, choices, manifests[0].tuning)
