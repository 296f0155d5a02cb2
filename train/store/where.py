"""Conditions on runs, as `--where` takes them: `norm=batch`, `optimizer.lr<=0.1`, `accuracy/test>0.9`, `status=done`.

All of several conditions have to hold. `=` and `!=` take several values with commas, as Hydra's sweeps do: `norm=batch,layer` is
either. What does not hold a value is equal to none. There is no more of a language than that.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from train.command import expanded, unquoted
from train.errors import UsageError, did_you_mean
from train.store.kinds import is_number
from train.store.overrides import text as typed
from train.store.run import Run, State
from train.store.values import FIELDS, MISSING, known_keys, value_of

HELP = "only runs for which this holds, such as norm=batch, optimizer.lr<=0.1, status=done or accuracy/test>0.9; all of several"

_CONDITION = re.compile(r"([^=<>!]+?)\s*(>=|<=|!=|==?|>|<)\s*(.*)", re.DOTALL)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_COMMA = re.compile(r",(?![^\[{(]*[\]})])")
"""One that separates values: not inside brackets."""
_TIMES = ("started",)
"""Fields whose text is in the order of time."""
_SHORTEST_ID = 4
_MOST = 8


@dataclass(frozen=True)
class Condition:
    """A condition on runs. `text`: as typed; `values`: one of which the run must have for `=`, or none for `!=`."""

    text: str
    key: str
    operator: str
    values: tuple[str, ...]

    def holds(self, run: Run) -> bool:
        """Return whether the condition holds for a run."""
        found = value_of(run, self.key)
        if self.operator in _COMPARISONS:
            if found is MISSING:
                return False
            found = str(found)[: len(self.values[0])] if self.key in _TIMES else _as_number(found)
            wanted = self.values[0] if self.key in _TIMES else _number(self.values[0])
            return found is not None and _COMPARISONS[self.operator](found, wanted)
        equal = found is not MISSING and any(self._equals(found, value) for value in self.values)
        return equal == (self.operator == "=")

    def _equals(self, found: Any, wanted: str) -> bool:
        if self.key == "arm" and len(wanted) >= _SHORTEST_ID:
            return found.startswith(wanted)
        return any(_equal(tag, wanted) for tag in found) if isinstance(found, tuple) else _equal(found, wanted)


def conditions_of(texts: Sequence[str], option: str = "--where") -> tuple[Condition, ...]:
    """Return the conditions that are typed. UsageError for a text that is none; `option`: its name in messages."""
    return tuple(_condition(text.strip(), option) for text in texts)


def _condition(text: str, option: str) -> Condition:
    match = _CONDITION.fullmatch(expanded(text) if "=" in text else text)
    if match is None:
        forms = "Write KEY=VALUE, KEY!=VALUE, 'KEY<NUMBER' or 'KEY>=NUMBER', with the quotes, and folders before the option"
        raise UsageError(f"{option} {text}: this is no condition. {forms}.")
    key, sign, value = match[1].strip(), match[2].replace("==", "="), match[3].strip()
    if not value:
        raise UsageError(f"{option} {text}: there is no value after {sign}.")
    if sign in _COMPARISONS and key not in _TIMES and _number(value) is None:
        raise UsageError(
            f"{option} {text}: {sign} compares with a number, and {value!r} is none. Write {key}={value or 'VALUE'}."
        )
    if not value:
        raise UsageError(f"{option} {text}: there is no value after {sign}.")
    parts = tuple(map(unquoted, map(str.strip, _COMMA.split(value))))
    values = (value,) if sign in _COMPARISONS else tuple(dict.fromkeys((unquoted(value), *parts)))
    if key in ("status", "state") and (unknown := [part for part in parts if part not in get_args(State)]):
        raise UsageError(f"{option} {text}: no run has the status {unknown[0]!r}. {did_you_mean(unknown[0], get_args(State))}")
    return Condition(text, key, sign, values)


def select(runs: Sequence[Run], conditions: Sequence[Condition], option: str = "--where") -> list[Run]:
    """Return the runs for which all conditions hold. UsageError for a key that none of `runs` has, with near names."""
    for condition in conditions:
        refuse_unknown_key(condition.key, runs, f"{option} {condition.text}")
    return [run for run in runs if all(condition.holds(run) for condition in conditions)]


def refuse_unknown_key(key: str, runs: Sequence[Run], argument: str) -> None:
    """Raise UsageError for a key that none of `runs` has, with near names. `argument`: the option and its value."""
    if key not in FIELDS and runs and all(value_of(run, key) is MISSING for run in runs):
        raise UsageError(f"{argument}: no run has the key {key!r}. {_near(key, runs)}")


def groups_of(runs: Sequence[Run], keys: Sequence[str], option: str = "--by") -> dict[tuple[str, ...], list[Run]]:
    """Return the values of `keys`, as text -> the runs that have them. UsageError for a key that no run has."""
    for key in keys:
        refuse_unknown_key(key, runs, f"{option} {key}")
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(_value_text(value_of(run, key)) for key in keys), []).append(run)
    return groups


def _value_text(value: Any) -> str:
    return "-" if value is MISSING else typed(list(value) if isinstance(value, tuple) else value)


def why_none(runs: Sequence[Run], conditions: Sequence[Condition]) -> str:
    """Return a sentence on the first condition after which no run is left: which values there are."""
    left = list(runs)
    for condition in conditions:
        kept = [run for run in left if condition.holds(run)]
        if not kept and left:
            return f"{condition.text} holds for none of {len(left)} runs: {_values_text(condition.key, left)}."
        left = kept
    return "There are no runs."


def _values_text(key: str, runs: Iterable[Run]) -> str:
    """Return the values of a key that runs have, in words."""
    found = [value_of(run, key) for run in runs]
    numbers = [value for value in found if is_number(value) and not math.isnan(value)]
    if len(set(numbers)) > _MOST:
        return f"{key} is between {min(numbers):g} and {max(numbers):g}"
    counts = Counter("missing" if value is MISSING else typed(value) for value in found)
    named = ", ".join(f"{value} ({count})" for value, count in counts.most_common(_MOST))
    return f"{key} is {named}{', ...' if len(counts) > _MOST else ''}"


def _near(key: str, runs: Sequence[Run]) -> str:
    """Return a sentence with the names that are near to a key."""
    known = known_keys(runs)
    ends = [name for name in known if re.split(r"[./]", name)[-1] == key]
    near = list(dict.fromkeys([*ends, *difflib.get_close_matches(key, known, n=3, cutoff=0.6)]))
    if near:
        return f"Did you mean {' or '.join(map(repr, near[:3]))}?"
    groups = list(dict.fromkeys(group for run in runs for group in run.choices))
    return f"Known are {', '.join((*FIELDS, *groups))}, the keys of config.yaml and summary.json, and metrics as accuracy/test."


def _equal(found: Any, wanted: str) -> bool:
    left, right = _as_number(found), _number(wanted)
    if left is not None and right is not None:
        return left == right or (math.isnan(left) and math.isnan(right))
    return _plain(typed(found)) == _plain(wanted)


def _as_number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Return a value without what may be typed or left out: quotes and spaces; `True` and `NULL` as Hydra reads them."""
    bare = re.sub(r"[\s'\"]", "", text)
    return bare.lower() if bare.lower() in ("true", "false", "null") else bare
