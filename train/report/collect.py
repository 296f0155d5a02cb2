"""Collect the runs and plans in the given folders, note what is excluded, and find the factors in which arms differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.command import left_out
from train.errors import UsageError
from train.naming import ABSENT
from train.store.files import MANIFEST_FILE
from train.store.identity import PLACE, SEEDS, experiment_of
from train.store.manifest import Manifest, PlannedRun, read_manifest, upgraded_manifest
from train.store.notes import is_archived
from train.store.overrides import flatten, text
from train.store.run import FINISHED, Run, State, find_runs, read_run, subfolders
from train.store.sharing import Shared
from train.store.unrecorded import with_known_data
from train.text import plural

FAILED: tuple[State, ...] = ("failed", "lost")


@dataclass(frozen=True)
class ExcludedRun:
    """A folder whose run is not counted, and the reason."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep's manifest (`sweep.json`) and its folder."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Subset:
    """Which of the runs in folders a page is on.

    `conditions`: that hold for them, as typed; `total`: the number of all runs; `is_chosen`: somebody chose the conditions, else
    it is the largest group of runs that can be compared; `by_result`: they speak of what came out of the runs; `rest`: of each of
    the other groups its conditions and the number of its runs.
    """

    conditions: tuple[str, ...]
    runs: int
    total: int
    is_chosen: bool = True
    by_result: bool = False
    rest: tuple[tuple[tuple[str, ...], int], ...] = ()

    @property
    def sentence(self) -> str:
        """What the page is on, in one sentence."""
        why = "chosen by" if self.is_chosen else "the most that have the same data and budget:"
        return f"The report is on {self.runs} of {plural(self.total, 'run')}, {why} {' '.join(self.conditions)}."


@dataclass(frozen=True)
class Collection:
    """The content of `folders`.

    `runs`: each experiment once, in the order of their folders; `unreadable` and `duplicates`: folders that are excluded;
    `table`: what was read of a table of runs that were not made here, the only one of `folders` then, empty for run folders;
    `subset`: None where it has all runs in `folders`.
    """

    folders: tuple[Path, ...]
    runs: tuple[Run, ...]
    plans: tuple[PlannedSweep, ...]
    unreadable: tuple[ExcludedRun, ...]
    duplicates: tuple[ExcludedRun, ...]
    table: str = ""
    subset: Subset | None = None

    @property
    def missing(self) -> tuple[PlannedRun, ...]:
        """Planned runs that have no folder."""
        present = {run.identity for run in self.runs}
        planned = {run.identity: run for plan in self.plans for run in plan.manifest.runs}
        return tuple(run for identity, run in planned.items() if identity not in present)

    @property
    def left_out(self) -> str:
        """A sentence on what the commands of the runs lack that was typed with them, see `train.command.left_out`."""
        commands = [plan.manifest.command[1:] for plan in self.plans]
        overrides = dict.fromkeys(line for run in (*self.runs, *self.missing) for line in run.overrides)
        return left_out(*commands, *dict.fromkeys(run.own_parts for run in self.runs), [*overrides])


