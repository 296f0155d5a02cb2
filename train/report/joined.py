"""Factors that move together, as one: axes of `sweep.zip`, and values that follow from another key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Levels = Mapping[str, str]


def joined(factors: Sequence[str], arms: Sequence[Levels]) -> tuple[tuple[str, ...], ...]:
    """Return the varied factors in groups that move together, in their order.

    A factor joins another one whose level determines its own in every arm: the two cannot be told apart. `arms`: factor -> level.
    """
    varied = [factor for factor in factors if len({arm[factor] for arm in arms}) > 1]
    groups: dict[str, list[str]] = {}
    for factor in varied:
        leader = next((other for other in _by_levels(varied, arms) if _determines(other, factor, arms)), factor)
        groups.setdefault(leader, []).append(factor)
    return tuple(sorted((tuple(group) for group in groups.values()), key=lambda group: varied.index(group[0])))


def _by_levels(factors: Sequence[str], arms: Sequence[Levels]) -> list[str]:
    """Return the factors, those with most levels first: what determines all others leads."""
    return sorted(factors, key=lambda factor: -len({arm[factor] for arm in arms}))


def _determines(leader: str, factor: str, arms: Sequence[Levels]) -> bool:
    return len({(arm[leader], arm[factor]) for arm in arms}) == len({arm[leader] for arm in arms})
