"""What the command of a sweep does before its first run: as little as it can, and what takes long at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import COMMAND, SMALL
from train.cli import ENVIRONMENT

SWEEP = ["-m", *SMALL, "norm=none,batch", "seed=range(2)", "trainer.device=cpu"]
MARK = "TRAIN_TEST_START"

SEEN_WHEN_IMPORTED = """
import sys, time
from pathlib import Path

def children():
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in task.read_text().split():
            yield Path(f"/proc/{pid}/cmdline").read_text()

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "train.sweep.sweeper":
            deadline = time.monotonic() + 5  # one that has just been started still has the command line of this process
            while not any("forkserver" in line for line in children()) and time.monotonic() < deadline:
                time.sleep(0.01)
            print(any("forkserver" in line for line in children()))

sys.meta_path.insert(0, Finder())
"""


def run_program(before: str, after: str, arguments: list[str], folder: Path) -> list[str]:
    """Run the command between two pieces of code, in one process; return the lines that it printed."""
    program = f"{before}\nfrom train import cli\ntry:\n cli.main()\nexcept SystemExit: pass\n{after}"
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return result.stdout.splitlines()


@pytest.mark.slow
def test_command_of_a_sweep_never_imports_torch(tmp_path: Path) -> None:
    """Not even to read what a worker returns: the import takes a second and a half, in which no run can start."""
    after = "import sys; print('torch' in sys.modules)"
    printed = run_program("", after, [*SWEEP, f"hydra.sweep.dir={tmp_path}/sweep"], tmp_path)
    assert any("4 runs: 4 done" in line for line in printed)
    assert (tmp_path / "sweep/report.html").exists()
    assert printed[-1] == "False"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_fork_server_imports_torch_while_the_command_imports_its_own(tmp_path: Path) -> None:
    refused = [*SWEEP, "sweep.design=none_such"]
    assert run_program(SEEN_WHEN_IMPORTED, "", refused, tmp_path) == ["True"]


@pytest.mark.long
def test_fork_server_that_replaces_another_imports_as_much(tmp_path: Path) -> None:
    program = (
        "import os\n"
        "from train.sweep.fork_server import ForkServer\n"
        "from train.sweep.server_process import begin_imports, server_pid\n"
        "begin_imports(['data=cifar10'])\n"
        "with ForkServer(threads=1) as fork_server:\n"
        "    for _ in range(2):\n"
        "        fork_server.start('builtins:eval', '\"torchvision\" in __import__(\"sys\").modules')\n"
        "        print(fork_server.wait()[0].value)\n"
        "        fork_server.kill()\n"
        "        os.waitid(os.P_PID, server_pid(), os.WEXITED | os.WNOWAIT)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout == "True\nTrue\n"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_refused_sweep_leaves_no_process_that_goes_on_importing(tmp_path: Path) -> None:
    """It would hold the outputs of the command, for which a pipe would wait."""
    environment = os.environ | {MARK: str(tmp_path)}
    output = tmp_path / "output"
    with output.open("w") as file:
        command = [str(COMMAND), *SWEEP, "hydra.launcher.retries=-1"]
        result = subprocess.run(command, cwd=tmp_path, env=environment, stdout=file, stderr=file, timeout=60, check=False)
    assert result.returncode == 2
    assert output.read_text().startswith("train: hydra.launcher.retries=-1")
    deadline = time.monotonic() + 1
    while (left := fork_servers_with(f"{MARK}={tmp_path}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def fork_servers_with(variable: str) -> list[str]:
    """Return the living fork servers with a variable in their environment. A zombie has none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables, command = (entry / "environ").read_bytes().split(b"\0"), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if variable.encode() in variables and b"forkserver" in command:
            found.append(entry.name)
    return found
