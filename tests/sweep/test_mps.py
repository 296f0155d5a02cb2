"""NVIDIA's service for jobs that share a GPU: the daemon of a sweep ends with it, whatever ends it, and no other is touched.

Programs that answer as NVIDIA's do stand in for them; tests marked `cuda` use the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.sweep.fake_gpu import NOWHERE, FakeGpu, fake_gpu
from tests.sweep.test_pool import Sweep, wait_until
from train.errors import UsageError
from train.store.lock import is_held
from train.store.run_folder import RunFolder
from train.sweep.devices import cpu_cores
from train.sweep.fork_server import ForkServer, Worker
from train.sweep.jobs import note_sharers
from train.sweep.mps import PIPES, Service, daemon, find_tool, is_there, service

ROOT = Path(__file__).resolve().parents[2]
SHARED = ("hydra.launcher.jobs_per_device=2", "trainer.device=auto")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """The tools of a machine with one GPU, first on the PATH."""
    made = fake_gpu(tmp_path / "tools", first=NOWHERE)
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


def test_tool_is_found_on_the_path_or_beside_the_driver(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_tool() == gpu.tool
    other = tmp_path / "bin"
    other.mkdir()
    monkeypatch.setenv("PATH", str(other))
    assert find_tool() is None
    (other / "nvidia-smi").symlink_to(gpu.folder / "nvidia-smi")
    assert find_tool() == gpu.tool


def test_daemon_ends_with_its_block(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with daemon(gpu.tool, {}) as client:
        assert client is not None
        pid = gpu.pid()
        os.kill(pid, 0)
        assert gpu.calls("start") == [[client[PIPES], "all"]], "each client names its own GPU, counted among all"
    assert gpu.calls("quit") == [[client[PIPES]]]
    assert gpu.left_nothing(pid)


def test_end_of_a_daemon_is_waited_for_later_unless_its_block_fails(gpu: FakeGpu) -> None:
    waits: list[Callable[[], object]] = []
    with daemon(gpu.tool, {}, waits.append):
        pid = gpu.pid()
    (wait,) = waits
    wait()
    assert gpu.left_nothing(pid)
    with suppress(ValueError), daemon(gpu.tool, {}, waits.append):
        pid = gpu.pid()
        raise ValueError("in the block")
    assert gpu.left_nothing(pid)
    assert len(waits) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_daemon_ends_with_a_killed_process(gpu: FakeGpu, number: signal.Signals) -> None:
    program = (
        f"import time; from train.sweep.mps import daemon\nwith daemon({gpu.tool!r}, {{}}): print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    pid = gpu.pid()
    process.send_signal(number)
    process.communicate(timeout=30)
    wait_until(lambda: gpu.left_nothing(pid), 10)


def test_daemon_that_does_not_start_leaves_nothing(gpu: FakeGpu) -> None:
    (gpu.folder / "broken").touch()
    with daemon(gpu.tool, {}) as client:
        assert client is None
    assert not Path(gpu.calls("start")[0][0]).parent.exists()


def test_service_uses_a_daemon_of_its_own(gpu: FakeGpu, fork_server: ForkServer) -> None:
    """Neither this process nor a client can use the GPU that is not there: the service is not to blame."""
    with service(None, {"CUDA_VISIBLE_DEVICES": str(NOWHERE)}, fork_server) as client:
        assert client[PIPES] == gpu.calls("start")[0][0]
        pid = gpu.pid()
    wait_until(lambda: gpu.left_nothing(pid), 10)
    with service(False, {}, fork_server) as client:
        assert not client
    assert len(gpu.calls("start")) == 1


def test_service_is_tried_while_other_workers_end(gpu: FakeGpu, fork_server: ForkServer) -> None:
    """They are left to those who started them, such as figures of an earlier stage. The trial is nobody else's either."""
    others = [fork_server.start("builtins:len", "abc") for _ in range(2)]
    begun = Service({"CUDA_VISIBLE_DEVICES": str(NOWHERE)}, fork_server)
    wait_until(lambda: len(gpu.calls("start")) == 1, 10)
    assert fork_server.wait(30, others[:1]) == others[:1]
    with service(True, {}, fork_server, begun) as client:
        assert client[PIPES] == gpu.calls("start")[0][0]
        assert fork_server.wait(30) == others[1:]
    assert [other.value for other in others] == [3, 3]
    assert not fork_server.workers


