"""The runs that try the levels of tuned keys: the arms of a sweep with other seeds and, if wished, fewer epochs.

Their seeds are none of those that are compared. So the choice of a level, however lucky the runs that made it, says nothing about
the runs of the comparison, which are as those of an arm at a level that was named in advance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from train.errors import UsageError
from train.store.choices import Tuning
from train.store.identity import SEEDS
from train.store.manifest import Manifest
from train.sweep.axes import Axis, SweepRequest
from train.sweep.design import Levels
from train.sweep.settings import SweepSettings

FIRST_SEED = 100_000
LENGTHS = ("trainer.epochs", "trainer.max_steps")


def tuning_of(settings: SweepSettings, stored: Manifest | None) -> Tuning | None:
    """Return how the levels of a command are tried; None without tuned keys.

    `stored`: the manifest of the sweep that it continues. One that an earlier version began, which compares the runs that try the
    levels, goes on as it is: None. UsageError where the settings are not those that it began with.
    """
    if not settings.tuned or (stored is not None and is_joint(stored)):
        return None
    seeds = tuple(FIRST_SEED + i for i in range(settings.tune_seeds))
    tuning = Tuning(seeds, settings.tune_epochs or 1.0, settings.tune_extend)
    if stored is not None and stored.tuning not in (None, tuning):
        raise UsageError(_other_tuning(stored.tuning, tuning))
    return tuning


def is_joint(manifest: Manifest) -> bool:
    """Return whether the runs that try levels are compared, too, as those of sweeps that earlier versions began."""
    return bool(manifest.tune) and manifest.tuning is None and bool(manifest.runs)


def _other_tuning(old: Tuning | None, new: Tuning) -> str:
    assert old is not None
    values = {
        "sweep.tune_seeds": (len(old.seeds), len(new.seeds)),
        "sweep.tune_epochs": (old.epochs, new.epochs),
        "sweep.tune_extend": (old.extend, new.extend),
    }
    key, (was, now) = next((key, pair) for key, pair in values.items() if pair[0] != pair[1])
    return (
        f"{key}={now:g}: this sweep tries its levels with {key}={was:g}. Repeat it with that, or begin a sweep in a new folder."
    )


def refuse_shared_seeds(request: SweepRequest, tuning: Tuning) -> None:
    """Raise UsageError for a seed of the comparison that tries levels, too."""
    levels = {axis.name: axis.levels for axis in request.seeds}
    levels |= {key: (line.partition("=")[2],) for key, line in request.constants.items() if key.partition(".")[0] in SEEDS}
    for key, values in levels.items():
        if shared := [value for value in values if value in map(str, tuning.seeds)]:
            last = tuning.seeds[-1]
            raise UsageError(
                f"{key}={shared[0]}: the seeds {FIRST_SEED} to {last} choose the level of tuned keys (sweep.tune_seeds), and "
                "none of them can be compared. Use others."
            )


def trial_request(request: SweepRequest, config: Mapping[str, Any], tuning: Tuning) -> tuple[SweepRequest, list[Levels]]:
    """Return the request of the runs that try a level, and the levels of its seed axes, one for each run.

    `config`: the resolved experiment of the arm, which says how long its runs are.
    """
    seeds = request.seeds or (Axis("seed", "seed", ()),)
    lengths = _lengths(config, tuning.epochs)
    changed = dict.fromkeys((*(axis.name for axis in seeds), *lengths))
    constants = {name: line for name, line in request.constants.items() if name.lstrip("~") not in changed}
    trial = replace(
        request,
        axes=tuple(axis for axis in request.axes if axis.name not in changed),
        seeds=seeds,
        constants=constants | {key: f"{key}={value}" for key, value in lengths.items()},
        order=(*(name for name in request.order if name.lstrip("~") not in changed), *changed),
    )
    return trial, [{axis.name: str(seed) for axis in seeds} for seed in tuning.seeds]


def _lengths(config: Mapping[str, Any], share: float) -> dict[str, int]:
    """Return the settings of the length of a run that takes a share of the epochs; none for all of them."""
    trainer = config.get("trainer")
    if share == 1 or not isinstance(trainer, Mapping):
        return {}
    values = {key: trainer.get(key.partition(".")[2]) for key in LENGTHS}
    return {key: math.ceil(share * value) for key, value in values.items() if isinstance(value, int) and value > 0}
