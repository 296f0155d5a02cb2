"""Functions that the tests of the fork server call in a worker."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def process_state(argument: object) -> dict[str, Any]:
    preloaded = "train.sweep.preload" in sys.modules
    import torch

    return {
        "argument": argument,
        "device": os.environ["A_DEVICE"],
        "preloaded": preloaded,
        "cuda_initialised": torch.cuda.is_initialized(),
        "pid": os.getpid(),
        "session": os.getsid(0),
        "stdin": sys.stdin.read(),
    }


def threads_of_parent(_: object) -> int:
    return len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))


def parent(_: object) -> int:
    return os.getppid()


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


def reads_images(path: str) -> tuple[int, list[int]]:
    """Read six images by a process of the call's own; return the number of batches, and the processes that decode."""
    import torch

    from train.data.batches import Batching
    from train.data.contracts import Files
    from train.data.folder_reader import FolderReader
    from train.data.image_folder import CentreFraming
    from train.data.preprocess import Preprocess
    from train.parts.augment import Pipeline

    files, batching = Files((Path(path),) * 6, torch.zeros(6, dtype=torch.int64)), Batching(1, torch.device("cpu"), 0, 0)
    raw = Preprocess("none", (0.0,) * 3, (1.0,) * 3)
    reader = FolderReader(files, Pipeline([]), raw, batching, framing=CentreFraming(20, 16), workers=1)
    batches = list(reader.epoch(0))
    return len(batches), [child.pid or 0 for child in multiprocessing.active_children()]


def writes_pids_and_sleeps(path: str) -> None:
    """Write the process ids of the fork server, this worker, and a process that it starts."""
    Path(path).write_text(f"{os.getppid()} {os.getpid()} {starts_grandchild(None)}\n")
    sleeps(None)


def imported_by_job(request: Any) -> list[str]:
    """Run a job and return the modules that it has imported, which the fork server had not."""
    from train.sweep import job

    before = set(sys.modules)
    job.run(request)
    return sorted(set(sys.modules) - before)
