"""What runs found out about themselves: contradictions of their configuration, the signal at initialisation, the diagnosis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.store.run import FINISHED, Run
from train.text import plural

FINDINGS = {"initial": "initial signal", "nothing": "no anomaly observed"}
"""Findings of a diagnosis whose name does not say what was found."""
MOST_LAYERS = 2


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


@dataclass(frozen=True)
class SignalRow:
    """The verdict on the signal at initialisation that most runs of an arm gave, with the sentence of the first of them."""

    arm: str
    verdict: str
    runs: str
    sentence: str


def signal_row(label: str, runs: Sequence[Run]) -> SignalRow | None:
    """Return the verdict of an arm; None where no run observed its layers."""
    verdicts = [verdict for run in runs if (verdict := _mapping(run.summary, "initial_verdict"))]
    if not verdicts:
        return None
    ((kind, count),) = Counter(_kind(verdict) for verdict in verdicts).most_common(1)
    sentence = next(str(verdict.get("sentence", "")) for verdict in verdicts if _kind(verdict) == kind)
    return SignalRow(label, kind, f"{count} of {plural(len(verdicts), 'run')}", sentence.removeprefix(f"{kind}: "))


def _kind(verdict: Mapping[str, Any]) -> str:
    return str(verdict.get("kind", "healthy")).replace("_", " ")


def unhealthy_signal(runs: Sequence[Run]) -> str:
    """Return what most runs of an arm report of their initial signal, unless it is healthy."""
    ended = [run for run in runs if run.state in FINISHED]
    kinds = [_kind(_mapping(run.summary, "initial_verdict")) for run in ended]
    return _most_frequent([f"at initialisation: {kind}" for kind in kinds if kind != "healthy"], len(ended))


def lost_finding(runs: Sequence[Run], trained: Container[Path]) -> str:
    """Return why most runs of an arm did not train, and where that began: `diverged: growth (gradient_std of conv1 at step 12),
    2 of 3 runs`; empty where no run knows. `trained`: the folders of runs that did, whatever they found out earlier."""
    ended = [run for run in runs if run.state in FINISHED]
    found = [
        (_diagnosis(item), item) for run in ended if run.folder not in trained and (item := _mapping(run.status, "diagnosis"))
    ]
    if not found:
        return ""
    (((ending, statistic), count),) = Counter(kind for kind, _ in found).most_common(1)
    alike = [item for kind, item in found if kind == (ending, statistic)]
    return f"{ending}{_place(statistic, alike)}, {count} of {plural(len(ended), 'run')}"


def _place(statistic: str, alike: Sequence[Mapping[str, Any]]) -> str:
    """Return where the first anomaly was: ` (gradient_std of conv1 or conv2 at steps 12 to 30)`; empty without one."""
    if not statistic:
        return ""
    layers = list(dict.fromkeys(str(item["layer"]) for item in alike if item.get("layer")))
    steps = sorted({step for item in alike if isinstance(step := item.get("step"), int)})
    where = f" of {' or '.join(layers[:MOST_LAYERS])}" if layers else ""
    where += f" or {len(layers) - MOST_LAYERS} others" if len(layers) > MOST_LAYERS else ""
    when = "" if not steps else f" at step {steps[0]}" if len(steps) == 1 else f" at steps {steps[0]} to {steps[-1]}"
    return f" ({statistic}{where}{when})"


def run_finding(run: Run) -> str:
    """Return where the run broke first according to its diagnosis; empty without one or without an anomaly."""
    diagnosis = _mapping(run.status, "diagnosis")
    if not diagnosis.get("statistic"):
        return ""
    return f"first anomaly: {diagnosis['statistic']} of {diagnosis.get('layer', '')} at step {diagnosis.get('step', '')}"


def _diagnosis(diagnosis: Mapping[str, Any]) -> tuple[str, str]:
    """Return a diagnosis in a few words and its statistic: `diverged: growth`, `gradient_std`."""
    ending = "did not learn" if diagnosis.get("kind") == "cannot_learn" else "diverged"
    finding = str(diagnosis.get("finding", "nothing"))
    return f"{ending}: {FINDINGS.get(finding, finding.replace('_', ' '))}", str(diagnosis.get("statistic") or "")


def _most_frequent(texts: Sequence[str], total: int) -> str:
    if not texts:
        return ""
    ((text, count),) = Counter(texts).most_common(1)
    return f"{text}, {count} of {plural(total, 'run')}"


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}
