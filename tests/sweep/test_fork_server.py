"""The fork server: return values and exit codes of its workers, and that no process is left behind."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig
from PIL import Image

from tests.harness import SMALL
from train.errors import RunError, UsageError
from train.store.run import read_run
from train.store.run_folder import RunFolder
from train.sweep.compose import Compositions
from train.sweep.devices import parse_pool_settings
from train.sweep.fork_server import SERVER_LOST, ForkServer, Worker
from train.sweep.job import JobRequest
from train.sweep.jobs import Job, compose_job
from train.sweep.pool import LaunchRequest, launch
from train.sweep.progress import JobRow
from train.sweep.watch import StopWatch, is_stopped

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CALLS = "fork_server_calls"


@pytest.fixture(scope="module", autouse=True)
def importable_calls() -> Iterator[None]:
    sys.path.insert(0, str(HERE / "awkward"))  # the workers inherit it
    yield
    sys.path.remove(str(HERE / "awkward"))


def outcome(fork_server: ForkServer, call: str, argument: object = None, **options: object) -> Worker:
    started = fork_server.start(f"{CALLS}:{call}", argument, **options)  # pyright: ignore[reportArgumentType]
    (worker,) = fork_server.wait(60)
    assert worker is started
    return worker


def is_alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_pids(path: Path) -> list[int]:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), 120)
    return [int(pid) for pid in path.read_text().split()]


def test_worker_returns_value_and_has_everything_imported(fork_server: ForkServer) -> None:
    state = outcome(fork_server, "process_state", {"some": ["argument"]}, environment={"A_DEVICE": "3"}).value
    assert state["argument"] == {"some": ["argument"]}
    assert state["device"] == "3"
    assert state["preloaded"]
    assert not state["cuda_initialised"]
    assert state["session"] == state["pid"], "its own session: Ctrl-C in a terminal does not reach it"
    assert state["stdin"] == ""


def test_fork_server_has_one_thread(fork_server: ForkServer) -> None:
    """A fork copies only the calling thread."""
    assert outcome(fork_server, "threads_of_parent").value == 1


def test_worker_uses_requested_threads(fork_server: ForkServer) -> None:
    assert outcome(fork_server, "tensor_threads").value == (1, "1")
    assert outcome(fork_server, "tensor_threads", threads=2).value == (2, "2")


@pytest.mark.parametrize(
    ("call", "exit_code", "message"),
    [
        ("fails", 1, "ValueError: on purpose"),
        ("leaves", 7, ""),
        ("crashes", -signal.SIGSEGV, "Segmentation fault"),
        ("dies", -signal.SIGKILL, ""),
        ("no_such_function", 1, "AttributeError"),
    ],
)
def test_failed_call_is_logged_and_server_continues(
    fork_server: ForkServer, tmp_path: Path, call: str, exit_code: int, message: str
) -> None:
    worker = outcome(fork_server, call, log=tmp_path / "deep" / "log")
    assert (worker.exit_code, worker.value) == (exit_code, None)
    assert message in (tmp_path / "deep" / "log").read_text()
    assert outcome(fork_server, "large", 3_000_000).value == "x" * 3_000_000


def test_signal_reaches_one_worker(fork_server: ForkServer) -> None:
    first, second = (fork_server.start(f"{CALLS}:sleeps") for _ in range(2))
    assert fork_server.wait(0.3) == []
    first.signal(signal.SIGTERM)
    (worker,) = fork_server.wait(60)
    assert (worker, worker.exit_code) == (first, -signal.SIGTERM)
    assert fork_server.workers == [second]
    second.signal(signal.SIGKILL)
    (worker,) = fork_server.wait(60)
    assert worker.exit_code == -signal.SIGKILL
    assert fork_server.wait(60) == [], "no workers: there is nothing to wait for"
    second.signal(signal.SIGTERM)


def test_grandchild_dies_with_worker(fork_server: ForkServer) -> None:
    grandchild = outcome(fork_server, "starts_grandchild").value
    wait_until(lambda: not is_alive(grandchild))


def test_workers_end_with_server_and_next_start_replaces_it(fork_server: ForkServer, tmp_path: Path) -> None:
    fork_server.start(f"{CALLS}:writes_pids_and_sleeps", str(tmp_path / "pids"))
    server, pid, grandchild = read_pids(tmp_path / "pids")
    os.kill(server, signal.SIGSTOP)
    threading.Timer(0.5, fork_server.end_waiting).start()  # as the second Ctrl-C does
    with pytest.raises(UsageError, match=r"started no process\. It has ended\."):
        fork_server.start(f"{CALLS}:sleeps")
    (worker,) = fork_server.wait(60)
    assert worker.exit_code == SERVER_LOST
    wait_until(lambda: not is_alive(pid) and not is_alive(grandchild))
    multiprocessing.set_forkserver_preload(["json"])  # as a pool of this process that decodes images does
    assert outcome(fork_server, "process_state", environment={"A_DEVICE": ""}).value["preloaded"]


def is_in_state(pid: int, stopped: bool) -> bool:
    return is_stopped(pid) == stopped


def test_stopped_process_is_named_once_until_it_goes_on() -> None:
    said: list[str] = []
    with subprocess.Popen(["sleep", "60"]) as process:
        watch = StopWatch(lambda: {process.pid: "what it does", os.getpid(): "this one", 2**22 + 1: "one that has ended"})
        watch.say = said.append
        message = f"process {process.pid} (what it does) is stopped. `kill -CONT {process.pid}` lets it go on; Ctrl-C twice ends"
        for number, counts in zip([signal.SIGCONT, signal.SIGSTOP] * 2, [(0, 0), (0, 1, 1), (1,), (1, 2)], strict=True):
            process.send_signal(number)
            wait_until(partial(is_in_state, process.pid, number == signal.SIGSTOP))
            for count in counts:
                watch.look()
                assert len(said) == count
        process.kill()
    assert all(text.startswith(message) for text in said)


def test_what_was_left_to_the_end_is_waited_for_unless_by_an_exception() -> None:
    waited: list[str] = []
    with ForkServer(threads=1) as server:
        for word in ("first", "second"):
            server.at_end(partial(waited.append, word))
        assert not waited
    assert waited == ["first", "second"]
    with suppress(ValueError), ForkServer(threads=1) as server:
        server.at_end(partial(waited.append, "third"))
        raise ValueError("in the block")
    assert waited == ["first", "second"]


def test_log_that_cannot_be_written_starts_no_process(fork_server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere/at/all")
    (tmp_path / "folder" / "log").mkdir(parents=True)
    for log in (
        tmp_path / "file" / "log",
        tmp_path / "link" / "log",
        tmp_path / "folder" / "log",
        tmp_path / ("n" * 300) / "log",
    ):
        with pytest.raises(OSError, match=r"Errno|is no regular file"):
            fork_server.start(f"{CALLS}:sleeps", log=log)
    assert fork_server.workers == []


REFUSED_FORK = """
import errno, os
fork, forks = os.fork, iter(range(100))
def failing():
    if next(forks) == 1:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = failing
