"""The combinations of a sweep that cannot be composed: impossible ones are dropped with the reason, typing errors are raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from train.config_errors import COULD_NOT_OVERRIDE, is_composition_error, plain_message
from train.errors import CompositionError, UsageError
from train.sweep.design import Levels


@dataclass(frozen=True)
class Failure:
    """A combination that could not be composed, and why. `causes`: the axes whose level may be the cause."""

    levels: Levels
    reason: str
    causes: tuple[str, ...]

    @classmethod
    def of(cls, levels: Levels, error: Exception) -> Failure:
        match = COULD_NOT_OVERRIDE.search(str(error))
        if match:
            causes = tuple(axis for axis in levels if axis == match["key"])
        else:
            causes = tuple(levels) if isinstance(error, CompositionError) or is_composition_error(error) else ()
        return cls(levels, reason_text(error), causes)


def unusable_combination(requested: Sequence[Levels], failures: Sequence[Failure]) -> Levels | None:
    """Return the first combination with a level that no arm can be composed with: a typing error, not an impossible combination.

    Without one, the first combination if all failed. UsageError when the baseline cannot be composed.
    """
    if not failures:
        return None
    wanted = Counter(item for levels in requested for item in levels.items())
    failed = Counter(item for failure in failures for item in failure.levels.items())
    for failure in failures:
        if any(failed[axis, failure.levels[axis]] == wanted[axis, failure.levels[axis]] for axis in failure.causes):
            return failure.levels
    first = failures[0]
    if len(failures) == len(requested):
        return first.levels
    if first.levels == requested[0]:
        name = " ".join(f"{axis}={level}" for axis, level in first.levels.items()) or "defaults"
        raise UsageError(impossible_baseline(name, first.reason, len(requested)))
    return None


def reason_text(error: Exception) -> str:
    """Explain why a combination could not be composed."""
    match = COULD_NOT_OVERRIDE.search(str(error))
    if match:
        return f"{match['key']}: there is no such key in this combination."
    return str(error) if isinstance(error, UsageError) else plain_message(error)


def impossible_baseline(name: str, reason: str, arms: int) -> str:
    """Return the message for a baseline that cannot be composed or run; of a sweep with one arm, the reason alone."""
    if arms == 1:
        return reason
    return f"The baseline ({name}) is impossible, and every arm is compared with it: {reason} Choose another with sweep.baseline."
