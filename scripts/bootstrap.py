"""Installs the project into `.venv` of its checkout; started by scripts/train and scripts/test, standard library only.

What makes an interruption at any point harmless:

- `.venv/.made-by-scripts` is the first file written: a folder that holds others but not this one is the user's, and is refused.
  It is also the lock. The kernel frees a lock when the last process holding it ends, so none is ever left behind.
- `.venv/.installed-KIND`, the mark, is written last, when everything else has reached the disk. It holds the checkout's path and
  the content of pyproject.toml; scripts/bootstrap.sh takes the environment for ready only where both still match.
- An environment without a mark is emptied and made anew, never repaired: a killed pip leaves packages that it later takes for
  installed. In a finished one pip updates what pyproject.toml now asks for; the mark is gone while it does.
"""

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

KINDS = {"train": "", "test": "[test]"}  # the extra of pyproject.toml that each script needs; "test" contains "train"
OWNER = ".made-by-scripts"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK_S = 0.2
stop_requests: list[int] = []  # the signals that came in
CLEAR_LINE = "\r\033[K"
PIP = ("-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off")

# What an error says -> what to do about it; the first that fits is shown.
REMEDIES = {
    "No space left|quota exceeded": "The disk is full: on Linux, torch needs about 5 GB in .venv and 3 GB in pip's cache.",
    "CERTIFICATE_VERIFY": "The package index's certificate is not trusted here; PIP_CERT names your network's own.",
    "ConnectionError|Timeout|ProxyError|name resolution": "The package index cannot be reached: check the network, then repeat.",
    "No matching distribution": "No package index offers this here: check the network and the settings of pip, then repeat.",
    "Permission denied": "Check who owns the checkout, .venv and pip's cache.",
    "Read-only file system": "The checkout cannot be written: copy it to a place that can.",
}


class Failure(Exception):
    """The installation cannot go on; the message says why and what to do."""


class Interrupted(Exception):
    """The signal with this number asked to stop."""


def say(text: str) -> None:
    """One line on the error output: the standard output belongs to the command that follows."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        start = CLEAR_LINE if sys.stderr.isatty() else ""
        print(f"{start}scripts/{sys.argv[3].rsplit('/', 1)[-1]}: {text}", file=sys.stderr, flush=True)


def request_stop(number: int, _frame: FrameType | None) -> None:
    """Signal handler. A second Ctrl-C ends the cleaning up too; a closed terminal sends two hang-ups."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)
    stop_requests.append(number)


def check_interrupted() -> None:
    """Called wherever the installation waits."""
    if stop_requests:
        say("interrupted; the next start makes up for it, and what pip has downloaded is kept")
        raise Interrupted(stop_requests[0])


def remedy(error: str) -> str:
    """What to do about an error message, or that the message has to speak for itself."""
    return next((text for sign, text in REMEDIES.items() if re.search(sign, error)), "The reason is in the lines above.")


def expected_mark(root: Path) -> bytes:
    """What the mark of a finished installation holds; scripts/bootstrap.sh compares with the same."""
    return os.fsencode(root) + b"\n" + (root / "pyproject.toml").read_bytes()


def marks(root: Path) -> dict[str, bytes]:
    """The marks that are there: kind -> content."""
    files = {kind: root / ".venv" / f".installed-{kind}" for kind in KINDS}
    return {kind: file.read_bytes() for kind, file in files.items() if file.exists()}


def ready(root: Path, kind: str) -> bool:
    """The same question as `installed` in scripts/bootstrap.sh."""
    mark = marks(root).get(kind)
    programs = (root / ".venv/bin/python", root / ".venv/bin/train")
    same = mark is not None and mark.rstrip(b"\n") == expected_mark(root).rstrip(b"\n")
    return same and all(os.access(program, os.X_OK) for program in programs)


