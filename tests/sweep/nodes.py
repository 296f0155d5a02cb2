"""Several nodes on one machine, each with a host name of its own, for the tests of Slurm and of Ray."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import SMALL
from train.store.run import Run, find_runs, read_run

NODES = ("node0", "node1")
SWEEP = [
    *(*SMALL, "trainer.max_steps=null", "trainer.epochs=400", "trainer.evaluate_every=100", "checkpoint.every_steps=100"),
    *("trainer.device=cpu", "norm=none,batch", "seed=0"),
]
"""A run for each node, of some seconds."""
RAY_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Ray's workers have niceness 15 by default: beside a busy neighbour, a run then gets 4 % of a core and takes minutes."""


def own_host_name(name: str, command: str) -> list[str]:
    """Return what runs a command of the shell under the host name `name`. Skips the test where that is not allowed."""
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no host names of their own for the nodes: unshare --uts is not allowed")
    return ["unshare", "--uts", "sh", "-c", f"hostname {name}; {command}"]


def end(node: subprocess.Popen[bytes]) -> None:
    """End all processes with the host name of a node at once, as without power. `node`: one of them, which others need."""
    if node.poll() is not None:
        return
    name = Path(f"/proc/{node.pid}/ns/uts").stat().st_ino
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "ns" / "uts").stat().st_ino == name:
                os.kill(int(process.name), signal.SIGKILL)
    node.wait(30)


def in_training(folder: Path) -> dict[str, Run]:
    """Return host name -> the run there that has saved a checkpoint and has not ended."""
    running = (run for run in map(read_run, find_runs([folder])) if run.state == "running")
    return {run.status["host"]: run for run in running if list(run.folder.glob("checkpoints/step-*"))}
