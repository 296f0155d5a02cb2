"""Runs that are killed, out of disk or memory, or fed NaN: what is lost, what is reported, and whether resuming is bit-exact."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import google_crc32c
import pytest
from PIL import Image

from tests.harness import COMMAND, SMALL, resume_in_process, run_content, train_in_process
from train.errors import RunError, UsageError
from train.run.checkpoint import list_checkpoints, newest_valid
from train.run.device import is_out_of_memory
from train.store.metrics import read_records
from train.store.run import read_run

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = [*SMALL, "trainer.device=cpu", "schedule=constant"]
RUN = [*MINIMAL, "trainer.epochs=25", "trainer.max_steps=null", "regularization=dropout", "checkpoint.every_steps=5"]
"""A run of 100 steps."""

SABOTAGED = [*MINIMAL, "norm=none", "norm._target_=tests.run.saboteur.norm", "trainer.epochs=3", "trainer.max_steps=null"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_in_process(tmp_path_factory.mktemp("uninterrupted") / "run", RUN).path


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def times_started(folder: Path) -> int:
    """Return how many times a process has started to train in the folder."""
    status = folder / "status.json"
    return 1 + len(json.loads(status.read_text()).get("resumed", ())) if status.exists() else 0


# SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (0, *range(2, 20)))])
def test_resume_after_sigkill_is_bit_exact(uninterrupted: Path, tmp_path: Path, seed: int) -> None:
    """Kill at any moment after the folder is claimed, and once more after resuming if the run lasts that long."""
    generator, folder = random.Random(seed), tmp_path / "run"
    for number, arguments in enumerate([[*RUN, f"hydra.run.dir={folder}"], [f"resume={folder}"]][: 2 if seed else 1]):
        process = subprocess.Popen([str(COMMAND), *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL)
        while times_started(folder) <= number and process.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    run = read_run(folder)
    assert run.state in ("lost", "done")
    if run.state == "lost":
        assert resume_in_process(folder)[1] == "done"
    assert run_content(folder) == run_content(uninterrupted)


KILL_PROGRAM = """
import os, signal, sys
from pathlib import Path

