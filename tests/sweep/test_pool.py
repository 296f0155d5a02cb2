"""Jobs of `train -m` that end in every possible way: each is one row, and none affects another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.harness import COMMAND
from train.store.run import Run, find_runs, read_run

AWKWARD = Path(__file__).with_name("awkward")
SMALL = [
    *("data=noise", "data.shape=[1,8,8]", "data.train_size=48", "data.test_size=16", "data.val_fraction=0.25"),
    *("trainer.batch_size=8", "trainer.epochs=1", "trainer.max_steps=2", "augment=none", "norm=none", "init=pytorch"),
    *("observe=off", "model=awkward", "trust=awkward_net", "hydra.launcher.jobs_per_device=2"),
]
TINY = [*harness.SMALL, "trainer.device=cpu", "norm=none"]
MARK = "TRAIN_TEST_MARK"
pytestmark = pytest.mark.slow


class Sweep:
    """A sweep in its own process; `mark` is in the environment of all its processes."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder = folder / "sweep"
        self.mark = uuid.uuid4().hex
        path = os.pathsep.join([str(AWKWARD), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"PYTHONPATH": path, "AWKWARD_MARK": str(folder / "mark"), "OMP_NUM_THREADS": "1", MARK: self.mark}
        environment["PYTHONFAULTHANDLER"] = "1"
        command = [str(COMMAND), "-m", "--config-dir", str(AWKWARD), f"hydra.sweep.dir={self.folder}", *SMALL, *overrides]
        self.process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""

    def wait_for_exit(self, timeout: float = 120) -> int:
        """Return the exit code. A sweep that does not end is killed, and the test fails with its output and where it stood."""
        try:
            self.output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.output = self.killed()
            logs = "".join(f"\n{log}:\n{log.read_text(errors='replace')}" for log in self.folder.glob("*/console.log"))
            pytest.fail(f"the sweep did not end within {timeout} s:\n{self.output}{logs}")
        return self.process.returncode

    def killed(self) -> str:
        """Kill all processes of the sweep, and return the output; SIGABRT makes each print where it stands."""
        for number in (signal.SIGCONT, signal.SIGABRT, signal.SIGKILL):
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.5)
        return self.process.communicate(timeout=30)[0]

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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("stopped", ["server", "job"])
def test_second_signal_ends_sweep_that_waits_for_a_stopped_process(tmp_path: Path, stopped: str) -> None:
    sweep = Sweep(tmp_path, "model.how=dawdles", "seed=0,1", "trainer.epochs=1000", "trainer.max_steps=null")
    sweep.wait_for(lambda: sweep.training_count() == 2)
    (server,) = (pid for pid in sweep.processes() if is_fork_server(pid))
    (job, *_) = (read_run(path).status["pid"] for path in find_runs([sweep.folder]))
    os.kill(server if stopped == "server" else job, signal.SIGSTOP)
    time.sleep(3.0)
    sweep.process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert sweep.process.poll() is None
    sweep.process.send_signal(signal.SIGINT)
    assert sweep.wait_for_exit(30) == 130, sweep.output
    assert f"`kill -CONT {server if stopped == 'server' else job}` lets it go on" in sweep.output
    assert [read_run(path).state for path in find_runs([sweep.folder])] == ["interrupted", "interrupted"]
    assert sweep.processes() == []


def test_sweep_that_hangs_is_killed_and_shows_where_it_stood(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "seed=0,1")
    sweep.wait_for(lambda: any(is_fork_server(pid) for pid in sweep.processes()))
    with pytest.raises(pytest.fail.Exception, match=r"(?s)did not end within 0 s.*Fatal Python error: Aborted.*File "):
        sweep.wait_for_exit(0)
    assert sweep.processes() == []


@pytest.mark.long
def test_run_folder_that_cannot_be_made_is_one_failed_run(
    train: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A file lies there when its turn comes; what lies there before the sweep starts is moved away."""
    manifest = tmp_path / "out" / "sweep.json"

    def put_file() -> None:
        while not manifest.exists():
            time.sleep(0.001)
        (tmp_path / "out" / json.loads(manifest.read_text())["runs"][1]["folder"]).write_text("a file")

    thread = threading.Thread(target=put_file, daemon=True)
    thread.start()
    result = train("-m", *TINY, "seed=0,1,2", "hydra.sweep.dir=out", "hydra.launcher.jobs_per_device=1")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "sweep  3 runs: 2 done, 1 failed  in out" in result.stdout
    assert "its folder cannot be made or written" in result.stdout
    assert "File exists" in result.stdout
    assert "baseline     2  " in result.stdout, "the table"
    assert "Traceback" not in result.stdout + result.stderr
    assert [read_run(path).state for path in find_runs([tmp_path / "out"])] == ["done", "done"]


@pytest.mark.long
@pytest.mark.parametrize(("size", "code"), [("4k", 2), ("8k", 1), ("16k", 1)])
def test_disk_that_is_full_at_the_start_is_said_at_once(tmp_path: Path, size: str, code: int) -> None:
    (tmp_path / "out").mkdir()
    mount = f"mount -t tmpfs -o size={size} none '{tmp_path}/out'"
    unshare = [shutil.which("unshare") or "unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*unshare, mount], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted: needs Linux and the right to mount in a namespace")
    command = [*unshare, f'{mount} && exec "$@"', "sh", str(COMMAND), "-m", *TINY, "seed=0,1", "hydra.sweep.dir=out"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    assert "No space left on device" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    if code == 2:
        assert "Free space there, then repeat the command." in result.stderr
    else:
        assert "2 runs: 2 failed" in result.stdout


@pytest.mark.long
def test_killed_controller_leaves_no_process(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=sleeps", "seed=0,1")
    sweep.wait_for(lambda: sweep.training_count() == 2)
    assert len(sweep.processes()) == 5, "the controller, its resource tracker, the fork server and two workers"
    sweep.process.kill()
    sweep.wait_for_exit()
    wait_until(lambda: not sweep.processes(), 2.0)


@pytest.mark.long
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
