"""Jobs that end in every way there is, as `train -m` runs them: each is one row, and none harms another."""

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
    """A sweep in a process of its own; `mark` is in the environment of all its processes."""

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

    def end(self, timeout: float = 120) -> int:
        self.output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode

    def runs(self) -> dict[str, Run]:
        """model.how -> the run."""
        runs = map(read_run, find_runs([self.folder]))
        return {run.config["model"]["how"]: run for run in runs}

    def wait_for(self, condition: Callable[[], Any]) -> None:
        wait_until(condition, 60)

    def training(self) -> int:
        """How many jobs have got as far as their data."""
        statuses = [json.loads(path.read_text()) for path in self.folder.glob("*/status.json")]
        return sum("total_steps" in status and status["status"] == "running" for status in statuses)

    def processes(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARK}={self.mark}".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """One sweep of everything that can happen to a job."""
    ways = "fine,fails,leaves,crashes,exhausts,sleeps,dies,dies_once,diverges"
    limits = ("hydra.launcher.timeout_minutes=0.1", "hydra.launcher.retries=1")
    sweep = Sweep(tmp_path_factory.mktemp("pool"), f"model.how={ways}", *limits)
    sweep.end()
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
def test_whatever_a_job_does_it_is_one_row_with_its_reason(
    sweep: Sweep, how: str, state: str, reason: str, exit_code: int | None
) -> None:
    run = sweep.runs()[how]
    assert run.state == state, sweep.output
    assert reason in run.reason
    assert exit_code in (None, run.status["exit_code"])
    assert run.identity
    assert run.arm
    assert run.choices["model"] == "awkward"
    assert any(override.startswith("model.how=") for override in run.overrides)


def test_a_sweep_with_failures_says_so(sweep: Sweep) -> None:
    assert sweep.process.returncode == 1
    assert sweep.processes() == []
    lines = sweep.output.splitlines()
    for how in ("fine", "crashes", "diverges"):
        assert any(line.startswith("[") and f"running model.how={how} " in line for line in lines)
    assert any("failed model.how=crashes after" in line and "SIGSEGV" in line for line in lines)


def test_the_traceback_is_in_the_logs_of_the_job(sweep: Sweep) -> None:
    folder = sweep.runs()["fails"].folder
    for log in ("train.log", "console.log"):
        text = (folder / log).read_text()
        assert "Traceback" in text
        assert "this model fails on purpose" in text
    assert "Segmentation fault" in (sweep.runs()["crashes"].folder / "console.log").read_text()
    assert "Traceback" not in sweep.output


def test_what_was_killed_by_others_gets_another_attempt_and_the_first_is_put_aside(sweep: Sweep) -> None:
    aside = sorted(path.name for path in (sweep.folder / "previous").iterdir())
    assert len(aside) == 2, "the attempts of 'dies' and 'dies_once', of no other"
    assert "trying again" in sweep.output


def test_a_job_that_never_came_to_its_run_folder_has_one_too(tmp_path: Path) -> None:
    sweep = Sweep(
        tmp_path, "model.how=early,fine", "hydra/sweeper=basic", "sweep.on_error=stop", "hydra.launcher.jobs_per_device=1"
    )
    sweep.end()
    (run,) = sweep.runs().values()
    assert run.state == "failed"
    assert "SIGSEGV" in run.reason
    assert run.config["trainer"]["batch_size"] == 8
    assert run.identity
    assert "sweep.on_error=stop: 1 runs are not started" in sweep.output


def test_one_signal_lets_running_jobs_save_and_end(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=dawdles", "seed=0,1,2", "trainer.epochs=1000", "trainer.max_steps=null")
    sweep.wait_for(lambda: sweep.training() == 2)
    sweep.process.send_signal(signal.SIGINT)
    assert sweep.end(30) == 130, sweep.output
    runs = [read_run(path) for path in find_runs([sweep.folder])]
    assert [run.state for run in runs] == ["interrupted", "interrupted"]
    assert {run.status["exit_code"] for run in runs} == {130}
    assert sweep.processes() == []


def test_two_signals_end_everything_now(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=sleeps", "seed=0,1")
    sweep.wait_for(lambda: sweep.training() == 2)
    sweep.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert sweep.process.poll() is None
    sweep.process.send_signal(signal.SIGTERM)
    assert sweep.end(30) == 143, sweep.output
    runs = [read_run(path) for path in find_runs([sweep.folder])]
    assert [run.state for run in runs] == ["interrupted", "interrupted"]
    assert sweep.processes() == []


def test_no_process_outlives_the_controller(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=sleeps", "seed=0,1")
    sweep.wait_for(lambda: sweep.training() == 2)
    assert len(sweep.processes()) == 4
    sweep.process.kill()
    sweep.end()
    wait_until(lambda: not sweep.processes(), 2.0)


def test_a_setting_that_makes_no_sense_is_refused_before_anything_starts(
    train: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    result = train("-m", "hydra.launcher.devices=[99]", "seed=0,1")
    assert result.returncode == 2
    assert "hydra.launcher.devices: there is no GPU 99" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("outputs/*/*/status.json"))
