"""The stages of a sweep: one after the other is launched, what its runs show is decided, and the sweep is concluded.

A stage is a set of planned runs. A policy says which comes next, from the plan and `sweep.json` alone, and what follows from its
runs, so that a sweep that was killed makes the same decisions when it is repeated. A sweep without decisions has one stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from train.command import override, repeat_command
from train.errors import RunError, UsageError
from train.report.options import ReportOptions
from train.sinks.hparams import hparams_row
from train.store.manifest import Manifest, PlannedRun, read_manifest
from train.store.manifest_update import update_manifest
from train.store.run import FINISHED, Run
from train.sweep import plan_text
from train.sweep.conclude import conclude, run_outcomes, unwritten
from train.sweep.manifest import add_plan, build_manifest, locked, set_sweep_dir, writable
from train.sweep.plan import SweepPlan
from train.sweep.reuse import RERUN_KINDS, RunStatus, ScheduledRun, prepare_folder, run_statuses, stored_runs, unmoved
from train.sweep.settings import SweepSettings
from train.text import plural

PENDING = frozenset({"missing", "queued", "running", "interrupted"})
"""The outcomes of runs that have not ended: nothing is decided before they have."""


@dataclass(frozen=True)
class Stage:
    """A part of a sweep: all `runs` that have to be made before the next decision, those of earlier stages included.

    `name`: printed before they are launched, empty in a sweep with one stage; `is_last`: whether nothing is decided after it.
    """

    runs: tuple[PlannedRun, ...]
    name: str = ""
    is_last: bool = False

    def part_of(self, statuses: Iterable[RunStatus]) -> list[RunStatus]:
        """Return the statuses of the runs of this stage."""
        identities = {run.identity for run in self.runs}
        return [status for status in statuses if status.planned.identity in identities]


class Policy(Protocol):
    """What decides which runs of a plan are made. Its functions depend on their arguments alone."""

    def stage(self, manifest: Manifest | None) -> Stage:
        """Return the stage to make now. `manifest`: of the sweep's folder, with all decisions so far; None before the first.

        The stage that was just made means that nothing is left to do.
        """
        ...

    def decide(self, stage: Stage, manifest: Manifest, runs: Sequence[Run]) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Return what follows from the runs of a stage, as fields of the manifest, and a line for each decision.

        `runs`: in the folder of the sweep. Decisions of the manifest stay. Every run of the stage has ended, maybe in failure.
        """
        ...

    def planned(self, manifest: Manifest) -> Manifest:
        """Return the manifest of a stage with what was planned before the first one."""
        ...

    @property
    def lines(self) -> Sequence[str]:
        """The stages that are planned, in words."""
        ...

    @property
    def sizes(self) -> Mapping[str, tuple[int, float]]:
        """What the sweep may come to besides its next stage -> the number of its runs, and how long one is beside those of that
        stage. A dry run says how long they take."""
        ...


@dataclass(frozen=True)
class OneStage:
    """The policy of a sweep without decisions: all runs at once."""

    runs: tuple[PlannedRun, ...]

    def stage(self, manifest: Manifest | None) -> Stage:
        del manifest
        return Stage(self.runs, is_last=True)

    def decide(self, stage: Stage, manifest: Manifest, runs: Sequence[Run]) -> tuple[Mapping[str, Any], Sequence[str]]:
        del stage, manifest, runs
        return {}, ()

    def planned(self, manifest: Manifest) -> Manifest:
        return manifest

    @property
    def lines(self) -> Sequence[str]:
        return ()

    @property
    def sizes(self) -> Mapping[str, tuple[int, float]]:
        return {}


