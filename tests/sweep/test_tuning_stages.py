"""Tuning before the comparison: seeds of their own try the levels, the choice is kept, and other seeds are compared at it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tests.harness import SMALL as NOISE
from tests.report.folders import write_run
from tests.sweep.test_looks import PATH, SWEEP
from tests.sweep.test_plan import plan_of
from train import cli
from train.errors import UsageError
from train.report.analysis import Analysis
from train.report.collect import collect
from train.report.make import ReportOptions, analyse_folders, make_report
from train.store.choices import Choice
from train.store.manifest import Manifest, PlannedRun, merge_manifests, read_manifest, write_manifest
from train.sweep.manifest import build_manifest
from train.sweep.plan import SweepPlan
from train.sweep.reuse import stored_runs
from train.sweep.stages import OneStage, Stage
from train.sweep.tuning_stages import TuneFirst, reopened

Train = Callable[..., "subprocess.CompletedProcess[str]"]
LR = "optimizer.lr"
TUNE = f"sweep.tune={LR}"
RATES = f"{LR}=0.05,0.1,0.2"
Score = Callable[[str, str, int], float | str]
"""The validation accuracy of a run, or its state, from norm, rate and seed."""


def planned(overrides: Sequence[str], preset: dict[str, Any] | None = None, stored: Manifest | None = None) -> SweepPlan:
    """Return the plan of a command; that of a repeated one is composed once."""
    tuning = stored and (stored.tune, stored.tuning, bool(stored.runs))
    key = (*overrides, str(preset), str(tuning), str([choice.setting for choice in stored.choices.values()] if stored else ()))
    if key not in PLANS:
        cli.register_resolvers()
        with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            PLANS[key] = plan_of(hydra.config_loader, overrides, preset, stored)
    return PLANS[key]


PLANS: dict[tuple[str, ...], SweepPlan] = {}


def levels_of(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.split("=", 1) for override in overrides)


class Sweep:
    """A sweep whose runs are written, not trained, by the policy of a plan."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.plan: SweepPlan = planned(overrides, stored=read_manifest(folder))
        self.policy = TuneFirst(self.plan, lambda chosen: OneStage(chosen.runs))
        self.lines: list[str] = []

    @property
    def manifest(self) -> Manifest | None:
        return read_manifest(self.folder)

    def choice(self, norm: str) -> Choice:
        manifest = self.manifest
        assert manifest is not None
        (tuned,) = {arm.tuned for arm in manifest.arms if arm.levels["norm"] == norm}
        return manifest.choices[tuned]

    def run(self, score: Score, stages: int = 20, *, killed: bool = False) -> list[Stage]:
        """Make up to so many stages, as a command that repeats the sweep does; return them. killed: within the last of them."""
        stage, made = self.policy.stage(reopened(self.manifest)), list[Stage]()
        while len(made) < stages:
            made.append(stage)
            manifest = build_manifest(self.plan, stage.runs, ("train", "-m"), "", (), ReportOptions())
            write_manifest(self.folder, merge_manifests(self.manifest, self.policy.planned(manifest)))
            was_killed = killed and len(made) == stages
            for run in stage.runs[:: 2 if was_killed else 1]:
                self.write(run.folder, run.overrides, score)
            if stage.is_last or was_killed:
                break
            manifest = self.manifest
            assert manifest is not None
            decided, lines = self.policy.decide(stage, manifest, stored_runs(self.folder))
            self.lines += lines
            write_manifest(self.folder, replace(manifest, **decided))
            following = self.policy.stage(self.manifest)
            if following == stage:
                break
            stage = following
        return made

    def write(self, folder: str, overrides: Sequence[str], score: Score) -> None:
        levels = levels_of(overrides)
        result = score(levels["norm"], levels[LR], int(levels.get("seed", 0)))
        path = self.folder / folder
        if path.exists() and json.loads((path / "status.json").read_text())["status"] in ("done", "diverged"):
            return
        if path.exists():
            path.rename(self.folder.parent / f"again-{folder}-{len(list(self.folder.parent.iterdir()))}")
        if isinstance(result, str):
            write_run(path, overrides, None, result, records=2, layers=1)
        else:
            write_run(path, overrides, result, records=2, layers=1)


