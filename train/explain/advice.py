"""Options that usually help with a finding of the diagnosis: rules of thumb, not a promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["diverged", "cannot_learn"]
Finding = Literal["not_finite", "growth", "large_update", "dying", "initial", "small_update", "nothing"]


@dataclass(frozen=True)
class Switches:
    """The settings of a run that advice depends on. None: the run has no such option."""

    init: str
    norm: str
    activation: str | None
    lr: float | None
    grad_clip: float | None
    warmup: float | None


def suggest(kind: Kind, finding: Finding, statistic: str, switches: Switches) -> tuple[str, ...]:
    """Return options that usually help with such a finding and are not set already, as the user types them."""
    norm = ["norm=batch"] if switches.norm == "none" else []
    if finding == "small_update":
        return tuple(_learning_rates(switches, 10))
    if finding == "initial":
        return tuple([*_suitable_init(switches), *norm] or ["model=resnet", *_learning_rates(switches, 0.1)])
    if finding == "dying":
        leaky = switches.activation == "relu" and statistic == "activation_dead"
        return (*_learning_rates(switches, 0.1), *norm, *(["model.activation=leaky_relu"] if leaky else []))
    if finding == "nothing" and kind == "cannot_learn":
        return (*_learning_rates(switches, 0.1), *_learning_rates(switches, 10))
    clip = ["trainer.grad_clip=1"] if switches.grad_clip is None else []
    warmup = ["schedule.warmup=0.1"] if switches.warmup == 0 else []
    return (*_learning_rates(switches, 0.1), *warmup, *clip, *norm)


def _learning_rates(switches: Switches, factor: float) -> list[str]:
    return [] if switches.lr is None else [f"optimizer.lr={switches.lr * factor:g} (now {switches.lr:g})"]


def _suitable_init(switches: Switches) -> list[str]:
    """Return the init that suits the activation: Xavier for saturating ones with slope 1 at 0, He for the others."""
    fitting = ("xavier", "glorot", "orthogonal", "lsuv") if switches.activation in ("tanh", "identity") else ("kaiming", "lsuv")
    return [] if switches.init in fitting else [f"init={fitting[0]}"]
