"""The presets in `conf/study`: every arm can run, there are five seeds, and the command line overrides any value."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from tests.harness import SMALL
from train import cli
from train.errors import UsageError
from train.report.budget import check as check_budgets
from train.report.options import ReportOptions
from train.report.variance import check
from train.run.config_check import ConfigCheck
from train.run.dry_run import check_configs
from train.store.choices import Tuning
from train.store.manifest import read_manifest
from train.sweep.axes import read_request
from train.sweep.manifest import build_manifest
from train.sweep.plan import SweepPlan, make_plan
from train.sweep.settings import parse_sweep
from train.text import listed

PRESETS = {path.stem: yaml.safe_load(path.read_text()) for path in (cli.config_dir() / "study").glob("*.yaml")}
STUDIES = sorted(name for name, preset in PRESETS.items() if "report" not in preset)
"""Those that compare arms; the others have an analysis of their own."""
LARGE = {"modern", "modern_bare"}
IN_FULL = [pytest.param(name, marks=pytest.mark.long) if name in LARGE else name for name in STUDIES]
GROWTH = {"width": "model.width", "depth": "model.depth"}
"""Studies of the signal as a network grows, and what grows; nothing is compared by accuracy."""


def plan_of(study: str, *overrides: str) -> SweepPlan:
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.config_loader.load_configuration("config", [f"study={study}", *overrides], RunMode.MULTIRUN)
        settings, _ = parse_sweep({key: OmegaConf.to_container(master[key], resolve=True) for key in ("sweep", "report")})
        params, typed = dict(master.hydra.sweeper.params), [f"study={study}", *overrides]
        request = read_request(params, typed, hydra.config_loader, settings.tuned_levels)
        return make_plan(request, settings, hydra.config_loader, master)


@pytest.mark.parametrize("study", IN_FULL)
def test_study_arms_can_run_with_five_seeds(study: str) -> None:
    plan = plan_of(study, "sweep.tune=null")
    assert not plan.dropped, "a preset has no duplicate or impossible levels"
    assert all(len(arm.runs) == 5 for arm in plan.arms)
    (rate,) = {arm.config["optimizer"]["lr"] for arm in plan.arms}
    assert f"sweep.tune=null trains at {rate} alone" in " ".join(comment(study)), "its comment names one rate"
    checks = check_configs(([arm.config for arm in plan.arms], (), False, ()))
    assert [replace(check, inputs=None) for check in checks] == [ConfigCheck()] * len(plan.arms)
    baseline = plan.baseline.levels
    changed = [{axis for axis in baseline if arm.levels[axis] != baseline[axis]} for arm in plan.arms[1:]]
    assert all(len(axes) == 1 for axes in changed), "each arm changes one ingredient"
    if study == "lecture":
        assert set().union(*changed) == {"augment", "init", "norm", "regularization"}


@pytest.mark.parametrize("study", [name if name == "lecture" else pytest.param(name, marks=pytest.mark.long) for name in STUDIES])
def test_study_tunes_three_rates_around_the_one_that_it_has_without_tuning(study: str) -> None:
    plan, single = plan_of(study), plan_of(study, "sweep.tune=null")
    assert plan.tuning == Tuning((100_000, 100_001), 0.5, 2)
    assert len(plan.compared) == len(single.arms)
    for arms in plan.compared:
        rates = [arm.levels["optimizer.lr"] for arm in arms]
        assert len(rates) == 3
        assert float(rates[1]) == single.baseline.config["optimizer"]["lr"]
        assert f"tuned for every arm over {rates[0]}, {rates[1]} and {rates[2]}" in " ".join(comment(study))


def test_study_of_variance_has_runs_of_one_configuration_that_differ_in_seeds() -> None:
    plan = plan_of("variance")
    (arm,) = plan.arms
    assert len(arm.runs) == 84
    check(build_manifest(plan, plan.runs, (), "variance", (), ReportOptions(analysis="variance")), {arm.id: arm.config})
    assert "84 runs" in " ".join(comment("variance"))
    assert len(plan_of("variance", "seed=range(5)", "norm=none,batch").runs) == 100


def test_study_of_budgets_tunes_each_arm_at_each_budget() -> None:
    plan = plan_of("budget")
    assert plan.tuning == Tuning((100_000, 100_001), 0.5, 2)
    assert len(plan.compared) == 4
    levels = listed([*plan.request.axes[1].levels])
    assert f"{levels} epochs" in " ".join(comment("budget"))
    manifest = build_manifest(plan, plan.runs, (), "budget", (), ReportOptions(analysis="budget"))
    check_budgets(manifest, {arm.id: arm.config for arm in plan.arms})
    shares = plan_of("budget", "trainer.epochs=6", "data.train_fraction=0.1,0.3,1.0", "sweep.tune=null")
    with pytest.raises(UsageError, match=r"makes trainer\.epochs=1 and 2 one run, which would try levels for both") as refused:
        plan_of("budget", "trainer.epochs=1,2,4")
    assert "sweep.tune_epochs=null" in str(refused.value)
    assert len(plan_of("budget", "trainer.epochs=1,2,4", "sweep.tune_epochs=null").compared) == 6
    assert len(shares.arms) == 6
    assert len({arm.id for arm in shares.arms}) == 6, "the share is part of the identity"


def comment(study: str) -> list[str]:
    """Return the words of the lines of comment."""
    text = (cli.config_dir() / "study" / f"{study}.yaml").read_text()
    return " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#")).split()


@pytest.mark.parametrize("study", STUDIES)
def test_study_comment_gives_question_rate_and_seeds(study: str) -> None:
    text = (cli.config_dir() / "study" / f"{study}.yaml").read_text()
    assert "?" in text
    assert f"train study={study}" in text
    assert "learning rate is tuned for every arm over" in text
    assert "Five seeds an arm" in text


@pytest.mark.parametrize("study", GROWTH)
def test_study_of_growth_varies_the_size_alone_and_scores_nothing(study: str) -> None:
    plan = plan_of(study)
    assert [axis.name for axis in plan.request.axes] == [GROWTH[study]]
    assert all(len(arm.runs) == 8 for arm in plan.arms)
    assert not any(arm.config["trainer"]["score_test"] for arm in plan.arms)
    checks = check_configs(([arm.config for arm in plan.arms], (), False, ()))
    assert [replace(check, inputs=None) for check in checks] == [ConfigCheck()] * len(plan.arms)
    assert f"train study={study}" in " ".join(comment(study))


@pytest.mark.slow
def test_study_runs_without_multirun_flag_and_with_overrides(
    train: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The overrides of its runs do not name the study, so that each can be repeated alone."""
    small = [*SMALL, "hydra/launcher=basic"]
    result = train("study=norms", "norm=none,batch", "seed=3", "hydra.sweep.dir=s", "sweep.tune=null", *small)
    assert result.returncode == 0, result.stdout + result.stderr
    manifest = read_manifest(tmp_path / "s")
    assert manifest is not None
    assert manifest.study == "norms"
    assert manifest.axes == {"norm": ("none", "batch")}
    assert [len(run.overrides) for run in manifest.runs] == [len(SMALL) + 3] * 2
    assert all("optimizer.lr=0.03" in run.overrides for run in manifest.runs)
    assert not any(line.startswith(("study", "hydra")) for run in manifest.runs for line in run.overrides)
