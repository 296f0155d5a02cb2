"""What went into the runs of a study besides their configuration, and where that differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from train.report.arms import Arm, Study
from train.report.collect import CONTENT, factors_of
from train.report.input_facts import InputFacts
from train.store.identity import PLACE, canonical, place_of_data
from train.store.inputs import data_differences, read_data, some
from train.store.run import FINISHED, Run
from train.text import listed, plural

OF_PLACE = frozenset({PLACE.key, "data", "experiment"})
"""Factors that may set where the data lie: then other data are the question."""

Named: TypeAlias = Callable[[Sequence[Run]], str]
"""Names runs in a sentence: `2 runs of baseline and norm=layer`."""


def input_facts(study: Study) -> InputFacts:
    """Return where runs differ in what should be the same, as sentences."""
    label_of = {run.folder: study.labels[arm.id] for arm in study.arms for run in (*arm.runs, *arm.unchosen_runs)}
    runs = [run for run in (*study.runs, *study.unchosen_runs) if run.state in FINISHED]
    contents = data_contents(run for run in runs if run.data_known == "recorded")
    with_code = {run.arm for run in runs if run.code}
    unknown = sum(run.data_known == "unknown" for run in runs)

    def named(members: Sequence[Run]) -> str:
        labels = list(dict.fromkeys(label_of[run.folder] for run in members))
        return f"{plural(len(members), 'run')} of {listed(labels)}"

    return InputFacts(
        data=tuple(_data(runs, bool(OF_PLACE & study.factors.keys()), contents, named)),
        code=tuple(_code(runs, named)),
        configurations=tuple(_configurations(study.arms)),
        unknown_data=unknown,
        shown_data=sum(run.data_known == "first batch" for run in runs),
        unknown_code=sum(run.code is None and run.arm in with_code for run in runs),
        same_test_data=_same_test_data(contents, unknown),
    )


def data_contents(runs: Iterable[Run]) -> dict[str, Mapping[str, Any]]:
    """Return the id of data -> their content, read once, from the first of the runs that holds it; empty if none does."""
    contents: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        if run.data and not contents.get(run.data):
            contents[run.data] = read_data(run.folder)
    return contents


def _data(runs: Sequence[Run], is_varied: bool, contents: Mapping[str, Any], named: Named) -> Iterator[str]:
    """Yield how the data of runs differ that have the same settings of `data`. `is_varied`: their place is one of them."""
    groups: dict[str, dict[str, list[Run]]] = {}
    keys: dict[int, str] = {}  # most runs share one object
    for run in (run for run in runs if run.data_known != "unknown"):
        shared = id(run.config.get("data"))
        key = keys[shared] if shared in keys else keys.setdefault(shared, _settings_of_data(run.config, is_varied))
        groups.setdefault(key, {}).setdefault(run.data, []).append(run)
    for by_data in groups.values():
        (first, members), *others = by_data.items()
        for data, different in others:
            change = data_differences(contents.get(first, {}), contents.get(data, {}))
            yield f"from {named(members)} to {named(different)}: {change}"


def _settings_of_data(config: Mapping[str, Any], is_varied: bool) -> str:
    settings = [canonical({"data": config.get("data")})["data"], place_of_data(config) if is_varied else ""]
    return json.dumps(settings, sort_keys=True, default=str)


def _code(runs: Sequence[Run], named: Named) -> Iterator[str]:
    """Yield the versions of every module and package that is not ours and of which there are several."""
    by_name: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        for name, version in (run.code or {}).items():
            by_name.setdefault(name, {}).setdefault(version, []).append(run)
    for name, versions in by_name.items():
        if len(versions) > 1:
            yield f"{name}: {listed([f'{version} in {named(members)}' for version, members in versions.items()])}"


def _configurations(arms: Sequence[Arm]) -> Iterator[str]:
    """Yield how arms differ that have the same levels of all factors: in what a YAML or a default set differently."""
    by_levels: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        if arm.runs:
            by_levels.setdefault(tuple(arm.levels.values()), []).append(arm)
    for same in by_levels.values():
        settings = [arm.setting for arm in same]
        differing = [key for key in factors_of(settings) if key != CONTENT] if len(same) > 1 else []
        if differing:
            changes = [f"{key}: {' -> '.join(dict.fromkeys(setting.level(key) for setting in settings))}" for key in differing]
            yield f"{same[0].all_levels}: {some(changes, '; ')}"


def _same_test_data(contents: Mapping[str, Any], unknown: int) -> bool | None:
    tested = {json.dumps(content.get("splits", {}).get("test"), sort_keys=True) for content in contents.values()}
    return False if len(tested) > 1 else None if unknown else True
