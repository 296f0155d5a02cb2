"""Compare two runs key by key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.command import TO_RESUME
from train.escape import line
from train.naming import ABSENT
from train.report.metric import as_float
from train.store.identity import arm_id, experiment_of, identity
from train.store.inputs import code_differences, data_differences, read_data
from train.store.overrides import flatten, text
from train.store.run import Run, read_run
from train.store.unrecorded import with_known_data
from train.store.values import IN_SUMMARY
from train.text import number, percent, plural

_RESULTS = ("steps", "time_s", "images_per_s", "parameters", "flops_per_image", "peak_memory_bytes")


@dataclass(frozen=True)
class Difference:
    """A key and its two different values."""

    key: str
    first: str
    second: str


def difference(first: Path, second: Path) -> str:
    """Return the differences of two run folders as text. UsageError when one of them is no run folder."""
    a, b = read_run(first), read_run(second)
    sections = [
        ("choices", differing(a.choices, b.choices)),
        ("configuration", differing(_config(a), _config(b))),
        ("data", differing(_data(a), _data(b))),
        ("code and machine", differing(_machine(a), _machine(b))),
        ("results", list(_results(a, b))),
    ]
    lines = [f"A  {first}", f"B  {second}", "", _relation(a, b)]
    for title, differences in sections:
        lines += ["", f"{title}:" if differences else f"{title}: no difference"]
        lines += _columns(differences)
    return "\n".join(map(line, lines))


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Return the keys with different values, in the order of the keys of `first`, then of `second`."""
    keys = dict.fromkeys([*first, *second])
    rows = [(key, *(text(side[key]) if key in side else ABSENT for side in (first, second))) for key in keys]
    return [Difference(key, left, right) for key, left, right in rows if left != right]


def _config(run: Run) -> dict[str, Any]:
    return flatten(experiment_of(run.config))


def _machine(run: Run) -> dict[str, Any]:
    names = ("own_code", "versions", "git", "device", "precision", "memory_format", "threads", "host")
    return flatten({name: run.status[name] for name in names if run.status.get(name) is not None})


def _data(run: Run) -> dict[str, Any]:
    """Return the classes, and of each class in each split the number of images and their hash, as far as they are recorded."""
    content = read_data(run.folder)
    names: list[str] = content.get("classes", [])
    found: dict[str, Any] = {"classes": ", ".join(names)} if names else {}
    for split, part in content.get("splits", {}).items():
        hashes = part.get("contents", [""] * len(names))
        for name, count, content_hash in zip(names, part["counts"], hashes, strict=False):
            found[f"{split}/{name}"] = f"{plural(count, 'image')} {content_hash}".strip()
        found |= {f"{split} order": part["order"]} if "order" in part else {}
    return found


def _results(a: Run, b: Run) -> Iterator[Difference]:
    """Yield the results that differ, with the change from `a` to `b`."""
    if a.state != b.state or a.reason != b.reason:
        states = [(run.state, run.reason.partition(TO_RESUME)[0]) for run in (a, b)]
        yield Difference("state", *(f"{state}: {reason}" if reason else state for state, reason in states))
    for key in (*IN_SUMMARY.values(), *_RESULTS):
        left, right = (as_float(run.summary.get(key)) for run in (a, b))
        if left != right and not (math.isnan(left) and math.isnan(right)):
            yield Difference(key, _value(key, left), _value(key, right) + _change(key, right - left))


def _change(key: str, change: float) -> str:
    if not math.isfinite(change):
        return ""
    return f"  ({100 * change:+.2f} points)" if key.endswith("_accuracy") else f"  ({change:+.4g})"


def _value(key: str, value: float) -> str:
    if math.isnan(value):
        return ABSENT
    if key.endswith("_accuracy"):
        return percent(value, 2)
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else number(value)


def _relation(a: Run, b: Run) -> str:
    a, b = with_known_data([a, b], [])
    if arm_id(a.config) != arm_id(b.config):
        return "Runs of different arms."
    is_same = identity(a.config) == identity(b.config)
    unknown = "unknown" in (a.data_known, b.data_known)
    data = "" if unknown or a.data == b.data else f"other data ({data_differences(read_data(a.folder), read_data(b.folder))})"
    code = code_differences(a.code, b.code) if a.code and b.code else ""
    others = [*([data] if data else []), *([f"other code ({code})"] if code else [])]
    if others:
        return f"Not one experiment: same configuration, {'same' if is_same else 'other'} seeds, but {' and '.join(others)}."
    if is_same:
        sentence = "The same experiment: same configuration, same seeds."
    else:
        sentence = "Runs of one arm: they differ only in their seeds."
    return f"{sentence} Whether their data are the same is not recorded." if unknown else sentence


def _columns(differences: Iterable[Difference]) -> list[str]:
    rows = [(item.key, item.first, item.second) for item in differences]
    if not rows:
        return []
    widths = [min(max(len(row[i]) for row in rows), 48) for i in (0, 1)]
    return [f"  {key:<{widths[0]}}  {first:<{widths[1]}}  {second}".rstrip() for key, first, second in rows]
