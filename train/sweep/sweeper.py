"""A sweep from the command line to its end: plan, check, skip what is there, launch the rest, conclude. No torch in here."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from train.errors import RunError, UsageError
from train.run.resume import trusted_packages
from train.sinks.hparams import hparams_row
from train.store.lock import Lock
from train.store.manifest import Manifest, PlannedRun, read_manifest, upgraded_manifest
from train.sweep import plan_text
from train.sweep.axes import SWEEP_ONLY, read_request
from train.sweep.calibrate import estimate_s, time_arms
from train.sweep.check import find_impossible
from train.sweep.conclude import conclude
from train.sweep.devices import Allocation, Slot, allocate, cpu_cores, parse_pool_settings
from train.sweep.fork_server import ForkServer
from train.sweep.manifest import build_manifest, merge_manifests, write_manifest
from train.sweep.plan import SweepPlan, make_plan
from train.sweep.repeat import newest_sweep, repeat_command, set_sweep_dir
from train.sweep.reuse import RERUN_KINDS, RunStatus, ScheduledRun, prepare_folder, run_statuses, runs_by_identity
from train.sweep.settings import ReportSettings, SweepSettings, parse_sweep

POOL_KEYS = ("devices", "jobs_per_device", "threads_per_job", "timeout_minutes", "retries")


@dataclass(frozen=True)
class Sweep:
    """What Hydra hands to a sweeper, checked. `params`: axes and constants of a preset; `arguments`: of the program, as typed."""

    loader: ConfigLoader
    launcher: Launcher
    master: DictConfig
    params: dict[str, Any]
    settings: SweepSettings
    report: ReportSettings
    arguments: tuple[str, ...]

    def run(self, overrides: Sequence[str]) -> list[Any]:
        """Everything. UsageError, with nothing left behind, for whatever can be known to be wrong before the first job."""
        self.refuse_unusable_preset()
        trust = trusted_packages(self.master.trust, overrides)
        request = read_request(self.params, overrides, self.loader)
        folder = self.folder()
        about = math.prod(len(axis.levels) for axis in (*request.axes, *request.seeds))
        where = self.allocate(about)
        with ForkServer(where.threads) as fork_server:  # imports while the arms are composed
            drawn = make_plan(request, self.settings, self.loader, self.master)
            self.preload_report()
            plan = drawn.without_arms(
                find_impossible({arm.id: arm.config for arm in drawn.arms}, trust, fork_server, where.slots[0].environment)
            )
            standings = run_statuses(folder, plan.runs, self.settings.reuse_other_code)
            self.refuse_another_sweep(folder, plan)
            self.print_plan(plan, standings, folder)
            if self.settings.dry_run:
                self.estimate(plan, standings, trust, fork_server)
                return []
            if self.is_pool:  # the fork_server starts the jobs, too
                self.launcher.fork_server = fork_server  # pyright: ignore[reportAttributeAccessIssue]
                return self.launch(plan, standings, folder)
        return self.launch(plan, standings, folder)

    def preload_report(self) -> None:
        """What the report takes two seconds to import, while this process would only wait for the fork_server's imports."""
        if not self.settings.dry_run:
            import train.report.make
            import train.report.tensorboard  # noqa: F401

    def launch(self, plan: SweepPlan, standings: Sequence[RunStatus], folder: Path) -> list[Any]:
        """The runs that are due, then the conclusion, whatever happened to them."""
        folder.mkdir(parents=True, exist_ok=True)
        set_sweep_dir(self.master, folder)
        again = repeat_command(self.arguments, folder)
        due = [standing for standing in standings if standing.kind in RERUN_KINDS[self.settings.rerun]]
        lock = Lock(folder)
        if (holder := lock.acquire()) is not None:
            raise UsageError(f"{folder}: another command is working on this sweep ({holder}). Wait for it, or stop it.")
        with ExitStack() as ending:
            ending.callback(lock.release)
            orders = [prepare_folder(folder, standing, self.settings.rerun != "all") for standing in due]
            if continued := sum(order.resumes for order in orders):
                print(f"       {continued} of them go on from a checkpoint", flush=True)
            self.write_plan(plan, standings, orders, folder)
            error: BaseException | None = None
            results: list[Any] = []
            try:
                results = [self.launcher.launch(job_overrides(orders), 0)] if due else []
            except BaseException as caught:
                error = caught
            conclude(folder, plan.runs, again, self.report, error)
            if isinstance(error, Exception):
                if self.is_pool or isinstance(error, UsageError | RunError):
                    raise error
                raise RunError(f"The launcher broke off ({type(error).__name__}: {error}).") from error
            return results

    def write_plan(self, plan: SweepPlan, standings: Sequence[RunStatus], orders: Sequence[ScheduledRun], folder: Path) -> None:
        made = {order.planned.identity: order.planned for order in orders}
        runs = [made.get(standing.planned.identity) or _where_it_lies(standing, folder) for standing in standings]
        notes = [line.strip() for line in plan_text.reuse_lines(standings, self.settings.rerun)]
        if self.settings.reuse_other_code:
            notes.append("sweep.reuse_other_code=true: runs made by another version of the code count")
        manifest = build_manifest(plan, runs, ("train", *self.arguments), self.study, notes)
        write_manifest(folder, merge_manifests(self.known_manifest(folder, manifest), manifest))
        if self.report.tensorboard:
            from train.report.tensorboard import write_table  # imports TensorBoard

            with suppress(OSError):  # a view: whoever looks at it misses a column
                write_table(folder, [hparams_row(arm.config, arm.choices, arm.overrides) for arm in plan.arms], manifest.axes)

    @staticmethod
    def known_manifest(folder: Path, planned: Manifest) -> Manifest | None:
        """Return what an earlier command planned in `folder`, with present ids; None where there was none."""
        known = read_manifest(folder)
        return None if known is None else upgraded_manifest(known, runs_by_identity(folder).values(), planned)

    def print_plan(self, plan: SweepPlan, standings: Sequence[RunStatus], folder: Path) -> None:
        if self.settings.dry_run:
            print("\n".join(plan_text.arm_lines(plan)))
        print("\n".join(plan_text.plan_lines(plan, standings, self.settings.rerun, folder)), flush=True)

    def estimate(self, plan: SweepPlan, standings: Sequence[RunStatus], trust: tuple[str, ...], fork_server: ForkServer) -> None:
        """Of the runs that are due, without making one."""
        due = [standing.planned for standing in standings if standing.kind in RERUN_KINDS[self.settings.rerun]]
        arms = {run.arm for run in due}
        where = self.allocate(max(1, len(due)))
        timed = time_arms([arm.config for arm in plan.arms if arm.id in arms], trust, fork_server, where.slots) if due else []
        at_once = len(where.slots)
        print("\n".join(plan_text.estimate_lines(timed, estimate_s(timed, len(due), at_once), len(due), at_once)))
        print("       nothing was started: sweep.dry_run=true")

    def allocate(self, runs: int) -> Allocation:
        """Where the launcher will put the jobs: as the pool does; other launchers are taken to run one after the other."""
        settings = OmegaConf.to_container(self.master.hydra.launcher, resolve=True)
        assert isinstance(settings, dict)
        if not set(POOL_KEYS) <= set(settings):
            return Allocation((Slot("cpu"),) * max(1, int(settings.get("n_jobs") or 1)), cpu_cores())
        pool = parse_pool_settings(*(settings[key] for key in POOL_KEYS))
        return allocate(pool, runs, str(OmegaConf.select(self.master, "trainer.device", default="auto")))

    def folder(self) -> Path:
        wished = Path(str(self.master.hydra.sweep.dir))
        return newest_sweep(wished.parent) if self.settings.resume == "last" else wished

    def refuse_another_sweep(self, folder: Path, plan: SweepPlan) -> None:
        """`sweep.resume=last` with a command that has nothing to do with the last sweep would mix two of them."""
        if self.settings.resume is None:
            return
        known = self.known_manifest(folder, build_manifest(plan, plan.runs, (), self.study, ()))
        if known is None:
            return
        if not {run.identity for run in known.runs} & {run.identity for run in plan.runs}:
            raise UsageError(
                f"sweep.resume=last: the last sweep, {folder}, has no run in common with this command. "
                f"To go on with it: {repeat_command(known.command[1:], folder)}"
            )

    def refuse_unusable_preset(self) -> None:
        """What a study sets of the runs themselves would be lost: each run can be repeated without it."""
        if self.study:
            there, bare = (self.loader.load_sweep_config(self.master, lines) for lines in ([f"study={self.study}"], []))
            if changed := [str(key) for key in there if key not in (*SWEEP_ONLY, "hydra") and there[key] != bare.get(key)]:
                remedy = "A study sets values of runs in hydra.sweeper.params, so that each run can be repeated without it."
                raise UsageError(f"study={self.study}: it sets {', '.join(sorted(changed))}. {remedy}")

    @property
    def is_pool(self) -> bool:
        """Whether the launcher is ours."""
        return hasattr(self.launcher, "fork_server")

    @property
    def study(self) -> str:
        """The preset's name, or empty."""
        return str(self.master.hydra.runtime.choices.get("study") or "")


def job_overrides(orders: Sequence[ScheduledRun]) -> list[list[str]]:
    """For Hydra's launchers. The folder's name is given literally: a job in another process need not know how to draw it.

    Every job goes on with what its folder holds, which for most is nothing: a cluster may begin a job again at any time.
    """
    return [[*order.planned.overrides, "resume=auto", f"hydra.sweep.subdir='{order.planned.folder}'"] for order in orders]


def _where_it_lies(standing: RunStatus, folder: Path) -> PlannedRun:
    """A run that stays, with the folder it has, which an earlier command may have named otherwise."""
    if standing.run is None:
        return standing.planned
    return replace(standing.planned, folder=str(standing.run.folder.relative_to(folder)))


def build_sweep(loader: ConfigLoader, launcher: Launcher, master: DictConfig, params: dict[str, Any]) -> Sweep:
    """UsageError for a wrong key under `sweep` or `report`."""
    content = {key: OmegaConf.to_container(master[key], resolve=True) for key in ("sweep", "report")}
    return Sweep(loader, launcher, master, params, *parse_sweep(content), tuple(sys.argv[1:]))
