"""Plans: run identities equal those of Hydra's own composition; duplicates, errors and merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from train.errors import UsageError
from train.report.make import ReportOptions
from train.run.job import resolve_config
from train.store.identity import arm_id, experiment_of, identity
from train.store.manifest import Manifest, merge_manifests
from train.sweep.axes import read_request
from train.sweep.manifest import build_manifest
from train.sweep.plan import SweepPlan, make_plan
from train.sweep.settings import parse_sweep


def plan_of(
    loader: Any, overrides: Sequence[str], preset: dict[str, Any] | None = None, stored: Manifest | None = None
) -> SweepPlan:
    sweep_overrides = [line for line in overrides if line.startswith("sweep.")]
    master = loader.load_configuration("config", sweep_overrides, RunMode.MULTIRUN)
    settings, _ = parse_sweep({key: OmegaConf.to_container(master[key], resolve=True) for key in ("sweep", "report")})
    return make_plan(read_request(preset, overrides, loader, settings.tuned_levels), settings, loader, master, stored)


OVERRIDES = [
    ["norm=none,batch", "seed=range(3)"],
    ["norm=none,batch", "seed=0,1", "seeds.order=3,4", "trainer.epochs=2"],
    ["seed=1,2", "+model.note='${seed}'"],
    ["seeds.init=1,2", "seeds={init: 7, order: 0}"],
    ["seed=1,2", "++seeds.split=5", "optimizer.lr=0.1,0.2"],
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_make_plan_identities_match_hydra_composition(loader: Any, overrides: list[str]) -> None:
    """Derived seeds give the identities that composing each run from its overrides gives."""
    plan = plan_of(loader, overrides)
    runs = plan.runs
    assert len({run.identity for run in runs}) == len(runs)
    for run in runs:
        composed = loader.load_configuration("config", list(run.overrides), RunMode.RUN)
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        content = experiment_of(resolve_config(composed))
        assert (run.identity, run.arm) == (identity(content), arm_id(content)), run.overrides


def test_make_plan_orders_runs_seed_by_seed(loader: Any) -> None:
    plan = plan_of(loader, ["norm=none,batch", "seed=range(3)"])
    names = [" ".join(run.overrides) for run in plan.runs]
    assert names == [f"norm={norm} seed={seed}" for seed in range(3) for norm in ("none", "batch")]
    assert [len(arm.runs) for arm in plan.arms] == [3, 3]
    assert plan.baseline.overrides == ("norm=none",)


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["seed=0,1", "norm=none,batch", "trainer.epochs=2", "data=noise"], "norm=none,seed=0"),
        (["optimizer.lr=0.1,0.2", "norm=none,batch", "seed=0"], "optimizer.lr=0.1,norm=none"),
        (["seed=range(2)", "trainer.epochs=2"], "seed=0"),
        (["norm=none", "trainer.epochs=2"], "norm=none,trainer.epochs=2"),
        (["sweep.design=leave_one_out", "norm=none,batch", "init=gaussian,xavier"], "baseline"),
        (["sweep.design=one_at_a_time", "norm=none,batch", "seed=range(2)"], "baseline,seed=0"),
    ],
    ids=["seed last", "seed for all", "no axis", "one run", "leave one out", "one at a time"],
)
def test_folder_of_a_run_names_the_axes_alone(loader: Any, overrides: list[str], shown: str) -> None:
    """What all runs share is in their configurations; the hash tells apart what has the same levels."""
    folders = [run.folder for run in plan_of(loader, overrides).runs]
    assert folders[0].rpartition("_")[0] == shown
    assert len(set(folders)) == len(folders)
    assert folders == [run.folder for run in plan_of(loader, overrides).runs], "the same in every command"


def test_folder_of_an_arm_names_its_change_alone(loader: Any) -> None:
    """With many axes the names of all levels were cut, and with them the change and the seed."""
    names = ("augment", "init", "norm", "regularization", "schedule", "optimizer")
    levels = ("flip_crop,none", "kaiming,xavier", "batch,group", "weight_decay,none", "one_cycle,cosine", "sgd,adamw")
    axes = [f"{name}={level}" for name, level in zip(names, levels, strict=True)]
    folders = [run.folder for run in plan_of(loader, ["sweep.design=leave_one_out", "seed=0", "model.width=8,16", *axes]).runs]
    shown = [f"{name}={level.partition(',')[2]}" for name, level in zip(names, levels, strict=True)]
    assert [folder.rpartition("_")[0] for folder in folders] == ["baseline", "model.width=16", *shown]


def test_make_plan_arm_has_level_of_every_axis(loader: Any) -> None:
    plan = plan_of(loader, ["sweep.design=one_at_a_time", "norm=none", "optimizer.lr=0.1,0.3", "init=gaussian,xavier"])
    assert plan.baseline.levels == {"optimizer.lr": "0.2", "init": "kaiming"}
    assert plan.baseline.overrides == ("norm=none",)
    assert plan.arms[1].levels == {"optimizer.lr": "0.1", "init": "kaiming"}


def test_make_plan_drops_duplicates(loader: Any) -> None:
    plan = plan_of(loader, ["sweep.design=one_at_a_time", "norm=batch,none,none", "seed=0,0,1"])
    assert [" ".join(arm.overrides) for arm in plan.arms] == ["", "norm=none"]
    assert len(plan.runs) == 4
    reasons = {" ".join(item.overrides): item.reason for item in plan.dropped}
    assert reasons == {
        "seed=0": "named twice",
        "norm=batch": "the same configuration as the baseline",
        "norm=none": "the same configuration as norm=none",
    }


def test_make_plan_reads_values_like_hydra(loader: Any) -> None:
    plan = plan_of(loader, ["norm=glob(*,exclude=none)", "optimizer.lr=choice(0.1,1e-2)", "+model.note='a,b','c d'"])
    assert plan.request.axes[0].levels == ("batch", "ghost", "group", "group_ws", "instance", "layer", "rms")
    assert plan.request.axes[1].levels == ("0.1", "0.01")
    notes = {arm.config["model"]["note"] for arm in plan.arms}
    assert notes == {"a,b", "c d"}


def test_make_plan_drops_impossible_combinations_but_not_typos(loader: Any) -> None:
    plan = plan_of(loader, ["norm=group,batch", "norm.groups=4,8"])
    assert [arm.levels["norm"] for arm in plan.arms] == ["group", "group"]
    assert [item.reason for item in plan.dropped] == ["norm.groups: there is no such key in this combination."] * 2
    for wrong in (["norm=none,batch,grup"], ["sweep.design=one_at_a_time", "init=xavir"], ["norm.grops=1,2"]):
        with pytest.raises(HydraException):
            plan_of(loader, wrong)


def test_without_arms_rejects_impossible_baseline_and_misspelt_key(loader: Any) -> None:
    plan = plan_of(loader, ["norm=group", "norm.groups=7,4"])
    with pytest.raises(
        UsageError, match=r"The baseline .norm.groups=7. is impossible, .* too odd Choose another with sweep.baseline"
    ):
        plan.without_arms({plan.baseline.id: "too odd"})
    assert len(plan.without_arms({plan.arms[1].id: "too odd"}).dropped) == 1
    added = plan_of(loader, ["sweep.design=one_at_a_time", "+norm.grops=1,2"])
    with pytest.raises(UsageError, match="no such key"):
        added.without_arms({arm.id: "norm.grops: there is no such key." for arm in added.arms[1:]})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.design=grid,leave_one_out"], "cannot be swept"),
        (["optimizer.lr=interval(0,1)"], "this sweeper tries listed values"),
        (["norm=glob(x*)"], "no levels"),
        (["sweep.zip=[[seed,norm]]", "seed=0,1", "norm=none,batch"], "seeds are crossed with every arm"),
    ],
)
def test_unplannable_overrides_raise_usage_error(loader: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_request(None, overrides, loader) if message == "cannot be swept" else plan_of(loader, overrides)


def test_command_line_overrides_preset(loader: Any) -> None:
    preset = {"norm": "none,batch", "seed": "range(5)", "trainer.epochs": 4, "trainer.grad_clip": None}
    plan = plan_of(loader, ["seed=0,1", "norm=layer"], preset)
    assert [arm.overrides for arm in plan.arms] == [("norm=layer", "trainer.epochs=4", "trainer.grad_clip=null")]
    assert len(plan.runs) == 2


def test_merge_manifests_unites_plans_and_keeps_the_whole(loader: Any) -> None:
    def manifest(*overrides: str) -> Manifest:
        plan = plan_of(loader, overrides)
        return build_manifest(plan, plan.runs, ("train", "-m", *overrides), "", (), ReportOptions())

    small, large = manifest("norm=none,batch", "seed=0,1"), manifest("norm=none,batch", "init=kaiming,xavier", "seed=0,2")
    both = merge_manifests(small, large)
    assert len(both.runs) == 8 + 2, "only the first has seed 1; the second has its two arms too"
    assert both.seeds == {"seed": ("0", "1", "2")}
    assert both.axes == {"norm": ("none", "batch"), "init": ("kaiming", "xavier")}
    part = merge_manifests(both, manifest("norm=batch", "seed=0,2"))
    assert (part.baseline, part.command, part.design) == (both.baseline, both.command, both.design)
    assert {run.identity for run in part.runs} == {run.identity for run in both.runs}
