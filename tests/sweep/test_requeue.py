"""Jobs that are preempted or out of time: submitit queues them again, and they resume bit-exactly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.harness import SMALL, run_content, train_in_process
from train.data.batches import Batching
from train.data.contracts import Files
from train.data.folder_reader import FolderReader
from train.data.image_folder import CentreFraming
from train.data.preprocess import Preprocess
from train.errors import Interrupted, RunError
from train.parts.augment import Pipeline
from train.run.signals import handle_signals
from train.store.run import Run, find_runs, read_run
from train.sweep.progress import job_labels

ROOT = Path(__file__).resolve().parents[2]
AWKWARD = Path(__file__).with_name("awkward")
SABOTAGED = ["norm=none", "norm._target_=tests.run.saboteur.norm"]
RUN = [*SMALL, "trainer.epochs=3", "trainer.max_steps=null", "trainer.device=cpu", "regularization=dropout"]
"""A run of 12 train steps, four per epoch."""

with_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never interrupted."""
    return train_in_process(tmp_path_factory.mktemp("uninterrupted") / "run", [*RUN, *SABOTAGED]).path


@pytest.fixture
def python(python_with: Callable[[str], str]) -> str:
    """The Python of an environment with submitit."""
    return python_with("submitit")


@contextmanager
def sweep(python: str, folder: Path, *overrides: str, sabotage: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start a sweep with submitit. `sabotage`: the signal that its runs send themselves, and when (tests/run/saboteur.py)."""
    command = [python, "-m", "train.cli", "-m", *overrides, "hydra/launcher=slurm_local", f"hydra.sweep.dir={folder}/sweep"]
    environment = make_environment(sabotage) | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def make_environment(sabotage: str) -> dict[str, str]:
    paths = [str(ROOT), str(AWKWARD), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | ({"SABOTAGE": sabotage} if sabotage else {})


def only_run(folder: Path) -> Run:
    (run_folder,) = find_runs([folder / "sweep"])
    return read_run(run_folder)


def job_log(folder: Path) -> str:
    """Return the output of the job in all its attempts."""
    return "".join(path.read_text() for path in sorted(folder.glob("sweep/.submitit/*/*/*_log.*")))


def child_pids(process: int) -> list[int]:
    try:
        return [int(child) for path in Path(f"/proc/{process}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:
        return []


def signal_starting_job(folder: Path) -> None:
    """Signal the job once Hydra has created its run folder; it then imports torch for some seconds."""
    deadline = time.monotonic() + 120
    while not list(folder.glob("sweep/data=noise*")):
        assert time.monotonic() < deadline, "no job has started"
        time.sleep(0.01)
    (submission,) = folder.glob("sweep/.submitit/*/[0-9]*")
    (job,) = child_pids(int(submission.name))
    os.kill(job, signal.SIGUSR2)


@with_proc
@pytest.mark.long
def test_preempted_job_is_requeued_and_resumes_bit_exactly(python: str, uninterrupted: Path, tmp_path: Path) -> None:
    """It is preempted once before it trains, and once in the middle of an epoch."""
    with sweep(python, tmp_path, *RUN, *SABOTAGED, "trust=tests", sabotage="train:7:SIGUSR2") as process:
        signal_starting_job(tmp_path)
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output + job_log(tmp_path)
    assert "1 run: 1 done" in output
    assert "report: " in output
    assert job_log(tmp_path).count("Requeued job") == 2
    run = only_run(tmp_path)
    assert run.state == "done"
    (resumed,) = run.status["resumed"]
    assert (resumed["step"], resumed["status"]) == (7, "interrupted")
    assert resumed["reason"].startswith("SIGUSR2 after step 7; to resume: train trust=tests resume=")
    assert run_content(run.folder) == run_content(uninterrupted)
    assert not [override for override in run.overrides if "resume" in override], "the recorded command stays that of the user"


@pytest.mark.long
def test_terminated_job_resumes_when_slurm_restarts_it(python: str, uninterrupted: Path, tmp_path: Path) -> None:
    """SIGTERM does not make submitit requeue the job. Slurm then starts the job's command again, as this test does."""
    with sweep(python, tmp_path, *RUN, *SABOTAGED, "trust=tests", sabotage="train:3:SIGTERM") as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "1 run: 1 interrupted" in output
    assert "train: The launcher failed (UncompletedJobError" in output
    assert "Traceback" not in output
    assert only_run(tmp_path).status["exit_code"] == 143

    assert restart_job(python, tmp_path, "train:2:SIGTERM") == 143
    assert only_run(tmp_path).reason.startswith("SIGTERM after step 5")

    exhaust_timeouts(python, tmp_path)
    assert restart_job(python, tmp_path, "train:2:SIGUSR2") == 0, "the job ends without an error, as a restart would not help"
    assert only_run(tmp_path).reason.startswith("SIGUSR2 after step 7")
    message = "train: SIGUSR2: the run is interrupted and its job is not requeued: .*timed-out too many times"
    assert re.search(message, job_log(tmp_path))

    assert restart_job(python, tmp_path, "") == 0, job_log(tmp_path)
    assert only_run(tmp_path).state == "done"
    assert run_content(only_run(tmp_path).folder) == run_content(uninterrupted)
    assert "Requeued job" not in job_log(tmp_path)


def restart_job(python: str, folder: Path, sabotage: str) -> int:
    """Run the next attempt of the job; return its exit code."""
    (submission,) = folder.glob("sweep/.submitit/*/[0-9]*")
    environment = make_environment(sabotage) | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": submission.name}
    command = [python, "-u", "-m", "submitit.core._submit", str(submission)]
    with (submission / "restart_log.out").open("ab") as log:
        return subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, timeout=240, check=False).returncode