def why_anew(root: Path) -> str | None:
    """None where a finished environment runs, if perhaps for another pyproject.toml; else why it cannot be updated."""
    if all(entry.name == OWNER for entry in (root / ".venv").iterdir()):
        return "nothing is installed yet"
    if not marks(root):
        return "an earlier installation was not finished"
    if any(mark.split(b"\n", 1)[0] != os.fsencode(root) for mark in marks(root).values()):
        return "the checkout was moved or copied"
    with contextlib.suppress(OSError):
        if subprocess.run([root / ".venv/bin/python", *PIP[:3], "--version"], capture_output=True).returncode == 0:
            return None
    return "the Python that it was made with is gone or has changed"


def remove_marks(root: Path) -> None:
    """From here on the environment counts as unfinished, also after a power failure."""
    for kind in marks(root):
        (root / ".venv" / f".installed-{kind}").unlink()
        os.sync()


def write_marks(root: Path, kind: str, mark: bytes) -> None:
    """The last act of an installation; `mark` was made before pip read pyproject.toml."""
    os.sync()  # or a power failure could keep the mark and lose packages
    for name in KINDS if kind == "test" else [kind]:
        temporary = root / ".venv" / ".installed.tmp"
        temporary.write_bytes(mark)
        temporary.replace(root / ".venv" / f".installed-{name}")


def empty(root: Path) -> None:
    """Removes the environment, all but its lock."""
    remove_marks(root)
    for entry in (root / ".venv").iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != OWNER:
            entry.unlink()


def own(venv: Path) -> int:
    """Creates .venv or recognises it as made here; returns the descriptor of its lock file."""
    venv.mkdir(exist_ok=True)
    # In this order: a start beside this one may be making the folder, and then the owner's file is the first in it.
    if any(venv.iterdir()) and not (venv / OWNER).exists():
        raise Failure(
            f"{venv} was not made by scripts/train, so it is left as it is.\n"
            "  To use it: .venv/bin/python -m pip install -e .   and then   .venv/bin/train ...\n"
            "  To have one made here instead: mv .venv .venv-of-mine   and repeat the command."
        )
    return os.open(venv / OWNER, os.O_RDWR | os.O_CREAT, 0o644)


@contextlib.contextmanager
def locked(venv: Path) -> Iterator[int]:
    """Only one process changes .venv at a time; others wait for it here. Yields the descriptor that holds the lock."""
    lock = own(venv)
    try:
        for attempt in itertools.count():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if attempt == 0:
                say("another start is installing into .venv: waiting until it has ended")
            check_interrupted()
            time.sleep(TICK_S)
        yield lock
    finally:
        os.close(lock)


def read_lines(output: IO[str], lines: deque[str]) -> None:
    """Keeps the last lines of a command's output until it ends."""
    lines.extend(line.rstrip() for line in output if line.strip())


def show_progress(seconds: int, lines: Iterable[str]) -> None:
    """What pip is at: on a terminal one line that is written over; elsewhere a line every 15 seconds."""
    steps = [line.strip() for line in lines if re.match(r"\s*(Collecting|Downloading|Using cached|Building|Installing)", line)]
    text = f"  {seconds:4d} s  {steps[-1] if steps else ''}"
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        print(f"{CLEAR_LINE}{text[: width - 1]}", end="", file=sys.stderr, flush=True)
    elif seconds % 15 == 0:
        print(text[:100], file=sys.stderr, flush=True)


def child_environment(venv: Path) -> dict[str, str]:
    """The user's settings of pip (index, proxy, cache) stay; what would send packages elsewhere goes."""
    elsewhere = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__"}
    elsewhere |= {f"PIP_{name}" for name in ("TARGET", "PREFIX", "ROOT", "PYTHON", "DRY_RUN", "NO_DEPS", "REQUIRE_VIRTUALENV")}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    # Gigabytes pass through the temporary folder: here they need no second disk, and go with .venv after a kill.
    (venv / ".tmp").mkdir(exist_ok=True)
    return kept | {"PIP_USER": "0", "PYTHONUNBUFFERED": "1", "TMPDIR": str(venv / ".tmp")}


