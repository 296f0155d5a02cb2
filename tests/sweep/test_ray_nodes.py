"""A sweep on a Ray cluster of two nodes: shared out, and made to the end when one of them is lost."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sweep.nodes import NODES, RAY_VARIABLES, SWEEP, end, in_training, own_host_name
from tests.sweep.slurm import contents, runs_of, undisturbed_sweep
from tests.sweep.test_ray import PATIENCE_S, swept

WITHOUT_TOKENS = {"RAY_AUTH_MODE": "disabled", **RAY_VARIABLES}
LEAST_STORE_BYTES = 80_000_000
pytestmark = pytest.mark.long


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster that runs. `nodes`: name -> process, the `ray start` of the node."""

    python: str
    address: str
    nodes: dict[str, subprocess.Popen[bytes]]


@pytest.fixture
def cluster(tmp_path: Path, python_with: Callable[[str], str]) -> Iterator[RayCluster]:
    """Each node is a process with one CPU and a host name of its own."""
    python, folder = python_with("ray"), tmp_path / "ray"
    folder.mkdir()
    address, nodes = "", {}
    try:
        for name in NODES:
            where = f"--address={address}" if address else "--head --port=0 --include-dashboard=false"
            start = f"start --block --num-cpus=1 --object-store-memory={LEAST_STORE_BYTES} {where}"
            command = f"exec {Path(python).with_name('ray')} {start}"
            log = folder / f"{name}.txt"
            with log.open("w") as output:
                nodes[name] = subprocess.Popen(
                    own_host_name(name, command),
                    env=os.environ | WITHOUT_TOKENS | {"OMP_NUM_THREADS": "1"},
                    stdout=output,
                    stderr=output,
                )
            deadline = time.monotonic() + PATIENCE_S
            while "Ray runtime started" not in log.read_text():
                assert nodes[name].poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            (address,) = [address] if address else re.findall(r"--address='(\S+)'", log.read_text())
        yield RayCluster(python, address, nodes)
    finally:
        for process in nodes.values():
            end(process)


def test_sweep_goes_on_when_a_node_is_lost(cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its processes end at once, as without power. Ray makes its run on the other node, where it resumes."""
    for name, value in WITHOUT_TOKENS.items():
        monkeypatch.setenv(name, value)
    on_ray = ["hydra/launcher=ray_cluster", f"hydra.launcher.ray.init.address={cluster.address}"]
    with swept(cluster.python, tmp_path, *SWEEP, *on_ray) as sweep:
        sweep.wait_until(lambda: in_training(sweep.folder).keys() == set(NODES))
        lost = in_training(sweep.folder)[NODES[1]]
        end(cluster.nodes[NODES[1]])
        said = sweep.ended()
    assert sweep.process.returncode == 0, said
    assert "2 runs, 2 at a time on Ray (2 nodes), 1 CPU each" in said
    assert "sweep  2 runs: 2 done" in said
    moved = runs_of(sweep.folder)[lost.overrides].status
    assert ([attempt["host"] for attempt in moved["resumed"]], moved["host"]) == ([NODES[1]], NODES[0])
    assert contents(sweep.folder) == undisturbed_sweep(tmp_path / "undisturbed", cluster.python, SWEEP)
    assert "node1 then node0" in (sweep.folder / "report.md").read_text()
