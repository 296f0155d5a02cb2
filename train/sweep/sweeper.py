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
from train.ledger.lock import Lock
from train.ledger.manifest import Manifest, PlannedRun, read_manifest, upgraded_manifest
from train.run.resume import trusted
from train.sinks.hparams import arm_of
from train.sweep import shown
from train.sweep.again import command_again, newest_sweep, settle_folder
from train.sweep.axes import OWN, read_request
from train.sweep.calibrate import estimate_s, timings
from train.sweep.check import impossible
from train.sweep.conclusion import conclude
from train.sweep.devices import Places, Slot, cores, parse, places
from train.sweep.nursery import Nursery
from train.sweep.plan import Plan, draw_up
from train.sweep.record import manifest_of, merged, write_manifest
from train.sweep.reuse import MADE, Order, Standing, make_room, runs_by_identity, survey
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
        trust = trusted(self.master.trust, overrides)
        request = read_request(self.params, overrides, self.loader)
        folder = self.folder()
        about = math.prod(len(axis.levels) for axis in (*request.axes, *request.seeds))
        where = self.places(about)
        with Nursery(where.threads) as nursery:  # imports while the arms are composed
            drawn = draw_up(request, self.settings, self.loader, self.master)
            self.import_ahead()
            plan = drawn.without(
                impossible({arm.id: arm.config for arm in drawn.arms}, trust, nursery, where.slots[0].environment)
            )
            standings = survey(folder, plan.runs, self.settings.reuse_other_code)
            self.refuse_another_sweep(folder, plan)
            self.say(plan, standings, folder)
            if self.settings.dry_run:
                self.estimate(plan, standings, trust, nursery)
                return []
            if self.is_pool:  # the nursery starts the jobs, too
                self.launcher.nursery = nursery  # pyright: ignore[reportAttributeAccessIssue]
                return self.launch(plan, standings, folder)
        return self.launch(plan, standings, folder)

    def import_ahead(self) -> None:
        """What the report takes two seconds to import, while this process would only wait for the nursery's imports."""
        if not self.settings.dry_run:
            import train.report.make
            import train.report.tensorboard  # noqa: F401

    def launch(self, plan: Plan, standings: Sequence[Standing], folder: Path) -> list[Any]:
        """The runs that are due, then the conclusion, whatever happened to them."""
        folder.mkdir(parents=True, exist_ok=True)
        settle_folder(self.master, folder)
        again = command_again(self.arguments, folder)
        due = [standing for standing in standings if standing.kind in MADE[self.settings.rerun]]
        lock = Lock(folder)
        if (holder := lock.take()) is not None:
            raise UsageError(f"{folder}: another command is working on this sweep ({holder}). Wait for it, or stop it.")
        with ExitStack() as ending:
            ending.callback(lock.give_back)
            orders = [make_room(folder, standing, self.settings.rerun != "all") for standing in due]
            if continued := sum(order.continues for order in orders):
                print(f"       {continued} of them go on from a checkpoint", flush=True)
            self.write_plan(plan, standings, orders, folder)
            error: BaseException | None = None
            results: list[Any] = []
            try:
                results = [self.launcher.launch(jobs(orders), 0)] if due else []
            except BaseException as caught:
                error = caught
            conclude(folder, plan.runs, again, self.report, error)
            if isinstance(error, Exception):
                if self.is_pool or isinstance(error, UsageError | RunError):
                    raise error
                raise RunError(f"The launcher broke off ({type(error).__name__}: {error}).") from error
            return results

    def write_plan(self, plan: Plan, standings: Sequence[Standing], orders: Sequence[Order], folder: Path) -> None:
        made = {order.planned.identity: order.planned for order in orders}
        runs = [made.get(standing.planned.identity) or _where_it_lies(standing, folder) for standing in standings]
        notes = [line.strip() for line in shown.already(standings, self.settings.rerun)]
        if self.settings.reuse_other_code:
            notes.append("sweep.reuse_other_code=true: runs made by another version of the code count")
        manifest = manifest_of(plan, runs, ("train", *self.arguments), self.study, notes)
        write_manifest(folder, merged(self.known_manifest(folder, manifest), manifest))
        if self.report.tensorboard:
            from train.report.tensorboard import write_table  # imports TensorBoard

            with suppress(OSError):  # a view: whoever looks at it misses a column
                write_table(folder, [arm_of(arm.config, arm.choices, arm.overrides) for arm in plan.arms], manifest.axes)

    @staticmethod
    def known_manifest(folder: Path, planned: Manifest) -> Manifest | None:
        """Return what an earlier command planned in `folder`, with present ids; None where there was none."""
        known = read_manifest(folder)
        return None if known is None else upgraded_manifest(known, runs_by_identity(folder).values(), planned)

    def say(self, plan: Plan, standings: Sequence[Standing], folder: Path) -> None:
        if self.settings.dry_run:
            print("\n".join(shown.arms_table(plan)))
        print("\n".join(shown.brief(plan, standings, self.settings.rerun, folder)), flush=True)

    def estimate(self, plan: Plan, standings: Sequence[Standing], trust: tuple[str, ...], nursery: Nursery) -> None:
        """Of the runs that are due, without making one."""
        due = [standing.planned for standing in standings if standing.kind in MADE[self.settings.rerun]]
        arms = {run.arm for run in due}
        where = self.places(max(1, len(due)))
        timed = timings([arm.config for arm in plan.arms if arm.id in arms], trust, nursery, where.slots) if due else []
        at_once = len(where.slots)
        print("\n".join(shown.estimate(timed, estimate_s(timed, len(due), at_once), len(due), at_once)))
        print("       nothing was started: sweep.dry_run=true")

    def places(self, runs: int) -> Places:
        """Where the launcher will put the jobs: as the pool does; other launchers are taken to run one after the other."""
        settings = OmegaConf.to_container(self.master.hydra.launcher, resolve=True)
        assert isinstance(settings, dict)
        if not set(POOL_KEYS) <= set(settings):
            return Places((Slot("cpu"),) * max(1, int(settings.get("n_jobs") or 1)), cores())
        pool = parse(*(settings[key] for key in POOL_KEYS))
        return places(pool, runs, str(OmegaConf.select(self.master, "trainer.device", default="auto")))

    def folder(self) -> Path:
        wished = Path(str(self.master.hydra.sweep.dir))
        return newest_sweep(wished.parent) if self.settings.resume == "last" else wished

    def refuse_another_sweep(self, folder: Path, plan: Plan) -> None:
        """`sweep.resume=last` with a command that has nothing to do with the last sweep would mix two of them."""
        if self.settings.resume is None:
            return
        known = self.known_manifest(folder, manifest_of(plan, plan.runs, (), self.study, ()))
        if known is None:
            return
        if not {run.identity for run in known.runs} & {run.identity for run in plan.runs}:
            raise UsageError(
                f"sweep.resume=last: the last sweep, {folder}, has no run in common with this command. "
                f"To go on with it: {command_again(known.command[1:], folder)}"
            )

    def refuse_unusable_preset(self) -> None:
        """What a study sets of the runs themselves would be lost: each run can be repeated without it."""
        if self.study:
            there, bare = (self.loader.load_sweep_config(self.master, lines) for lines in ([f"study={self.study}"], []))
            if changed := [str(key) for key in there if key not in (*OWN, "hydra") and there[key] != bare.get(key)]:
                remedy = "A study sets values of runs in hydra.sweeper.params, so that each run can be repeated without it."
                raise UsageError(f"study={self.study}: it sets {', '.join(sorted(changed))}. {remedy}")

    @property
    def is_pool(self) -> bool:
        """Whether the launcher is ours."""
        return hasattr(self.launcher, "nursery")

    @property
    def study(self) -> str:
        """The preset's name, or empty."""
        return str(self.master.hydra.runtime.choices.get("study") or "")


def jobs(orders: Sequence[Order]) -> list[list[str]]:
    """For Hydra's launchers. The folder's name is given literally: a job in another process need not know how to draw it.

    Every job goes on with what its folder holds, which for most is nothing: a cluster may begin a job again at any time.
    """
    return [[*order.planned.overrides, "resume=auto", f"hydra.sweep.subdir='{order.planned.folder}'"] for order in orders]


def _where_it_lies(standing: Standing, folder: Path) -> PlannedRun:
    """A run that stays, with the folder it has, which an earlier command may have named otherwise."""
    if standing.run is None:
        return standing.planned
    return replace(standing.planned, folder=str(standing.run.folder.relative_to(folder)))


def sweep_of(loader: ConfigLoader, launcher: Launcher, master: DictConfig, params: dict[str, Any]) -> Sweep:
    """UsageError for a wrong key under `sweep` or `report`."""
    content = {key: OmegaConf.to_container(master[key], resolve=True) for key in ("sweep", "report")}
    return Sweep(loader, launcher, master, params, *parse_sweep(content), tuple(sys.argv[1:]))
