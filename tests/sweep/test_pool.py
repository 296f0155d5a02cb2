"""Jobs of `train -m` that end in every possible way: each is one row, and none affects another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import COMMAND
from train.store.run import Run, find_runs, read_run

AWKWARD = Path(__file__).with_name("awkward")
SMALL = [
    *("data=noise", "data.shape=[1,8,8]", "data.train_size=48", "data.test_size=16", "data.val_fraction=0.25"),
    *("trainer.batch_size=8", "trainer.epochs=1", "trainer.max_steps=2", "augment=none", "norm=none", "init=pytorch"),
    *("observe=off", "model=awkward", "trust=awkward_net", "hydra.launcher.jobs_per_device=2"),
]
MARK = "TRAIN_TEST_MARK"
pytestmark = pytest.mark.slow


class Sweep:
    """A sweep in its own process; `mark` is in the environment of all its processes."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder = folder / "sweep"
        self.mark = uuid.uuid4().hex
        path = os.pathsep.join([str(AWKWARD), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"PYTHONPATH": path, "AWKWARD_MARK": str(folder / "mark"), "OMP_NUM_THREADS": "1", MARK: self.mark}
        command = [str(COMMAND), "-m", "--config-dir", str(AWKWARD), f"hydra.sweep.dir={self.folder}", *SMALL, *overrides]
        self.process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""

    def wait_for_exit(self, timeout: float = 120) -> int:
        self.output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode

    def runs(self) -> dict[str, Run]:
        """Return the runs by their `model.how`."""
        runs = map(read_run, find_runs([self.folder]))
        return {run.config["model"]["how"]: run for run in runs}

    def wait_for(self, condition: Callable[[], Any]) -> None:
        wait_until(condition, 60)

    def training_count(self) -> int:
        """Return how many running jobs have loaded their data."""
        statuses = [json.loads(path.read_text()) for path in self.folder.glob("*/status.json")]
        return sum("total_steps" in status and status["status"] == "running" for status in statuses)

    def processes(self) -> list[int]:
        pids = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARK}={self.mark}".encode() in path.read_bytes():
                    pids.append(int(path.parent.name))
            except OSError:
                continue
        return pids


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out waiting for the condition"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """One sweep of jobs that end in every possible way."""
    behaviours = "fine,fails,leaves,crashes,exhausts,sleeps,dies,dies_once,diverges"
    limits = ("hydra.launcher.timeout_minutes=0.1", "hydra.launcher.retries=1")
    sweep = Sweep(tmp_path_factory.mktemp("pool"), f"model.how={behaviours}", *limits)
    sweep.wait_for_exit()
    return sweep


@pytest.mark.parametrize(
    ("how", "state", "reason", "exit_code"),
    [
        ("fine", "done", "", 0),
        ("diverges", "diverged", "not finite", 3),
        ("fails", "failed", "ValueError: this model fails on purpose", 1),
        ("leaves", "failed", "SystemExit: 7", 1),
        ("crashes", "failed", "killed by SIGSEGV (signal 11)", 139),
        ("exhausts", "failed", "no memory left", 4),
        ("sleeps", "failed", "time limit, hydra.launcher.timeout_minutes=0.1", None),
        ("dies", "failed", "killed by SIGKILL (signal 9)", 137),
        ("dies_once", "done", "", 0),
    ],
)
def test_pool_records_every_job_with_its_reason(sweep: Sweep, how: str, state: str, reason: str, exit_code: int | None) -> None:
    run = sweep.runs()[how]
    assert run.state == state, sweep.output
    assert reason in run.reason
    assert exit_code in (None, run.status["exit_code"])
    assert run.identity
    assert run.arm
    assert run.choices["model"] == "awkward"
    assert any(override.startswith("model.how=") for override in run.overrides)


def test_pool_reports_failures_on_terminal(sweep: Sweep) -> None:
    assert sweep.process.returncode == 1
    assert sweep.processes() == []
    lines = sweep.output.splitlines()
    for how in ("fine", "crashes", "diverges"):
        assert any(line.startswith("[") and f"running model.how={how} " in line for line in lines)
    assert any("failed model.how=crashes after" in line and "SIGSEGV" in line for line in lines)


def test_job_logs_hold_its_traceback(sweep: Sweep) -> None:
    folder = sweep.runs()["fails"].folder
    for log in ("train.log", "console.log"):
        text = (folder / log).read_text()
        assert "Traceback" in text
        assert "this model fails on purpose" in text
    assert "Segmentation fault" in (sweep.runs()["crashes"].folder / "console.log").read_text()
    assert "Traceback" not in sweep.output


def test_retries_repeat_killed_jobs_and_archive_first_attempts(sweep: Sweep) -> None:
    archived = sorted(path.name for path in (sweep.folder / "previous").iterdir())
    assert len(archived) == 2, "one attempt each of 'dies' and 'dies_once', of no other"
    assert "; retrying" in sweep.output


def test_pool_writes_run_folder_of_job_that_crashed_early(tmp_path: Path) -> None:
    sweep = Sweep(
        tmp_path, "model.how=early,fine", "hydra/sweeper=basic", "sweep.on_error=stop", "hydra.launcher.jobs_per_device=1"
    )
    sweep.wait_for_exit()
    (run,) = sweep.runs().values()
    assert run.state == "failed"
    assert "SIGSEGV" in run.reason
    assert run.config["trainer"]["batch_size"] == 8
    assert run.identity
    assert "sweep.on_error=stop: not starting the remaining runs (1)" in sweep.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.long)])
def test_first_signal_lets_running_jobs_save_and_exit(tmp_path: Path, number: signal.Signals, code: int) -> None:
    sweep = Sweep(tmp_path, "model.how=dawdles", "seed=0,1,2", "trainer.epochs=1000", "trainer.max_steps=null")
    sweep.wait_for(lambda: sweep.training_count() == 2)
    sweep.process.send_signal(number)
    assert sweep.wait_for_exit(30) == code, sweep.output
    runs = [read_run(path) for path in find_runs([sweep.folder])]
    assert [run.state for run in runs] == ["interrupted", "interrupted"]
    assert {run.status["exit_code"] for run in runs} == {code}
    assert sweep.processes() == []


def test_second_signal_kills_all_jobs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=sleeps", "seed=0,1")
    sweep.wait_for(lambda: sweep.training_count() == 2)
    sweep.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert sweep.process.poll() is None
    sweep.process.send_signal(signal.SIGTERM)
    assert sweep.wait_for_exit(30) == 143, sweep.output
    runs = [read_run(path) for path in find_runs([sweep.folder])]
    assert [run.state for run in runs] == ["interrupted", "interrupted"]
    assert sweep.processes() == []


def test_killed_controller_leaves_no_process(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=sleeps", "seed=0,1")
    sweep.wait_for(lambda: sweep.training_count() == 2)
    assert len(sweep.processes()) == 5, "the controller, its resource tracker, the fork server and two workers"
    sweep.process.kill()
    sweep.wait_for_exit()
    wait_until(lambda: not sweep.processes(), 2.0)


def test_killed_fork_server_fails_its_job_alone(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=sleeps,fine", "hydra.launcher.jobs_per_device=1")
    sweep.wait_for(lambda: sweep.training_count() == 1)
    (server,) = (pid for pid in sweep.processes() if is_fork_server(pid))
    os.kill(server, signal.SIGKILL)
    assert sweep.wait_for_exit() == 1, sweep.output
    runs = sweep.runs()
    assert {how: run.state for how, run in runs.items()} == {"sleeps": "failed", "fine": "done"}
    assert "the fork server, which starts the jobs of a sweep, was killed" in runs["sleeps"].reason
    assert runs["sleeps"].reason in sweep.output
    assert sweep.processes() == []


def is_fork_server(process: int) -> bool:
    """Return whether this is a fork server; one of its workers has the same command line, but leads a session of its own."""
    return b"forkserver" in Path(f"/proc/{process}/cmdline").read_bytes() and os.getsid(process) != process


def test_invalid_launcher_setting_is_rejected_before_first_job(
    train: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    result = train("-m", "hydra.launcher.devices=[99]", "seed=0,1")
    assert result.returncode == 2
    assert "hydra.launcher.devices: there is no GPU 99" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("outputs/*/*/status.json"))
