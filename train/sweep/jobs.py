"""The jobs of one launch: composed shortly before they start, judged when their processes end, reported to Hydra."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from train.command import as_typed
from train.errors import SIGNALLED, OutOfMemoryError, RunError, UsageError
from train.run.job import chosen_options, is_search, own_parts_of_job
from train.run.resume import user_overrides
from train.run.signals import signal_with_number
from train.store.failure import RunRequest, requested_experiment, write_failure
from train.store.files import CONSOLE_LOG, write_json
from train.store.inside import Folder
from train.store.run import read_status
from train.store.run_folder import RunFolder
from train.sweep.compose import Compositions, hydra_config
from train.sweep.devices import Slot
from train.sweep.fork_server import SERVER_LOST, Worker
from train.sweep.progress import END_STATES, JobProgress, JobRow, State


@dataclass
class Job:
    """One run as the launcher starts it. `config` and `folder` are set by `compose_job`, the fields below when it starts."""

    index: int
    overrides: Sequence[str]
    row: JobRow
    config: DictConfig | None = None
    folder: Path | None = None
    worker: Worker | None = None
    slot: Slot | None = None
    progress: JobProgress | None = None
    deadline: float = math.inf
    kill_at: float = math.inf
    sent_signals: set[int] = field(default_factory=set)
    """Signals that the pool sent to the job."""
    timed_out: bool = False
    without_mps: bool = False
    """The job is made once more, as no client of NVIDIA's service, after an error that another job may have caused."""
    value: float = math.nan
    is_search: bool = False
    """Whether a search is to be told the value."""

    def begin(self, slot: Slot, now: float, limit_minutes: float | None) -> None:
        """Note that a process has started in a slot, at time `now`, for at most `limit_minutes`."""
        assert self.folder is not None
        self.slot, self.progress, self.sent_signals = slot, JobProgress(self.folder), set()
        self.timed_out, self.kill_at = False, math.inf
        self.deadline = now + 60 * limit_minutes if limit_minutes else math.inf
        self.row.state, self.row.started_at, self.row.step, self.row.remaining_s = "running", now, 0, None

    @property
    def run_request(self) -> RunRequest:
        assert self.config is not None
        hydra, config = self.config.hydra, _task_config(self.config)
        overrides, own = user_overrides(as_typed(hydra.overrides.task)), own_parts_of_job(hydra, config)
        return RunRequest(requested_experiment(config), overrides, chosen_options(hydra.runtime.choices), own)

    def as_job_return(self) -> JobReturn:
        """Return the job's result for Hydra. A job without a score counts as completed, since its folder says why; a search is
        told that it failed, as it would take NaN for a score. The configuration is left out: a sweep has thousands of jobs."""
        result = JobReturn(overrides=list(self.overrides), status=JobStatus.COMPLETED, working_dir=str(Path.cwd()))
        result.return_value = self.value
        if math.isnan(self.value) and self.is_search:
            result.status, result.return_value = JobStatus.FAILED, RunError(f"{self.row.state}: {self.row.reason}")
        return result

    def release(self) -> None:
        """Drop what only a running job needs, so that the memory of a sweep does not grow with the jobs that have ended."""
        self.config = self.worker = self.progress = None


def compose_job(job: Job, compositions: Compositions, sweep_dir: Path) -> None:
    """Compose the job's configuration and set its folder below `sweep_dir`, as Hydra's launchers do.

    The sweep folders become literal paths, so that a resolver which draws a random name is called only once."""
    config = compositions.compose(job.overrides)
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = job.index
    with hydra_config(config):
        subdir = str(config.hydra.sweep.subdir)
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(sweep_dir), subdir
    job.config, job.folder = config, sweep_dir / subdir
    job.row.folder = job.folder
    job.is_search = is_search(config.hydra)


def _task_config(config: DictConfig) -> DictConfig:
    """Return the configuration without the `hydra` node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


TRANSIENT_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGBUS})
"""Signals whose cause is the machine, not the job, unless the pool sent them: out of memory (SIGBUS: out of shared memory), an
administrator. A fault of the program, such as SIGSEGV, would only repeat."""


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended. `transient`: a retry may succeed."""

    state: State
    reason: str
    transient: bool


