"""Jobs that a cluster takes the place of, or whose time is up: submitit queues them again, and they go on to the bit."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.harness import COMMAND, SMALL, outcome, run_here
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
RUN = [*SMALL, "trainer.epochs=3", "trainer.max_steps=null", "trainer.device=cpu", "observe=off", "regularization=dropout"]
"""Of 12 steps, four to an epoch."""

with_submitit = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="submitit is not installed: pip install hydra-submitit-launcher",
)
with_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never interrupted."""
    return run_here(tmp_path_factory.mktemp("whole") / "run", [*RUN, *SABOTAGED]).path


@contextmanager
def sweep(place: Path, *overrides: str, sabotage: str = "") -> Iterator[subprocess.Popen[str]]:
    """By submitit. `sabotage`: which signal its runs send themselves when, as tests/run/saboteur.py says."""
    command = [str(COMMAND), "-m", *overrides, "hydra/launcher=slurm_local", f"hydra.sweep.dir={place}/sweep"]
    environment = environment_of(sabotage) | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def environment_of(sabotage: str) -> dict[str, str]:
    paths = [str(ROOT), str(AWKWARD), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | ({"SABOTAGE": sabotage} if sabotage else {})


def only_run(place: Path) -> Run:
    (folder,) = find_runs([place / "sweep"])
    return read_run(folder)


def log_of(place: Path) -> str:
    """What the job has printed in all its attempts."""
    return "".join(path.read_text() for path in sorted(place.glob("sweep/.submitit/*/*_log.*")))


def children(process: int) -> list[int]:
    try:
        return [int(child) for path in Path(f"/proc/{process}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:
        return []


def signal_while_it_starts(place: Path) -> None:
    """To the job, once Hydra has made the folder of its run; torch is imported for some seconds then."""
    deadline = time.monotonic() + 120
    while not list(place.glob("sweep/data=noise*")):
        assert time.monotonic() < deadline, "no job has begun"
        time.sleep(0.01)
    (submitted,) = place.glob("sweep/.submitit/[0-9]*")
    (job,) = children(int(submitted.name))
    os.kill(job, signal.SIGUSR2)


@with_submitit
@with_proc
@pytest.mark.slow
def test_a_preempted_job_is_queued_again_and_goes_on_to_the_bit(whole: Path, tmp_path: Path) -> None:
    """Once before it trains, and once in the middle of an epoch."""
    with sweep(tmp_path, *RUN, *SABOTAGED, "trust=tests", sabotage="train:7:SIGUSR2") as process:
        signal_while_it_starts(tmp_path)
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said + log_of(tmp_path)
    assert "1 run: 1 done" in said
    assert "report " in said
    assert log_of(tmp_path).count("Requeued job") == 2
    run = only_run(tmp_path)
    assert run.state == "done"
    (resumed,) = run.status["resumed"]
    assert (resumed["step"], resumed["status"]) == (7, "interrupted")
    assert resumed["reason"].startswith("SIGUSR2 after step 7; to go on: train resume=")
    assert outcome(run.folder) == outcome(whole)
    assert not [override for override in run.overrides if "resume" in override], "it is repeated as it was asked for"


@with_submitit
@pytest.mark.faults
def test_a_job_that_slurm_ends_goes_on_when_slurm_begins_it_again(whole: Path, tmp_path: Path) -> None:
    """SIGTERM is no request to submitit. Slurm then starts the job's own command once more, as is done here."""
    with sweep(tmp_path, *RUN, *SABOTAGED, "trust=tests", sabotage="train:3:SIGTERM") as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 1, said
    assert "1 run: 1 interrupted" in said
    assert "train: The launcher broke off (UncompletedJobError" in said
    assert "Traceback" not in said
    assert only_run(tmp_path).status["exit_code"] == 143

    assert begin_again(tmp_path, "train:2:SIGTERM") == 143
    assert only_run(tmp_path).reason.startswith("SIGTERM after step 5")

    allow_no_more_time(tmp_path)
    assert begin_again(tmp_path, "train:2:SIGUSR2") == 0, "there is nothing that another start would change"
    assert only_run(tmp_path).reason.startswith("SIGUSR2 after step 7")
    told = "train: SIGUSR2: the run is interrupted, and its job does not begin again: .*timed-out too many times"
    assert re.search(told, log_of(tmp_path))

    assert begin_again(tmp_path, "") == 0, log_of(tmp_path)
    assert only_run(tmp_path).state == "done"
    assert outcome(only_run(tmp_path).folder) == outcome(whole)
    assert "Requeued job" not in log_of(tmp_path)


def begin_again(place: Path, sabotage: str) -> int:
    """The exit code of the job's next attempt."""
    (folder,) = place.glob("sweep/.submitit/[0-9]*")
    environment = environment_of(sabotage) | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": folder.name}
    command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
    with (folder / "again_log.out").open("ab") as log:
        return subprocess.run(command, cwd=place, env=environment, stdout=log, stderr=log, timeout=240, check=False).returncode


def allow_no_more_time(place: Path) -> None:
    """As if the job had used up its time as often as it may."""
    (path,) = place.glob("sweep/.submitit/*/*_submitted.pkl")
    submission = pickle.loads(path.read_bytes())
    submission.set_timeout(0, 0)
    submission.dump(path)


@with_submitit
@pytest.mark.faults
def test_a_job_whose_time_is_up_goes_on_in_the_next(tmp_path: Path) -> None:
    """submitit itself sends the signal, half a minute before the one minute is over."""
    dawdling = ["model=awkward", "model.how=dawdles", "trust=awkward_net", "norm=none", "init=pytorch", "augment=none"]
    run = [*(override for override in RUN if not override.startswith("model.")), *dawdling, "trainer.epochs=80"]
    with sweep(tmp_path, "--config-dir", str(AWKWARD), *run, "hydra.launcher.timeout_min=1") as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said + log_of(tmp_path)
    assert re.search(r"Requeued job \d+ \(2 remaining timeouts\)", log_of(tmp_path))
    made = only_run(tmp_path)
    assert made.state == "done"
    assert [attempt["status"] for attempt in made.status["resumed"]] == ["interrupted"]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Of which signals submitit's handler has been told; this process is one of its jobs."""
    told: list[int] = []

    def queue_again(number: int, _: object) -> None:
        told.append(number)
        sys.exit(144)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    before = {number: signal.signal(number, queue_again) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(*numbers: int) -> int:
    """The exit code of a job that gets these signals and then ends as an interrupted run does."""

    def run() -> None:
        with handle_signals() as stop:
            for number in numbers:
                os.kill(os.getpid(), number)
            assert stop.signal == numbers[0]
            raise Interrupted(numbers[0])

    with pytest.raises(SystemExit) as ended:
        run()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("first", [signal.SIGUSR2, signal.SIGTERM], ids=lambda number: number.name)
def test_submitit_is_told_once_when_the_run_is_interrupted(heard: list[int], first: int) -> None:
    """Also where SIGTERM announces it."""
    assert interrupt(first, signal.SIGUSR2, signal.SIGUSR2) == 144
    os.kill(os.getpid(), signal.SIGUSR2)
    assert heard == [signal.SIGUSR2]


def test_submitit_is_not_told_of_sigterm_and_may_hear_more_later(heard: list[int]) -> None:
    assert interrupt(signal.SIGTERM) == 143
    assert heard == []
    with pytest.raises(SystemExit, match="144"):
        os.kill(os.getpid(), signal.SIGUSR2)


def test_submitit_may_use_another_signal(heard: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    assert interrupt(signal.SIGUSR1) == 144
    assert heard == [signal.SIGUSR1]


@pytest.mark.parametrize("failure", [None, RunError("it failed")], ids=["done", "failed"])
def test_a_run_that_has_ended_is_not_queued_again(heard: list[int], failure: RunError | None) -> None:
    def run() -> None:
        with handle_signals():
            os.kill(os.getpid(), signal.SIGUSR2)  # too late for the run to hear of it
            if failure is not None:
                raise failure

    if failure is None:
        run()
    else:
        with pytest.raises(RunError, match="it failed"):
            run()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert heard == []


def test_a_job_is_called_by_what_was_asked_of_it() -> None:
    assert job_labels([["norm=batch", "resume=auto", "hydra.sweep.subdir='a'"]]) == ["norm=batch"]


@with_proc
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_a_signal_to_all_processes_of_a_job_spares_those_that_decode(tmp_path: Path) -> None:
    """As Slurm sends it."""
    path = tmp_path / "image.png"
    Image.new("RGB", (24, 24)).save(path)
    files, batching = Files((path,) * 6, torch.zeros(6, dtype=torch.int64)), Batching(1, torch.device("cpu"), 0, 0)
    raw = Preprocess("none", (0.0,) * 3, (1.0,) * 3)
    reader = FolderReader(files, Pipeline([]), raw, batching, framing=CentreFraming(20, 16), workers=1)
    batches = reader.epoch(0)
    next(batches)
    helpers = children(os.getpid())
    helpers += [grandchild for child in helpers for grandchild in children(child)]
    assert len(helpers) >= 2
    for process in helpers:
        os.kill(process, signal.SIGUSR2)
    assert len(list(batches)) == 5
    reader.close()
