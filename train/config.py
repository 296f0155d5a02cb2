"""The typed schema of all fixed settings, and the check of a choice's settings against the signature of its function.

Imports no torch, so that a wrong key or value is reported at once.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model

from train.errors import UsageError, did_you_mean

GROUPS = ("data", "augment", "init", "norm", "regularization", "model", "optimizer", "schedule", "observe")
STRICT = ConfigDict(
    strict=True, extra="forbid", arbitrary_types_allowed=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
)

MOST_PROBLEMS = 20
"""Of a group's keys, in one message."""

Fraction = Annotated[float, Interval(ge=0, lt=1)]


PRECISIONS = {"16": "float16", "fp16": "float16", "half": "float16", "bf16": "bfloat16", "32": "float32", "fp32": "float32"}
"""What other tools call a precision, without what may follow a dash -> what it is called here."""


def show(value: Any) -> str:
    """Return a value as it is typed."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class Seeds(BaseModel):
    """One seed per role of randomness."""

    model_config = STRICT
    init: int
    order: int
    augment: int
    dropout: int
    split: int


class DataSettings(BaseModel):
    """The keys of `data` that all data sets share."""

    model_config = STRICT
    root: str | None
    preprocess: Literal["none", "zero_center", "standardize"]
    val_fraction: Fraction
    train_fraction: Annotated[float, Interval(gt=0, le=1)]
    workers: Annotated[int, Ge(0)]
    verify: bool


class TrainerSettings(BaseModel):
    """The keys of `trainer`."""

    model_config = STRICT
    epochs: Annotated[int, Ge(0)]
    max_steps: Annotated[int, Ge(0)] | None
    batch_size: Annotated[int, Ge(1)]
    device: Annotated[str, BeforeValidator(show)]
    devices: Annotated[int, Ge(1)] = 1
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    memory_format: Literal["auto", "channels_last", "contiguous"]
    compile: bool
    cuda_graph: Literal["auto"] | bool
    grad_clip: Annotated[float, Gt(0)] | None
    deterministic: bool
    record_every: Annotated[int, Ge(1)]
    evaluate_every: Annotated[int, Ge(1)]
    score_test: bool


class ObserveSettings(BaseModel):
    """The keys of `observe`.

    `every`, `histogram_every`: 0 is never; `probe_size`: 0 is no probe; `every_step`: record batch-norm statistics at the steps
    in between, too; `figures`: draw what was observed as the run ends.
    """

    model_config = STRICT
    level: Literal["basic", "full"]
    every: Annotated[int, Ge(0)]
    every_step: bool
    histogram_every: Annotated[int, Ge(0)]
    probe_size: Literal[0] | Annotated[int, Ge(2)]
    layers: str | list[str]
    figures: bool = True


class ThresholdSettings(BaseModel):
    """The keys of `observe.thresholds`, heuristics of the verdict, not limits beyond which a network cannot train.

    `fade`, `explode`: std of the last hidden layer relative to the first. `gradient_fade`, `gradient_explode`: std of the
    gradient at the first hidden layer relative to the last. `dead`, `saturated`: share of a layer.
    """

    model_config = STRICT
    fade: Annotated[float, Gt(0)]
    explode: Annotated[float, Gt(0)]
    gradient_fade: Annotated[float, Gt(0)]
    gradient_explode: Annotated[float, Gt(0)]
    dead: Annotated[float, Interval(gt=0, le=1)]
    saturated: Annotated[float, Interval(gt=0, le=1)]


class CheckpointSettings(BaseModel):
    """The keys of `checkpoint`; null is never. `keep`: number of newest checkpoints to keep while the run is running."""

    model_config = STRICT
    every_minutes: Annotated[float, Gt(0)] | None = 5.0
    every_steps: Annotated[int, Ge(1)] | None = None
    keep: Annotated[int, Ge(1)] = 2
    best: bool = True
    final: bool = True


@dataclass(frozen=True)
class Settings:
    """A checked configuration. `parts`: config group -> the `_target_` and settings of its chosen function."""

    seed: int
    seeds: Seeds
    data: DataSettings
    trainer: TrainerSettings
    observe: ObserveSettings
    thresholds: ThresholdSettings
    parts: Mapping[str, Mapping[str, Any]]


def parse(config: Mapping[str, Any]) -> Settings:
    """Check the resolved configuration of one run. UsageError names the first wrong key."""
    keys = {"seed", "seeds", "trainer", *GROUPS}
    for key in config:
        if key not in keys:
            raise UsageError(f"{key}: there is no such key. {did_you_mean(str(key), keys)}")
    for key in sorted(keys - set(config)):
        raise UsageError(f"{key}: this key is missing from the configuration.")
    for group in GROUPS:
        if not isinstance(config[group], Mapping):
            raise UsageError(
                f"{group}={config[group]}: this is a config group, but the command line or an experiment set it to a value."
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
    )


def check(schema: type[Any], prefix: str, values: Any) -> Any:
    """Return `schema(**values)`. UsageError names each wrong key, its value and the allowed values."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{prefix}={show(values)}: this is a group of keys, but it was set to a value.")
    try:
        return schema(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise UsageError(describe(error, prefix, schema.model_fields)) from None


def describe(error: ValidationError, prefix: str, keys: Iterable[str]) -> str:
    """Describe the errors that pydantic found, in one sentence per key."""
    sentences: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False)[:MOST_PROBLEMS]:
        location = [str(part) for part in problem["loc"]]
        indices = "".join(f"[{part}]" for part in location[1:] if part.isdigit())
        key = (f"{prefix}." if prefix else "") + location[0] + indices
        if problem["type"] == "extra_forbidden":
            message = f"{key}: there is no such key. {did_you_mean(location[0], keys)}"
        elif problem["type"] == "missing":
            message = f"{key}: this key is missing."
        else:
            requirement = problem["msg"].replace("Input should be", "it should be").replace("a valid integer", "an integer")
            requirement = requirement.replace("a valid ", "a ")
            message = f"{key}={show(problem['input'])}: {requirement}{_meant(key, problem['input'])}"
        sentences.setdefault(key, []).append(message)
    return " ".join(merge(messages) for messages in sentences.values())


def _meant(key: str, value: Any) -> str:
    name = PRECISIONS.get(show(value).lower().partition("-")[0]) if key == "trainer.precision" else None
    return f". Did you mean {key}={name}?" if name else ""


def merge(messages: list[str]) -> str:
    """Merge the messages about one key: `a: it should be x`, `a: it should be y` -> `a: it should be x, or y.`"""
    head, *rest = messages
    text = ", or ".join([head, *(s.partition("it should be ")[2] for s in rest)])
    return text if text.endswith((".", "?")) else f"{text}."


def check_call(function: Callable[..., Any], group: str, settings: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """Check `settings` against the signature of `function` and return them as its arguments.

    `given`: parameters that the caller passes itself. UsageError, with group and key, for a setting that is not a parameter, is
    missing, or does not match the annotation (including ranges from `annotated_types`).
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
    """Return the number of train steps of the run: those of all its epochs, limited by `max_steps`."""
    steps = trainer.epochs * steps_per_epoch
    return steps if trainer.max_steps is None else min(steps, trainer.max_steps)