def best_at(rate: float) -> Callable[[str, str, int], float]:
    """Return a score that falls with the distance of the rate from the best one, and differs a little between seeds and norms."""

    def score(norm: str, level: str, seed: int) -> float:
        ratio = max(float(level) / rate, rate / float(level))
        return round(0.8 - 0.01 * ratio + 0.001 * (seed % 7) + 0.02 * (norm == "batch"), 6)

    return score


def rates_tried(stage: Stage) -> list[str]:
    return sorted({levels_of(run.overrides)[LR] for run in stage.runs}, key=float)


def seeds_of(stage: Stage) -> set[str]:
    return {levels_of(run.overrides)["seed"] for run in stage.runs}


def analysed(folder: Path, **options: Any) -> Analysis:
    return analyse_folders([folder], ReportOptions(tensorboard=False, **options))


@pytest.mark.long
def test_choice_is_made_from_tuning_seeds_alone_and_kept(tmp_path: Path) -> None:
    command = [TUNE, "norm=none,batch", RATES, "seed=range(3)"]
    sweep = Sweep(tmp_path / "out", *command)
    tuning, comparison = sweep.run(lambda norm, rate, seed: best_at(0.1 if seed >= 100_000 else 0.05)(norm, rate, seed))
    assert (len(tuning.runs), seeds_of(tuning), rates_tried(tuning)) == (12, {"100000", "100001"}, ["0.05", "0.1", "0.2"])
    assert (len(comparison.runs), seeds_of(comparison), rates_tried(comparison)) == (6, {"0", "1", "2"}, ["0.1"])
    kept = sweep.choice("none")
    assert (dict(kept.setting), [level.runs for level in kept.tried]) == ({LR: "0.1"}, [2, 2, 2])
    assert sweep.lines == [
        "tuned  norm=none: optimizer.lr=0.1 of 0.05, 0.1, 0.2 (validation accuracy 79.55 %)",
        "tuned  norm=batch: optimizer.lr=0.1 of 0.05, 0.1, 0.2 (validation accuracy 81.55 %)",
    ]
    for seeds, runs in ((["seed=range(3)"], 6), (["seed=range(5)"], 10)):  # repeated, and with more seeds
        again = Sweep(tmp_path / "out", *command[:-1], *seeds)
        (only,) = again.run(best_at(0.2))
        assert (len(only.runs), rates_tried(only), again.choice("none")) == (runs, ["0.1"], kept)
        assert again.lines == []


@pytest.mark.long
@pytest.mark.parametrize("within", [False, True], ids=["after", "within"])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_killed_sweep_makes_the_same_choices_when_repeated(tmp_path: Path, stages: int, within: bool) -> None:
    command = [TUNE, "norm=none,batch", RATES, "seed=0,1"]
    whole = Sweep(tmp_path / "whole", *command)
    whole.run(best_at(0.7))
    killed = Sweep(tmp_path / "killed", *command)
    killed.run(best_at(0.7), stages, killed=within)
    repeated = Sweep(tmp_path / "killed", *command)
    repeated.run(best_at(0.7))
    for norm in ("none", "batch"):
        expected, found = whole.choice(norm), repeated.choice(norm)
        assert (found.arm, found.setting, found.tried) == (expected.arm, expected.setting, expected.tried)
    assert {run.identity for run in stored_runs(tmp_path / "killed")} == {run.identity for run in stored_runs(tmp_path / "whole")}


EDGES = {
    "largest": ("", 0.7, ["0.05", "0.1", "0.2", "0.4", "0.8"], "0.8"),
    "smallest": ("", 0.02, ["0.0125", "0.025", "0.05", "0.1", "0.2"], "0.025"),
    "at the limit": ("", 2.0, ["0.05", "0.1", "0.2", "0.4", "0.8"], "0.8"),
    "one step": ("sweep.tune_extend=1", 2.0, ["0.05", "0.1", "0.2", "0.4"], "0.4"),
    "never": ("sweep.tune_extend=0", 2.0, ["0.05", "0.1", "0.2"], "0.2"),
    "inside": ("", 0.1, ["0.05", "0.1", "0.2"], "0.1"),
}


