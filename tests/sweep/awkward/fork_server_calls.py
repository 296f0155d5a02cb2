"""Functions that the tests of the fork server call in a worker."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def process_state(argument: object) -> dict[str, Any]:
    had_torch = "torch" in sys.modules
    import torch

    return {
        "argument": argument,
        "device": os.environ["A_DEVICE"],
        "had_torch": had_torch,
        "cuda_initialised": torch.cuda.is_initialized(),
        "pid": os.getpid(),
        "session": os.getsid(0),
        "stdin": sys.stdin.read(),
    }


def threads_of_parent(_: object) -> int:
    return len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))


def tensor_threads(_: object) -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def large(count: int) -> str:
    return "x" * count


def fails(_: object) -> NoReturn:
    raise ValueError("on purpose")


def leaves(_: object) -> NoReturn:
    sys.exit(7)


def crashes(_: object) -> None:
    ctypes.string_at(0)


def dies(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(_: object) -> None:
    time.sleep(600)


def starts_grandchild(_: object) -> int:
    return subprocess.Popen(["sleep", "600"]).pid


def writes_pids_and_sleeps(path: str) -> None:
    Path(path).write_text(f"{os.getppid()} {os.getpid()}\n")
    sleeps(None)
