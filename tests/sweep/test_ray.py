"""A sweep on a Ray started here: a killed worker's run is started again by Ray, and counted once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import SMALL
from train.store.run import find_runs, read_run

ROOT = Path(__file__).resolve().parents[2]
MARK = "TRAIN_TEST_RAY"


def workers(mark: str) -> list[int]:
    """Return the processes that Ray has for runs of the command with this mark in its environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_run = (folder / "cmdline").read_bytes().startswith(b"ray::_run_job")
            if is_run and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_run_of_a_killed_worker_is_made_once(python_with: Callable[[str], str], tmp_path: Path) -> None:
    folder, mark = tmp_path / "sweep", str(os.getpid())
    settings = [
        "hydra/launcher=ray_cluster",
        "+hydra.launcher.ray.init.num_cpus=2",
        "trainer.device=cpu",
        f"hydra.sweep.dir={folder}",
    ]
    command = [python_with("ray"), "-m", "train.cli", "-m", *SMALL, "norm=none,batch", *settings]
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", MARK: mark}
    with (tmp_path / "said").open("w") as output:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)
    deadline = time.monotonic() + 240
    while not (found := workers(mark)):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()  # noqa: PT018
        time.sleep(0.2)
    os.kill(found[0], signal.SIGKILL)
    assert process.wait(240) == 0, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert [read_run(run).state for run in find_runs([folder])] == ["done", "done"]
    assert "2 runs: 2 done" in said
    assert "parameters" not in said  # the first screen of a run, through the driver
