"""Everything that `conf` offers is tried because it is listed there: it composes, builds, trains and repeats to the bit."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_method

from scripts.catalogue import ELSEWHERE, IMAGE_FOLDER, OF_SWEEPS, WITHOUT_DOWNLOAD, choices, groups, overrides_of, write_images
from tests.harness import settings_for, train_in_process
from train import cli
from train.config import DataSettings
from train.errors import UsageError
from train.run.build import build
from train.store.metrics import read_records
from train.store.run_folder import RunFolder

CONF = cli.config_dir()
GROUPS = groups(CONF)
CHOICES = choices(CONF)
RUNS = [choice for choice in CHOICES if choice not in {*ELSEWHERE, IMAGE_FOLDER} and not choice.startswith(OF_SWEEPS)]
"""`tests/sweep/test_study.py` tries each study."""

SUPPLIED = {"model": ("input_shape", "classes", "norm", "dropout", "stochastic_depth"), "data": ("root", "workers", "verify")}
"""Parameters that `train/run/build.py` fills in."""

SCORES = {"loss", "accuracy", "lr"}

SHARED = {"data": DataSettings.model_fields}
"""Keys of a group that its functions do not take."""


@pytest.mark.slow
@pytest.mark.parametrize("choice", RUNS)
def test_choice_trains_two_steps_and_repeats_to_the_bit(choice: str, tmp_path: Path) -> None:
    """The second time nothing is observed: that changes nothing else."""
    observed = train_in_process(tmp_path / "observed", overrides_of(choice), figures=choice == "observe=full")
    again = train_in_process(tmp_path / "again", [*overrides_of(choice), "observe=off"])
    assert scores(observed) == scores(again)
    losses = [row["loss/train"] for row in scores(again) if "loss/train" in row]
    assert losses, "two steps make a record"
    assert all(math.isfinite(loss) for loss in losses)
    first, second = (torch.load(run.weights_file, weights_only=True) for run in (observed, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def scores(run: RunFolder) -> list[dict[str, float]]:
    """Return losses, accuracies and learning rates, record by record."""
    rows = ({tag: row.values[tag] for tag in row.values if tag.split("/")[0] in SCORES} for row in read_records(run.metrics_file))
    return [row for row in rows if row]


@pytest.mark.parametrize("choice", sorted(ELSEWHERE))
def test_data_set_composes_and_builds(choice: str) -> None:
    build(settings_for(overrides_of(choice)))


@pytest.mark.parametrize(
    "choice",
    [*WITHOUT_DOWNLOAD, *(pytest.param(choice, marks=pytest.mark.long) for choice in sorted(ELSEWHERE - WITHOUT_DOWNLOAD))],
)
def test_data_set_trains_two_steps(choice: str, tmp_path: Path) -> None:
    try:
        run = train_in_process(tmp_path / "run", overrides_of(choice))
    except UsageError as error:
        if choice in WITHOUT_DOWNLOAD or "is not on this machine" not in str(error):
            raise
        pytest.skip(f"no copy of {choice} on this machine")
    assert any("accuracy/test" in record.values for record in read_records(run.metrics_file))


def test_image_folder_trains_two_steps(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    run = train_in_process(tmp_path / "run", [*overrides_of(IMAGE_FOLDER), f"data.root={tmp_path / 'images'}"])
    assert any("accuracy/test" in record.values for record in read_records(run.metrics_file))


def functions_of(choice: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what a YAML calls, by its name there: its settings with `_target_`. An augmentation may name several or none."""
    group, _, name = choice.partition("=")
    content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    named = content.items() if group == "augment" else [(name, content)]
    return [(name, node) for name, node in named if "_target_" in node]


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if functions_of(choice)])
def test_yaml_is_the_signature_of_its_function(choice: str) -> None:
    """Its keys are the parameters in their order; a YAML that bears the function's name also repeats the defaults."""
    group, _, _ = choice.partition("=")
    for name, node in functions_of(choice):
        function = get_method(node["_target_"])
        parameters = {key: p for key, p in inspect.signature(function).parameters.items() if key not in SUPPLIED.get(group, ())}
        settings = {key: value for key, value in node.items() if key != "_target_" and key not in SHARED.get(group, ())}
        assert next(iter(node)) == "_target_"
        assert list(settings) == list(parameters)
        if function.__name__ == name:
            defaults = {key: p.default for key, p in parameters.items() if p.default is not inspect.Parameter.empty}
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
            assert {key: values[key] for key in defaults} == defaults


@pytest.mark.parametrize("choice", CHOICES)
def test_first_lines_of_a_choice_say_what_it_is(choice: str) -> None:
    group, _, name = choice.partition("=")
    text = (CONF / group / f"{name}.yaml").read_text().removeprefix("# @package _global_\n")
    assert text.startswith("# "), "a YAML begins with comments: paper, meaning, what to expect"
