"""Standard output that cannot be written: one warning, and the work goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import COMMAND, SMALL
from train.cli import ENVIRONMENT
from train.sweep.fork_server import ForkServer

PROGRAM = """
import os, subprocess, sys
from train.streams import protect_output
protect_output()
for number in range(50):  # more than a pipe holds, so that the end of its reader is noticed
    print("x" * 5000, flush=number < 49)
opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(opened, b"work")
subprocess.run([sys.executable, "-c", "import sys; print('a child', flush=True); sys.exit(sys.stdout is None)"], check=True)
print("the end", file=sys.stderr)
sys.exit(7)
"""
REDIRECTIONS = {
    ">/dev/full": "No space left on device",
    ">&-": "it is closed",
    "| head -c 9 >/dev/null": "its reader is gone",
    ">/dev/null": None,
    ">/dev/full 2>/dev/full": None,
    ">&- 2>&- <&-": None,
    "2>&1 >/dev/full | true": None,
}


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_work_goes_on_without_its_output(redirection: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    line = f"set -o pipefail; {sys.executable} program.py work {redirection}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "work").read_text() == "work", "nothing else is written to its descriptor"
    reason = REDIRECTIONS[redirection]
    assert done.stderr.count("warning: standard output cannot be written") == (reason is not None)
    assert f"({reason})" in done.stderr or reason is None
    assert "Traceback" not in done.stderr


def test_sweep_on_a_full_disk_for_output_makes_its_report(fork_server: ForkServer, tmp_path: Path) -> None:
    arguments = ["-m", *SMALL, "seed=0,1", "hydra/launcher=basic", "hydra.sweep.dir=out", "report.tensorboard=false"]
    order = (arguments, str(tmp_path), "/dev/full", str(tmp_path / "stderr"))
    fork_server.start("tests.harness:run_command_in_worker", order, environment=ENVIRONMENT)
    (worker,) = fork_server.wait(120)
    warning = (tmp_path / "stderr").read_text()
    assert (worker.exit_code, warning.count("standard output cannot be written")) == (0, 1), warning
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.long
@pytest.mark.parametrize("redirection", ["| head -1", ">&-", ">/dev/full", "2>&1 | head -1", ">&- 2>&- <&-"])
def test_sweep_of_the_pool_goes_on_without_its_output(redirection: str, tmp_path: Path) -> None:
    command = " ".join(f"'{word}'" for word in [str(COMMAND), "-m", *SMALL, "norm=batch,none", "seed=0,1", "hydra.sweep.dir=out"])
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} {redirection}"], cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert len(list(tmp_path.glob("out/*/summary.json"))) == 4
