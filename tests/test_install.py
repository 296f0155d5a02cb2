"""The scripts that install, on a checkout of a tiny project: no network, and seconds instead of a minute."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1"
"""

# Counts its builds; the build with the number AT stays until the file `gate` is gone.
BACKEND = """
import os, sys, time, zipfile
from pathlib import Path

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    Path("builds").open("a").write("build\\n")
    if os.environ.get("AT") == str(len(Path("builds").read_text().splitlines())):
        Path("gate").touch()
        while Path("gate").exists():
            time.sleep(0.05)
        Path("finished").touch()
    if Path("broken").exists():
        sys.exit("the flux capacitor is missing")
    files = {
        "tiny.pth": f"{Path.cwd()}\\n",
        "tiny-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\nProvides-Extra: test\\n",
        "tiny-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "tiny-1.dist-info/entry_points.txt": "[console_scripts]\\ntrain = tiny:main\\n",
    }
    files["tiny-1.dist-info/RECORD"] = "".join(f"{name},,\\n" for name in [*files, "tiny-1.dist-info/RECORD"])
    with zipfile.ZipFile(Path(wheel_directory, "tiny-1-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "tiny-1-py3-none-any.whl"
"""

COMMAND = """
import json, os, sys
def main():
    print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "prefix": sys.prefix, "pid": os.getpid()}), flush=True)
    if sys.argv[1:] == ["kill yourself"]:
        os.kill(os.getpid(), 15)
    sys.exit(int(os.environ.get("CODE", "0")))
"""


def make_checkout(folder: Path) -> Path:
    """A checkout with the real scripts and a project whose `train` prints how it was called."""
    shutil.copytree(SCRIPTS, folder / "scripts", ignore=lambda *_: ["__pycache__"])
    for name, text in {"pyproject.toml": PYPROJECT, "backend.py": BACKEND, "tiny.py": COMMAND}.items():
        (folder / name).write_text(text)
    return folder


def command(checkout: Path, *arguments: str) -> list[str]:
    return [str(checkout / "scripts" / "train"), *arguments]


def environment(**extra: str) -> dict[str, str]:
    """Without a network, and with settings of a user's own that must not lead the installation astray."""
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    astray = {"PIP_USER": "1", "PIP_TARGET": "/nowhere", "PYTHONPATH": "/nowhere", "VIRTUAL_ENV": "/nowhere"}
    return {**own, **astray, "TRAIN_PYTHON": sys.executable, "PIP_NO_INDEX": "1", **extra}