@dataclass
class StagedSweep:
    """A planned sweep in its folder. `run` makes it.

    `stage`: the one that is made now; `command`: that of the sweep, as a manifest has it; `placed`: by identity, the runs of all
    stages so far with the folders they have; `attempted`: those that this command has launched, or found that it cannot.
    """

    plan: SweepPlan
    policy: Policy
    stage: Stage
    folder: Path
    launcher: Launcher
    master: DictConfig
    settings: SweepSettings
    report: ReportOptions
    study: str
    command: tuple[str, ...]
    placed: dict[str, PlannedRun] = field(default_factory=dict)
    attempted: frozenset[str] = frozenset()

    def run(self, statuses: Sequence[RunStatus]) -> list[Any]:
        """Launch the due runs of the stage and of those that follow, then conclude the sweep, even if launching fails.

        `statuses`: of the runs of the stage. UsageError when another command holds the sweep's lock, or the folder cannot be
        written; RunError when a launcher other than `pool` raises.
        """
        set_sweep_dir(self.master, self.folder)
        error: BaseException | None = None
        results: list[Any] = []
        with ExitStack() as cleanup:
            with writable(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                cleanup.enter_context(locked(self.folder))
            scheduled = self.begin(statuses)
            try:
                self.launch_all(scheduled, results)
            except BaseException as launch_error:
                error = launch_error
            planned = [run for run in self.plan.possible_runs if run.identity in self.placed]
            conclude(self.folder, planned, repeat_command(self.command[1:], self.folder), self.report, error)
            if isinstance(error, Exception):
                if hasattr(self.launcher, "fork_server") or isinstance(error, UsageError | RunError):
                    raise error
                raise RunError(f"The launcher failed ({type(error).__name__}: {error}).") from error
        return results

    def launch_all(self, scheduled: Sequence[ScheduledRun], results: list[Any]) -> None:
        """Launch `scheduled`, the due runs of the stage, then the stages that follow. `results`: of the launcher, one a stage."""
        while True:
            if scheduled:
                results.append(self.launcher.launch(job_overrides(scheduled), len(self.attempted)))
                self.attempted |= {run.planned.identity for run in scheduled}
                if getattr(self.launcher, "ends_early", False):
                    then = "to go on" if self.stage.is_last else "for the next stage"
                    plan_text.show(
                        [f"       when they have ended, repeat the command below {then}; train-report shows what is there"]
                    )
                    return
            following = self.following()
            if following is None:
                return
            if scheduled and self.settings.stages == "one":
                plan_text.show([f"next   {following.name}: repeat the command (sweep.stages=one)"])
                return
            self.stage = following
            plan_text.show([f"stage  {self.stage.name}"])
            scheduled = self.begin(self.statuses())

    def begin(self, statuses: Sequence[RunStatus]) -> list[ScheduledRun]:
        """Write what the stage plans to `sweep.json`, prepare the folders of its due runs, and return these.

        UsageError when the folder cannot be written.
        """
        statuses = [status for status in statuses if status.planned.identity not in self.attempted]
        due = [status for status in statuses if status.kind in RERUN_KINDS[self.settings.rerun]]
        scheduled = [run for status in due if (run := self.prepare(status)) is not None]
        if resumed := sum(run.resumes for run in scheduled):
            plan_text.show([f"       {resumed} of them resume from a checkpoint"])
        is_first = not self.placed
        self.placed |= {status.planned.identity: _with_actual_folder(status, self.folder) for status in statuses}
        self.placed |= {run.planned.identity: run.planned for run in scheduled}
        with writable(self.folder):
            self.write_plan(statuses, with_table=is_first)
        return scheduled

    def prepare(self, status: RunStatus) -> ScheduledRun | None:
        """Prepare the folder of a due run. None when that fails: the run is listed as failed, with the reason."""
        try:
            return prepare_folder(self.folder, status, self.settings.rerun != "all")
        except OSError as error:
            where = (self.folder / status.planned.folder).absolute()
            unwritten[where] = unmoved(error)
            self.attempted |= {status.planned.identity}
            return None

    def write_plan(self, statuses: Sequence[RunStatus], *, with_table: bool) -> None:
        """Write the runs of the stage to `sweep.json`. `with_table`: also TensorBoard's table of all arms."""
        runs = [self.placed[run.identity] for run in self.stage.runs]
        notes = [line.strip() for line in plan_text.reuse_lines(statuses, self.settings.rerun)]
        if self.settings.reuse_other_code:
            notes.append("sweep.reuse_other_code=true: runs of another version of the code are reused")
        manifest = self.policy.planned(build_manifest(self.plan, runs, self.command, self.study, notes, self.report))
        add_plan(self.folder, manifest)
        if self.report.tensorboard and with_table:
            from train.report.tensorboard import write_table  # imports TensorBoard

            rows = [hparams_row(arm.config, arm.choices, arm.overrides) for arm in self.plan.arms]
            with suppress(OSError):  # only TensorBoard's table loses columns
                write_table(self.folder, rows, manifest.axes)

    def following(self) -> Stage | None:
        """Decide what follows from the runs of the stage, and return the next one; None when there is none.

        Nothing is decided while runs of the stage are pending: they were not started, or another command makes them.
        """
        stored = None if self.stage.is_last else read_manifest(self.folder)
        if stored is None:
            return None
        runs = stored_runs(self.folder, stored)
        outcomes = run_outcomes(self.folder, self.stage.runs, runs)
        failed = any(o.state not in FINISHED for o in outcomes if o.planned.identity in self.attempted)
        if pending := sum(o.state in PENDING for o in outcomes):
            plan_text.show([f"stage  nothing is decided, as {plural(pending, 'run')} of this one did not end: {self.stage.name}"])
        if pending or (failed and self.settings.on_error == "stop"):
            return None
        decided, lines = self.policy.decide(self.stage, stored, runs)
        with writable(self.folder):
            manifest = update_manifest(self.folder, lambda now: replace(now or stored, **decided))
        plan_text.show(lines)
        following = self.policy.stage(manifest)
        return None if following == self.stage else following

    def statuses(self) -> list[RunStatus]:
        """Return the status of each run of the stage."""
        planned = build_manifest(self.plan, self.plan.possible_runs, (), self.study, (), self.report)
        return run_statuses(self.folder, self.stage.runs, self.settings.reuse_other_code, self.plan.configurations, planned)


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
