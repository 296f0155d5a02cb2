"""What a spread between runs advises, in sentences: what explains it, what fixing a role would save, how many seeds it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from train.report.contracts import SMALLEST_EFFECT
from train.report.findings import Remark
from train.report.metric import Metric
from train.report.noise_floor import NoiseFloor
from train.report.statistics.components import Estimate, RoleSpread, Spread
from train.report.statistics.contrasts import runs_needed
from train.text import listed, percent, plural

MOST, LITTLE = 0.5, 1 / 3
"""A part explains most of the variance if it is more than half of it. A role explains little if fixing it saves less than a third
of the standard error."""
STANDARD_ERROR = 0.001
"""For which seeds are counted: a tenth of a percentage point."""
TOO_WIDE = 5
"""Times the smaller number of seeds: where an interval is wider, no number is advised."""


def sized(value: float, metric: Metric) -> str:
    """Format a standard deviation or a difference with two significant digits, in percentage points for a share."""
    scaled = value * metric.scale
    decimals = max(0, 1 - math.floor(math.log10(scaled))) if scaled > 0 else 0
    return f"{scaled:.{min(9, decimals)}f}"


def size_interval(found: Estimate, metric: Metric) -> str:
    return f"{sized(found.low, metric)} to {sized(found.high, metric)}"


def share_interval(found: Estimate) -> str:
    return f"{percent(found.low, 0).removesuffix(' %')} to {percent(found.high, 0)}"


def unit(metric: Metric) -> str:
    """Return the unit of a size, with a leading space."""
    return " points" if metric.is_share else ""


def heading(spread: Spread, metric: Metric) -> str:
    """Return the standard deviation if everything varies."""
    if spread.total is None:
        return f"not known: {spread.note}"
    size = f"{sized(spread.total.value, metric)}{unit(metric)} (95 % CI {size_interval(spread.total, metric)})"
    return f"a standard deviation of {size}"


def remarks(spread: Spread, metric: Metric, floor: NoiseFloor | None, smallest_effect: float | None) -> Iterator[Remark]:
    """Yield what the spread says: where it comes from, what fixing a role saves, the seeds needed, and the noise floor."""
    yield from _source(spread)
    yield from _fixing(spread)
    yield from _inert(spread)
    if spread.total is not None:
        yield from _seeds(spread.total, metric, smallest_effect)
        yield _single_runs(spread.total, metric)
    if floor is not None:
        yield _floor(floor)


def _single_runs(total: Estimate, metric: Metric) -> Remark:
    """Return the difference of two runs that chance makes: that of two normal values exceeds it in 5 % of pairs."""
    value, low, high = (1.96 * math.sqrt(2) * sd for sd in (total.value, total.low, total.high))
    return Remark(
        "single runs",
        f"Two runs of one configuration differ by more than {sized(value, metric)}{unit(metric)} "
        f"({sized(low, metric)} to {sized(high, metric)}) in one of twenty pairs: a smaller difference of two single runs may be "
        "that of their seeds.",
    )


def _source(spread: Spread) -> Iterator[Remark]:
    """Yield which part of the variance is more than half of it, if the intervals tell."""
    if spread.rest is None:
        if spread.total is not None:
            yield Remark("source unknown", f"{_sentence(spread.note)} Use study=variance.", "weak")
        return
    role = max(spread.roles, key=lambda role: role.share.value if role.share else 0.0)
    if role.share and role.share.low > MOST:
        numbers = f"{percent(role.share.value, 0)} of the variance ({share_interval(role.share)})"
        yield Remark(f"mostly {role.role}", f"{role.role} explains most of it: {numbers} goes with its seed alone.", "even")
    elif spread.rest.low > MOST:
        numbers = f"{percent(spread.rest.value, 0)} of the variance ({share_interval(spread.rest)})"
        yield Remark(
            "no single role",
            f"No role explains it: {numbers} is what the seeds do together. A run takes another course with any of them changed.",
            "even",
        )
    else:
        name, largest = (role.role, role.share) if role.share and role.share.value > spread.rest.value else ("", spread.rest)
        what = f"{name} is the largest part" if name else "what the seeds do together is the largest part"
        yield Remark(
            "undecided",
            f"No part is known to be more than half of the variance; {what} ({percent(largest.value, 0)}, "
            f"{share_interval(largest)}). More seeds tell more.",
            "weak",
        )


def _fixing(spread: Spread) -> Iterator[Remark]:
    """Yield for which roles a fixed seed saves little, and for which the runs do not tell."""
    known = [role for role in spread.roles if role.saving is not None and not _draws_nothing(role)]
    little = [role for role in known if role.saving is not None and role.saving <= LITTLE]
    if little:
        (first, least), *rest = [(role.role, percent(role.saving or 0.0, 0)) for role in little]
        savings = listed([f"{first} saves at most {least} of the standard error", *(f"{name} {most}" for name, most in rest)])
        yield Remark(
            "fixing saves little",
            f"Fixing {savings}. A mean is then that of one seed, an error that no number of runs averages out.",
            "even",
        )
    if others := [role.role for role in known if role not in little and role.share and role.share.low <= MOST]:
        whose = "the seed of" if len(others) == 1 else "each of the seeds of"
        yield Remark("not known", f"How much {whose} {listed(others)} does by itself is too uncertain for advice.", "weak")


def _inert(spread: Spread) -> Iterator[Remark]:
    if names := [role.role for role in spread.roles if _draws_nothing(role)]:
        yield Remark(
            "no draw",
            f"Runs that differ in the seed of {listed(names)} alone have the same value: the configuration draws nothing of it.",
        )


def _draws_nothing(role: RoleSpread) -> bool:
    return role.alone is not None and role.alone.high == 0


def _seeds(total: Estimate, metric: Metric, smallest_effect: float | None) -> Iterator[Remark]:
    """Yield how many seeds a standard error and a comparison take, where the spread is known well enough."""
    sds = (total.low, total.value, total.high)
    if metric.is_share:
        goal = f"For a standard error of {sized(STANDARD_ERROR, metric)} points"
        yield _number("seeds", goal, " vary everything,", [math.ceil((sd / STANDARD_ERROR) ** 2 - 1e-9) for sd in sds])
    effect = smallest_effect or (SMALLEST_EFFECT if metric.is_share else None)
    if effect and runs_needed(effect, total.low, 1):
        goal = f"To find a difference of {sized(effect, metric)}{unit(metric)} between two settings in 80 % of studies"
        yield _number("comparing", goal, " give each", [runs_needed(effect, sd, 1) or math.inf for sd in sds])


def _number(verdict: str, goal: str, advice: str, seeds: Sequence[float]) -> Remark:
    """Return how many seeds it takes. `seeds`: at the lower limit of the spread, at its estimate, and at the upper limit."""
    low, value, high = seeds
    upper = f"{high:.0f}" if math.isfinite(high) else "thousands"
    if high > TOO_WIDE * low:
        return Remark(verdict, f"{goal}, between {low:.0f} and {upper} seeds: the spread is too uncertain for a number.", "weak")
    return Remark(verdict, f"{goal}{advice} {plural(int(value), 'seed')} ({low:.0f} to {upper}).", "even")


def _floor(floor: NoiseFloor) -> Remark:
    return Remark(
        "noise floor",
        f"The split has {floor.images:,} images. An accuracy on all such images is known to {_points(floor.mean)} points either "
        f"way (95 %), however many seeds. Two trained networks that differ by less than {_points(floor.difference)} points here, "
        "fewer than six images, cannot be told apart, even if one is right wherever the other is.",
    )


def _points(value: float) -> str:
    return f"{100 * value:.2g}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
