"""Seeds that tell the roles of randomness apart: where the spread between runs comes from (`sweep.roles`).

With q seeds there are q * q runs in which all roles vary together, such that two runs have the seed of one role in common at
most. So all that runs with the same seed of a role have in common is due to that role, whatever the roles do together. They are
the rows of an orthogonal array of strength 2 (Bose & Bush 1952, "Orthogonal arrays of strength two and three", Annals of
Mathematical Statistics 23): row (x, y) has the seed x + c y modulo q in role c. For each role and seed comes one run that differs
in that role alone from the run that has this seed everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from train.config import Seeds
from train.errors import UsageError
from train.store.identity import SEEDS
from train.sweep.axes import Axis, SweepRequest
from train.sweep.settings import SweepSettings
from train.text import listed

ROLES = tuple(Seeds.model_fields)
AXIS = "seed"


def by_role(request: SweepRequest, settings: SweepSettings) -> tuple[SweepRequest, SweepSettings]:
    """Return the request with an axis of seeds for each of `sweep.roles`, and the settings by which these move together.

    Roles that are not named keep one seed. UsageError for seeds of which no such design can be made.
    """
    if settings.roles is None:
        return request, settings
    roles, option = tuple(dict.fromkeys(settings.roles)), f"sweep.roles=[{','.join(settings.roles)}]"
    if settings.max_seeds is not None:
        raise UsageError(
            f"{option}: the runs are one design, which does not grow in blocks. Omit sweep.max_seeds and sweep.until."
        )
    if len(roles) < 2:
        raise UsageError(f"{option}: name two roles at least, of {listed(ROLES)}.")
    seeds = _seeds(request, option)
    if not _is_prime(len(seeds)) or len(seeds) < len(roles):
        least = next(count for count in range(len(roles), 2 * len(roles)) if _is_prime(count))
        raise UsageError(
            f"{option}: {len(seeds)} seeds. It takes a prime number of them, and one for each role at least, "
            f"as in 'seed=range({least})' or 'seed=range({_next_prime(max(least, len(seeds)))})'."
        )
    rows = design(len(roles), seeds)
    axes = tuple(
        Axis(f"seeds.{role}", f"seeds.{role}", tuple(str(row[place]) for row in rows)) for place, role in enumerate(roles)
    )
    names = [axis.name for axis in axes]
    order = tuple(name for name in request.order if name != AXIS)
    return replace(request, seeds=axes, order=(*order, *names)), settings.model_copy(update={"zip": [*settings.zip, names]})


def _seeds(request: SweepRequest, option: str) -> tuple[int, ...]:
    """Return the seeds of the command. UsageError unless they are whole numbers of the one axis `seed`."""
    names = [axis.name for axis in request.seeds]
    fixed = [line for name, line in request.constants.items() if name.lstrip("~").partition(".")[0] in SEEDS]
    if names != [AXIS] or fixed:
        given = f"not {listed([*names, *fixed])}" if names or fixed else "which it lacks"
        raise UsageError(f"{option}: the seeds are those of the axis seed, {given}. Give them as in 'seed=range(7)'.")
    levels = dict.fromkeys(request.seeds[0].levels)
    if not all(level.isdecimal() for level in levels):
        raise UsageError(f"{option}: seed={','.join(levels)}: give whole numbers from 0, as in 'seed=range(7)'.")
    return tuple(map(int, levels))


def design(roles: int, seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the seeds of each role in each run. `seeds`: a prime number of them, and no fewer than `roles`.

    The first have one seed in all roles. So a design of as many roles shares them with that of other numbers of seeds.
    """
    count, fresh = len(seeds), max(seeds) + 1
    square = [tuple(seeds[(x + role * y) % count] for role in range(roles)) for y in range(count) for x in range(count)]
    alone = [
        tuple(fresh + place if other == role else seed for other in range(roles))
        for role in range(roles)
        for place, seed in enumerate(seeds)
    ]
    return square + alone


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _next_prime(number: int) -> int:
    return next(larger for larger in range(number + 1, 2 * number + 1) if _is_prime(larger))