def collect(folders: Sequence[Path]) -> Collection:
    """Read the runs and plans in `folders`. UsageError when a folder does not exist or none has a run or plan."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder. Name folders of runs or of sweeps, such as outputs/2026-01-31_sweep.")
    unreadable: list[ExcludedRun] = []
    runs: list[Run] = []
    shared = Shared()
    for path in find_runs(folders, lambda folder, reason: unreadable.append(ExcludedRun(folder, reason))):
        try:
            runs.append(_kept(read_run(path), shared))
        except UsageError as error:
            unreadable.append(ExcludedRun(path, str(error).removeprefix(f"{path}: ")))
    stored = list(_plans(folders, unreadable))
    runs = with_known_data(runs, [plan.manifest for plan in stored])
    plans = tuple(PlannedSweep(plan.folder, upgraded_manifest(plan.manifest, runs)) for plan in stored)
    if not runs and not any(plan.manifest.arms for plan in plans):
        raise UsageError(_nothing_found(folders, unreadable))
    counted, duplicates = deduplicated(runs)
    return Collection(tuple(folders), counted, plans, tuple(unreadable), duplicates)


def of_sweep(manifest: Manifest, runs: Iterable[Run]) -> Collection:
    """Return the content of the folder of one sweep, whose manifest and runs are read already."""
    shared = Shared()
    counted, duplicates = deduplicated([_kept(run, shared) for run in runs])
    return Collection((), counted, (PlannedSweep(Path(), manifest),), (), duplicates)


def _kept(run: Run, shared: Shared) -> Run:
    """Return the run with what it has in common with others shared, and without most of what its summary says of layers.

    Both are most of a run's memory. A comparison of arms reads the last layer alone of its fingerprint, besides the hash of the
    first batch; `train.report.scaling` reads what theory expects anew.
    """
    summary = {key: value for key, value in run.summary.items() if key not in ("expected_signal", "fingerprint")}
    summary = shared.fields(summary)
    if "fingerprint" in run.summary:
        summary["fingerprint"] = _kept_fingerprint(run.summary["fingerprint"])
    return replace(
        run,
        config=shared.fields(run.config),
        choices=shared.of(run.choices),
        overrides=shared.of(run.overrides),
        status=shared.fields(run.status),
        summary=summary,
        arm=shared.of(run.arm),
        data=shared.of(run.data),
        code=shared.of(run.code),
    )


def _kept_fingerprint(fingerprint: Any) -> dict[str, Any]:
    """Return the hash of the first batch and the last layer, each as it was stored."""
    found: Any = fingerprint
    for key in ("init", "layers"):
        found = found.get(key) if isinstance(found, Mapping) else None
    last = dict(list(found.items())[-1:]) if isinstance(found, Mapping) else {}
    batch = (
        {"first_batch": fingerprint["first_batch"]} if isinstance(fingerprint, Mapping) and "first_batch" in fingerprint else {}
    )
    return {**batch, "init": {"layers": last}}


def _nothing_found(folders: Sequence[Path], unreadable: Sequence[ExcludedRun]) -> str:
    message = f"{', '.join(map(str, folders))}: no run found here or below. A run folder holds status.json and config.yaml."
    if unreadable:
        message += f" {len(unreadable)} cannot be read, the first is {unreadable[0].folder}: {unreadable[0].reason}"
    return message


def _plans(folders: Iterable[Path], unreadable: list[ExcludedRun]) -> Iterator[PlannedSweep]:
    """Read the manifests in `folders` and one level below, so that a folder of sweeps works like a sweep."""
    visited: set[Path] = set()
    for top in folders:
        resolved = top.resolve()  # that is enough, as the subfolders are no links
        for folder, place in [(top, resolved), *((top / name, resolved / name) for name in subfolders(top))]:
            if place in visited or (folder is not top and is_archived(folder)):
                continue
            visited.add(place)
            try:
                manifest = read_manifest(folder)
            except UsageError as error:
                unreadable.append(ExcludedRun(folder / MANIFEST_FILE, str(error).removeprefix(f"{folder / MANIFEST_FILE}: ")))
                continue
            if manifest is not None:
                yield PlannedSweep(folder, manifest)


def deduplicated(runs: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[ExcludedRun, ...]]:
    """Keep the best attempt at each experiment: two copies of a run are not two observations."""
    by_identity: dict[str, list[Run]] = {}
    for run in runs:
        by_identity.setdefault(run.identity or str(run.folder), []).append(run)
    counted: list[Run] = []
    duplicates: list[ExcludedRun] = []
    for attempts in by_identity.values():
        best = max(attempts, key=_priority)
        counted.append(best)
        others = [run for run in attempts if run is not best]
        duplicates += [
            ExcludedRun(run.folder, f"{run.state}; the same experiment is counted from {best.folder}") for run in others
        ]
    position = {id(run): i for i, run in enumerate(runs)}
    return tuple(sorted(counted, key=lambda run: position[id(run)])), tuple(duplicates)


def _priority(run: Run) -> tuple[bool, bool, str]:
    """Return a sort key: finished runs rank above running ones, these above all others; ties go to the latest start."""
    return run.state in FINISHED, run.state == "running", str(run.status.get("started", ""))


CONTENT = "data.content"
"""The factor of arms that differ in what lies in the place of their data alone."""


@dataclass(frozen=True)
class Setting:
    """The configuration of an arm.

    `choices`: option group -> option; `values`: dotted key -> value. Neither includes seeds or bookkeeping. `data`: the id of the
    data, empty if it is unknown.
    """

    choices: Mapping[str, str]
    values: Mapping[str, Any]
    data: str = ""

    def level(self, factor: str) -> str:
        """Return the level of an option group, a dotted key or an axis as typed (`+trainer.max_steps`); ABSENT without one."""
        if factor == CONTENT:
            return self.data or "unknown"
        key = re.sub(r"^[+~]+|@.*$", "", factor)
        if key in self.choices:
            return self.choices[key]
        if key in self.values:
            return text(self.values[key])
        nested = {name[len(key) + 1 :]: value for name, value in self.values.items() if name.startswith(f"{key}.")}
        return text(nested) if nested else ABSENT


def setting_of(run: Run) -> Setting:
    """Return the setting of the arm to which `run` belongs."""
    kept = flatten({key: value for key, value in experiment_of(run.config).items() if key not in SEEDS})
    return Setting({str(group): str(option) for group, option in run.choices.items()}, kept, run.data)


def settings_of(runs: Iterable[Run]) -> list[Setting]:
    """Return the setting of every run. Runs whose configurations hold the same objects but for their seeds share one."""
    known: dict[tuple[Any, ...], Setting] = {}
    settings = []
    for run in runs:
        objects = (id(value) for key, value in run.config.items() if key not in SEEDS)
        key = (*objects, *run.choices.items(), run.data)
        settings.append(known.get(key) or known.setdefault(key, setting_of(run)))
    return settings


def factors_of(settings: Sequence[Setting]) -> tuple[str, ...]:
    """Return the option groups that differ between `settings`, then the keys whose difference no group's choice explains.

    `norm=group` has a key `norm.groups` and `norm=batch` has none: the factor is `norm` alone, unless two arms with `norm=group`
    differ in `norm.groups`. Data that are known differ in their content, not in their place.
    """
    groups = [group for group in _union(setting.choices for setting in settings) if _differ([s.level(group) for s in settings])]
    keys = _union(setting.values for setting in settings)
    known = {setting.data for setting in settings}
    if known != {""}:
        keys = [key for key in keys if key != PLACE.key]
    differing = [key for key in keys if _differs_within_option(key, settings, groups)]
    if len(known) > 1 and not any(key.partition(".")[0] == "data" for key in (*groups, *differing)):
        differing.append(CONTENT)  # otherwise their settings explain it
    return (*groups, *differing)


def _differs_within_option(key: str, settings: Sequence[Setting], groups: Sequence[str]) -> bool:
    """Return whether `key` differs between settings that have the same option of its group."""
    group = key.partition(".")[0]
    if group not in groups:
        return _differ([text(setting.values.get(key, ABSENT)) for setting in settings])
    by_option: dict[str, list[str]] = {}
    for setting in settings:
        by_option.setdefault(setting.level(group), []).append(text(setting.values.get(key, ABSENT)))
    return any(_differ(levels) for levels in by_option.values())


def levels_in_order(levels: Sequence[str]) -> tuple[str, ...]:
    """Return each level once: numbers sorted, anything else in the order of first appearance."""
    unique = tuple(dict.fromkeys(levels))
    try:
        return tuple(sorted(unique, key=float))
    except ValueError:
        return unique


def _differ(levels: Sequence[str]) -> bool:
    return len(set(levels)) > 1


def _union(mappings: Any) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
