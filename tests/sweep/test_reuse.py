"""Stored runs are reused where the same went into them, and made again, with the reason, where it did not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from scripts import catalogue
from tests.harness import train_in_process
from tests.sweep.test_plan import plan_of
from train import cli
from train.report.make import ReportOptions
from train.run.dry_run import check_configs, first_batches
from train.store.identity import arm_id, identity, run_id
from train.store.manifest import merge_manifests
from train.store.run import read_run
from train.store.run_folder import RunFolder
from train.sweep.manifest import build_manifest
from train.sweep.plan import SweepPlan
from train.sweep.reuse import RunStatus, prepare_folder, run_statuses, stored_runs

PICTURES = [*catalogue.overrides_of(catalogue.IMAGE_FOLDER), "observe=off", "trainer.device=cpu"]
TRUST = ["norm=none", "norm._target_=tests.run.saboteur.norm"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    catalogue.write_images(tmp_path / "pictures")
    return tmp_path / "pictures"


def checked_plan(overrides: Sequence[str]) -> SweepPlan:
    """Return the plan with what goes into its runs, as the workers of a sweep find it."""
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        plan = plan_of(hydra.config_loader, overrides)
    checks = check_configs(([arm.config for arm in plan.arms], ("tests",), False, ()))
    return plan.with_inputs({arm.id: check.inputs for arm, check in zip(plan.arms, checks, strict=True) if check.inputs})


def statuses(plan: SweepPlan, sweep: Path, reuse_other_code: bool = False) -> list[RunStatus]:
    return run_statuses(
        sweep, plan.runs, reuse_other_code, plan.arms, build_manifest(plan, plan.runs, (), "", (), ReportOptions())
    )


def kinds(plan: SweepPlan, sweep: Path) -> list[tuple[str, str]]:
    return [(status.kind, status.reason) for status in statuses(plan, sweep)]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    status = json.loads((folder / "status.json").read_text())
    change(status)
    (folder / "status.json").write_text(json.dumps(status))


def forget_inputs(folder: Path) -> None:
    """Make the run one of the version before data were recorded."""

    def forget(status: dict[str, Any]) -> None:
        for key in ("data", "own_code"):
            del status[key]
        status["identity_version"] = 2

    rewrite(folder, forget)
    (folder / "data.json").unlink()


def test_planned_and_recorded_identities_agree_and_the_place_does_not_matter(root: Path, tmp_path: Path) -> None:
    overrides = [*PICTURES, "norm=batch", f"data.root={root}"]
    run = read_run(train_in_process(tmp_path / "out" / "run", overrides).path)
    plan = checked_plan(overrides)
    assert (run.identity, run.arm, run.data) == (plan.runs[0].identity, plan.arms[0].id, plan.arms[0].data)
    assert kinds(plan, tmp_path / "out") == [("done", "")]
    shutil.copytree(root, tmp_path / "copy")
    moved = checked_plan([*PICTURES, "norm=batch", f"data.root={tmp_path / 'copy'}"])
    assert kinds(moved, tmp_path / "out") == [("done", "")]
    both = checked_plan([*PICTURES, f"data.root={root},{tmp_path / 'copy'}"])
    assert len(both.arms) == 1
    assert both.dropped[0].reason == "the same configuration and the same data as the baseline"
    (tmp_path / "copy" / "train" / "a" / "0.png").unlink()
    assert len(checked_plan([*PICTURES, f"data.root={root},{tmp_path / 'copy'}"]).arms) == 2
    assert kinds(checked_plan([*PICTURES, "norm=batch", f"data.root={tmp_path / 'copy'}"]), tmp_path / "out") == [("missing", "")]
    (root / "train" / "b" / "0.png").unlink()
    changed = checked_plan(overrides)
    assert kinds(changed, tmp_path / "out") == [("outdated", "made from other data: train/b: 4 images -> 3")]
    merged = merge_manifests(
        build_manifest(plan, plan.runs, (), "", (), ReportOptions()),
        build_manifest(changed, changed.runs, (), "", (), ReportOptions()),
    )
    assert [merged.runs, [arm.id for arm in merged.arms]] == [changed.runs, [arm.id for arm in changed.arms]], "it is replaced"


def test_run_without_a_record_counts_by_its_first_batch(root: Path, tmp_path: Path) -> None:
    overrides, sweep = [*PICTURES, "norm=batch", f"data.root={root}"], tmp_path / "out"
    folder = train_in_process(sweep / "run", overrides).path
    forget_inputs(folder)
    plan = checked_plan(overrides)
    unknown = ("outdated", "made from data that are not recorded, and the first batch was another one")
    assert kinds(plan, sweep) == [unknown]

    def known(plan: SweepPlan) -> list[str]:
        found = first_batches(([plan.arms[0].config], ()))
        manifest = replace(build_manifest(plan, plan.runs, (), "", (), ReportOptions()), first_batches=dict(found))
        assert [run.data_known for run in stored_runs(sweep, manifest)] == [
            "first batch" if dict(found).get(read_run(folder).first_batch) else "unknown"
        ]
        return [status.kind for status in run_statuses(sweep, plan.runs, False, plan.arms, manifest)]

    assert known(plan) == ["done"]
    (root / "train" / "a").rename(root / "train" / "c")
    (root / "train" / "b").rename(root / "train" / "a")
    (root / "train" / "c").rename(root / "train" / "b")
    changed = checked_plan(overrides)
    assert known(changed) == ["outdated"]


def test_run_that_failed_before_it_read_its_data_belongs_to_the_plan(root: Path, tmp_path: Path) -> None:
    overrides, sweep = [*PICTURES, "norm=batch", f"data.root={root}"], tmp_path / "out"
    folder = train_in_process(sweep / "run", overrides).path
    forget_inputs(folder)
    config = read_run(folder).config
    ids = {"identity": run_id(identity(config), config, ""), "arm": run_id(arm_id(config), config, "")}
    rewrite(folder, lambda status: status.update(status="failed", identity_version=3, **ids))
    (folder / "summary.json").unlink()
    plan = checked_plan(overrides)
    (status,) = statuses(plan, sweep)
    assert (status.kind, status.run.identity if status.run else "") == ("failed", plan.runs[0].identity)


def test_run_of_other_code_is_made_again_and_others_are_not(tmp_path: Path) -> None:
    sweep = tmp_path / "out"
    own, ours = [*catalogue.SMALL, "observe=off", *TRUST], [*catalogue.SMALL, "observe=off", "norm=none"]
    for name, overrides in (("own", own), ("ours", ours)):
        train_in_process(sweep / name, overrides)
    plans = [checked_plan(overrides) for overrides in (own, ours)]
    assert [kinds(plan, sweep) for plan in plans] == [[("done", "")]] * 2
    source = read_run(sweep / "own").code
    assert source is not None
    rewrite(sweep / "own", lambda status: status["own_code"].update({"tests.run.saboteur": "source 0123456789ab"}))
    present = source["tests.run.saboteur"]
    reason = f"made with other code of its parts: tests.run.saboteur: source 0123456789ab -> {present}"
    assert [kinds(plan, sweep) for plan in plans] == [[("outdated", reason)], [("done", "")]]
    assert [status.kind for status in statuses(plans[0], sweep, reuse_other_code=True)] == ["done"]
    forget_inputs(sweep / "own")
    ((kind, reason),) = kinds(plans[0], sweep)
    assert kind == "outdated"
    assert "is not recorded" in reason or "are not recorded" in reason


def test_run_of_another_yaml_is_made_again_with_the_difference(tmp_path: Path) -> None:
    """The same overrides give another configuration when a YAML or a default has changed."""
    overrides = [*catalogue.SMALL, "observe=off", "norm=group", "norm.groups=4"]
    folder = train_in_process(tmp_path / "out" / "run", overrides).path
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("groups: 4", "groups: 2"))
    rewrite(folder, lambda status: status.update(identity_version=2))
    plan = checked_plan(overrides)
    assert kinds(plan, tmp_path / "out") == [("outdated", "made with another configuration: norm.groups: 2 -> 4")]


def test_tuned_arms_share_an_id_with_the_content_of_their_data(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    plans = [
        checked_plan([*PICTURES, "optimizer.lr=0.1,0.2", "sweep.tune=optimizer.lr", f"data.root={place}"])
        for place in (root, tmp_path / "copy")
    ]
    assert len({arm.tuned for plan in plans for arm in plan.arms}) == 1
    assert [arm.id for arm in plans[0].arms] == [arm.id for arm in plans[1].arms]


OWN = """
from torch import nn
from helping import groups

