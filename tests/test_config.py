"""The check of settings against a signature, and of a whole configuration against the schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval, Len

from tests.harness import compose_config
from train.config import TrainerSettings, check_call, parse, total_steps
from train.errors import UsageError


def choice(
    images: object,
    groups: Annotated[int, Ge(1)],
    p: Annotated[float, Interval(ge=0, lt=1)] = 0.5,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    shape: Annotated[Sequence[Annotated[int, Ge(1)]], Len(3, 3)] = (1, 2, 3),
    padding: int | None = None,
    nesterov: bool = True,
    model_name: str = "resnet18",
) -> None:
    """A function such as a YAML names; the program passes `images` itself."""


def checked(**settings: Any) -> dict[str, Any]:
    return check_call(choice, "group", settings, ["images"])


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": 1},
        {"groups": 3, "p": 0.0},
        {"groups": 3, "p": 0},  # YAML's 0 is an int
        {"groups": 3, "mode": "fan_out", "shape": [3, 32, 32], "padding": None, "nesterov": False},
        {"groups": 3, "padding": 4, "model_name": "x"},
    ],
)
def test_check_call_returns_valid_settings_without_defaults(settings: dict[str, Any]) -> None:
    assert checked(**settings) == settings


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"groups": 0}, "group.groups=0: it should be greater than or equal to 1."),
    ({"groups": "abc"}, "group.groups=abc: it should be an integer."),
    ({"groups": "3"}, "group.groups=3: it should be an integer."),
    ({"groups": 3.0}, "group.groups=3.0: it should be an integer."),
    ({"groups": True}, "group.groups=true: it should be an integer."),
    ({"groups": None}, "group.groups=null: it should be an integer."),
    ({}, "group.groups: this key is missing."),
    ({"groups": 1, "p": 1}, "group.p=1: it should be less than 1."),
    ({"groups": 1, "p": -0.1}, "group.p=-0.1: it should be greater than or equal to 0."),
    ({"groups": 1, "p": math.nan}, "group.p=nan: it should be a finite number."),
    ({"groups": 1, "p": math.inf}, "group.p=inf: it should be a finite number."),
    ({"groups": 1, "p": "half"}, "group.p=half: it should be a number."),
    ({"groups": 1, "mode": "fan"}, "group.mode=fan: it should be 'fan_in' or 'fan_out'."),
    ({"groups": 1, "nesterov": 1}, "group.nesterov=1: it should be a boolean."),
    ({"groups": 1, "nesterov": "true"}, "group.nesterov=true: it should be a boolean."),
    ({"groups": 1, "padding": "wide"}, "group.padding=wide: it should be an integer."),
    ({"groups": 1, "model_name": 5}, "group.model_name=5: it should be a string."),
    ({"groups": 1, "shape": 32}, "group.shape=32: it should be"),
    ({"groups": 1, "shape": [3, 0, 32]}, "group.shape[1]=0: it should be greater than or equal to 1."),
    ({"groups": 1, "shape": [3, 32]}, "group.shape=[3, 32]: "),
    ({"groups": 1, "grop": 2}, "group.grop: there is no such key. Did you mean 'groups'?"),
    ({"groups": 1, "zzz": 2}, "group.zzz: there is no such key. Known: "),
    ({"groups": 1, "images": 2}, "group.images: there is no such key."),
    ({"groups": 0, "p": 2}, "group.groups=0: it should be greater than or equal to 1. group.p=2: it should be less than 1."),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_check_call_names_invalid_settings_and_the_allowed_values(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked(**settings)
    assert str(caught.value).startswith(message)


def test_check_call_merges_alternatives_into_one_sentence() -> None:
    def union(size: int | Literal["auto"]) -> None:
        """Takes either of two types."""

    with pytest.raises(UsageError, match=r"^g\.size=big: it should be an integer, or 'auto'\.$"):
        check_call(union, "g", {"size": "big"}, ())


def test_check_call_reads_constructors_and_skips_unannotated() -> None:
    class Choice:
        def __init__(self, width: Annotated[int, Ge(1)], anything=None) -> None:
            self.width, self.anything = width, anything

    assert check_call(Choice, "g", {"width": 2, "anything": [1]}, ()) == {"width": 2, "anything": [1]}
    with pytest.raises(UsageError, match=r"g\.width=0"):
        check_call(Choice, "g", {"width": 0}, ())


# The whole configuration


def config_with(path: str, value: Any) -> dict[str, Any]:
    """Return the default configuration with one key set; `...` removes the key."""
    config: dict[str, Any] = compose_config([])
    node = config
    *parents, last = path.split(".")
    for name in parents:
        node = node[name]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return config


def test_parse_accepts_the_defaults() -> None:
    settings = parse(compose_config([]))
    assert settings.seed == settings.seeds.init == settings.seeds.split == 0
    assert settings.parts["norm"]["_target_"] == "train.parts.norm.batch"
    assert set(settings.parts["data"]) == {"_target_"}, "keys that all data sets share are no arguments of its function"


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("fp16", "float16"),
        ("FP16", "float16"),
        ("half", "float16"),
        (16, "float16"),
        ("16-mixed", "float16"),
        ("bf16", "bfloat16"),
        ("bf16-mixed", "bfloat16"),
        ("fp32", "float32"),
        (32, "float32"),
        ("32-true", "float32"),
        ("float64", ""),
        ("mixed", ""),
        (64, ""),
        (None, ""),
    ],
)
def test_precision_of_other_tools_is_answered_with_the_own_name(value: Any, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(config_with("trainer.precision", value))
    assert str(caught.value).partition("Did you mean ")[2] == (f"trainer.precision={meant}?" if meant else "")


@pytest.mark.parametrize("value", ["auto", True, False])
def test_parse_keeps_the_choice_of_a_cuda_graph(value: str | bool) -> None:
    assert parse(config_with("trainer.cuda_graph", value)).trainer.cuda_graph is value


def test_seeds_default_to_the_seed() -> None:
    seeds = parse(compose_config(["seed=3", "seeds.order=0"])).seeds
    assert (seeds.init, seeds.order, seeds.augment, seeds.dropout, seeds.split) == (3, 0, 3, 3, 3)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", "1", "seed=1: it should be an integer."),
        ("seed", ..., "seed: this key is missing from the configuration."),
        ("seeds.order", 1.5, "seeds.order=1.5: it should be an integer."),
        ("seeds.luck", 1, "seeds.luck: there is no such key."),
        ("trainer.epochs", -1, "trainer.epochs=-1: it should be greater than or equal to 0."),
        ("trainer.epochs", ..., "trainer.epochs: this key is missing."),
        ("trainer.max_steps", "all", "trainer.max_steps=all: it should be an integer."),
        ("trainer.batch_size", 0, "trainer.batch_size=0: it should be greater than or equal to 1."),
        ("trainer.precision", "float64", "trainer.precision=float64: it should be 'auto', 'float32', 'bfloat16' or 'float16'."),
        ("trainer.cuda_graph", "yes", "trainer.cuda_graph=yes: it should be 'auto', or a boolean."),
        ("trainer.cuda_graph", 1, "trainer.cuda_graph=1: it should be 'auto', or a boolean."),
        ("trainer.grad_clip", 0.0, "trainer.grad_clip=0.0: it should be greater than 0."),
        ("trainer.record_every", 0, "trainer.record_every=0: it should be greater than or equal to 1."),
        ("trainer", 5, "trainer=5: this is a group of keys, but it was set to a value."),
        ("data.val_fraction", 1.0, "data.val_fraction=1.0: it should be less than 1."),
        ("data.preprocess", "whiten", "data.preprocess=whiten: it should be 'none', 'zero_center' or 'standardize'."),
        ("data.workers", -1, "data.workers=-1: it should be greater than or equal to 0."),
        ("norm", "batch", "norm=batch: this is a config group, but the command line or an experiment set it to a value."),
        ("observe.evry", 1, "observe.evry: there is no such key. Did you mean 'every'?"),
        ("trainr", {}, "trainr: there is no such key. Did you mean 'trainer'?"),
    ],
)
def test_parse_names_the_first_wrong_key(path: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(config_with(path, value))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "per_epoch", "total"), [(3, None, 4, 12), (3, 5, 4, 5), (3, 99, 4, 12), (0, 5, 4, 0), (3, 0, 4, 0)]
)
def test_total_steps_of_epochs_and_max_steps(epochs: int, max_steps: int | None, per_epoch: int, total: int) -> None:
    trainer = parse(compose_config([])).trainer
    assert isinstance(trainer, TrainerSettings)
    assert total_steps(trainer.model_copy(update={"epochs": epochs, "max_steps": max_steps}), per_epoch) == total