EXHAUST = """
import pickle, sys
from pathlib import Path
path = Path(sys.argv[1])
submission = pickle.loads(path.read_bytes())
submission.set_timeout(0, 0)
submission.dump(path)
"""


def exhaust_timeouts(python: str, folder: Path) -> None:
    """Make the job look as if it had reached its maximum number of timeouts."""
    (path,) = folder.glob("sweep/.submitit/*/*/*_submitted.pkl")
    subprocess.run([python, "-c", EXHAUST, str(path)], cwd=folder, env=make_environment(""), check=True)


@pytest.mark.long
def test_timed_out_job_resumes_in_next_attempt(python: str, tmp_path: Path) -> None:
    """submitit itself sends the signal, half a minute before the time limit of one minute."""
    dawdling = ["model=awkward", "model.how=dawdles", "trust=awkward_net", "norm=none", "init=pytorch", "augment=none"]
    overrides = [*(override for override in RUN if not override.startswith("model.")), *dawdling, "trainer.epochs=80"]
    with sweep(python, tmp_path, "--config-dir", str(AWKWARD), *overrides, "hydra.launcher.timeout_min=1") as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output + job_log(tmp_path)
    assert re.search(r"Requeued job \d+ \(2 remaining timeouts\)", job_log(tmp_path))
    run = only_run(tmp_path)
    assert run.state == "done"
    requeued = job_log(tmp_path).count("Requeued job")  # once, or more often where others slow the machine
    assert [attempt["status"] for attempt in run.status["resumed"]] == ["interrupted"] * requeued


@pytest.fixture
def submitit_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The signals that submitit's handler has received; this process acts as one of its jobs."""
    received: list[int] = []

    def requeue(number: int, _: object) -> None:
        received.append(number)
        sys.exit(144)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    previous = {number: signal.signal(number, requeue) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield received
    for number, handler in previous.items():
        signal.signal(number, handler)


def interrupt(*numbers: int) -> int:
    """Return the exit code of a job that gets these signals and then ends like an interrupted run."""

    def run() -> None:
        with handle_signals() as stop:
            for number in numbers:
                os.kill(os.getpid(), number)
            assert stop.signal == numbers[0]
            raise Interrupted(numbers[0])

    with pytest.raises(SystemExit) as exit_info:
        run()
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


@pytest.mark.parametrize("first", [signal.SIGUSR2, signal.SIGTERM], ids=lambda number: number.name)
def test_handle_signals_requeues_interrupted_run_once(submitit_signals: list[int], first: int) -> None:
    """This also holds if SIGTERM arrives first."""
    assert interrupt(first, signal.SIGUSR2, signal.SIGUSR2) == 144
    os.kill(os.getpid(), signal.SIGUSR2)
    assert submitit_signals == [signal.SIGUSR2]


def test_handle_signals_does_not_requeue_after_sigterm_alone(submitit_signals: list[int]) -> None:
    assert interrupt(signal.SIGTERM) == 143
    assert submitit_signals == []
    with pytest.raises(SystemExit, match="144"):
        os.kill(os.getpid(), signal.SIGUSR2)


def test_handle_signals_respects_submitit_preempt_signal(submitit_signals: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    assert interrupt(signal.SIGUSR1) == 144
    assert submitit_signals == [signal.SIGUSR1]


@pytest.mark.parametrize("failure", [None, RunError("it failed")], ids=["done", "failed"])
def test_handle_signals_does_not_requeue_ended_run(submitit_signals: list[int], failure: RunError | None) -> None:
    def run() -> None:
        with handle_signals():
            os.kill(os.getpid(), signal.SIGUSR2)  # too late for the run to notice
            if failure is not None:
                raise failure

    if failure is None:
        run()
    else:
        with pytest.raises(RunError, match="it failed"):
            run()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert submitit_signals == []


def test_job_labels_leave_out_resume(tmp_path: Path) -> None:
    assert job_labels([["norm=batch", "resume=auto", "hydra.sweep.subdir='a'"]], tmp_path) == ["norm=batch"]


@with_proc
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_folder_reader_workers_survive_signal_to_all_processes(tmp_path: Path) -> None:
    """Slurm signals all processes of a job."""
    path = tmp_path / "image.png"
    Image.new("RGB", (24, 24)).save(path)
    files, batching = Files((path,) * 6, torch.zeros(6, dtype=torch.int64)), Batching(1, torch.device("cpu"), 0, 0)
    raw = Preprocess("none", (0.0,) * 3, (1.0,) * 3)
    reader = FolderReader(files, Pipeline([]), raw, batching, framing=CentreFraming(20, 16), workers=1)
    batches = reader.epoch(0)
    next(batches)
    workers = child_pids(os.getpid())
    workers += [grandchild for child in workers for grandchild in child_pids(child)]
    assert len(workers) >= 2
    for process in workers:
        os.kill(process, signal.SIGUSR2)
    assert len(list(batches)) == 5
    reader.close()
