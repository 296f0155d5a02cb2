"""A part of the runs in folders, for a page of its own: those for which conditions hold, or that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from train.errors import UsageError
from train.escape import shell_command
from train.report.collect import Collection, Subset
from train.store.files import MANIFEST_FILE, STATUS_FILE
from train.store.inside import is_there
from train.store.overrides import dotted_key, text
from train.store.run import Run
from train.store.values import FIELDS, MISSING, has_setting, value_of
from train.store.where import Condition, groups_of, select, why_none
from train.text import plural

_MOST = 8
_MOST_PAGES = 50
_RESULTS = frozenset({"status", "state", "reason", "time", "size", "note", "tag"})
"""Fields that say what came out of a run, or what somebody thought of it."""


@dataclass(frozen=True)
class Chosen:
    """Runs that were chosen. `tune`: the keys that all plans of these runs tuned."""

    collection: Collection
    tune: tuple[str, ...]

    @property
    def name(self) -> str:
        """The conditions that hold for them."""
        return " ".join(self.collection.subset.conditions) if self.collection.subset else ""


def selected(collection: Collection, conditions: Sequence[Condition]) -> Chosen:
    """Return the runs for which all conditions hold. UsageError for an unknown key, and where no run is left."""
    runs = select(compared := _compared(collection), conditions)
    if not runs:
        raise UsageError(f"--where {why_none(compared, conditions)}")
    by_result = any(_is_result(condition.key, runs) for condition in conditions)
    return _chosen(collection, runs, [condition.text for condition in conditions], by_result)


def by_value(collection: Collection, keys: Sequence[str]) -> list[Chosen]:
    """Return the runs of each value of `keys`. UsageError for an unknown key, and for one with too many values."""
    groups = groups_of(_compared(collection), keys)
    if len(groups) > _MOST_PAGES:
        text = f"--by {','.join(keys)}: there are {len(groups)} values, and each would have a page."
        raise UsageError(f"{text} Name a key with at most {_MOST_PAGES}, or fewer runs with --where.")
    by_result = any(_is_result(key, collection.runs) for key in keys)
    before = collection.subset.conditions if collection.subset else ()
    named = [([f"{key}={value}" for key, value in zip(keys, values, strict=True)], runs) for values, runs in groups.items()]
    return [_chosen(collection, runs, [*before, *conditions], by_result) for conditions, runs in named]


def _compared(collection: Collection) -> list[Run]:
    """Return the runs without those that only tried levels: they were not made to be compared."""
    trials = {run.identity for plan in collection.plans for run in plan.manifest.runs if run.tries}
    return [run for run in collection.runs if run.identity not in trials]


def _chosen(collection: Collection, runs: Sequence[Run], conditions: Sequence[str], by_result: bool) -> Chosen:
    """Return a page's runs without a plan: the plan is one of all its runs."""
    before, total = collection.subset, len(_compared(collection))
    found = Subset(
        tuple(conditions),
        len(runs),
        before.total if before else total,
        by_result=by_result or (before is not None and before.by_result),
    )
    tuned = {tuple(map(dotted_key, plan.manifest.tune)) for plan in collection.plans}
    kept = replace(collection, runs=tuple(runs), plans=(), duplicates=(), subset=found)
    return Chosen(kept, tuned.pop() if len(tuned) == 1 else ())


def _is_result(key: str, runs: Iterable[Run]) -> bool:
    """Return whether a key says what came out of a run, and not how it was made."""
    return key in _RESULTS if key in FIELDS else not any(has_setting(run, key) for run in runs)


def comparable(collection: Collection) -> Collection:
    """Return the largest group of runs with the same data and budget, of folders above runs and sweeps; of others all.

    A sweep that varies data or budget itself is a group: that is its question.
    """
    if all(is_there(folder / STATUS_FILE) or is_there(folder / MANIFEST_FILE) for folder in collection.folders):
        return collection
    groups = _groups(collection)
    if len(groups) < 2:
        return collection
    kept, *others = sorted(groups, key=lambda group: _rank(groups[group]), reverse=True)
    runs, folders = tuple(groups[kept]), {run.folder.parent for run in groups[kept]}
    rest = tuple((conditions, len(groups[conditions])) for conditions in others)
    return replace(
        collection,
        runs=runs,
        plans=tuple(plan for plan in collection.plans if plan.folder in folders),
        duplicates=(),
        subset=Subset(kept, len(runs), len(collection.runs), is_chosen=False, rest=rest),
    )


def _rank(runs: Sequence[Run]) -> tuple[int, int, str]:
    done = sum(run.state == "done" for run in runs)
    return done, len(runs), max(str(run.status.get("started", "")) for run in runs)


def _groups(collection: Collection) -> dict[tuple[str, ...], list[Run]]:
    """Return the runs that have the same data and budget, by the conditions that hold for them."""
    contents: dict[str, set[str]] = {}
    for run in collection.runs:
        contents.setdefault(_data(run), set()).update({run.data} - {""})
    keys = {run.folder: _conditions(run, len(contents[_data(run)]) > 1) for run in collection.runs}
    for plan in collection.plans:
        inside = [run.folder for run in collection.runs if run.folder.parent == plan.folder]
        if len({keys[folder] for folder in inside}) > 1:
            keys |= dict.fromkeys(inside, (f"sweep={plan.folder.name}",))
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in collection.runs:
        groups.setdefault(keys[run.folder], []).append(run)
    return groups


def _data(run: Run) -> str:
    """Return the condition on the data set that holds for a run."""
    return f"data={run.choices['data']}" if "data" in run.choices else f"data._target_={text(_value(run, 'data._target_'))}"


def _conditions(run: Run, has_several_contents: bool) -> tuple[str, ...]:
    """Return the conditions on data and budget that hold for a run. A limit of steps is a budget with the size of its batches."""
    steps = _value(run, "trainer.max_steps")
    keys = ("trainer.epochs", *(("trainer.max_steps", "trainer.batch_size") if steps is not None else ()))
    content = [f"data_id={run.data or 'unknown'}"] if has_several_contents else []
    return (_data(run), *content, *(f"{key}={text(_value(run, key))}" for key in keys))


def _value(run: Run, key: str) -> object:
    found = value_of(run, key)
    return None if found is MISSING else found


def others_text(collection: Collection) -> list[str]:
    """Return a line for each group of runs that is not on the page: how many they are, and the command that makes their page."""
    rest = collection.subset.rest if collection.subset else ()
    folders = [str(folder) for folder in collection.folders]
    lines = [
        f"{plural(runs, 'run')}: {shell_command(['train-report', *folders, '--where', *where])}" for where, runs in rest[:_MOST]
    ]
    return [*lines, *([f"and {len(rest) - _MOST} more groups"] if len(rest) > _MOST else [])]
