"""What runs found out about themselves: contradictions of their configuration, the signal at initialisation, the diagnosis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.store.run import FINISHED, Run
from train.text import plural

FINDINGS = {"initial": "initial signal", "nothing": "no anomaly observed"}
"""Findings of a diagnosis whose name does not say what was found."""


def contradictions(runs: Iterable[Run]) -> dict[str, int]:
    """Return sentence -> the number of `runs` in which a chosen ingredient is not in the network, as the sentence says.

    Sentences about one choice may differ in their numbers from seed to seed; the first of them stands for all.
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for run in runs:
        found = run.summary.get("contradictions")
        by_choice = {str(text).partition(", but")[0]: str(text) for text in (found if isinstance(found, list) else ())}
        counts.update(first.setdefault(choice, sentence) for choice, sentence in by_choice.items())
    return dict(counts)


def arm_findings(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what most runs of an arm report of their initial signal, unless it is healthy, and of why they did not learn."""
    ended = [run for run in runs if run.state in FINISHED]
    kinds = [str(_mapping(run.summary, "initial_verdict").get("kind", "healthy")) for run in ended]
    signals = [f"at initialisation: {kind.replace('_', ' ')}" for kind in kinds if kind != "healthy"]
    diagnoses = [_diagnosis(diagnosis) for run in ended if (diagnosis := _mapping(run.status, "diagnosis"))]
    return tuple(_most_frequent(texts, len(ended)) for texts in (signals, diagnoses) if texts)


def run_finding(run: Run) -> str:
    """Return where the run broke first according to its diagnosis; empty without one or without an anomaly."""
    diagnosis = _mapping(run.status, "diagnosis")
    if not diagnosis.get("statistic"):
        return ""
    return f"first anomaly: {diagnosis['statistic']} of {diagnosis.get('layer', '')} at step {diagnosis.get('step', '')}"


def _diagnosis(diagnosis: Mapping[str, Any]) -> str:
    """Return a diagnosis in a few words: `diverged: growth (gradient_std)`."""
    ending = "did not learn" if diagnosis.get("kind") == "cannot_learn" else "diverged"
    finding, statistic = str(diagnosis.get("finding", "nothing")), diagnosis.get("statistic")
    return f"{ending}: {FINDINGS.get(finding, finding.replace('_', ' '))}" + (f" ({statistic})" if statistic else "")


def _most_frequent(texts: Iterable[str], total: int) -> str:
    ((text, count),) = Counter(texts).most_common(1)
    return f"{text}, {count} of {plural(total, 'run')}"


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}
