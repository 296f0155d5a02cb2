"""How two runs differ, key by key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.report.levels import ABSENT, text
from train.report.metric import IN_SUMMARY, number
from train.sinks import number_text
from train.store.identity import experiment_of
from train.store.overrides import flatten
from train.store.run import Run, read_run

_RESULTS = ("steps", "time_s", "images_per_s", "parameters", "flops_per_image", "peak_memory_bytes")


@dataclass(frozen=True)
class Difference:
    """`key` has one value here and another there."""

    key: str
    first: str
    second: str


def difference(first: Path, second: Path) -> str:
    """As text. UsageError when one of them is no run folder."""
    a, b = read_run(first), read_run(second)
    sections = [
        ("choices", differing(a.choices, b.choices)),
        ("configuration", differing(_config(a), _config(b))),
        ("code and machine", differing(_machine(a), _machine(b))),
        ("results", list(_results(a, b))),
    ]
    lines = [f"A  {first}", f"B  {second}", "", _same(a, b)]
    for title, found in sections:
        lines += ["", f"{title}:" if found else f"{title}: no difference"]
        lines += _columns(found)
    return "\n".join(lines)


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """In the order of the keys of both."""
    keys = dict.fromkeys([*first, *second])
    told = [(key, *(text(side[key]) if key in side else ABSENT for side in (first, second))) for key in keys]
    return [Difference(key, one, other) for key, one, other in told if one != other]


def _config(run: Run) -> dict[str, Any]:
    return flatten(experiment_of(run.config))


def _machine(run: Run) -> dict[str, Any]:
    names = ("versions", "git", "device", "precision", "memory_format", "threads", "host")
    return flatten({name: run.status[name] for name in names if run.status.get(name) is not None})


def _results(a: Run, b: Run) -> Iterator[Difference]:
    """Those of both, and by how much they differ."""
    if a.state != b.state or a.reason != b.reason:
        yield Difference("state", *(f"{run.state}: {run.reason}" if run.reason else run.state for run in (a, b)))
    for key in (*IN_SUMMARY.values(), *_RESULTS):
        one, other = (number(run.summary.get(key)) for run in (a, b))
        if one != other and not (math.isnan(one) and math.isnan(other)):
            yield Difference(key, _number(key, one), _number(key, other) + _change(key, other - one))


def _change(key: str, by: float) -> str:
    if not math.isfinite(by):
        return ""
    return f"  ({100 * by:+.2f} points)" if key.endswith("_accuracy") else f"  ({by:+.4g})"


def _number(key: str, value: float) -> str:
    if math.isnan(value):
        return ABSENT
    if key.endswith("_accuracy"):
        return number_text.percent(value, 2)
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else number_text.number(value)


def _same(a: Run, b: Run) -> str:
    if a.identity and a.identity == b.identity:
        return "The same experiment: same configuration, same seeds."
    if a.arm and a.arm == b.arm:
        return "Runs of one arm: they differ in their seeds only."
    return "Runs of two arms."


def _columns(found: Iterable[Difference]) -> list[str]:
    rows = [(one.key, one.first, one.second) for one in found]
    if not rows:
        return []
    widths = [min(max(len(row[i]) for row in rows), 48) for i in (0, 1)]
    return [f"  {key:<{widths[0]}}  {first:<{widths[1]}}  {second}".rstrip() for key, first, second in rows]
