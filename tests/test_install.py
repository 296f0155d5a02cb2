"""The scripts that install, on a checkout of a tiny project: no network, and seconds instead of a minute."""

import contextlib
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
        Path("gate.tmp").write_text(f"{os.getppid()} {os.getpid()}")
        Path("gate.tmp").rename("gate")
        while Path("gate").exists():
            time.sleep(0.05)
        Path("went on").touch()
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
    """One start that goes on beside the test."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command(checkout, *arguments), env=environment(**extra), stdout=pipe, stderr=pipe, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited for a minute")


def stop_at_build(checkout: Path, number: int = 1) -> tuple[subprocess.Popen[str], list[int]]:
    """A start that stays in the middle of its installation, and all its processes: installer, pip, what pip has started."""
    process = start_beside(checkout, AT=str(number))
    wait_for((checkout / "gate").exists)
    return process, [process.pid, *map(int, (checkout / "gate").read_text().split())]


def kill_all(process: subprocess.Popen[str], pids: list[int], checkout: Path) -> None:
    """What a power failure does."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    (checkout / "gate").unlink()
    assert not (checkout / "went on").exists()


def builds(checkout: Path) -> int:
    """How many times pip has built the project."""
    return len((checkout / "builds").read_text().splitlines())


def marks(checkout: Path) -> list[str]:
    return sorted(path.name for path in (checkout / ".venv").glob(".installed*"))