def start(checkout: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """One start, to its end."""
    return subprocess.run(command(checkout, *arguments), env=environment(**extra), capture_output=True, text=True, timeout=120)


def start_beside(checkout: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    """One start that runs beside the test."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command(checkout, *arguments), env=environment(**extra), stdout=pipe, stderr=pipe, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited for a minute")


def stop_at_build(checkout: Path) -> subprocess.Popen[str]:
    """A start that stays in the middle of its installation, while pip builds the project for the first time."""
    process = start_beside(checkout, AT="1")
    wait_for((checkout / "gate").exists)
    return process


def builds(checkout: Path) -> int:
    """The number of times that pip has built the project."""
    return len((checkout / "builds").read_text().splitlines())


def is_installed(checkout: Path) -> bool:
    return (checkout / ".venv" / ".installed-train").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after its first start, at an awkward path; tests do not change it."""
    checkout = make_checkout(tmp_path_factory.mktemp("with space") / "a 'b' [test] $c")
    first = start(checkout, "first")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["arguments"] == ["first"]
    return checkout


ARGUMENTS = ["init=xavier", "two words", "it's", 'say "x"', "*", "$HOME", "`id`", "a\\b", "", "--", "-e", "line\nbreak"]


@pytest.mark.slow
def test_install_second_start_only_runs_the_command(installed: Path, tmp_path: Path) -> None:
    """Arguments, folder, process, exit code and signal are those of the command, also through a link and without any Python."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cat", "cmp", "dirname", "readlink"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "link").symlink_to(installed / "scripts" / "train")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [str(tmp_path / "link"), *ARGUMENTS], env={"PATH": str(tools)}, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True
    )
    out, err = process.communicate(timeout=60)
    assert err == ""
    called = json.loads(out)
    assert called["arguments"] == ARGUMENTS
    assert (called["folder"], called["prefix"], called["pid"]) == (str(tmp_path), str(installed / ".venv"), process.pid)
    assert builds(installed) == 1
    assert start(installed, CODE="7").returncode == 7
    assert start(installed, "kill yourself").returncode == -signal.SIGTERM


@pytest.mark.long
def test_install_starts_over_after_failure_and_interruption(tmp_path: Path) -> None:
    """Neither leaves anything that a later start takes for finished; a signal ends pip and what it started."""
    checkout = make_checkout(tmp_path / "checkout")
    (checkout / "broken").touch()
    failed = start(checkout)
    assert failed.returncode == 1
    assert "the flux capacitor is missing" in failed.stderr
    assert "the installation failed" in failed.stderr
    assert failed.stdout == ""
    assert not is_installed(checkout)
    (checkout / "broken").unlink()
    (checkout / "builds").unlink()
    process = stop_at_build(checkout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert "interrupted" in err
    assert out == ""
    assert not is_installed(checkout)
    (checkout / "gate").unlink()
    time.sleep(0.5)
    assert not (checkout / "finished").exists(), "pip and what it had started have ended too"
    again = start(checkout, *ARGUMENTS)
    assert json.loads(again.stdout)["arguments"] == ARGUMENTS, again.stderr


@pytest.mark.long
def test_install_serves_simultaneous_starts(tmp_path: Path) -> None:
    """One installs, also where the shell that began it was killed and pip is an orphan."""
    checkout = make_checkout(tmp_path / "checkout")
    killed = stop_at_build(checkout)
    killed.kill()
    killed.wait()
    starts = [start_beside(checkout, str(i)) for i in range(2)]
    time.sleep(1)
    assert [waiting.poll() for waiting in starts] == [None] * 2, "pip, now an orphan, may still write into .venv"
    (checkout / "gate").unlink()
    results = [waiting.communicate(timeout=120) for waiting in starts]
    killed.communicate()
    assert [json.loads(out)["arguments"] for out, _ in results] == [["0"], ["1"]]
    assert sum("waiting for it" in err for _, err in results) == 2
    assert sum("about 5 GB" in err for _, err in results) == 1
    assert builds(checkout) == 2


@pytest.mark.long
def test_install_follows_changes(installed: Path, tmp_path: Path) -> None:
    """Another pyproject.toml, another place of the checkout, another Python: each is noticed at the next start."""
    checkout = tmp_path / "elsewhere"
    shutil.copytree(installed, checkout, symlinks=True)
    moved = start(checkout)
    assert "installing into" in moved.stderr
    assert json.loads(moved.stdout)["prefix"] == str(checkout / ".venv")

    (checkout / "pyproject.toml").write_text(PYPROJECT + 'description = "another"\n')
    assert "updating" in start(checkout).stderr
    assert start(checkout).stderr == ""

    python = checkout / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/gone/python3")
    gone = start(checkout)
    assert "installing into" in gone.stderr
    assert json.loads(gone.stdout)["prefix"] == str(checkout / ".venv")


def test_install_keeps_users_environment(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").write_text("mine")
    refused = start(checkout)
    assert refused.returncode == 1
    assert "was not made by scripts/train" in refused.stderr
    assert "mv .venv" in refused.stderr
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["pyvenv.cfg"]


@pytest.mark.parametrize("body", [None, "exit 1", "exit 127"], ids=["gone", "too old", "broken"])
def test_install_reports_missing_python(tmp_path: Path, body: str | None) -> None:
    checkout, python = make_checkout(tmp_path / "checkout"), tmp_path / "python3"
    if body is not None:
        python.write_text(f"#!/bin/sh\n{body}\n")
        python.chmod(0o755)
    failed = start(checkout, TRAIN_PYTHON=str(python))
    assert failed.returncode == 1
    assert "Python 3.11 or newer" in failed.stderr
    assert str(python) in failed.stderr
    assert "TRAIN_PYTHON=" in failed.stderr
    assert not (checkout / ".venv").exists()
