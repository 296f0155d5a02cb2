"""A Slurm on this machine for tests: Debian's packages slurm-wlm and munge, without accounting.

Each of its nodes is a process, with a host name of its own where there are several. One more has GPUs and is always down: its
jobs stay in the queue.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import SMALL, run_content
from tests.sweep.nodes import own_host_name
from train.store.run import Run, find_runs, read_run

ROOT = Path(__file__).resolve().parents[2]
ONE = [*SMALL, "trainer.device=cpu", "seed=0"]
SHORT = [*SMALL, "trainer.device=cpu", "norm=none,batch", "seed=range(2)"]
HELD = "hydra.launcher.additional_parameters={hold: true}"
"""The jobs wait until somebody releases them."""
PATIENCE_S = 240
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={sockets}/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={sockets}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdTimeout={timeout}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,bf_interval=1
GresTypes=gpu
MaxArraySize=9
{nodes}
NodeName=absent NodeAddr=127.0.0.2 CPUs=8 Gres=gpu:4 State=DOWN
PartitionName=all Nodes={names} LLN=YES Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=absent MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs. `variables`: environment variables of those who use it; `nodes`: name -> process, the slurmd."""

    variables: dict[str, str]
    nodes: Mapping[str, subprocess.Popen[bytes]]


@contextmanager
def slurm_of(folder: Path, names: Sequence[str] = (), cpus: int = 2) -> Iterator[Slurm]:
    """Start Slurm in `folder`, on nodes of these names with `cpus` each; () is one, under the name of this machine.

    Skips the test where it cannot be started.
    """
    if os.getuid() != 0:
        pytest.skip("not root, so that Slurm cannot be started")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"Slurm is not installed (apt-get install slurm-wlm munge): {', '.join(missing)}")
    (folder / "state").mkdir(parents=True)
    commands = {name: own_host_name(name, f"exec slurmd -D -N {name}") for name in names}
    host = socket.gethostname().partition(".")[0]
    commands = commands or {host: ["slurmd", "-D", "-N", host]}
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    sockets = Path(tempfile.mkdtemp(prefix="slurm-"))  # the system allows no path of a socket that is longer than 108 bytes
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    munged = ["munged", "--foreground", "--force", f"--socket={sockets}/munge", *files]
    configuration = folder / "slurm.conf"
    ports = _free_ports(len(commands) + 1)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN"
        for name, port in zip(commands, ports, strict=False)
    )
    values = {"host": host, "folder": folder, "sockets": sockets, "port": ports[-1], "timeout": 5 if names else 300}
    configuration.write_text(CONFIGURATION.format(**values, nodes=nodes, names=",".join(commands)))
    variables = {"SLURM_CONF": str(configuration)}
    processes = [subprocess.Popen(munged, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    try:
        _wait(sockets / "munge")
        for name, command in {"slurmctld": ["slurmctld", "-D"], **commands}.items():
            with (folder / f"{name}.out").open("w") as output:
                processes.append(subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output))
        deadline = time.monotonic() + 60
        while _answer(["sinfo", "--noheader", "--Node", "--format=%T"], variables).split().count("idle") < len(commands):
            assert time.monotonic() < deadline, "".join(path.read_text() for path in folder.glob("slurm*.log"))
            time.sleep(0.5)
        users = variables | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        yield Slurm(users, dict(zip(commands, processes[-len(commands) :], strict=True)))
    finally:
        _answer(["scancel", "--me", "--signal=KILL", "--full"], variables)
        _answer(["scancel", "--me"], variables)
        time.sleep(2)  # slurmd ends the processes of the jobs
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)
        shutil.rmtree(sockets, ignore_errors=True)


def _answer(command: list[str], variables: dict[str, str]) -> str:
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