def left_in(checkout: Path) -> list[str]:
    """What the user finds in .venv, apart from the lock."""
    return sorted(path.name for path in (checkout / ".venv").iterdir() if path.name != ".made-by-scripts")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after its first start, at a path that is awkward; not to be changed."""
    checkout = make_checkout(tmp_path_factory.mktemp("with space") / "a 'b' [test] $c")
    done = start(checkout, "first")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arguments"] == ["first"]
    assert "nothing is installed yet" in done.stderr
    assert f"Python {sys.version.split()[0]}" in done.stderr
    return checkout


ARGUMENTS = [
    [],
    ["init=xavier", "norm=batch"],
    ["two words", "it's", 'say "x"'],
    ["*", "$HOME", "`id`", "a\\b"],
    ["", "--", "-e", "line\nbreak"],
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_install_passes_arguments_unchanged(installed: Path, arguments: list[str]) -> None:
    assert json.loads(start(installed, *arguments).stdout)["arguments"] == arguments


@pytest.mark.slow
def test_install_passes_arguments_after_installing(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    arguments = [argument for case in ARGUMENTS for argument in case]
    process = subprocess.Popen(command(checkout, *arguments), env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=120)
    said = json.loads(out)
    assert said["arguments"] == arguments
    assert said["folder"] == str(tmp_path)
    assert said["pid"] == process.pid


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with what the shell scripts use, and without any Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("cat", "dirname", "readlink"):
        (folder / name).symlink_to(shutil.which(name) or name)
    return folder


@pytest.mark.slow
def test_install_second_start_runs_train_only(installed: Path, tmp_path: Path, tools: Path) -> None:
    before = builds(installed)
    pipe = subprocess.PIPE
    process = subprocess.Popen(command(installed), env={"PATH": str(tools)}, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)
    out, err = process.communicate(timeout=60)
    said = json.loads(out)
    assert err == ""
    assert (said["folder"], said["prefix"], said["pid"]) == (str(tmp_path), str(installed / ".venv"), process.pid)
    assert builds(installed) == before


@pytest.mark.slow
def test_install_passes_exit_code_and_signal(installed: Path) -> None:
    assert start(installed, CODE="7").returncode == 7
    assert start(installed, "kill yourself").returncode == -signal.SIGTERM


@pytest.mark.slow
def test_install_starts_through_a_link(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "absolute").symlink_to(installed / "scripts" / "train")
    (tmp_path / "relative").symlink_to("absolute")
    done = subprocess.run(["./relative", "y"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert json.loads(done.stdout)["arguments"] == ["y"]
    assert done.stderr == ""


@pytest.mark.slow
def test_install_survives_power_failure(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    kill_all(*stop_at_build(checkout), checkout)
    assert marks(checkout) == []
    assert (checkout / ".venv/bin/python").exists()
    again = start(checkout, "again")
    assert json.loads(again.stdout)["arguments"] == ["again"]
    assert "an earlier installation was not finished" in again.stderr
    assert marks(checkout) == [".installed-train"]


@pytest.mark.slow
def test_install_survives_killed_installer(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    process, _ = stop_at_build(checkout)
    process.kill()
    process.communicate()
    again = start_beside(checkout, "again")
    time.sleep(1)
    assert again.poll() is None, "pip, now an orphan, may still write into .venv"
    (checkout / "gate").unlink()
    out, err = again.communicate(timeout=60)
    assert "another start is installing" in err
    assert "an earlier installation was not finished" in err
    assert json.loads(out)["arguments"] == ["again"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_install_survives_signal(tmp_path: Path, number: signal.Signals) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    process, _ = stop_at_build(checkout)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -number
    assert "interrupted" in err
    assert "Traceback" not in err
    assert out == ""
    assert left_in(checkout) == []
    (checkout / "gate").unlink()
    time.sleep(0.5)
    assert not (checkout / "went on").exists(), "pip and what it had started have ended too"


@pytest.mark.slow
def test_install_reports_failing_pip(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    (checkout / "broken").touch()
    failed = start(checkout)
    assert failed.returncode == 1
    assert "the flux capacitor is missing" in failed.stderr
    assert failed.stdout == ""
    assert left_in(checkout) == []


@pytest.mark.slow
def test_install_updates_for_changed_pyproject(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    assert start(checkout).returncode == 0

    # What cannot be had leaves the old environment, whole but outdated.
    (checkout / "pyproject.toml").write_text(PYPROJECT + 'dependencies = ["not-to-be-had"]\n')
    (checkout / "backend.py").write_text(BACKEND.replace("Provides-Extra", "Requires-Dist: not-to-be-had\\nProvides-Extra"))
    failed = start(checkout)
    assert failed.returncode == 1
    assert "not-to-be-had" in failed.stderr
    assert "check the network" in failed.stderr
    assert marks(checkout) == [".installed-train"]

    (checkout / "backend.py").write_text(BACKEND)
    (checkout / "pyproject.toml").write_text(PYPROJECT + 'description = "another"\n')
    updated = start(checkout)
    assert updated.returncode == 0
    assert "updating .venv" in updated.stderr
    assert start(checkout).stderr == ""

    # The first build of an update is the rehearsal, in which nothing changes; the second is for real.
    (checkout / "pyproject.toml").write_text(PYPROJECT + 'description = "a third"\n')
    kill_all(*stop_at_build(checkout, builds(checkout) + 2), checkout)
    assert marks(checkout) == []
    again = start(checkout)
    assert again.returncode == 0
    assert "an earlier installation was not finished" in again.stderr


@pytest.mark.slow
def test_install_serves_simultaneous_starts(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    starts = [start_beside(checkout, str(i)) for i in range(3)]
    results = [process.communicate(timeout=120) for process in starts]
    assert [json.loads(out)["arguments"] for out, _ in results] == [["0"], ["1"], ["2"]]
    assert sum("installed in" in err for _, err in results) == 1
    assert sum("waiting until it has ended" in err for _, err in results) == 2
    assert builds(checkout) == 1


@pytest.mark.slow
def test_install_survives_moved_checkout_and_missing_python(installed: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "elsewhere"
    shutil.copytree(installed, checkout, symlinks=True)
    done = start(checkout)
    assert "the checkout was moved or copied" in done.stderr
    assert json.loads(done.stdout)["prefix"] == str(checkout / ".venv")

    python = checkout / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/gone/python3")
    done = start(checkout)
    assert "is gone or has changed" in done.stderr
    assert json.loads(done.stdout)["prefix"] == str(checkout / ".venv")


def test_install_keeps_users_environment(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").write_text("mine")
    refused = start(checkout)
    assert refused.returncode == 1
    assert "was not made by scripts/train" in refused.stderr
    assert "mv .venv" in refused.stderr
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["pyvenv.cfg"]


@pytest.mark.parametrize(
    ("pythons", "expected"),
    [
        ({}, ["none of: python3.13, ..., python3, python"]),
        ({"python3": "echo old 3.9.2"}, ["python3: Python 3.9.2, too old"]),
        ({"python3.12": "exit 127", "python": "echo old 2.7.18"}, ["python3.12: does not run", "python: Python 2.7.18, too old"]),
        ({"python3": "echo no-venv 3.11.2"}, ["Python 3.11.2, without its modules venv", "apt-get install python3-venv"]),
    ],
)
def test_install_reports_missing_python(tmp_path: Path, tools: Path, pythons: dict[str, str], expected: list[str]) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    for name, body in pythons.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    failed = subprocess.run(command(checkout), env={"PATH": str(tools)}, capture_output=True, text=True)
    assert failed.returncode == 1
    for text in ["Python 3.11 or newer is needed", "TRAIN_PYTHON=", *expected]:
        assert text in failed.stderr
    assert not (checkout / ".venv").exists()


def test_install_uses_only_named_python(tmp_path: Path) -> None:
    failed = start(make_checkout(tmp_path / "checkout"), TRAIN_PYTHON="/gone/python3")
    assert failed.returncode == 1
    assert "none of: /gone/python3" in failed.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_install_reports_unwritable_checkout(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    checkout.chmod(0o555)
    failed = start(checkout)
    checkout.chmod(0o755)
    assert failed.returncode == 1
    assert "Permission denied" in failed.stderr
    assert "Traceback" not in failed.stderr
