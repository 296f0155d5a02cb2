"""Signals: a run ends at the next step and loses nothing, also with several signals, for process groups and at bad moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.harness import COMMAND, SMALL, resume_in_process, run_content, train_in_process
from tests.run import saboteur
from train.run.checkpoint import list_checkpoints
from train.run.signals import handle_signals
from train.store.run import read_run

RUN = [
    *SMALL,
    "norm=none",
    "norm._target_=tests.run.saboteur.norm",
    "trainer.epochs=3",
    "trainer.max_steps=null",
    "trainer.device=cpu",
]


def test_handle_signals_ignores_further_signals_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another signal arrives at every write to the disk."""
    uninterrupted = train_in_process(tmp_path / "uninterrupted", RUN).path
    fsync, sent = os.fsync, []

    def interrupted_fsync(file: int) -> None:
        if "SABOTAGE" in os.environ and saboteur.calls["train"] >= 6:
            sent.append(signal.SIGUSR1 if len(sent) % 2 else signal.SIGINT)
            os.kill(os.getpid(), sent[-1])
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted_fsync)
        patch.setenv("SABOTAGE", "train:6:SIGTERM")
        train_in_process(tmp_path / "run", RUN)
    run = read_run(tmp_path / "run")
    assert (run.state, run.status["exit_code"]) == ("interrupted", 143), "the first signal counts"
    assert run.reason.startswith("SIGTERM after step 6; to resume: train resume=")
    assert len(sent) >= 4
    saboteur.reset()
    assert resume_in_process(tmp_path / "run")[1] == "done"
    assert run_content(tmp_path / "run") == run_content(uninterrupted)


def test_hangup_stops_a_run_unless_it_is_ignored() -> None:
    """`nohup` ignores it before the program starts."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, stopped_by in ((signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, None)):
            signal.signal(signal.SIGHUP, handler)
            with handle_signals() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.signal == stopped_by
            assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_usr1_saves_checkpoint_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SABOTAGE", "train:6:SIGUSR1")
    keep = ["checkpoint.keep=5", "checkpoint.every_minutes=null"]
    steps: list[list[int]] = []
    rename = os.replace

    def recorded_replace(source: str, target: str, **folders: int) -> None:
        rename(source, target, **folders)  # type: ignore[arg-type]
        if str(target).endswith(".pt"):
            steps.append([file.step for file in list_checkpoints(tmp_path / "run")])

    monkeypatch.setattr(os, "replace", recorded_replace)
    train_in_process(tmp_path / "run", [*RUN, *keep])
    assert read_run(tmp_path / "run").state == "done"
    assert [6] in steps, "the checkpoint was written before the run continued"


def test_signal_before_first_step_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal arrives while the wiring of the model is recorded."""
    saboteur.reset()
    monkeypatch.setenv("SABOTAGE", "trace:1:SIGINT")
    train_in_process(tmp_path / "run", [*RUN, "observe=basic"])
    run = read_run(tmp_path / "run")
    assert (run.state, run.status["exit_code"]) == ("interrupted", 130)
    assert run.reason.startswith("SIGINT before the first step")


@pytest.mark.slow
def test_signal_during_start_leaves_no_files(tmp_path: Path) -> None:
    process = subprocess.Popen([str(COMMAND), *RUN, "data.train_size=40000", "trust=tests"], cwd=tmp_path, stderr=subprocess.PIPE)
    while not (tmp_path / "outputs").exists() and process.poll() is None:
        time.sleep(0.001)  # Hydra creates the folder, then torch is imported
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


SIGNAL_WITHIN_IMPORT = """
import os, signal, sys, time

class Within:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.nn.modules":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            open("imported on", "w").close()

sys.meta_path.insert(0, Within())
"""


@pytest.mark.long
def test_signal_during_the_import_of_torch_waits_for_its_end(tmp_path: Path) -> None:
    """An exception within it may pass through C++, which aborts the process."""
    (tmp_path / "sitecustomize.py").write_text(SIGNAL_WITHIN_IMPORT)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    }
    process = subprocess.run([str(COMMAND), *SMALL], cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, process.stderr
    assert (tmp_path / "imported on").exists()
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.long
def test_signal_to_process_group_interrupts_run_in_order(tmp_path: Path) -> None:
    """As a batch system sends it, also to the processes that decode images. The run resumes with another number of these."""
    generator = random.Random(0)
    for split, count in (("train", 8), ("val", 2)):
        for label in ("a", "b"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for number in range(count):
                image = Image.frombytes("RGB", (24, 24), generator.randbytes(24 * 24 * 3))
                image.save(tmp_path / "images" / split / label / f"{number}.png")
    run = ["data=image_folder", f"data.root={tmp_path}/images", "augment=none", "schedule=constant", "trainer.device=cpu"]
    run += ["model.width=4", "model.stages=2", "trainer.batch_size=4", "observe=off", "checkpoint.every_minutes=null"]
    folder = tmp_path / "run"
    arguments = [str(COMMAND), *run, "data.workers=2", "trainer.epochs=10000", f"hydra.run.dir={folder}"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    wait_for(folder / "metrics.jsonl", process)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGUSR1)
    wait_for(folder / "checkpoints" / "step-*", process)
    assert process.poll() is None, "the run continues"
    os.killpg(process.pid, signal.SIGTERM)
    stderr = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 143, stderr
    interrupted_run = read_run(folder)
    assert (interrupted_run.state, interrupted_run.reason.split(" after ")[0]) == ("interrupted", "SIGTERM")
    steps = json.loads((folder / "summary.json").read_text())["steps"]
    length = steps // 3 + 2  # of three steps each
    uninterrupted = train_in_process(tmp_path / "uninterrupted", [*run, "data.workers=0", f"trainer.epochs={length}"]).path
    assert resume_in_process(folder, ["data.workers=0", f"trainer.epochs={length}"])[1] == "done"
    assert run_content(folder) == run_content(uninterrupted)


def wait_for(pattern: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list(pattern.parent.glob(pattern.name)) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
