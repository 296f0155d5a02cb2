"""Conditions on runs, and what a run knows by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.report.folders import write_run
from train.errors import UsageError
from train.store.run import Run, read_run
from train.store.values import MISSING, value_of
from train.store.where import conditions_of, select, why_none

GROUP = ("norm=group", "norm.groups=4", "optimizer.lr=0.1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Run]:
    """a: batch, done; b: group, done; c: diverged; d: running, without a summary."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "a", ["norm=batch"], 0.9, started=0, status={"versions": {"torch": "2.9.0"}})
    write_run(root / "b", [*GROUP, "seed=3"], 0.8, started=86_400)
    write_run(root / "c", ["norm=batch", "seed=1"], None, "diverged", summary={"train_loss": "NaN"})
    write_run(root / "d", ["augment=[flip,crop]"], 0.5, "interrupted", choices={"augment": "[flip, crop]"})
    return [read_run(root / name) for name in "abcd"]


def names(runs: Sequence[Run], *conditions: str) -> str:
    return "".join(run.folder.name for run in select(runs, conditions_of(conditions)))


CASES = {
    ("norm=batch",): "acd",
    ("norm=batch,group",): "abcd",
    ("norm!=batch",): "b",
    ("norm==group",): "b",
    ("norm.groups=4",): "b",
    ("norm.groups=4.0",): "b",
    ("norm.groups!=4",): "acd",
    ("+norm.groups=4",): "b",
    ("optimizer.lr<=1e-1",): "b",
    ("optimizer.lr>0.1",): "acd",
    ("trainer.max_steps=null",): "abcd",
    ("trainer.compile=False",): "abcd",
    ("augment=[flip,crop]",): "d",
    ('augment=["flip", "crop"]',): "d",
    ("status=done",): "ab",
    ("status=done,diverged",): "abc",
    ("status!=done",): "cd",
    ("status=failed",): "",
    ("seed=0",): "ad",
    ("seed>0",): "bc",
    ("run=a",): "a",
    ("started>=2025-06-16",): "b",
    ("started<2025-06-16",): "acd",
    ("accuracy/test>0.8",): "a",
    ("accuracy/test >= 0.8",): "ab",
    ("test_accuracy>0.8",): "a",
    ("accuracy/val>0",): "abcd",
    ("loss/train=nan",): "c",
    ("loss/train<100",): "abd",
    ("lr=0.1",): "abcd",
    ("activation_std/stage0.conv0<2",): "abcd",
    ("versions.torch=2.9.0",): "a",
    ("test_examples=2000",): "ab",
    ("norm=batch", "status=done"): "a",
    ("status=diverged", "loss/test>0"): "",
    ("status=interrupted", "lr>0"): "d",
}


@pytest.mark.parametrize("conditions", CASES, ids=" ".join)
def test_conditions_select_runs(runs: Sequence[Run], conditions: tuple[str, ...]) -> None:
    assert names(runs, *conditions) == CASES[conditions]


def test_arm_is_known_by_the_beginning_of_its_id(runs: Sequence[Run]) -> None:
    assert names(runs, f"arm={runs[1].arm[:4]}") == "b"
    assert names(runs, f"arm={runs[1].arm[:3]}") == ""


REFUSED = {
    "nrom=batch": "'norm'",
    "groups=4": "'norm.groups'",
    "acuracy/test>0": "'accuracy/test'",
    "accuracy>0": "'accuracy/",
    "xyzzy=1": "Known are status",
    "norm": "KEY=VALUE",
    "=batch": "KEY=VALUE",
    "norm=": "no value",
    "norm>batch": "norm=batch",
    "status=finished": "Known: ",
    "status=don": "'done'",
    "": "KEY=VALUE",
}


@pytest.mark.parametrize("condition", REFUSED)
def test_bad_condition_is_one_message(runs: Sequence[Run], condition: str) -> None:
    with pytest.raises(UsageError) as error:
        select(runs, conditions_of([condition]))
    assert f"--where {condition}" in str(error.value)
    assert REFUSED[condition] in str(error.value)


def test_values_that_are_there_are_named_where_nothing_is_left(runs: Sequence[Run]) -> None:
    assert "norm is batch (3), group (1)" in why_none(runs, conditions_of(["seed>=0", "norm=bacth"]))
    assert "accuracy/test is 0.9 (1), 0.8 (1)" in why_none(runs[:2], conditions_of(["accuracy/test>90"]))


def test_records_are_read_for_what_only_they_hold(tmp_path: Path) -> None:
    """Of a tag whose last value lies far from the end, of a torn line, and without the file."""
    folder = write_run(tmp_path / "a", ["norm=batch"])
    run = read_run(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    early = [json.dumps(row | {"values": {"early": value, "x/early": value}}) for value in (1.0, 2.0)]
    (folder / "metrics.jsonl").write_text("\n".join([*early, *lines * 100, '{"step": 3, "values": {"x/early": 9']))
    assert value_of(run, "x/early") == 2.0
    assert value_of(run, "x/other") is MISSING
    (folder / "metrics.jsonl").unlink()
    assert value_of(run, "x/early") is MISSING