@pytest.mark.parametrize("name", EDGES)
def test_choice_at_the_edge_extends_the_range(tmp_path: Path, name: str) -> None:
    option, best, tried, chosen = EDGES[name]
    sweep = Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1", *filter(None, [option]))
    *tuning, comparison = sweep.run(best_at(best))
    assert rates_tried(tuning[-1]) == tried
    assert rates_tried(comparison) == [chosen]
    assert [level.setting[LR] for level in sweep.choice("batch").tried] == tried


def test_range_is_extended_for_the_arm_at_the_edge_alone(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1")
    first, second, *_, comparison = sweep.run(lambda norm, *run: best_at(0.4 if norm == "batch" else 0.1)(norm, *run))
    assert len(first.runs) == 12
    assert {levels_of(run.overrides)["norm"] for run in second.runs} == {"batch"}
    assert "norm=batch: optimizer.lr=0.2 is the best and at the edge; next: optimizer.lr=0.4" in " ".join(sweep.lines)
    assert rates_tried(comparison) == ["0.1", "0.4"]


def test_level_at_which_runs_diverge_is_not_chosen(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1", "sweep.tune_extend=0")

    def score(norm: str, rate: str, seed: int) -> float | str:
        return "diverged" if norm == "none" and rate == "0.2" and seed == 100_001 else best_at(0.2)(norm, rate, seed)

    *_, comparison = sweep.run(score)
    chosen = {levels_of(run.overrides)["norm"]: levels_of(run.overrides)[LR] for run in comparison.runs}
    assert chosen == {"none": "0.1", "batch": "0.2"}
    assert [level.diverged for level in sweep.choice("none").tried] == [0, 0, 1]


def test_arm_that_diverges_at_every_level_is_tried_at_smaller_ones_and_then_left_out(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "out", TUNE, "norm=batch,none", RATES, "seed=0,1")
    lost = lambda norm, *run: "diverged" if norm == "none" else best_at(0.1)(norm, *run)  # noqa: E731
    *tuning, comparison = sweep.run(lost)
    assert rates_tried(tuning[-1]) == ["0.0125", "0.025", "0.05", "0.1", "0.2"]
    assert {levels_of(run.overrides)["norm"] for run in comparison.runs} == {"batch"}
    assert (sweep.choice("none").arm, sweep.choice("none").is_final) == ("", True)
    assert len(Sweep(tmp_path / "out", TUNE, "norm=batch,none", RATES, "seed=0,1").run(lost)) == 1
    (claim,) = analysed(tmp_path / "out").claims[0].levels
    assert claim.verdict == "not_comparable"
    assert "no run of norm=none completed at any level tried" in claim.sentence


def test_stable_smaller_level_rescues_an_arm_that_diverges(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1")
    unstable = lambda norm, rate, seed: (  # noqa: E731
        "diverged" if norm == "none" and float(rate) > 0.03 else best_at(0.1)(norm, rate, seed)
    )
    *_, comparison = sweep.run(unstable)
    assert {levels_of(run.overrides)[LR] for run in comparison.runs if "norm=none" in run.overrides} == {"0.025"}


def test_everything_diverges(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1", "sweep.tune_extend=0")
    *_, comparison = sweep.run(lambda *_: "diverged")
    assert comparison.runs == ()
    assert make_report([tmp_path / "out"], tmp_path / "out", ReportOptions(tensorboard=False))[0].exists()


def test_arm_whose_runs_failed_at_every_level_is_tried_again(tmp_path: Path) -> None:
    """The others are compared meanwhile."""
    command = [TUNE, "norm=batch,none", RATES, "seed=0,1", "sweep.tune_extend=0"]
    first = Sweep(tmp_path / "out", *command)
    *_, comparison = first.run(lambda norm, *run: "failed" if norm == "none" else best_at(0.1)(norm, *run))
    assert {levels_of(run.overrides)["norm"] for run in comparison.runs} == {"batch"}
    tuning, comparison = Sweep(tmp_path / "out", *command).run(best_at(0.1))
    assert {levels_of(run.overrides)["norm"] for run in tuning.runs} == {"none"}
    assert {levels_of(run.overrides)["norm"] for run in comparison.runs} == {"none", "batch"}


def test_added_arm_is_tuned_and_others_are_not_again(tmp_path: Path) -> None:
    Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1").run(best_at(0.1))
    tuning, comparison = Sweep(tmp_path / "out", TUNE, "norm=none,batch,group", RATES, "seed=0,1").run(best_at(0.1))
    assert {levels_of(run.overrides)["norm"] for run in tuning.runs} == {"group"}
    assert len(comparison.runs) == 6


def test_chosen_level_beyond_the_range_is_used_with_more_seeds(tmp_path: Path) -> None:
    Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1").run(best_at(0.4))
    for rates in (RATES, f"{LR}=0.05,0.1"):  # even if the levels that are typed do not lead to it
        (only,) = Sweep(tmp_path / "out", TUNE, "norm=none,batch", rates, "seed=range(4)").run(best_at(0.1))
        assert (len(only.runs), rates_tried(only)) == (8, ["0.4"])


def test_levels_are_tried_for_a_share_of_the_epochs(tmp_path: Path) -> None:
    lengths = ["trainer.epochs=5", "trainer.max_steps=11", "sweep.tune_epochs=0.5"]
    sweep = Sweep(tmp_path / "out", TUNE, "norm=none,batch", RATES, "seed=0,1", *lengths)
    tuning, comparison = sweep.run(best_at(0.1))
    typed = {tuple(line for line in run.overrides if line.startswith("trainer.")) for run in tuning.runs}
    assert typed == {("trainer.epochs=3", "trainer.max_steps=6")}
    assert all({"trainer.epochs=5", "trainer.max_steps=11"} <= set(run.overrides) for run in comparison.runs)
    assert {run.tries for run in tuning.runs} == {arm.id for arm in sweep.plan.arms}
    analysis = analysed(tmp_path / "out")
    assert [len(sample.values) for sample in analysis.samples.values()] == [2, 2]


DESIGNS = {"grid": 4, "one_at_a_time": 3, "leave_one_out": 3}


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_is_tuned_before_the_comparison(design: str) -> None:
    axes = ["norm=none,batch", "init=kaiming,xavier"]
    plan = planned([TUNE, *axes, RATES, "seed=range(5)", f"sweep.design={design}"])
    policy = TuneFirst(plan, lambda chosen: OneStage(chosen.runs))
    assert len(policy.stage(None).runs) == DESIGNS[design] * 3 * 2
    choices = {arms[0].tuned: Choice(arms[1].id, plan.setting(arms[1]), (), "") for arms in plan.compared}
    manifest = replace(build_manifest(plan, (), (), "", (), ReportOptions()), choices=choices)
    comparison = policy.stage(manifest)
    assert len(comparison.runs) == DESIGNS[design] * 5
    assert rates_tried(comparison) == ["0.1"]
    assert plan.at([choice.arm for choice in choices.values()]).baseline.levels == {**plan.baseline.levels, LR: "0.1"}


def test_arm_without_a_possible_level_holds_up_no_other() -> None:
    plan = planned([TUNE, "norm=none,batch", RATES, "seed=0,1"])
    plan = plan.without_arms({arm.id: "it cannot be" for arm in plan.compared[1]})
    policy = TuneFirst(plan, lambda chosen: OneStage(chosen.runs))
    choices = {plan.baseline.tuned: Choice(plan.baseline.id, plan.setting(plan.baseline), (), "")}
    manifest = replace(build_manifest(plan, (), (), "", (), ReportOptions()), choices=choices)
    assert [run.arm for run in policy.stage(manifest).runs] == [plan.baseline.id] * 2


def test_several_tuned_keys_extend_along_each(tmp_path: Path) -> None:
    keys = ["sweep.tune=[optimizer.lr,optimizer.momentum]", "optimizer.momentum=0.4,0.8", "sweep.tune_extend=1"]
    sweep = Sweep(tmp_path / "out", *keys, "norm=none,batch", f"{LR}=0.1,0.2", "seed=0,1")
    first, *_, comparison = sweep.run(best_at(10))
    assert len(first.runs) == 2 * 4 * 2
    tried = {tuple(level.setting.values()) for level in sweep.choice("none").tried}
    assert ("0.4", "0.2") in tried, "momentum 0.4 and 0.8 tie, the first is at the edge, and so is the largest rate"
    assert rates_tried(comparison) == ["0.4"]


REFUSED: Mapping[str, str] = {
    "seed=0,100001": r"seed=100001: the seeds 100000 to 100001 choose the level of tuned keys \(sweep.tune_seeds\)",
    "seed=100000": "seed=100000: the seeds 100000 to 100001 choose the level",
    "seeds.init=100000,7": "seeds.init=100000: the seeds",
    "sweep.tune_seeds=0": "sweep.tune_seeds=0: it should be greater than or equal to 1",
    "sweep.tune_epochs=0": "sweep.tune_epochs=0: it should be greater than 0",
    "sweep.tune_epochs=1.5": "sweep.tune_epochs=1.5: it should be less than or equal to 1",
    "sweep.tune_extend=-1": "sweep.tune_extend=-1: it should be greater than or equal to 0",
    "+model.note='${seed}' seed=0,1": "another key depends on the seed, so that each seed is an arm of its own",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_settings_that_cannot_be_used_are_refused(overrides: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[overrides]):
        planned([TUNE, "norm=none,batch", RATES, *overrides.split()])


@pytest.mark.parametrize("changed", ["sweep.tune_seeds=3", "sweep.tune_epochs=0.5", "sweep.tune_extend=0"])
def test_other_tuning_in_the_same_folder_is_refused(tmp_path: Path, changed: str) -> None:
    command = [TUNE, "norm=none,batch", RATES, "seed=0,1"]
    Sweep(tmp_path / "out", *command).run(best_at(0.1), 1)
    with pytest.raises(UsageError, match=re.escape(f"{changed}: this sweep tries its levels with")):
        Sweep(tmp_path / "out", *command, changed)


def test_levels_named_in_sweep_tune_need_no_axis() -> None:
    """They replace the one value of a study, which counts with `sweep.tune=null`; an axis that is typed has its own levels."""
    preset = {"norm": "none,batch", LR: 0.03, "seed": "range(5)"}
    tune = "sweep.tune={optimizer.lr: [0.01, 0.03, 0.1]}"
    plan = planned([tune], preset)
    assert [[arm.levels[LR] for arm in arms] for arms in plan.compared] == [["0.01", "0.03", "0.1"]] * 2
    assert {arm.config["optimizer"]["lr"] for arm in planned(["sweep.tune=null"], preset).arms} == {0.03}
    typed = planned([tune, f"{LR}=0.2,0.4"], preset)
    assert [arm.levels[LR] for arm in typed.compared[0]] == ["0.2", "0.4"]
    with pytest.raises(UsageError, match=r"optimizer.lr=0.2: sweep.tune tries .* at 0.01, 0.03, 0.1 .*add sweep.tune=null"):
        planned([tune, f"{LR}=0.2"], preset)
    with pytest.raises(UsageError, match="there is no level to try"):
        planned(["sweep.tune={optimizer.lr: []}"], preset)
    with pytest.raises(UsageError, match=r"has one level only \(0.1\)"):
        planned(["sweep.tune={optimizer.lr: [0.1]}"], preset)


def test_sweep_of_an_earlier_version_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    command = [TUNE, "norm=none,batch", RATES, "seed=0,1"]
    plan = planned(command)
    write_manifest_of_earlier_version(tmp_path, build_manifest(plan, plan.runs, ("train",), "", (), ReportOptions()))
    again = planned([*command[:-1], "seed=range(3)"], stored=read_manifest(tmp_path))
    assert (again.tuning, again.possible_runs, len(again.runs)) == (None, again.runs, 18)
    for run in plan.runs:
        levels = levels_of(run.overrides)
        write_run(tmp_path / run.folder, run.overrides, best_at(0.2)(levels["norm"], levels[LR], int(levels["seed"])))
    analysis = analysed(tmp_path)
    assert [choice.chosen.setting[LR] for _, choice in analysis.chosen] == ["0.2", "0.2"]
    assert [len(sample.values) for sample in analysis.samples.values()] == [2, 2]
    assert "tuned_with_the_same_seeds" in {threat.kind for threat in analysis.threats}


def test_command_says_how_a_sweep_of_an_earlier_version_goes_on(train: Train, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run = PlannedRun("identity", "arm", "folder", ())
    manifest = Manifest(("train", "-m"), "grid", {}, {}, "arm", (), (run,), tune=(LR,))
    write_manifest_of_earlier_version(tmp_path / "out", manifest)
    command = ["-m", *NOISE, "hydra.sweep.dir=out", "norm=none,batch", f"{LR}=0.1,0.2", TUNE, "seed=0,1", "sweep.dry_run=true"]
    result = train(*command)
    assert "2 arms x 2 levels of optimizer.lr x 2 seeds = 8 runs (grid) in out" in result.stdout, result.stderr
    assert (
        "by the runs that are compared, as this sweep was begun; in a new folder, other seeds choose the level" in result.stdout
    )
    refused = train(*command, "sweep.max_seeds=4")
    assert refused.returncode == 2
    assert "the sweep in out was begun by an earlier version and tries levels with all seeds" in refused.stderr


def write_manifest_of_earlier_version(folder: Path, manifest: Manifest) -> None:
    write_manifest(folder, manifest)
    content = json.loads((folder / "sweep.json").read_text())
    for key in ("tuning", "choices"):
        del content[key]
    for run in content["runs"]:
        del run["tries"]
    (folder / "sweep.json").write_text(json.dumps(content))


def test_report_compares_the_runs_of_the_comparison_alone(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    sweep = Sweep(folder, TUNE, "norm=none,batch", RATES, "seed=range(3)")
    sweep.run(best_at(0.4))
    page = make_report([folder], folder, ReportOptions(tensorboard=False))[0].read_text()
    analysis = analysed(folder)
    assert [run.seed for arm in analysis.study.arms for run in arm.runs] == [0, 1, 2] * 2
    assert {run.overrides[1] for run in analysis.study.runs} == {f"{LR}=0.4"}
    assert len(analysis.study.unchosen_runs) == 2 * 5 * 2
    assert analysis.standing.kind == "final"
    section = page.split('id="tuning"')[1].split("</section>")[0]
    for text in ("the seeds 100000 and 100001", "up to 2 levels beyond either end", "other seeds", "cannot flatter an arm"):
        assert text in section
    assert "20 runs that only served to choose, besides the 6 that are compared" in section
    assert section.count(">chosen") == 2
    assert not {threat.kind for threat in analysis.threats} & {"tuned_with_the_same_seeds", "tuning_unequal", "not_as_planned"}
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [row["seed"] for row in rows if row["compared"] == "true"] == ["0", "1", "2"] * 2


def test_report_uses_the_stored_choice(tmp_path: Path) -> None:
    """Whatever the runs that made it show now, or if they are gone."""
    folder = tmp_path / "out"
    Sweep(folder, TUNE, "norm=none,batch", RATES, "seed=range(3)").run(best_at(0.1))
    for run in stored_runs(folder):
        if run.seed >= 100_000 and run.overrides[1].endswith("=0.05"):
            content = json.loads((run.folder / "summary.json").read_text())
            (run.folder / "summary.json").write_text(json.dumps(content | {"val_accuracy": 0.99}))
        elif run.seed >= 100_000:
            run.folder.rename(tmp_path / run.folder.name)
    for tune in ((), (LR,)):
        analysis = analysed(folder, tune=tune)
        assert [choice.chosen.setting[LR] for _, choice in analysis.chosen] == ["0.1", "0.1"]
        assert [len(sample.values) for sample in analysis.samples.values()] == [3, 3]


def test_report_before_the_comparison_shows_what_was_tried(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    Sweep(folder, TUNE, "norm=none,batch", RATES, "seed=range(3)").run(best_at(0.1), 1)
    analysis = analysed(folder)
    assert analysis.study.runs == ()
    assert analysis.standing.sentence.startswith("exploratory: 2 arms have no runs yet at a level that was chosen before")
    assert {level.verdict for claim in analysis.claims for level in claim.levels} <= {"inconclusive", "not_comparable"}
    assert make_report([folder], folder, ReportOptions(tensorboard=False))[0].exists()


def test_report_on_two_tuned_sweeps_counts_no_run_that_tried_levels(tmp_path: Path) -> None:
    for name, norms, best in (("a", "none,batch", 0.1), ("b", "none,group", 0.1)):
        Sweep(tmp_path / name, TUNE, f"norm={norms}", RATES, "seed=range(3)").run(best_at(best))
    analysis = analysed(tmp_path)
    assert sorted(arm.all_levels.split()[0] for arm in analysis.study.arms) == ["norm=batch", "norm=group", "norm=none"]
    assert all(run.seed < 100_000 for run in analysis.study.runs)
    assert len(collect([tmp_path]).runs) == 3 * 3 * 2 + 9


TUNED = ["sweep.tune=model.skill", "model.skill=0.5,0.8", "sweep.tune_seeds=1", "sweep.tune_extend=0"]
UNTIL = ["sweep.until=decided", "sweep.max_seeds=4", "sweep.margin=0.03"]


@pytest.mark.slow
def test_command_tunes_then_compares_and_keeps_its_choice(train_in: Train, tmp_path: Path) -> None:
    """One stage each time: the levels, the first block of seeds, and with planned looks the next block."""

    def run(*arguments: str) -> str:
        result = train_in(tmp_path, *SWEEP, *TUNED, "optimizer.momentum=0.8,0.9", *arguments, PYTHONPATH=PATH)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    dry = run("seed=0,1", *UNTIL, "sweep.tune_epochs=0.5", "sweep.dry_run=true")
    assert "sweep  2 arms x 2 levels of model.skill x 1 seed = 4 runs (grid) in out" in dry
    assert "tuning model.skill: each level with the seed 100000 for 50 % of the epochs, rounded up;" in dry
    assert "comparison at the best levels: 4 runs, about" in dry
    assert "all seeds, to 4 per arm: 8 runs, about" in dry
    tuned = run("seed=0,1", *UNTIL, "sweep.stages=one")
    assert "4 runs: 4 done" in tuned
    assert len(re.findall(r"tuned  optimizer.momentum=0.[89]: model.skill=0.8 of 0.5, 0.8 \(validation accuracy", tuned)) == 2
    assert "next   look 1 of 2, after 2 seeds: the baseline and 1 of 1 other arm: repeat the command" in tuned
    choices = chosen_in(tmp_path / "out")
    assert "4 runs: 4 done" in run("seed=0,1", *UNTIL, "sweep.stages=one")
    last = run("seed=0,1", *UNTIL)
    assert "tuned  optimizer.momentum=0.8: model.skill=0.8, as sweep.json has it" in last
    assert "8 runs: 8 done" in last
    assert "equivalent" in last
    assert chosen_in(tmp_path / "out") == choices
    page = (tmp_path / "out" / "report.md").read_text()
    assert "4 runs that only served to choose, besides the 8 that are compared" in page


def chosen_in(folder: Path) -> dict[str, Choice]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return dict(manifest.choices)