def test_trial_that_fails_is_repeated_before_mps_is_blamed(
    gpu: FakeGpu, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have had the GPU for itself, as one that checks the arms."""
    trials: list[bool] = []
    start = fork_server.start

    def noted(call: str, environment: dict[str, str]) -> Worker:
        trials.append(PIPES in environment)
        return start(call, environment=environment)

    monkeypatch.setattr(fork_server, "start", noted)
    with service(None, {"CUDA_VISIBLE_DEVICES": str(NOWHERE)}, fork_server) as client:
        assert client[PIPES] == gpu.calls("start")[0][0]
    assert trials == [True, True, False]


def test_service_that_was_begun_in_vain_ends(gpu: FakeGpu, fork_server: ForkServer) -> None:
    """Its runs turned out to be too large to share a GPU."""
    begun = Service({}, fork_server)
    pid = gpu.pid()
    with service(False, {}, fork_server, begun) as client:
        assert not client
        wait_until(lambda: gpu.left_nothing(pid), 10)
    assert fork_server.wait(30), "the trial has no other to wait for it"


def test_service_leaves_a_running_daemon_alone(gpu: FakeGpu, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_there(gpu.tool)
    (gpu.folder / "machine").mkdir()
    subprocess.run([gpu.tool, "-d"], check=True)
    pid = gpu.pid()
    try:
        for name in (None, str(gpu.folder / "mine")):
            if name is not None:
                monkeypatch.setenv(PIPES, name)
            with service(True, {}, fork_server) as client:
                assert not client
        os.kill(pid, 0)
        assert len(gpu.calls("start")) == 1
        assert not gpu.calls("quit")
    finally:
        os.kill(pid, signal.SIGKILL)


def test_service_that_fails_is_left_out_unless_wanted(
    gpu: FakeGpu, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    (gpu.folder / "broken").touch()
    with service(None, {}, fork_server) as client:
        assert not client
    assert "MPS is not used: its daemon does not start" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"hydra\.launcher\.mps=true: its daemon"), service(True, {}, fork_server):
        pass


@pytest.mark.long
def test_sweep_under_mps_repeats_what_a_neighbour_may_have_broken(gpu: FakeGpu, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=fine,breaks_under_mps", *SHARED)
    assert sweep.wait_for_exit() == 0, sweep.output
    runs = sweep.runs()
    assert {how: run.state for how, run in runs.items()} == {"fine": "done", "breaks_under_mps": "done"}
    assert {how: (run.status["jobs_on_device"], run.status["mps"]) for how, run in runs.items()} == {
        "fine": (2, True),
        "breaks_under_mps": (2, False),
    }
    assert "2 at a time on 1 GPU under MPS" in sweep.output
    assert f"(cuda:{NOWHERE}, 1 of 2, MPS)" in sweep.output
    assert "CUDA error: unspecified launch failure; once more without MPS" in sweep.output
    assert f"(cuda:{NOWHERE}, 1 of 2, attempt 2)" in sweep.output
    assert "made once more without MPS after a CUDA error: 1 run" in sweep.output
    assert len(list((sweep.folder / "previous").iterdir())) == 1
    assert [len(gpu.calls(name)) for name in ("start", "quit")] == [1, 1]
    assert not Path(gpu.calls("start")[0][0]).parent.exists()
    assert sweep.processes() == []


@pytest.mark.long
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL])
def test_daemon_ends_with_a_stopped_sweep(gpu: FakeGpu, tmp_path: Path, number: signal.Signals) -> None:
    sweep = Sweep(tmp_path, "model.how=dawdles", "seed=0,1", "trainer.epochs=1000", "trainer.max_steps=null", *SHARED)
    sweep.wait_for(lambda: sweep.training_count() == 2)
    pid = gpu.pid()
    sweep.process.send_signal(number)
    sweep.wait_for_exit(60)
    wait_until(lambda: gpu.left_nothing(pid), 10)
    wait_until(lambda: not sweep.processes(), 5)


@pytest.mark.long
def test_daemon_starts_while_arms_are_checked_and_ends_with_a_sweep_that_starts_no_run(gpu: FakeGpu, tmp_path: Path) -> None:
    """The batch is found to be too large when the data are known; the second time, all runs have ended already."""
    refused = Sweep(tmp_path, "seed=0,1", "trainer.batch_size=1000", *SHARED)
    assert refused.wait_for_exit() == 2, refused.output
    assert len(gpu.calls("start")) == 1
    wait_until(lambda: len(gpu.calls("quit")) == 1 and not refused.processes(), 10)
    assert not Path(gpu.calls("start")[0][0]).parent.exists()
    for count in (2, 3):
        sweep = Sweep(tmp_path, "seed=0,1", *SHARED)
        assert sweep.wait_for_exit() == 0, sweep.output
        assert [len(gpu.calls(name)) for name in ("start", "quit")] == [count, count]
        assert not sweep.processes()
    assert "] running" not in sweep.output


@pytest.mark.long
def test_sweep_shares_a_gpu_by_what_its_runs_need(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a run is estimated before the first starts, and before a dry run says how long all will take."""
    rule = ("hydra.launcher.jobs_per_device=null", "trainer.device=auto", "seed=0,1")
    for name in ("large", "tight"):
        (tmp_path / name).mkdir()
    sweep = Sweep(tmp_path / "large", *rule)
    assert sweep.wait_for_exit() == 0, sweep.output
    assert f"{min(2, cpu_cores())} at a time on 1 GPU" in sweep.output
    assert len(gpu.calls("start")) == min(1, cpu_cores() - 1)
    monkeypatch.setenv("PATH", fake_gpu(tmp_path / "small", mebibytes="2000", first=NOWHERE).path)
    sweep = Sweep(tmp_path / "tight", *rule, "sweep.dry_run=true")
    assert sweep.wait_for_exit() == 0, sweep.output
    assert ", 1 at a time" in sweep.output
    assert len(gpu.calls("start")) == min(1, cpu_cores() - 1)


def test_mps_without_its_tool_is_one_message(
    train: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = train("-m", "hydra.launcher.mps=true", "seed=0,1", PATH=str(tmp_path_factory.mktemp("empty")))
    assert result.returncode == 2
    assert "hydra.launcher.mps=true: nvidia-cuda-mps-control, a part of NVIDIA's driver, is neither on PATH" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("outputs/*/*/status.json"))


@pytest.fixture
def real_tool() -> str:
    """The tool of this machine's driver; skips the test where there is none or a daemon runs already."""
    tool = find_tool()
    if tool is None:
        pytest.skip("no nvidia-cuda-mps-control")
    if is_there(tool):
        pytest.skip("an MPS daemon runs already")
    return tool


def ask(tool: str, command: str, client: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool], input=f"{command}\n", text=True, capture_output=True, timeout=30, env=os.environ | client, check=False
    )


