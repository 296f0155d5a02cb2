"""The sweep as one procedure: plan, check, skip finished runs, launch the rest, conclude. Imports no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from train.command import as_typed, left_out, override, repeat_command, stored_command
from train.errors import RunError, UsageError, remedy
from train.report.make import ReportOptions
from train.run.trust import set_trusted, trusted_packages
from train.run.typed import notes_on_command, refuse_in_sweep
from train.sinks.hparams import hparams_row
from train.store.lock import Lock
from train.store.manifest import Manifest, PlannedRun, merge_manifests, read_manifest, upgraded_manifest, write_manifest
from train.sweep import plan_text
from train.sweep.axes import SWEEP_ONLY, read_request
from train.sweep.calibrate import estimate_s, time_arms
from train.sweep.check import check_arms, compare_with_folder
from train.sweep.conclude import conclude, unwritten
from train.sweep.devices import Allocation, Slot, allocate, cpu_cores, parse_pool_settings
from train.sweep.fork_server import ForkServer
from train.sweep.manifest import build_manifest, newest_sweep, set_sweep_dir
from train.sweep.plan import SweepPlan, make_plan
from train.sweep.reuse import RERUN_KINDS, RunStatus, ScheduledRun, prepare_folder, stored_runs
from train.sweep.settings import SweepSettings, parse_sweep

SUBDIR = "${job_name:${hydra.overrides.task}}"
"""How `conf/config.yaml` names the folder of a run."""

POOL_KEYS = ("devices", "jobs_per_device", "threads_per_job", "timeout_minutes", "retries", "mps")

TORCHVISION_CHOICES = ("torchvision", "cifar", "fashion_mnist", "svhn", "imagenet")
"""Words in overrides that choose a part of torchvision. The fork server then imports it once for all jobs: a second each."""


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
        request = read_request(self.params, overrides, self.loader)
        folder = self.folder()
        max_runs = math.prod(len(axis.levels) for axis in (*request.axes, *request.seeds))
        allocation = self.allocate(max_runs)
        modules = ["torchvision"] if any(name in " ".join(overrides) for name in TORCHVISION_CHOICES) else []
        with ForkServer(allocation.threads, modules) as fork_server:  # imports while the arms are composed
            composed = make_plan(request, self.settings, self.loader, self.master)
            self.preload_report()
            configs = {arm.id: arm.config for arm in composed.arms}
            checks = check_arms(
                configs, fork_server, allocation.slots[0].environment, with_memory=allocation.gpus > 0, typed=typed
            )
            plan = composed.with_inputs(checks.inputs).without_arms(checks.impossible)
            for refusal in checks.unread:
                raise UsageError(refusal)
            planned = build_manifest(plan, plan.runs, (), self.study, (), self.report)
            reuse_other_code, environment = self.settings.reuse_other_code, allocation.slots[0].environment
            plan, statuses = compare_with_folder(plan, planned, folder, reuse_other_code, fork_server, environment)
            self.validate_resume(folder, plan)
            self.print_plan(plan, statuses, folder)
            for note in (*checks.notes, *notes_on_command(typed, sweep=True).values()):
                plan_text.show([f"note   {note}"])
            if self.settings.dry_run:
                plan_text.show(plan_text.power_lines(plan, folder, self.settings.spread, self.report))
                self.print_estimate(plan, statuses, fork_server, checks.needed_bytes)
                return []
            if self.is_pool:  # the fork server starts the jobs, too
                self.launcher.fork_server = fork_server  # pyright: ignore[reportAttributeAccessIssue]
                self.launcher.needed_bytes = checks.needed_bytes  # pyright: ignore[reportAttributeAccessIssue]
                return self.launch(plan, statuses, folder)
        return self.launch(plan, statuses, folder)

    def preload_report(self) -> None:
        """Import the report's packages (two seconds) while this process waits for the fork server's imports anyway."""
        if not self.settings.dry_run:
            import train.report.make
            import train.report.tensorboard  # noqa: F401

    def launch(self, plan: SweepPlan, statuses: Sequence[RunStatus], folder: Path) -> list[Any]:
        """Launch the due runs, then conclude the sweep, even if launching fails.

        UsageError when another command holds the sweep's lock, or the folder cannot be written; RunError when a launcher other
        than `pool` raises.
        """
        set_sweep_dir(self.master, folder)
        command = repeat_command(self.arguments, folder)
        due = [status for status in statuses if status.kind in RERUN_KINDS[self.settings.rerun]]
        with ExitStack() as cleanup:
            with writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
                cleanup.enter_context(locked(folder))
            scheduled = [run for status in due if (run := self.prepare(folder, status)) is not None]
            if resumed := sum(run.resumes for run in scheduled):
                plan_text.show([f"       {resumed} of them resume from a checkpoint"])
            with writable(folder):
                self.write_plan(plan, statuses, scheduled, folder)
            error: BaseException | None = None
            results: list[Any] = []
            try:
                results = [self.launcher.launch(job_overrides(scheduled), 0)] if scheduled else []
            except BaseException as launch_error:
                error = launch_error
            conclude(folder, plan.runs, command, self.report, error)
            if isinstance(error, Exception):
                if self.is_pool or isinstance(error, UsageError | RunError):
                    raise error
                raise RunError(f"The launcher failed ({type(error).__name__}: {error}).") from error
            return results

    def prepare(self, folder: Path, status: RunStatus) -> ScheduledRun | None:
        """Prepare the folder of a due run. None when that fails: the run is listed as failed, with the reason."""
        try:
            return prepare_folder(folder, status, self.settings.rerun != "all")
        except OSError as error:
            where = (folder / status.planned.folder).absolute()
            unwritten[where] = f"what is in its folder cannot be moved away ({error.filename}: {error.strerror}).{remedy(error)}"
            return None

    def write_plan(self, plan: SweepPlan, statuses: Sequence[RunStatus], scheduled: Sequence[ScheduledRun], folder: Path) -> None:
        planned = {run.planned.identity: run.planned for run in scheduled}
        runs = [planned.get(status.planned.identity) or _with_actual_folder(status, folder) for status in statuses]
        notes = [line.strip() for line in plan_text.reuse_lines(statuses, self.settings.rerun)]
        if self.settings.reuse_other_code:
            notes.append("sweep.reuse_other_code=true: runs of another version of the code are reused")
        manifest = build_manifest(plan, runs, ("train", *self.arguments), self.study, notes, self.report)
        write_manifest(folder, merge_manifests(self.existing_manifest(folder, manifest), manifest))
        if self.report.tensorboard:
            from train.report.tensorboard import write_table  # imports TensorBoard

            with suppress(OSError):  # only TensorBoard's table loses columns
                write_table(folder, [hparams_row(arm.config, arm.choices, arm.overrides) for arm in plan.arms], manifest.axes)

    @staticmethod
    def existing_manifest(folder: Path, planned: Manifest) -> Manifest | None:
        """Return the manifest of earlier commands in `folder`, with ids of the present version; None when there is none."""
        manifest = read_manifest(folder)
        return None if manifest is None else upgraded_manifest(manifest, stored_runs(folder, planned), planned)

    def print_plan(self, plan: SweepPlan, statuses: Sequence[RunStatus], folder: Path) -> None:
        if self.settings.dry_run:
            plan_text.show(plan_text.arm_lines(plan))
        plan_text.show(plan_text.plan_lines(plan, statuses, self.settings.rerun, folder))

    def print_estimate(
        self, plan: SweepPlan, statuses: Sequence[RunStatus], fork_server: ForkServer, needed_bytes: int | None
    ) -> None:
        """Print how long the due runs will take, without launching one."""
        due = [status.planned for status in statuses if status.kind in RERUN_KINDS[self.settings.rerun]]
        arms = {run.arm for run in due}
        allocation = self.allocate(max(1, len(due)), needed_bytes)
        timed = time_arms([arm.config for arm in plan.arms if arm.id in arms], fork_server, allocation.slots) if due else []
        at_once = len(allocation.slots)
        plan_text.show(plan_text.estimate_lines(timed, estimate_s(timed, len(due), at_once), len(due), at_once))
        plan_text.show(["       no run was started (sweep.dry_run=true)"])

    def allocate(self, runs: int, needed_bytes: int | None = None) -> Allocation:
        """Return the slots that the launcher will use. Launchers other than `pool` run `n_jobs` jobs at a time, or one."""
        settings = OmegaConf.to_container(self.master.hydra.launcher, resolve=True)
        assert isinstance(settings, dict)
        if not set(POOL_KEYS) <= set(settings):
            return Allocation((Slot("cpu"),) * max(1, int(settings.get("n_jobs") or 1)), cpu_cores())
        pool = parse_pool_settings(*(settings[key] for key in POOL_KEYS))
        device = str(OmegaConf.select(self.master, "trainer.device", default="auto"))
        return allocate(pool, runs, device, needed_bytes=needed_bytes)

    def folder(self) -> Path:
        configured = Path(str(self.master.hydra.sweep.dir)).expanduser()
        return newest_sweep(configured.parent) if self.settings.resume == "last" else configured

    def validate_resume(self, folder: Path, plan: SweepPlan) -> None:
        """Raise UsageError when `sweep.resume=last` would mix two unrelated sweeps."""
        if self.settings.resume is None:
            return
        existing = self.existing_manifest(folder, build_manifest(plan, plan.runs, (), self.study, (), self.report))
        if existing is None:
            return
        if not {run.identity for run in existing.runs} & {run.identity for run in plan.runs}:
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


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raise UsageError, with what to do, for an error of the system that shows that the sweep's folder cannot be written."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise UsageError(f"hydra.sweep.dir={folder}: this folder cannot be written ({what}).{remedy(error)}") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep's folder inside the block. UsageError when another command does."""
    lock = Lock(folder)
    try:
        if (holder := lock.acquire()) is not None:
            raise UsageError(f"{folder}: another command is using this sweep folder (process {holder}). Wait for it, or stop it.")
        yield
    finally:
        with suppress(OSError):  # it is released when this process ends
            lock.release()


def job_overrides(scheduled: Sequence[ScheduledRun]) -> list[list[str]]:
    """Return the overrides of each job for Hydra's launchers.

    The folder's name is literal, so that a job in another process need not derive it. Every job has `resume=auto`, since a
    cluster may restart it at any time; an empty folder means a new run.
    """
    return [[*run.planned.overrides, "resume=auto", override("hydra.sweep.subdir", run.planned.folder)] for run in scheduled]


def _with_actual_folder(status: RunStatus, folder: Path) -> PlannedRun:
    """Return the planned run with the folder it has, whose name an earlier command may have chosen."""
    if status.run is None:
        return status.planned
    return replace(status.planned, folder=str(status.run.folder.relative_to(folder)))


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
    return Sweep(loader, launcher, master, params, *parse_sweep(content), tuple(sys.argv[1:]))