moment, *arguments = sys.argv[1:]
saves = 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wrapped(name, when):
    original = getattr(os, name)

    def call(*args, **more):
        global saves
        paths = " ".join(os.readlink(f"/proc/self/fd/{a}") if isinstance(a, int) else str(a) for a in args[:2])
        is_save = "checkpoints" in paths and ("step-" in paths or name == "fsync" and paths.endswith("checkpoints"))
        saves += is_save and name == "replace"
        if is_save and saves >= 3 and moment == f"before {when}":
            die()
        if is_save and saves >= 3 and moment == f"in the middle of {when}":
            os.truncate(args[0], os.fstat(args[0]).st_size // 2)
            die()
        result = original(*args, **more)
        if is_save and saves >= 3 and moment == f"after {when}":
            die()
        return result

    setattr(os, name, call)


for name, when in (("fsync", "writing"), ("replace", "naming"), ("unlink", "removing the old")):
    wrapped(name, when)
sys.argv[1:] = arguments
from train.cli import main

main()
"""

MOMENTS = [
    "in the middle of writing",
    pytest.param("before naming", marks=pytest.mark.long),
    pytest.param("after naming", marks=pytest.mark.long),
    pytest.param("before removing the old", marks=pytest.mark.long),
]


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds open files in /proc")
@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_after_sigkill_within_save_is_bit_exact(uninterrupted: Path, tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "run"
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1", "MALLOC_TRIM_THRESHOLD_": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    program = [sys.executable, "-c", KILL_PROGRAM, moment, *RUN, f"hydra.run.dir={folder}"]
    killed = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 10 <= list_checkpoints(folder)[0].step <= 15
    assert resume_in_process(folder)[1] == "done"
    assert run_content(folder) == run_content(uninterrupted)
    assert not list((folder / "checkpoints").glob(".*")), "no partial file remains"


# A full disk

LIMITED = """
import json, resource, sys
from pathlib import Path
from tests.harness import _here
for name, limit, arguments in json.loads(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        text = _here(Path(name), arguments)[1]
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("OUTCOME", json.dumps([name, text]), flush=True)
"""
"""A limit on the file size simulates a full disk: files that grow beyond it cannot be written."""

LIMITS: dict[str, tuple[int, list[str]]] = {
    "config": (500, MINIMAL),
    "summary": (3500, [*MINIMAL, "trainer.epochs=0", "trainer.max_steps=null"]),
    "metrics": (7_000, [*MINIMAL, "trainer.epochs=15", "trainer.max_steps=null", "trainer.record_every=1"]),
    "weights": (50_000, MINIMAL),
    "checkpoint": (130_000, [*MINIMAL, "trainer.max_steps=4", "checkpoint.every_steps=1"]),
}


@pytest.mark.long
def test_full_disk_is_one_message(tmp_path: Path) -> None:
    cases = [(str(tmp_path / name), *case) for name, case in LIMITS.items()]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(cases)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    pairs = [json.loads(line.removeprefix("OUTCOME ")) for line in result.stdout.splitlines() if line.startswith("OUTCOME ")]
    outcomes = {Path(name).name: text for name, text in pairs}
    assert "cannot be written (File too large)" in outcomes["config"]
    assert not (tmp_path / "config" / "status.json").exists()
    for name in ("summary", "metrics", "weights"):
        assert outcomes[name].startswith("RunError: ")
        assert f"{tmp_path / name} cannot be written (File too large). The run resumes from" in outcomes[name]
        run = read_run(tmp_path / name)
        assert (run.state, run.status["exit_code"]) == ("failed", 1)
        assert "File too large" in run.reason
    assert outcomes["checkpoint"] == "done", "a checkpoint that cannot be written is a warning"
    assert list_checkpoints(tmp_path / "checkpoint") == []
    log = (tmp_path / "checkpoint" / "train.log").read_text()
    assert "the checkpoint of step 1 could not be written (File too large); there is no earlier one." in log
    records = list(read_records(tmp_path / "metrics" / "metrics.jsonl"))
    assert resume_in_process(tmp_path / "metrics")[1] == "done", "the disk has space again"
    assert len(list(read_records(tmp_path / "metrics" / "metrics.jsonl"))) > len(records) > 10


SMALL_DISK_PROGRAM = """
import shutil, sys
from pathlib import Path
from tests.harness import _here
disk, copy, *arguments = sys.argv[1:]
try:
    text = _here(Path(disk) / "run", arguments)[1]
except Exception as error:
    text = f"{type(error).__name__}: {error}"
print(text)
shutil.copytree(Path(disk) / "run", copy)
"""


@pytest.mark.long
@pytest.mark.slow
def test_run_on_full_disk_resumes_from_last_checkpoint(tmp_path: Path) -> None:
    """On a real disk of half a megabyte, which the records of every step fill between two checkpoints."""
    unshare = [shutil.which("unshare") or "unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    disk, copy = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=512k none '{disk}'"
    if not shutil.which("unshare") or subprocess.run([*unshare, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted: needs Linux and the right to mount in a namespace")
    run = [*MINIMAL, "trainer.epochs=100", "trainer.max_steps=null", "trainer.record_every=1", "checkpoint.every_steps=20"]
    on_disk = [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    program = [sys.executable, "-c", SMALL_DISK_PROGRAM, str(disk), str(copy), *run]
    result = subprocess.run([*on_disk, *program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert f"RunError: {disk / 'run'} cannot be written (No space left on device). The run resumes from" in result.stdout
    assert not list(disk.iterdir()), "the disk was mounted only in the namespace of the process"
    failed = read_run(copy)
    assert failed.state in ("failed", "lost"), "failed if that could still be written"
    assert newest_valid(copy) == list_checkpoints(copy)[0]
    assert resume_in_process(copy)[1] == "done"
    assert run_content(copy) == run_content(train_in_process(tmp_path / "uninterrupted", run).path)


def test_failing_sink_does_not_end_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def raise_disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "run"
    (folder / "train.log").mkdir(parents=True)
    (folder / "figures").write_text("a file in place of the folder")
    monkeypatch.setattr(google_crc32c, "value", raise_disk_full)
    train_in_process(folder, [*SMALL, "observe=basic", "observe.every=1"], figures=True)
    assert read_run(folder).state == "done"
    output = capsys.readouterr()
    assert "TensorBoard: disabled after an error (OSError: [Errno 28] No space left on device)" in output.out
    assert "the heat maps: disabled after an error" in output.out
    assert output.err.count("train.log: disabled after an error") == 1


def test_run_folder_that_cannot_be_created_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    command = [str(COMMAND), *MINIMAL, f"hydra.run.dir={tmp_path}/file/run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert f"train: {tmp_path}/file" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.long
def test_deleted_run_folder_is_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    endless = [str(COMMAND), *RUN, "trainer.epochs=100000", f"hydra.run.dir={folder}"]
    process = subprocess.Popen(endless, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "checkpoints")
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert f"train: {folder}: this run folder no longer exists" in stderr
    assert "Traceback" not in stderr


# NaN and broken data

NONFINITE = {
    "loss": ("train:6:nan", "diverged", "at step 5"),
    "gradient": ("train:6:nan_gradient", "diverged", "at step 6"),
    "weight": ("train:6:nan_weight", "diverged", "at step 6"),
    "metric": ("evaluate:2:nan", "done", ""),
    "last metric": ("evaluate:3:nan", "diverged", "the validation loss was not finite (nan) after the last update"),
    "test metric": ("evaluate:4:nan", "diverged", "the test loss was not finite (nan) after the last update"),
}


@pytest.mark.parametrize("kind", NONFINITE)
def test_nonfinite_value_is_an_outcome_not_a_crash(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, state, reason = NONFINITE[kind]
    monkeypatch.setenv("SABOTAGE", where)
    train_in_process(tmp_path / "run", [*SABOTAGED, "trainer.record_every=1", "trainer.precision=float32"])
    run = read_run(tmp_path / "run")
    assert (run.state, reason in run.reason) == (state, True)
    values = [value for row in read_records(run.metrics_file) for value in row.values.values()]
    assert any(value != value for value in values), "the NaN is recorded"
    if state == "diverged":
        assert run.status["exit_code"] == 3
        assert run.summary["test_accuracy"] is None
        assert "diagnosis" in run.status
        with pytest.raises(UsageError, match="this run has diverged"):
            resume_in_process(tmp_path / "run")


def test_out_of_memory_names_request_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SABOTAGE", "train:3:exhaust")
    with pytest.raises(RunError, match=r"no memory left for trainer.batch_size=8 images of 1x16x16 .*Reduce trainer.batch_size"):
        train_in_process(tmp_path / "run", SABOTAGED)
    run = read_run(tmp_path / "run")
    assert (run.state, run.status["exit_code"]) == ("failed", 4)
    assert "trainer.batch_size=8" in run.reason


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_is_out_of_memory_recognises_library_messages(message: str, memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) == memory


def test_damaged_image_is_named_and_run_resumes_once_repaired(tmp_path: Path) -> None:
    generator = random.Random(0)
    for split, count in (("train", 8), ("val", 2)):
        for label in ("a", "b"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for number in range(count):
                image = Image.frombytes("RGB", (24, 24), generator.randbytes(24 * 24 * 3))
                image.save(tmp_path / "images" / split / label / f"{number}.png")
    run = ["data=image_folder", f"data.root={tmp_path}/images", "data.preprocess=none", "data.workers=0", "augment=none"]
    run += [
        "model.width=4",
        "model.stages=2",
        "trainer.batch_size=4",
        "trainer.epochs=2",
        "observe=off",
        "checkpoint.every_steps=1",
    ]
    run += ["schedule=constant", "trainer.device=cpu"]
    uninterrupted = train_in_process(tmp_path / "uninterrupted", run).path
    damaged = tmp_path / "images" / "val" / "b" / "1.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"1\.png"):
        train_in_process(tmp_path / "run", run)
    failed = read_run(tmp_path / "run")
    assert (failed.state, str(damaged) in failed.reason) == ("failed", True)
    damaged.write_bytes(content)
    other = damaged.parents[1] / "a" / "1.png"
    before = other.read_bytes()
    other.write_bytes(content)
    with pytest.raises(UsageError, match="test/a: other images"):
        resume_in_process(tmp_path / "run")
    other.write_bytes(before)
    assert resume_in_process(tmp_path / "run")[1] == "done"
    assert run_content(tmp_path / "run") == run_content(uninterrupted)
