"""The sweep as one procedure: plan, check, skip finished runs, launch the rest, conclude. Imports no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from train.command import as_typed, left_out, stored_command
from train.errors import UsageError
from train.report.make import ReportOptions
from train.run.trust import set_trusted, trusted_packages
from train.run.typed import notes_on_command, refuse_in_sweep
from train.store.manifest import Manifest, read_manifest
from train.sweep import looks, plan_text
from train.sweep.axes import SWEEP_ONLY, SweepRequest, read_request
from train.sweep.calibrate import estimate_s, time_arms
from train.sweep.check import ArmChecks, check_arms, compare_with_folder
from train.sweep.devices import Allocation, Slot, allocate, cpu_cores, devices_per_job, parse_pool_settings
from train.sweep.fork_server import ForkServer
from train.sweep.looks import LookPolicy
from train.sweep.manifest import build_manifest, check_analysis, existing_manifest, newest_sweep
from train.sweep.plan import SweepPlan, make_plan, seed_by_seed
from train.sweep.reuse import RERUN_KINDS, RunStatus
from train.sweep.settings import SweepSettings, parse_sweep, refuse_unused_tuning
from train.sweep.stages import OneStage, Policy, StagedSweep
from train.sweep.tuning_stages import TuneFirst, reopened

SUBDIR = "${job_name:${hydra.overrides.task}}"
"""How `conf/config.yaml` names the folder of a run."""

POOL_KEYS = ("devices", "jobs_per_device", "threads_per_job", "timeout_minutes", "retries", "mps")


@dataclass(frozen=True)
class Sweep:
    """A sweep with its checked settings.

    `params`: axes and constants of a preset; `arguments`: the program's command-line arguments, as typed.
    """

    loader: ConfigLoader
    launcher: Launcher
    master: DictConfig
    params: dict[str, Any]
    settings: SweepSettings
    report: ReportOptions
    arguments: tuple[str, ...]

    def run(self, overrides: Sequence[str]) -> list[Any]:
        """Run the sweep and return the results of its jobs.

        UsageError for every error that can be detected before the first job; no files are written then.
        """
        self.validate_preset()
        set_trusted(trusted_packages(self.master.trust, overrides))
        typed = (*as_typed(self.master.hydra.overrides.hydra), *overrides)
        refuse_in_sweep(typed, self.master.hydra.sweep, self.settings.resume)
        refuse_unused_tuning(typed, self.settings)
        request = read_request(self.params, overrides, self.loader, self.settings.tuned_levels)
        looks.validate(request, self.settings, self.report)
        request, planned_looks = looks.in_blocks(request, self.settings)
        seeds = self.settings.runs_with(math.prod(len(axis.levels) for axis in request.seeds))
        tune_seeds = self.settings.tune_seeds if self.settings.tuned else 1
        max_runs = math.prod(len(axis.levels) for axis in request.axes) * max(seeds, tune_seeds)
        allocation = self.allocate(max_runs)
        with ForkServer(allocation.threads) as fork_server:
            staged, statuses, checks = self.plan(request, planned_looks, typed, allocation, fork_server)
            if self.settings.dry_run:
                plan_text.show(plan_text.power_lines(staged.plan, staged.folder, self.settings.spread, self.report))
                self.print_estimate(staged, statuses, fork_server, checks.needed_bytes)
                return []
            if self.is_pool:  # the fork server starts the jobs, too
                self.launcher.fork_server = fork_server  # pyright: ignore[reportAttributeAccessIssue]
                self.launcher.needed_bytes = checks.needed_bytes  # pyright: ignore[reportAttributeAccessIssue]
                return staged.run(statuses)
        return staged.run(statuses)

    def plan(
        self,
        request: SweepRequest,
        planned_looks: tuple[int, ...],
        typed: Sequence[str],
        allocation: Allocation,
        fork_server: ForkServer,
    ) -> tuple[StagedSweep, list[RunStatus], ArmChecks]:
        """Plan and check the sweep, and print the plan; return it, the status of the runs of its first stage, and the checks.

        `planned_looks`: the seeds per arm at each look; `typed`: the overrides on the command line.
        """
        folder = self.folder()
        composed = make_plan(request, self.settings, self.loader, self.master, read_manifest(folder))
        self.preload_report()
        configs = {arm.id: arm.config for arm in (*composed.arms, *composed.reserve)}
        check_analysis(composed, self.study, self.report)
        environment = allocation.slots[0].environment
        if self.is_pool and allocation.may_use_mps and not self.settings.dry_run:
            self.launcher.begin_mps(environment, fork_server)  # pyright: ignore[reportAttributeAccessIssue]
        checks = check_arms(configs, fork_server, environment, with_memory=allocation.gpus > 0, typed=typed)
        plan = composed.with_inputs(checks.inputs).without_arms(checks.impossible)
        for refusal in checks.unread:
            raise UsageError(refusal)
        planned = build_manifest(plan, plan.possible_runs, (), self.study, (), self.report)
        plan, statuses = compare_with_folder(plan, planned, folder, self.settings.reuse_other_code, fork_server, environment)
        self.validate_resume(folder, plan)
        staged = self.staged(plan, planned_looks, folder, existing_manifest(folder, planned))
        statuses = staged.stage.part_of(statuses)
        self.print_plan(staged, statuses)
        for note in (*checks.notes, *notes_on_command(typed, sweep=True).values()):
            plan_text.show([f"note   {note}"])
        return staged, statuses, checks

    def staged(self, plan: SweepPlan, planned_looks: tuple[int, ...], folder: Path, manifest: Manifest | None) -> StagedSweep:
        """Return the sweep that makes the runs of `plan` in `folder`. `manifest`: of what is in the folder."""
        manifest = reopened(manifest)

        def comparison(chosen: SweepPlan) -> Policy:
            return self.comparison(chosen, planned_looks, folder, manifest)

        kept = manifest.choices if manifest else {}
        policy = comparison(plan) if plan.tuning is None else TuneFirst(plan, comparison, kept)
        command = ("train", *self.arguments)
        launcher, settings = self.launcher, self.settings
        return StagedSweep(
            plan, policy, policy.stage(manifest), folder, launcher, self.master, settings, self.report, self.study, command
        )

    def comparison(self, plan: SweepPlan, planned_looks: tuple[int, ...], folder: Path, manifest: Manifest | None) -> Policy:
        """Return the policy of the runs that are compared. `plan`: with tuned keys, at the chosen levels."""
        if not planned_looks:
            return OneStage(plan.runs)
        if plan.tune and plan.tuning is None:
            raise UsageError(
                f"sweep.max_seeds={self.settings.max_seeds}: the sweep in {folder} was begun by an earlier version and tries "
                "levels with all seeds, so that none is chosen before a look. Start another: omit hydra.sweep.dir."
            )
        if plan.lost_baseline or (len(plan.compared) < 2 and plan.tuning):
            return OneStage(seed_by_seed([replace(arm, runs=arm.runs[: planned_looks[0]]) for arm in plan.arms]))
        policy = LookPolicy(plan, looks.plan_looks(plan, self.settings, self.report, planned_looks))
        looks.refuse_other_looks(manifest, policy.looks, folder)
        return policy

    def preload_report(self) -> None:
        """Import the report's packages (two seconds) while this process waits for the fork server's imports anyway."""
        if not self.settings.dry_run:
            import train.report.make
            import train.report.tensorboard  # noqa: F401

    def print_plan(self, staged: StagedSweep, statuses: Sequence[RunStatus]) -> None:
        if self.settings.dry_run:
            plan_text.show(plan_text.arm_lines(staged.plan))
        plan_text.show(plan_text.plan_lines(staged.plan, statuses, self.settings.rerun, staged.folder))
        plan_text.show(staged.policy.lines)

    def print_estimate(
        self, staged: StagedSweep, statuses: Sequence[RunStatus], fork_server: ForkServer, needed_bytes: int | None
    ) -> None:
        """Print how long the due runs will take, without launching one."""
        due = [status.planned for status in statuses if status.kind in RERUN_KINDS[self.settings.rerun]]
        arms = {run.arm for run in due}
        allocation = self.allocate(max(1, len(due)), needed_bytes)
        configs = [arm.config for arm in staged.plan.configurations if arm.id in arms]
        timed = time_arms(configs, fork_server, allocation.slots) if due else []
        at_once = len(allocation.slots)
        plan_text.show(plan_text.estimate_lines(timed, estimate_s(timed, len(due), at_once), len(due), at_once))
        for what, (runs, length) in staged.policy.sizes.items():
            scaled = [replace(timing, steps=round(length * timing.steps)) for timing in timed]
            plan_text.show(plan_text.size_lines(what, estimate_s(scaled, runs, at_once), runs))
        plan_text.show(["       no run was started (sweep.dry_run=true)"])

    def allocate(self, runs: int, needed_bytes: int | None = None) -> Allocation:
        """Return the slots that the launcher will use. Launchers other than `pool` run `n_jobs` jobs at a time, or one."""
        settings = OmegaConf.to_container(self.master.hydra.launcher, resolve=True)
        assert isinstance(settings, dict)
        if not set(POOL_KEYS) <= set(settings):
            return Allocation((Slot("cpu"),) * max(1, int(settings.get("n_jobs") or 1)), cpu_cores())
        pool = parse_pool_settings(*(settings[key] for key in POOL_KEYS))
        device = str(OmegaConf.select(self.master, "trainer.device", default="auto"))
        return allocate(pool, runs, device, needed_bytes=needed_bytes, per_job=devices_per_job(self.master))

    def folder(self) -> Path:
        configured = Path(str(self.master.hydra.sweep.dir)).expanduser()
        return newest_sweep(configured.parent) if self.settings.resume == "last" else configured

    def validate_resume(self, folder: Path, plan: SweepPlan) -> None:
        """Raise UsageError when `sweep.resume=last` would mix two unrelated sweeps."""
        if self.settings.resume is None:
            return
        existing = existing_manifest(folder, build_manifest(plan, plan.possible_runs, (), self.study, (), self.report))
        if existing is None:
            return
        if not {run.identity for run in existing.runs} & {run.identity for run in plan.possible_runs}:
            command, note = stored_command(existing.command, folder), left_out(existing.command[1:])
            raise UsageError(
                f"sweep.resume=last: the last sweep, {folder}, shares no run with this command. "
                f"To resume it: {command}{note and f' ({note})'}"
            )

    def validate_preset(self) -> None:
        """Raise UsageError when a study sets keys of runs directly: repeating a run without the study would lose them."""
        if self.study:
            preset, default = (self.loader.load_sweep_config(self.master, lines) for lines in ([f"study={self.study}"], []))
            if changed := [str(key) for key in preset if key not in (*SWEEP_ONLY, "hydra") and preset[key] != default.get(key)]:
                remedy = "Set values of runs in hydra.sweeper.params, so that each run can be repeated without the study."
                raise UsageError(f"study={self.study}: it sets {', '.join(sorted(changed))}. {remedy}")

    @property
    def is_pool(self) -> bool:
        """Whether the launcher is `pool`, which takes jobs from the fork server."""
        return hasattr(self.launcher, "fork_server")

    @property
    def study(self) -> str:
        """The name of the chosen study, or empty."""
        return str(self.master.hydra.runtime.choices.get("study") or "")


def build_sweep(loader: ConfigLoader, launcher: Launcher, master: DictConfig, params: dict[str, Any]) -> Sweep:
    """Create the sweep from what Hydra passes to a sweeper. UsageError for a wrong key under `sweep` or `report`."""
    nodes = {key: master[key] for key in ("sweep", "report")}
    content = {
        key: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node for key, node in nodes.items()
    }
    if (subdir := str(master.hydra.sweep._get_node("subdir")._value())) != SUBDIR:
        raise UsageError(
            f"hydra.sweep.subdir={subdir}: a sweep names the folders of its runs itself, so that it finds them when it is "
            "repeated. Name the folder of the sweep with hydra.sweep.dir=FOLDER."
        )
    settings, report = parse_sweep(content)
    if report.smallest_effect is None:
        report = replace(report, smallest_effect=settings.margin)  # the page calls equivalent what stopped as such
    return Sweep(loader, launcher, master, params, settings, report, tuple(sys.argv[1:]))
