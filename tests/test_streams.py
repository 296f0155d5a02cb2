"""Standard output that cannot be written: one warning, and the work goes on."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
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


TEXT = (
    "hint   with 2 seeds no exact test of two arms can reach p < .05, and intervals are wide. Use five: 'seed=range(5)'.",
    "  inconclusive: init=kaiming against init=gaussian: the difference in test accuracy is +17 percentage points, and more.",
    "  train -m model=plain model.depth=8 norm=none,batch,group init=gaussian,kaiming 'seed=range(2)' trainer.max_steps=60",
    "report: /a/folder with spaces/in its name/that is longer than the terminal has columns/but has to be copied/report.html",
)


@pytest.mark.parametrize("columns", [60, 80])
def test_sentences_are_broken_between_words_on_a_terminal_alone(columns: int) -> None:
    command = [sys.executable, "-c", "import sys; from train.streams import say; say(sys.argv[1], wraps=True)", "\n".join(TEXT)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines() == [*TEXT]
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    subprocess.run(command, stdout=terminal, check=True)
    os.close(terminal)
    *sentences, copied, path = os.read(controller, 1 << 16).decode().splitlines()
    os.close(controller)
    assert (copied, path) == TEXT[2:]
    assert max(map(len, sentences)) <= columns
    assert " ".join(" ".join(sentences).split()) == " ".join(" ".join(TEXT[:2]).split())
    claim = next(index for index, line in enumerate(sentences) if line.startswith("  inconclusive"))
    assert all(line.startswith("       ") for line in sentences[1:claim]), "below the first column"
    assert all(line.startswith("    ") for line in sentences[claim + 1 :])