def resolve_outcome(job: Job, exit_code: int, seconds: float, limit_minutes: float | None, shared: bool) -> JobOutcome:
    """Return how the job ended; write it to the run folder if the job could not. `shared`: jobs share the memory of a GPU."""
    assert job.folder is not None
    status = read_status(job.folder)
    state = status.get("status")
    # Else it is of an attempt before this one. A search that tries a value again ends well with the run that is there.
    is_of_job = job.worker is None or exit_code == 0 or status.get("pid") in (None, job.worker.pid)
    if is_of_job and state in END_STATES and not (state == "interrupted" and job.timed_out):
        code = status.get("exit_code") or 0
        external = state == "interrupted" and code - SIGNALLED not in job.sent_signals
        return JobOutcome(state, str(status.get("reason", "")), external or (shared and code == OutOfMemoryError.exit_code))
    state, reason = _unrecorded_outcome(job, exit_code, limit_minutes)
    code = SIGNALLED - exit_code if exit_code < 0 else exit_code or 1
    transient = exit_code == SERVER_LOST or (exit_code < 0 and -exit_code in TRANSIENT_SIGNALS - job.sent_signals)
    return record_end(job, JobOutcome(state, reason, transient), exit_code=code, wall_s=round(seconds, 3))


def record_end(job: Job, outcome: JobOutcome, **fields: Any) -> JobOutcome:
    """Write to the run folder how a job ended that could not; return how its run stands then.

    Another process may hold the folder, as that of a Slurm job whose node was given up, or have finished the run in it. Then the
    job is not tried again: that would move the folder away.
    """
    assert job.folder is not None
    assert outcome.state in ("failed", "interrupted")
    try:
        if write_failure(job.folder, job.run_request, outcome.state, outcome.reason, **fields):
            return outcome
    except (OSError, ValueError, UsageError) as error:
        more = "" if str(error) in outcome.reason else f"; this could not be written to its run folder ({error})"
        return replace(outcome, reason=outcome.reason + more, transient=False)
    status = read_status(job.folder)
    return JobOutcome(status["status"], str(status.get("reason", "")), transient=False)


CUDA_ERRORS = ("CUDA error", "CUDNN_STATUS_", "CUBLAS_STATUS_")
"""Parts of torch's messages about an error of CUDA other than lack of memory."""


def may_be_caused_by_another(job: Job, outcome: JobOutcome) -> bool:
    """Return whether the failure of a client of NVIDIA's service may be another's: a fatal error of one reaches all on its GPU.

    Which of them was the cause cannot be told, nor in which order they end."""
    assert job.folder is not None
    text = f"{outcome.reason}\n{last_line(job.folder / CONSOLE_LOG)}"
    return outcome.state == "failed" and any(error in text for error in CUDA_ERRORS)


def device_text(slot: Slot, sharers: int, mps: bool) -> str:
    """Return the device of a job and how many share it, as in `cuda:0, 1 of 8, MPS`."""
    return slot.device + (f", 1 of {sharers}" if sharers > 1 else "") + (", MPS" if mps else "")


def note_sharers(folder: Path, sharers: int, mps: bool) -> None:
    """Write into status.json how many jobs could be on the GPU of a run that has ended, as its times depend on it."""
    if sharers == 1 or not read_status(folder):
        return
    run = RunFolder(folder)
    with suppress(OSError, UsageError):  # nothing else depends on it, and another process may have the folder
        run.lock()
        try:
            write_json(run.status_file, read_status(folder) | {"jobs_on_device": sharers, "mps": mps})
        finally:
            run.release()


def _unrecorded_outcome(job: Job, exit_code: int, limit_minutes: float | None) -> tuple[Literal["failed", "interrupted"], str]:
    """Return state and reason of a job that did not record its own end."""
    assert job.folder is not None
    if job.timed_out:
        return "failed", f"exceeded the time limit, hydra.launcher.timeout_minutes={limit_minutes:g}"
    if exit_code < 0:
        name = signal_with_number(-exit_code)
        if -exit_code in job.sent_signals:
            return "interrupted", f"terminated by {name} when the sweep was stopped"
        hint = "; the kernel does this when memory runs out" if exit_code == -signal.SIGKILL else ""
        return "failed", f"killed by {name}{hint}"
    if exit_code == SERVER_LOST and job.sent_signals:
        return "interrupted", "killed with the fork server, which did not answer when the sweep was stopped"
    if exit_code == SERVER_LOST:
        return "failed", f"the fork server, which starts the jobs of a sweep, was killed (exit code {exit_code})"
    if job.sent_signals and exit_code == SIGNALLED + signal.SIGINT:
        return "interrupted", "stopped before the first step"
    last = last_line(job.folder / CONSOLE_LOG)
    return "failed", f"the process exited with code {exit_code} before the run ended" + (f": {last}" if last else "")


LAST_BYTES = 1 << 16


def last_line(log: Path) -> str:
    """Return the last line that the job printed; for a traceback this is the error."""
    try:
        lines = Folder(log.parent).tail(log.name, LAST_BYTES).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip().removeprefix("train: ")[:300] for line in reversed(lines) if line.strip()), "")