def own():
    return lambda channels: nn.GroupNorm(groups(channels), channels)
"""


@pytest.mark.long
def test_sweep_makes_again_what_was_made_from_other_data_or_code(
    train: Callable[..., subprocess.CompletedProcess[str]], root: Path, tmp_path: Path
) -> None:
    """The commands as typed: a module that a part imports is edited, then two classes are swapped, first for one arm alone."""
    (tmp_path / "ownnorm.py").write_text(OWN)
    (tmp_path / "helping.py").write_text("def groups(channels):\n    return 1\n")
    (tmp_path / "own" / "norm").mkdir(parents=True)
    (tmp_path / "own" / "norm" / "own.yaml").write_text("_target_: ownnorm.own\n")

    def sweep(*overrides: str) -> str:
        fixed = [*PICTURES, f"data.root={root}", "trust=ownnorm", "hydra.sweep.dir=out", "hydra/launcher=basic"]
        fixed += ["report.tensorboard=false", "sweep.reuse_other_code=false"]
        result = train("-m", *overrides, *fixed, "--config-dir", "own", PYTHONPATH=str(tmp_path))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    sweep("norm=batch,own")
    assert "reused: 2 done" in sweep("norm=batch,own")
    (tmp_path / "helping.py").write_text("def groups(channels):\n    return channels  # each its own\n")
    again = sweep("norm=batch,own")
    assert "reused: 1 done" in again
    assert "1 stored run, made with other code of its parts: helping: source " in again
    for source, target in (("a", "c"), ("b", "a"), ("c", "b")):
        (root / "train" / source).rename(root / "train" / target)
    sweep("norm=layer")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "- **serious:** Runs were made with different data, though their settings of data are the same" in page
    assert "train/a holds what train/b held; train/b holds what train/a held" in page
    again = sweep("norm=batch,own,layer")
    assert "2 stored runs, made from other data: train/a holds what train/b held" in again
    assert "different data" not in (tmp_path / "out" / "report.md").read_text()
    assert len(list((tmp_path / "out" / "previous").iterdir())) == 3


def test_run_whose_records_were_cut_short_is_made_again(tmp_path: Path) -> None:
    overrides, sweep = [*catalogue.SMALL, "observe=off", "norm=none", "checkpoint.final=true"], tmp_path / "out"
    folder = train_in_process(sweep / "run", overrides).path
    plan = checked_plan(overrides)
    assert kinds(plan, sweep) == [("done", "")]
    records = folder / "metrics.jsonl"
    records.write_bytes(records.read_bytes().splitlines(keepends=True)[0])
    (status,) = statuses(plan, sweep)
    assert (status.kind, status.run.state if status.run else "") == ("failed", "incomplete")
    scheduled = prepare_folder(sweep, status, may_resume=True)
    assert not scheduled.resumes
    assert not folder.exists()


def test_folder_that_a_process_uses_is_not_moved_away(tmp_path: Path) -> None:
    """It may have begun between the look at the folder and the decision to make its run."""
    sweep = tmp_path / "out"
    (status,) = statuses(checked_plan([*catalogue.SMALL, "norm=none"]), sweep)
    folder = RunFolder(sweep / status.planned.folder)
    folder.claim({"seed": 0}, ["seed=0"])
    with pytest.raises(OSError, match="another process is using it"):
        prepare_folder(sweep, status, may_resume=True)
    assert folder.has_status
    folder.release()
    prepare_folder(sweep, status, may_resume=True)
    assert not folder.path.exists()


@pytest.mark.parametrize("cut", [0, 1])
def test_failed_run_resumes_only_if_its_records_reach_its_checkpoint(cut: int, tmp_path: Path) -> None:
    overrides, sweep = (
        [*catalogue.SMALL, "observe=off", "norm=none", "checkpoint.final=true", "trainer.record_every=1"],
        tmp_path / "out",
    )
    folder = train_in_process(sweep / "run", overrides).path
    rewrite(folder, lambda status: status.update(status="failed", reason="the disk was full"))
    records = folder / "metrics.jsonl"
    lines = [line for line in records.read_bytes().splitlines(keepends=True) if b"loss/train" in line]
    records.write_bytes(b"".join(lines[: len(lines) - cut]))
    (status,) = statuses(checked_plan(overrides), sweep)
    assert status.kind == "failed"
    assert prepare_folder(sweep, status, may_resume=True).resumes == (not cut)
