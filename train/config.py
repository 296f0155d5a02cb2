"""The typed schema of everything that is not a pluggable part, and the check of any settings against a signature.

Imports no torch, so that a wrong key or value is reported at once.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from train.errors import UsageError, did_you_mean

GROUPS = ("data", "augment", "init", "norm", "regularization", "model", "optimizer", "schedule", "observe")
STRICT = ConfigDict(
    strict=True, extra="forbid", arbitrary_types_allowed=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
)

Fraction = Annotated[float, Interval(ge=0, lt=1)]


class Seeds(BaseModel):
    """One seed per role of randomness."""

    model_config = STRICT
    init: int
    order: int
    augment: int
    dropout: int
    split: int


class DataSettings(BaseModel):
    """The keys of `data` that every data set has."""

    model_config = STRICT
    root: str | None
    preprocess: Literal["none", "zero_center", "standardize"]
    val_fraction: Fraction
    workers: Annotated[int, Ge(0)]


class TrainerSettings(BaseModel):
    """The keys of `trainer`."""

    model_config = STRICT
    epochs: Annotated[int, Ge(0)]
    max_steps: Annotated[int, Ge(0)] | None
    batch_size: Annotated[int, Ge(1)]
    device: str
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    memory_format: Literal["auto", "channels_last", "contiguous"]
    compile: bool
    grad_clip: Annotated[float, Gt(0)] | None
    deterministic: bool
    record_every: Annotated[int, Ge(1)]
    evaluate_every: Annotated[int, Ge(1)]


class ObserveSettings(BaseModel):
    """The keys of `observe`; `every` and `histogram_every` are 0 for never, `probe_size` for no probe. `every_step`: what batch
    norms tell, at the steps in between."""

    model_config = STRICT
    level: Literal["basic", "full"]
    every: Annotated[int, Ge(0)]
    every_step: bool
    histogram_every: Annotated[int, Ge(0)]
    probe_size: Literal[0] | Annotated[int, Ge(2)]
    layers: str | list[str]


class ThresholdSettings(BaseModel):
    """The keys of `observe.thresholds`; `train.observe.verdict.Thresholds` says what each is."""

    model_config = STRICT
    fade: Annotated[float, Gt(0)]
    explode: Annotated[float, Gt(0)]
    gradient_fade: Annotated[float, Gt(0)]
    gradient_explode: Annotated[float, Gt(0)]
    dead: Annotated[float, Interval(gt=0, le=1)]
    saturated: Annotated[float, Interval(gt=0, le=1)]


class CheckpointSettings(BaseModel):
    """The keys of `checkpoint`; null is never. `keep`: how many of the newest are kept while a run goes on."""

    model_config = STRICT
    every_minutes: Annotated[float, Gt(0)] | None = 5.0
    every_steps: Annotated[int, Ge(1)] | None = None
    keep: Annotated[int, Ge(1)] = 2
    best: bool = True
    final: bool = True


@dataclass(frozen=True)
class Settings:
    """A checked configuration. `parts` holds, for each group, what its chosen function is called with."""

    seed: int
    seeds: Seeds
    data: DataSettings
    trainer: TrainerSettings
    observe: ObserveSettings
    thresholds: ThresholdSettings
    parts: Mapping[str, Mapping[str, Any]]
    trust: tuple[str, ...] = ()
    """Packages, besides ours and torch's, whose functions `parts` may name."""


def parse(config: Mapping[str, Any], trust: tuple[str, ...] = ()) -> Settings:
    """Check the resolved configuration of one run. UsageError names the first key that is wrong."""
    known = {"seed", "seeds", "trainer", *GROUPS}
    for key in config:
        if key not in known:
            raise UsageError(f"{key}: there is no such key. {did_you_mean(str(key), known)}")
    for key in sorted(known - set(config)):
        raise UsageError(f"{key}: this key is missing from the configuration.")
    for group in GROUPS:
        if not isinstance(config[group], Mapping):
            raise UsageError(
                f"{group}={config[group]}: this is a group, and the command line or an experiment has put a value in its place."
            )
    data = dict(config["data"])
    shared = {name: data.pop(name) for name in DataSettings.model_fields if name in data}
    observe = dict(config["observe"])
    thresholds = observe.pop("thresholds", {})
    parts = {name: config[name] for name in GROUPS if name not in ("data", "observe")} | {"data": data}
    return Settings(
        seed=check(create_model("Seed", __config__=STRICT, seed=(int, ...)), "", {"seed": config["seed"]}).seed,
        seeds=check(Seeds, "seeds", config["seeds"]),
        data=check(DataSettings, "data", shared),
        trainer=check(TrainerSettings, "trainer", config["trainer"]),
        observe=check(ObserveSettings, "observe", observe),
        thresholds=check(ThresholdSettings, "observe.thresholds", thresholds),
        parts=parts,
        trust=trust,
    )


def check(schema: type[Any], prefix: str, values: Any) -> Any:
    """`schema(**values)`, or a UsageError that names key, value and what is allowed."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{prefix}={values}: a group of keys belongs here, not a value.")
    try:
        return schema(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise UsageError(describe(error, prefix, schema.model_fields)) from None


def describe(error: ValidationError, prefix: str, known: Iterable[str]) -> str:
    """All of pydantic's complaints, one sentence for each key."""
    sentences: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        location = [str(part) for part in problem["loc"]]
        places = "".join(f"[{part}]" for part in location[1:] if part.isdigit())
        key = (f"{prefix}." if prefix else "") + location[0] + places
        if problem["type"] == "extra_forbidden":
            said = f"{key}: there is no such key. {did_you_mean(location[0], known)}"
        elif problem["type"] == "missing":
            said = f"{key}: this key is missing."
        else:
            wanted = problem["msg"].replace("Input should be", "it should be").replace("a valid integer", "an integer")
            wanted = wanted.replace("a valid ", "a ")
            said = f"{key}={show(problem['input'])}: {wanted}"
        sentences.setdefault(key, []).append(said)
    return " ".join(merge(said) for said in sentences.values())


def merge(said: list[str]) -> str:
    """`a: it should be x`, `a: it should be y` -> `a: it should be x, or y.`"""
    head, *rest = said
    text = ", or ".join([head, *(s.partition("it should be ")[2] for s in rest)])
    return text if text.endswith((".", "?")) else f"{text}."


def show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_call(function: Callable[..., Any], group: str, settings: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """The checked arguments that `settings` make for `function`, whose parameters `given` come from elsewhere.

    A setting that is no parameter, one that is missing, or one whose value does not fit the annotation (ranges by
    `annotated_types` included) is a UsageError that names group and key.
    """
    given = set(given)
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in given:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    schema = create_model(f"{group}_settings", __config__=STRICT, **fields)
    checked = check(schema, group, settings)
    return {name: getattr(checked, name) for name in settings}


def total_steps(trainer: TrainerSettings, steps_per_epoch: int) -> int:
    """The number of updates the run will make: all its epochs, or `max_steps` where that is fewer."""
    whole = trainer.epochs * steps_per_epoch
    return whole if trainer.max_steps is None else min(whole, trainer.max_steps)


def epochs_needed(steps: int, steps_per_epoch: int) -> int:
    return math.ceil(steps / steps_per_epoch) if steps_per_epoch else 0
