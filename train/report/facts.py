"""What claims and threats need to know about a study besides its values: conditions, versions, tuned keys, inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.report.arms import Arm, Study
from train.report.contracts import Conditions, Facts
from train.report.evidence import contradictions
from train.report.inputs import input_facts
from train.report.metric import Metric, as_float
from train.store.code import numbers_key
from train.store.run import FINISHED, Run
from train.text import listed

BUDGET_KEYS = frozenset({"trainer.epochs", "trainer.max_steps", "data.train_fraction", "data", "experiment"})
RATE_KEYS = frozenset({"optimizer", "optimizer.lr", "schedule", "experiment"})
"""Factors that set the budget or the learning rate: varying them is then the question, not a confounder."""
LEARNING_RATE = "optimizer.lr"


def collect_facts(study: Study, metric: Metric) -> Facts:
    """Return what claims and threats need to know about a study besides its values."""
    sizes = {size for run in study.runs if (size := metric.examples(run)) is not None}
    keys = {factor: factor.lstrip("+~") for factor in study.factors}
    versions = code_versions(study.runs)
    return Facts(
        labels=study.labels,
        conditions=tuple(_conditions(arm, versions) for arm in study.arms),
        test_size=max(sizes, default=None),
        tuned_over=values_tried_for_all(study, LEARNING_RATE),
        tuned=any(arm.choice for arm in study.arms),
        lost_at_every_level=tuple(arm.id for arm in study.arms if arm.choice and arm.choice.lost_all),
        budget_factors=tuple(factor for factor, key in keys.items() if key in BUDGET_KEYS),
        rate_factors=tuple(factor for factor, key in keys.items() if key in RATE_KEYS),
        inputs=input_facts(study),
    )


def values_tried_for_all(study: Study, key: str) -> tuple[float, ...]:
    """Return the values of a tuned key that were tried for every arm; empty for fewer than two, which is no tuning."""
    if key not in study.tune:
        return ()
    tried = [{_number(level.setting[key]) for level in arm.choice.levels if level.was_tried} for arm in study.arms if arm.choice]
    shared = _distinct(set.intersection(*tried)) if tried else ()
    return shared if len(shared) > 1 else ()


def _number(level: str) -> float:
    try:
        return float(level)
    except ValueError:
        return math.nan


def scope_of(study: Study) -> str:
    """Return the scope of the claims: the tuned keys other than the learning rate, which claims state by themselves."""
    others = [key for key in study.tune if key != LEARNING_RATE and all(_has_choice(arm, key) for arm in study.arms)]
    return f"with {listed(others)} tuned for every arm" if others else ""


def _has_choice(arm: Arm, key: str) -> bool:
    """Return whether several levels of `key` were tried for the arm and their results allowed a choice."""
    if arm.choice is None or not (arm.choice.was_measured or arm.choice.lost_all):
        return False
    return len({level.setting[key] for level in arm.choice.levels if level.was_tried}) > 1


def _conditions(arm: Arm, versions: Mapping[Path, str]) -> Conditions:
    ended = [run for run in arm.runs if run.state in FINISHED]
    tried = [run for run in (*arm.runs, *arm.unchosen_runs) if run.state in FINISHED]
    done = [run for run in ended if run.state == "done"]
    return Conditions(
        arm=arm.id,
        budgets=_distinct(map(_budget, done)),
        learning_rates=_distinct(as_float(_config_value(run, "optimizer", "lr")) for run in ended),
        versions=tuple(sorted({versions[run.folder] for run in ended})),
        devices=tuple(sorted({str(run.status.get("device", "")) for run in ended})),
        precisions=tuple(sorted({str(run.status.get("precision", "")) for run in ended})),
        contradictions=contradictions(tried),
        ended=len(tried),
        hosts=tuple(sorted({host for run in ended for host in hosts_of(run)})),
        device_counts=tuple(sorted({str(_config_value(run, "trainer", "devices") or 1) for run in ended})),
    )


def hosts_of(run: Run) -> tuple[str, ...]:
    """Return the machines that made a run, in order: a resumed one may have several. Those that are not recorded are left out."""
    resumed = run.status.get("resumed") or ()
    hosts = (part.get("host") for part in (*resumed, run.status) if isinstance(part, Mapping))
    return tuple(dict.fromkeys(host for host in hosts if host and isinstance(host, str)))


def code_versions(runs: Sequence[Run]) -> dict[Path, str]:
    """Return run folder -> version of its code. Runs whose code makes the same numbers share the version of the first of them."""
    first: dict[str, str] = {}
    return {run.folder: first.setdefault(numbers_key(run.status) or code_version(run), code_version(run)) for run in runs}


def code_version(run: Run) -> str:
    """Return the versions of train and torch, and the commit for a run from a git checkout."""
    versions, git = run.status.get("versions"), run.status.get("git")
    parts = [f"{name} {versions[name]}" for name in ("train", "torch") if name in versions] if isinstance(versions, dict) else []
    if isinstance(git, dict):
        parts.append(f"commit {str(git.get('commit', ''))[:10]}{' with changes' if git.get('dirty') else ''}")
    return ", ".join(parts)


def _budget(run: Run) -> float:
    """Return the number of images that the run was trained on."""
    return as_float(run.summary.get("steps")) * as_float(_config_value(run, "trainer", "batch_size"))


def _config_value(run: Run, *keys: str) -> Any:
    value: Any = run.config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _distinct(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted({value for value in values if math.isfinite(value)}))
