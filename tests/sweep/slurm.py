"""A Slurm of one node for tests: Debian's packages slurm-wlm and munge, without accounting and without GPUs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
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
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_of_one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Start Slurm in `folder`; yield the environment variables of those who use it. Skips the test where it cannot be started."""
    if os.getuid() != 0:
        pytest.skip("not root, so that Slurm cannot be started")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"Slurm is not installed (apt-get install slurm-wlm munge): {', '.join(missing)}")
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = (f"--{name}={folder}/munge.{end}" for name, end in (("socket", "socket"), ("pid-file", "pid"), ("log-file", "log")))
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--seed-file={folder}/munge.seed", *files]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=socket.gethostname().partition(".")[0], folder=folder, ports=_free_ports())
    )
    variables = {"SLURM_CONF": str(configuration)}
    processes = [subprocess.Popen(munged, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    try:
        _wait(folder / "munge.socket")
        for command in (["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.out").open("w") as output:
                processes.append(subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output))
        deadline = time.monotonic() + 60
        while "idle" not in _answer(["sinfo", "--noheader", "--format=%T"], variables):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text() + (folder / "slurmd.log").read_text()
            time.sleep(0.5)
        yield variables
    finally:
        _answer(["scancel", "--me", "--signal=KILL", "--full"], variables)
        _answer(["scancel", "--me"], variables)
        time.sleep(2)  # slurmd ends the processes of the jobs
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def _answer(command: list[str], variables: dict[str, str]) -> str:
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


def _wait(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def _free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
