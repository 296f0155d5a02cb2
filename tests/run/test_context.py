"""The context of a GPU, begun before torch is imported: by a driver that only notes its calls, and on a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from train.run.context import DRIVER

COMPILER = shutil.which("cc") if sys.platform == "linux" else None
NOTING_DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void note(const char *call, int number) {
    FILE *notes = fopen(getenv("NOTES"), "a");
    fprintf(notes, "%s %d\n", call, number);
    fclose(notes);
}

int cuInit(unsigned flags) {
    note("init", flags);
    for (const char *go = getenv("GO"); go && access(go, F_OK); ) usleep(1000);
    return getenv("NO_DEVICE") ? 100 : 0;
}

int cuDeviceGet(int *device, int number) { note("get", number); *device = number + 7; return number > 1 ? 101 : 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { note("retain", device); return 0; }
"""
PROGRAM = """
import os, sys, threading
from train.run.context import begin_context
for _ in range(2):
    begin_context(sys.argv[1], int(sys.argv[2]))
assert "torch" not in sys.modules
for thread in threading.enumerate()[1:]:
    print(next(line for line in open(f"/proc/self/task/{thread.native_id}/status") if line.startswith("SigBlk")))
print("goes on")
open(os.environ["GO"], "w").close()
"""
"""The thread is in the driver until the last line."""
SIGTERM_IS_HELD = 1 << 14


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(NOTING_DRIVER)
    assert COMPILER is not None
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", folder / DRIVER, folder / "driver.c"], check=True)
    return folder


@pytest.mark.skipif(COMPILER is None, reason="no C compiler, or not Linux")
@pytest.mark.parametrize(
    ("device", "devices", "calls"),
    [
        ("auto", 1, ["init 0", "get 0", "retain 7"]),
        ("cuda", 1, ["init 0", "get 0", "retain 7"]),
        ("cuda:1", 1, ["init 0", "get 1", "retain 8"]),
        ("cuda:2", 1, ["init 0", "get 2"]),
        ("no device", 1, ["init 0"]),
        ("cpu", 1, []),
        ("mps", 1, []),
        ("gpu", 1, []),
        ("auto", 2, []),
    ],
)
def test_context_is_begun_once_for_the_device_that_is_meant(
    driver: Path, tmp_path: Path, device: str, devices: int, calls: list[str]
) -> None:
    """The thread does not take the signals that are for the main thread."""
    notes = tmp_path / "notes"
    variables = os.environ | {"LD_LIBRARY_PATH": str(driver), "NOTES": str(notes), "GO": str(tmp_path / "go")}
    variables |= {"NO_DEVICE": "1"} if device == "no device" else {}
    word = device.replace("no device", "auto")
    command = [sys.executable, "-c", PROGRAM, word, str(devices)]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (notes.read_text().splitlines() if notes.exists() else []) == calls
    *masks, last = ended.stdout.split()
    assert last == "on"
    assert [bool(int(mask, 16) & SIGTERM_IS_HELD) for mask in masks[1:-1:2]] == [True] * bool(calls)


@pytest.mark.skipif(COMPILER is None, reason="no C compiler, or not Linux")
def test_run_begins_the_context_and_trains_without_one(driver: Path, tmp_path: Path) -> None:
    """Torch does not take this driver for one, so that the run is on the CPU."""
    notes, folder = tmp_path / "notes", tmp_path / "run"
    variables = os.environ | {"LD_LIBRARY_PATH": str(driver), "NOTES": str(notes)}
    words = ["data=noise", "model=mlp", "trainer.max_steps=1", f"hydra.run.dir={folder}"]
    command = [sys.executable, "-m", "train.cli", *words, "trainer.device=auto"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert notes.read_text().splitlines() == ["init 0", "get 0", "retain 7"]
    assert json.loads((folder / "status.json").read_text())["device"].startswith("cpu")


@pytest.mark.cuda
def test_torch_uses_the_context_that_was_begun() -> None:
    program = """
import threading
from train.run.context import begin_context
begin_context("auto")
for thread in threading.enumerate()[1:]:
    thread.join()
import torch
assert torch._C._cuda_hasPrimaryContext(0)
assert torch.ones(3, device="cuda").sum().item() == 3
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
