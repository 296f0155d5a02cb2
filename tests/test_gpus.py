"""Only tests marked `cuda` see a GPU: inner sessions of pytest, on pretended machines, with the hooks of tests/conftest.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import tests.conftest

INNER = """
import os
import subprocess
import sys
import pytest
import torch
from train.run.device import choose_device

@pytest.fixture(scope="module")
def seen():
    command = [sys.executable, "-S", "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    by_child = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return by_child, os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.is_available(), torch.cuda.device_count()

def test_of_something_else(seen):
    assert seen == ("", "", False, 0)
    assert choose_device("auto").type != "cuda"

@pytest.mark.cuda
class TestOfGpu:
    def test_of_cuda(self):
        assert (os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.is_available(), torch.cuda.device_count()) == ("1,0", True, 2)

def test_after_it():
    assert torch.cuda.device_count() == 0
"""


def run_inner(folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: int) -> pytest.ExitCode | int:
    """Run the tests of INNER on a machine with so many GPUs."""
    (folder / "test_inner.py").write_text(INNER)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  cuda\n  slow\n  long\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    arguments = [
        str(folder),
        "-q",
        "--import-mode=importlib",
        *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler"),
    ]
    return pytest.main(arguments, plugins=[tests.conftest])


def test_only_tests_marked_cuda_see_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_inner(tmp_path, monkeypatch, gpus=2)
    output = capsys.readouterr().out
    assert code == 0, output
    assert "3 passed" in output
    assert (os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.device_count()) == ("1,0", 2), "as before the inner session"


def test_session_says_how_many_tests_want_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_inner(tmp_path, monkeypatch, gpus=0)
    output = capsys.readouterr().out
    assert code == 0, output
    assert "Skipped for want of a GPU that torch can use: 1 test marked cuda\n2 passed, 1 skipped" in output
