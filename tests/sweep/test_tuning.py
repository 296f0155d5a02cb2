"""Tuned axes: crossed with every arm, excluded from the comparison, recorded for the report."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import SMALL
from tests.sweep.test_plan import plan_of
from train.errors import UsageError
from train.report.make import ReportOptions
from train.store.identity import arm_id
from train.store.manifest import Manifest, merge_manifests, read_manifest, write_manifest
from train.sweep import plan_text
from train.sweep.manifest import build_manifest
from train.sweep.plan import SweepPlan
from train.sweep.reuse import run_statuses
from train.sweep.stages import OneStage
from train.sweep.tuning_stages import TuneFirst

Train = Callable[..., "subprocess.CompletedProcess[str]"]
RATES = "optimizer.lr=0.1,0.4"
TUNE = "sweep.tune=optimizer.lr"


def overrides_of_arms(plan: SweepPlan) -> list[list[str]]:
    """Return the overrides of every tuned level of every compared arm."""
    return [[" ".join(arm.overrides) for arm in arms] for arms in plan.compared]


DESIGNS = [
    (
        "grid",
        [
            ["norm=none", "init=kaiming"],
            ["norm=none", "init=xavier"],
            ["norm=batch", "init=kaiming"],
            ["norm=batch", "init=xavier"],
        ],
    ),
    ("one_at_a_time", [[], ["norm=none"], ["init=xavier"]]),
    ("leave_one_out", [["norm=none", "init=kaiming"], ["norm=batch", "init=kaiming"], ["norm=none", "init=xavier"]]),
]


@pytest.mark.parametrize(("design", "arms"), DESIGNS, ids=[design for design, _ in DESIGNS])
def test_every_design_tries_every_tuned_level(loader: Any, design: str, arms: list[list[str]]) -> None:
    plan = plan_of(loader, [f"sweep.design={design}", TUNE, "norm=none,batch", "init=kaiming,xavier", RATES, "seed=0,1"])
    assert overrides_of_arms(plan) == [[" ".join([*arm, f"optimizer.lr={rate}"]) for rate in ("0.1", "0.4")] for arm in arms]
    assert len(plan.runs) == len(arms) * 2 * 2
    assert [run.overrides[-1] for run in plan.runs] == ["seed=0"] * len(arms) * 2 + ["seed=1"] * len(arms) * 2


def test_plan_text_lists_tuned_levels(loader: Any, tmp_path: Path) -> None:
    plan = plan_of(loader, [TUNE, "norm=none,batch", RATES, "seed=range(5)"])
    assert list(plan_text.arm_lines(plan)) == [
        "arms",
        "  norm=none (baseline)  at optimizer.lr=0.1,0.4",
        "  norm=batch  at optimizer.lr=0.1,0.4",
    ]
    stage = TuneFirst(plan, lambda chosen: OneStage(chosen.runs)).stage(None)
    size, baseline, *_ = plan_text.plan_lines(plan, run_statuses(tmp_path, stage.runs, False), "unfinished", Path("out"))
    assert size == "sweep  2 arms x 2 levels of optimizer.lr x 2 seeds = 8 runs (grid) in out"
    assert baseline.split() == ["baseline:", "norm=none"]


def test_tuned_keys_are_crossed_or_zipped(loader: Any) -> None:
    both = [
        "sweep.tune=[optimizer.lr,optimizer.momentum]",
        "optimizer.lr=0.1,0.2",
        "optimizer.momentum=0.8,0.9",
        "norm=none,batch",
    ]
    assert [len(arms) for arms in plan_of(loader, both).compared] == [4, 4]
    plan = plan_of(loader, [*both, "sweep.zip=[[optimizer.lr,optimizer.momentum]]"])
    assert overrides_of_arms(plan)[0] == [
        "optimizer.lr=0.1 optimizer.momentum=0.8 norm=none",
        "optimizer.lr=0.2 optimizer.momentum=0.9 norm=none",
    ]


def test_without_arms_keeps_arm_with_one_possible_level(loader: Any) -> None:
    plan = plan_of(loader, [TUNE, "norm=none,batch", RATES])
    reduced = plan.without_arms({plan.arms[0].id: "it cannot be"})
    assert [arm.levels for arm in (reduced.baseline, plan.arms[1])] == [{"norm": "none", "optimizer.lr": "0.4"}] * 2
    with pytest.raises(UsageError, match="The baseline"):
        plan.without_arms({arm.id: "it cannot be" for arm in plan.compared[0]})


def test_group_tuned_ignores_values_computed_from_tuned(loader: Any) -> None:
    plan = plan_of(loader, [TUNE, "norm=none,batch", RATES, "regularization.weight_decay='${optimizer.lr}'"])
    assert [len(arms) for arms in plan.compared] == [2, 2]


def test_manifest_records_tuned_keys(loader: Any, tmp_path: Path) -> None:
    plan = plan_of(loader, [TUNE, "norm=none,batch", RATES])
    manifest = manifest_of(plan)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.tune == ("optimizer.lr",)
    assert manifest.axes == {"norm": ("none", "batch"), "optimizer.lr": ("0.1", "0.4")}
    assert {arm.tuned for arm in manifest.arms} == {arm_id(arm.config, manifest.tune) for arm in plan.arms}
    assert len({arm.tuned for arm in manifest.arms}) == 2


def manifest_of(plan: SweepPlan) -> Manifest:
    return build_manifest(plan, plan.runs, ["train"], "", [], ReportOptions())


def test_merge_manifests_adds_tuned_levels_to_arms(loader: Any) -> None:
    first = manifest_of(plan_of(loader, [TUNE, "norm=none,batch", "optimizer.lr=0.1,0.2"]))
    wider = manifest_of(plan_of(loader, [TUNE, "norm=none,batch", "optimizer.lr=0.05,0.4"]))
    both = merge_manifests(first, wider)
    assert len(both.arms) == 8
    assert len({arm.tuned for arm in both.arms}) == 2


def test_merge_manifests_of_a_part_keeps_tuned_keys(loader: Any) -> None:
    complete = manifest_of(plan_of(loader, [TUNE, "norm=none,batch", RATES, "seed=0,1"]))
    part = manifest_of(plan_of(loader, ["norm=batch", "optimizer.lr=0.4", "seed=0,1"]))
    both = merge_manifests(complete, part)
    assert both.tune == ("optimizer.lr",)
    assert {arm.id: arm for arm in both.arms} == {arm.id: arm for arm in complete.arms}


REFUSED: list[tuple[Sequence[str], str]] = [
    (["sweep.tune=optimizer.rl", RATES], "optimizer.rl is not an axis of this command. .*Did you mean 'optimizer.lr'?"),
    ([TUNE, "optimizer.lr=0.1"], r"has one value only \(optimizer.lr=0.1\). Give it the levels to try"),
    ([TUNE, "optimizer.lr=0.1,0.1"], r"has one level only \(0.1\). Give it several, or omit sweep.tune"),
    (["sweep.tune=seed", "seed=0,1"], "choosing the best of them proves nothing"),
    ([TUNE, RATES, "sweep.baseline={optimizer.lr: 0.1}"], "is tuned for every arm"),
    (
        [TUNE, "norm=none,batch,group", RATES, "sweep.zip=[[norm,optimizer.lr]]"],
        r"tuned axes \(sweep.tune\) are crossed with every arm",
    ),
    (
        ["sweep.tune=data", "data=fashion_mini,noise"],
        "levels are chosen by accuracy on the same validation split, which depends on the data",
    ),
    ([TUNE, RATES, "data.val_fraction=0"], "data.val_fraction=0 leaves no validation split"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_tune_rejects_unusable_keys(loader: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_of(loader, [*(["norm=none,batch"] if "norm" not in " ".join(overrides) else []), *overrides])


SWEEP = ["-m", *SMALL, "sweep.reuse_other_code=true", "hydra.sweep.dir=out", "norm=none,batch", "optimizer.lr=0.05,0.1"]


def test_misspelt_tune_key_fails_before_any_run(train: Train, tmp_path: Path) -> None:
    result = train(*SWEEP, "sweep.tune=optimizer.rl")
    assert result.returncode == 2
    assert "sweep.tune=optimizer.rl" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sweep_with_tuned_rates_writes_report(train: Train, tmp_path: Path) -> None:
    result = train(*SWEEP, "seed=0,1", TUNE, "sweep.tune_seeds=1", "sweep.tune_extend=0")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 arms x 2 levels of optimizer.lr x 1 seed = 4 runs (grid)" in result.stdout
    assert "baseline: norm=none\n" in result.stdout
    assert "stage  comparison: 4 runs at the chosen levels" in result.stdout
    assert "sweep  8 runs: 8 done" in result.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 runs that only served to choose, besides the 4 that are compared" in page
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    for norm in ("none", "batch"):
        means = {
            row["optimizer.lr"]: float(row["val_accuracy"])
            for row in rows
            if (row["norm"], row["seed"]) == (norm, "100000") and row["compared"] == "false"
        }
        assert len(means) == 2
        chosen = {row["optimizer.lr"] for row in rows if row["norm"] == norm and row["compared"] == "true"}
        assert chosen == {max(means, key=lambda rate: means[rate])}