@pytest.mark.cuda
def test_real_daemon_serves_and_ends(real_tool: str, fork_server: ForkServer) -> None:
    with service(None, {}, fork_server) as given:
        client = dict(given)
        assert client, "the daemon starts, and CUDA works under it"
        worker = fork_server.start("train.sweep.mps:uses_gpu", environment=client)
        assert fork_server.wait(60) == [worker]
        assert worker.value is True
        assert ask(real_tool, "get_server_list", client).stdout.split(), "a server, which the first client started"
    assert ask(real_tool, "get_server_list", client).returncode != 0
    assert not Path(client[PIPES]).exists()
    worker = fork_server.start("train.sweep.mps:uses_gpu")
    assert fork_server.wait(60) == [worker]
    assert worker.value is True, "without the daemon, the GPU works as before"


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize("mps", ["auto", "false"])
def test_run_out_of_memory_leaves_its_neighbour_alone(tmp_path: Path, mps: str) -> None:
    sweep = Sweep(tmp_path, "model.how=hogs,fine", *SHARED, f"hydra.launcher.mps={mps}")
    assert sweep.wait_for_exit() == 1, sweep.output
    runs = sweep.runs()
    assert {how: run.state for how, run in runs.items()} == {"hogs": "failed", "fine": "done"}
    assert runs["hogs"].status["exit_code"] == 4
    assert runs["fine"].status["jobs_on_device"] == 2
    assert sweep.processes() == []


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.usefixtures("real_tool")
def test_fatal_error_of_a_neighbour_costs_no_run(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "model.how=violates,dawdles", *SHARED, "trainer.epochs=5", "trainer.max_steps=null")
    assert sweep.wait_for_exit() == 1, sweep.output
    runs = sweep.runs()
    assert {how: run.state for how, run in runs.items()} == {"violates": "failed", "dawdles": "done"}
    assert "CUDA error" in runs["violates"].reason
    assert "once more without MPS" in sweep.output
    assert sweep.processes() == []


def test_number_of_jobs_is_not_noted_in_a_folder_that_another_process_has(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim({"seed": 0}, ["seed=0"])
    before = folder.status_file.read_bytes()
    note_sharers(folder.path, 2, mps=True)
    assert folder.status_file.read_bytes() == before
    folder.release()
    note_sharers(folder.path, 2, mps=True)
    assert json.loads(folder.status_file.read_text()).items() >= {"jobs_on_device": 2, "mps": True}.items()
    assert is_held(folder.path) is False