"""


@pytest.mark.long
def test_refused_fork_is_one_error_and_server_continues(tmp_path: Path) -> None:
    """The second process that the server is asked for is refused, as by a limit on processes."""
    (tmp_path / "refused_fork.py").write_text(REFUSED_FORK)
    program = (
        "import sys; sys.path.append('.')\n"
        "from train.sweep.fork_server import ForkServer\n"
        "from train.sweep.server_process import ensure_server\n"
        "ensure_server(['refused_fork'])\n"
        "with ForkServer(1) as fork_server:\n"
        "    fork_server.start('time:sleep', 2.0)\n"
        "    try:\n"
        "        fork_server.start('builtins:len', 'abc')\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
        "    fork_server.start('builtins:len', 'abc')\n"
        "    print(fork_server.wait()[0].value)\n"
        "    print(fork_server.wait()[0].exit_code)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    message, *others = result.stdout.splitlines()
    assert message.startswith(
        "UsageError The fork server, which starts the jobs of a sweep, started no process. The system allows"
    )
    assert (others, result.stderr) == (["3", "0"], "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the limit of another process")
@pytest.mark.parametrize("left", [1, 2, 4])
def test_server_that_may_open_too_few_files_refuses_and_goes_on(
    fork_server: ForkServer, left: int, capfd: pytest.CaptureFixture[str]
) -> None:
    server = outcome(fork_server, "parent").value
    limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
    used = {int(file.name) for file in Path(f"/proc/{server}/fd").iterdir()}
    free = (number for number in count() if number not in used)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (next(islice(free, left, None)), limits[1]))
    try:
        with pytest.raises((UsageError, RunError), match=r"started no process\. The system allows no more processes or open"):
            fork_server.start(f"{CALLS}:parent")
    finally:
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
    assert outcome(fork_server, "parent").value == server
    assert capfd.readouterr().err == ""


@pytest.mark.long
def test_no_process_outlives_killed_parent(tmp_path: Path) -> None:
    program = (
        "from train.sweep.fork_server import ForkServer\n"
        "fork_server = ForkServer(threads=1)\n"
        f"fork_server.start('{CALLS}:writes_pids_and_sleeps', 'pids')\n"
        "fork_server.wait()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE / "awkward")])}
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment) as parent:
        try:
            pids = read_pids(tmp_path / "pids")
        finally:
            parent.kill()
    wait_until(lambda: not any(map(is_alive, pids)))


def test_signals_to_all_processes_do_not_reach_server(fork_server: ForkServer) -> None:
    server = outcome(fork_server, "parent").value
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(server, number)
    assert outcome(fork_server, "parent").value == server


def test_call_may_start_processes_that_decode_images(fork_server: ForkServer, tmp_path: Path) -> None:
    """They come from a fork server of the worker's own."""
    path = tmp_path / "image.png"
    Image.new("RGB", (24, 24)).save(path)
    worker = outcome(fork_server, "reads_images", str(path), log=tmp_path / "log")
    assert worker.value is not None, (tmp_path / "log").read_text()
    batches, pids = worker.value
    assert batches == 6
    assert pids
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.long
def test_main_module_runs_once_and_current_folder_shadows_no_module(tmp_path: Path) -> None:
    """The program has no guard `if __name__ == "__main__"`."""
    for module in ("multiprocessing", "selectors", "torch", "train"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('shadowed')")
    program = tmp_path / "programs" / "program.py"
    program.parent.mkdir()
    program.write_text(
        "from train.sweep.fork_server import ForkServer\n"
        "print('main')\n"
        "with ForkServer(threads=1) as fork_server:\n"
        "    fork_server.start('builtins:len', 'abc')\n"
        "    print(fork_server.wait()[0].value)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "main\n3\n", "")


def test_system_that_cannot_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(UsageError, match="hydra/launcher=pool: this system cannot fork processes"):
        ForkServer(threads=1)


@pytest.mark.slow
def test_job_imports_nothing_that_the_server_has_not(tmp_path: Path, loader: Any, fork_server: ForkServer) -> None:
    """An import costs each of the workers anew."""
    job = Job(0, [*SMALL, "observe=basic", "observe.every=1", "trainer.device=cpu"], JobRow(1, "seed=0"))
    where = [f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=run"]
    compose_job(job, Compositions(loader, loader.load_configuration("config", where, RunMode.MULTIRUN)), tmp_path)
    assert job.config is not None
    request = JobRequest(job.config, "train.cli:task", "train", "1.3")
    assert outcome(fork_server, "imported_by_job", request).value == []
    assert read_run(tmp_path / "run").state == "done"


@pytest.mark.slow
def test_jobs_that_have_ended_keep_no_configuration(tmp_path: Path, loader: Any, fork_server: ForkServer) -> None:
    master = loader.load_configuration("config", [f"hydra.sweep.dir={tmp_path}"], RunMode.MULTIRUN)
    settings = parse_pool_settings("cpu", 2, 1, None, 0, False)
    request = LaunchRequest(loader, master, "train.cli:task", settings, fork_server)
    jobs = [[*SMALL, f"seed={seed}", f"hydra.sweep.subdir={seed}"] for seed in range(2)]
    before = configurations()
    returns = launch(request, jobs, 0)
    assert all(isinstance(job.return_value, float) for job in returns)
    assert configurations() <= before


@pytest.mark.slow
def test_killed_job_leaves_the_folder_to_the_process_that_makes_its_run(
    tmp_path: Path, loader: Any, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when Slurm has taken a job from a node that it cannot reach, and the process there goes on."""
    master = loader.load_configuration("config", [f"hydra.sweep.dir={tmp_path}"], RunMode.MULTIRUN)
    settings = parse_pool_settings("cpu", 1, 1, None, 1, False)
    request = LaunchRequest(loader, master, f"{CALLS}:dies", settings, fork_server)
    folder = RunFolder(tmp_path / "0")
    folder.claim({"seed": 0}, ["seed=0"])
    try:
        launch(request, [[*SMALL, "hydra.sweep.subdir=0"]], 0)
    finally:
        folder.release()
    assert "another process" in capsys.readouterr().out
    assert json.loads(folder.status_file.read_text())["status"] == "running"
    assert not (tmp_path / "previous").exists()


@pytest.mark.slow
def test_killed_job_whose_folder_cannot_be_moved_is_not_tried_again(
    tmp_path: Path, loader: Any, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    master = loader.load_configuration("config", [f"hydra.sweep.dir={tmp_path}"], RunMode.MULTIRUN)
    request = LaunchRequest(loader, master, f"{CALLS}:dies", parse_pool_settings("cpu", 1, 1, None, 1, False), fork_server)
    (tmp_path / "previous").touch()
    launch(request, [[*SMALL, "hydra.sweep.subdir=0"], [*SMALL, "hydra.sweep.subdir=1"]], 0)
    assert capsys.readouterr().out.count("; not tried again: what is in its folder cannot be moved away") == 2
    assert [read_run(tmp_path / name).state for name in "01"] == ["failed", "failed"]


def configurations() -> int:
    gc.collect()
    return sum(type(thing) is DictConfig for thing in gc.get_objects())
