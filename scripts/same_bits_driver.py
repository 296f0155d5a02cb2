"""How scripts/same_bits.py runs one revision: it exports the revision and starts this file again as a process of that revision.

    python -P scripts/same_bits_driver.py ORDER.json     with PYTHONPATH=FOLDER_OF_THE_REVISION

That process imports the revision's `train` once and forks a child per case. Importing is all that it does itself: it runs no
tensor operation, so that every child begins like a fresh process. Of `train` it uses the command alone, which every revision has.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300.0
"""Longest time for one command of a case."""

PRELOADED = ("torch", "torch._inductor", "torchvision", "matplotlib.backends.backend_agg", "PIL.PngImagePlugin")
"""What runs import late: once here instead of in every child."""

MAKES_THE_ID = ("train.store.code", "train.ledger.code")
POLL_S = 0.02


class CommandError(Exception):
    """What the user typed cannot be done; the message says why."""


@dataclass(frozen=True)
class Revision:
    """What the user called a revision, its commit, and the folder of all that is made of it."""

    name: str
    commit: str
    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def case(self, name: str) -> Path:
        return self.folder / "cases" / name


@dataclass(frozen=True)
class Task:
    """The commands of a case, and the folder that they run in."""

    name: str
    folder: Path
    commands: Sequence[Sequence[str]]


def commit_of(revision: str) -> str:
    """Return the full id of a commit. CommandError for a revision that does not exist."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise CommandError(f"{revision!r} is no revision of {ROOT}.")
    return found.stdout.strip()


def export(revision: Revision) -> None:
    """Write the files of a revision below its `source`."""
    revision.source.mkdir(parents=True)
    with subprocess.Popen(["git", "-C", str(ROOT), "archive", revision.commit], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(revision.source)], stdin=archive.stdout, check=True)
    if archive.returncode:
        raise CommandError(f"git archive {revision.commit} failed.")


def drive(revision: Revision, tasks: Sequence[Task], jobs: int) -> str | None:
    """Run tasks with the revision's own `train`; returns the id of its code. CommandError when it cannot be imported."""
    from train.cli import ENVIRONMENT

    path, report = revision.folder / "order.json", revision.folder / "report.json"
    order = {"source": str(revision.source), "label": revision.name, "jobs": jobs, "report": str(report)}
    order["tasks"] = [{"name": task.name, "folder": str(task.folder), "commands": task.commands} for task in tasks]
    path.write_text(json.dumps(order), encoding="utf-8")
    own = {"PYTHONPATH": str(revision.source), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", str(Path(__file__).resolve()), str(path)]
    code = subprocess.run(command, env=os.environ | ENVIRONMENT | own, cwd=revision.folder, check=False).returncode
    if code:
        raise CommandError(f"{revision.name} could not be run (exit code {code}), see above.")
    return json.loads(report.read_text(encoding="utf-8"))["code"]


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import_program(Path(order["source"]))
    code = code_id()
    gc.collect()
    gc.freeze()  # else the first collection in each child would copy every page that holds an object
    tasks = [Task(task["name"], Path(task["folder"]), task["commands"]) for task in order["tasks"]]
    run_all(tasks, order["label"], order["jobs"])
    Path(order["report"]).write_text(json.dumps({"code": code}), encoding="utf-8")


def import_program(source: Path) -> None:
    """Import every module of `train` from `source` and from nowhere else."""
    others = [entry for entry in sys.path if not (Path(entry) / "train" / "__init__.py").exists()]  # an editable installation
    sys.path[:] = [str(source), *others]
    import train
    from train import cli

    if not Path(str(train.__file__)).resolve().is_relative_to(source.resolve()):
        sys.exit(f"same_bits: `train` comes from {train.__file__}, not from {source}.")
    for name, value in getattr(cli, "ENVIRONMENT", {}).items():
        os.environ.setdefault(name, value)  # without these the command would start this script again
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for module in pkgutil.walk_packages(train.__path__, "train."):
        importlib.import_module(module.name)


def code_id() -> str | None:
    """Return the id by which this revision knows the code that makes numbers; None where it has none."""
    for name in MAKES_THE_ID:
        if name in sys.modules:
            return str(sys.modules[name].code_id())
    return None


def run_all(tasks: Sequence[Task], label: str, jobs: int) -> None:
    """Run every task in a process of its own, `jobs` at a time, in order."""
    waiting, running = deque(tasks), dict[int, tuple[Task, float]]()
    done = 0
    while waiting or running:
        while waiting and len(running) < jobs:
            task = waiting.popleft()
            running[fork_task(task)] = task, time.monotonic()
        pid, _ = os.wait()
        task, began = running.pop(pid)
        done += 1
        seconds = time.monotonic() - began
        print(f"{label}  {done}/{len(tasks)}  {task.name}  {seconds:.1f} s", file=sys.stderr, flush=True)


def fork_task(task: Task) -> int:
    """Start the process of a task; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
        os.chdir(task.folder)
        redirect(Path("log.txt"))
        outcome = [run_command(arguments) for arguments in task.commands]
        Path("outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        leave(code)


def redirect(log: Path) -> None:
    """Give this process nothing to read, and have all that it writes appended to `log`."""
    for path, flags, targets in ((os.devnull, os.O_RDONLY, (0,)), (log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, (1, 2))):
        descriptor = os.open(path, flags, 0o666)
        for target in targets:
            os.dup2(descriptor, target)
        os.close(descriptor)


def run_command(arguments: Sequence[str]) -> dict[str, Any]:
    """Run one command. `exit_code` is None when it took too long; `weights_written` counts the files of weights that it wrote."""
    before = written_weights()
    print("$ train", *arguments, flush=True)
    pid = os.fork()
    if pid == 0:
        call_command(arguments)
    code = wait_for(pid, TIMEOUT_S)
    return {"exit_code": code, "weights_written": len(written_weights() - before)}


def written_weights() -> set[tuple[str, int, int]]:
    """Return which files of weights lie below this folder. A file that is written again counts as another."""
    found = ((str(path), path.stat()) for path in Path().rglob("weights.pt"))
    return {(path, status.st_ino, status.st_mtime_ns) for path, status in found}


def call_command(arguments: Sequence[str]) -> NoReturn:
    """Be the command `train`, as the leader of its own session."""
    from train import cli

    code = 1
    try:
        os.setsid()
        sys.argv = ["train", *arguments]
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        leave(code)


def wait_for(pid: int, timeout_s: float) -> int | None:
    """Wait for a command, and then end whatever it has left behind. None when it took too long."""
    deadline = time.monotonic() + timeout_s
    ended = None
    try:
        while ended is None and time.monotonic() < deadline:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # not reaped: its group's id stays its own
            if ended is None:
                time.sleep(POLL_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if ended is None else code


def leave(code: int) -> NoReturn:
    """End a forked process without what the imports wanted done at the end of the first one."""
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