def _wait(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(python: str, folder: Path, slurm: dict[str, str], *overrides: str, sweep: Sequence[str]) -> subprocess.Popen[str]:
    settings = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", f"hydra.sweep.dir={folder}"]
    command = [python, "-m", "train.cli", "-m", *sweep, *settings, *overrides]
    return subprocess.Popen(command, env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(python: str, folder: Path, slurm: dict[str, str], *overrides: str, sweep: Sequence[str]) -> tuple[str, int]:
    """Run the command; return what it says, and its exit code."""
    process = start(python, folder, slurm, *overrides, sweep=sweep)
    said, _ = process.communicate(timeout=PATIENCE_S)
    return said, process.returncode


def ask(slurm: dict[str, str], *command: str) -> str:
    """Return what a command of Slurm's says."""
    return subprocess.run(command, env=os.environ | slurm, check=True, capture_output=True, text=True).stdout


def undisturbed_sweep(folder: Path, python: str, sweep: Sequence[str]) -> dict[tuple[str, ...], Any]:
    """Make the sweep on this machine, and return its contents."""
    command = [python, "-m", "train.cli", "-m", *sweep, f"hydra.sweep.dir={folder}"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True, timeout=PATIENCE_S)
    return contents(folder)


def repeat(python: str, folder: Path, slurm: dict[str, str], *overrides: str, sweep: Sequence[str]) -> str:
    """Run the command, and return what it says after its jobs have left the queue."""
    said, _ = finish(python, folder, slurm, *overrides, sweep=sweep)
    wait_for_queue(slurm)
    return said


def queue(slurm: dict[str, str]) -> list[str]:
    return ask(slurm, "squeue", "--me", "--array", "--noheader", "--format=%i").split()


def release(slurm: dict[str, str]) -> None:
    """Start what waits: a job that was queued again would wait for two minutes.

    Not in the second in which it was queued again: its node then refuses it, "Job credential revoked", and Slurm gives it up.
    """
    waiting = ask(slurm, "squeue", "--me", "--array", "--noheader", "--states=PENDING", "--format=%i").split()
    if waiting:
        time.sleep(2)
    for job in waiting:
        subprocess.run(
            ["scontrol", "update", f"JobId={job}", "StartTime=now"], env=os.environ | slurm, capture_output=True, check=False
        )


def wait_for_queue(slurm: dict[str, str], ended: Callable[[], bool] = lambda: False) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while queue(slurm) and not ended():
        assert time.monotonic() < deadline, queue(slurm)
        time.sleep(0.5)


def empty_queue(slurm: dict[str, str]) -> None:
    """End all jobs, also one that submitit queues again meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while queue(slurm):
        assert time.monotonic() < deadline, queue(slurm)
        ask(slurm, "scancel", "--me")
        time.sleep(0.5)


def runs_of(folder: Path) -> dict[tuple[str, ...], Run]:
    """Return overrides -> run; each is there once."""
    runs = [read_run(path) for path in find_runs([folder])]
    found = {run.overrides: run for run in runs}
    assert len(found) == len(runs)
    return found


def contents(folder: Path) -> dict[tuple[str, ...], Any]:
    """Return overrides -> weights and records of a run. A step that was recorded twice is there twice."""
    return {overrides: run_content(run.folder) for overrides, run in runs_of(folder).items()}


def table(folder: Path) -> dict[str, dict[str, str]]:
    """Return run -> what the report says of it, but for times and places."""
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    other = ("folder", "time", "started", "images_per_s", "peak_memory", "command", "precision", "device", "host", "code")
    found = {row["seed"] + row["norm"]: {key: value for key, value in row.items() if not key.startswith(other)} for row in rows}
    assert len(found) == len(rows)
    return found


def workers(slurm: dict[str, str]) -> list[int]:
    """Return the processes of the jobs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            is_ours = f"SLURM_CONF={slurm['SLURM_CONF']}".encode() in environment
            if is_ours and any(line.startswith(b"SLURM_PROCID=") for line in environment):
                found.append(int(folder.name))
    return found