def run(command: Sequence[str | Path], root: Path, lock: int) -> None:
    """Runs one command of the installation to its end, with a sign of life every second; raises Failure with its last lines."""
    lines: deque[str] = deque(maxlen=15)
    process = subprocess.Popen(
        command,
        cwd=root,
        env=child_environment(root / ".venv"),
        stdin=subprocess.DEVNULL,  # what the user pipes in is for the command that follows
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,  # its own, so that it can be stopped with all its children
        pass_fds=(lock,),  # should this process be killed, others wait until the orphan has ended too
    )
    assert process.stdout is not None
    reader = threading.Thread(target=read_lines, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        for tick in itertools.count(1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=TICK_S)
                break
            check_interrupted()
            if tick % round(1 / TICK_S) == 0:
                show_progress(round(tick * TICK_S), lines.copy())
    finally:
        stop(process)
    reader.join(timeout=1)
    if process.returncode != 0:
        output = "\n    ".join(lines)
        raise Failure(f"the installation failed. The last lines of its output:\n    {output}\n  {remedy(output)}")


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a command that is still at work, and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)


def install(root: Path, kind: str, lock: int) -> None:
    """Brings .venv to the state that pyproject.toml asks for."""
    started = time.monotonic()
    mark = expected_mark(root)
    pip = [root / ".venv/bin/python", *PIP]
    project = ["--editable", f".{KINDS[kind]}"]
    if reason := why_anew(root):
        say(f"making an environment in {root / '.venv'}: {reason}")
        make_environment(root, lock)
        free = shutil.disk_usage(root).free / 1e9
        say(f"installing torch and the other packages: about 5 GB ({free:.0f} GB are free), a minute or more")
    else:
        say("updating .venv: pyproject.toml has changed, or this script needs more than what is installed")
        run([*pip, "--dry-run", *project], root, lock)  # without the network this fails while nothing has changed yet
        remove_marks(root)
    run([*pip, *project], root, lock)
    shutil.rmtree(root / ".venv/.tmp")
    write_marks(root, kind, mark)
    say(f"installed in {time.monotonic() - started:.0f} s")


def make_environment(root: Path, lock: int) -> None:
    """An environment with pip alone, made with the Python that runs this."""
    empty(root)
    # The interpreter itself, not a link to it: where an update of the system replaces it, the broken link shows at once.
    python = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    say(f"Python {'.'.join(map(str, sys.version_info[:3]))} ({python})")
    run([python, "-I", "-m", "venv", "--prompt", ".", ".venv"], root, lock)


def clean_up(root: Path) -> None:
    """After a failure: an unfinished environment would only take up space."""
    if not marks(root):
        empty(root)
    shutil.rmtree(root / ".venv/.tmp", ignore_errors=True)


def ensure_installed(root: Path, kind: str) -> None:
    """Installs unless another start has just done so."""
    with locked(root / ".venv") as lock:
        if ready(root, kind):
            return
        try:
            install(root, kind, lock)
        except BaseException:
            with contextlib.suppress(OSError):
                clean_up(root)
            raise


def main() -> None:
    """bootstrap.py CHECKOUT KIND SCRIPT ARGUMENTS: installs, then becomes SCRIPT ARGUMENTS."""
    root, kind, script, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, request_stop)
    try:
        ensure_installed(root, kind)
        check_interrupted()
    except Failure as failure:
        say(str(failure))
        sys.exit(1)
    except OSError as error:
        say(f"cannot install into {root / '.venv'}: {error}\n  {remedy(str(error))}")
        sys.exit(1)
    except Interrupted as interrupted:
        signal.signal(interrupted.args[0], signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.args[0])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would inherit that
    os.environ["TRAIN_INSTALLED"] = str(os.getpid())
    os.execv("/bin/sh", ["/bin/sh", script, *arguments])


if __name__ == "__main__":
    main()
