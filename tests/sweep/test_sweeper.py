"""Sweeps through the real command: what is made, what is kept, what is said at the end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import COMMAND, SMALL
from train.store.lock import Lock
from train.store.manifest import Manifest, read_manifest
from train.store.run import find_runs, read_run
from train.sweep.reuse import run_statuses

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
BASIC = ["hydra/launcher=basic", "observe=off", "sweep.reuse_other_code=true"]  # the sources may change while tests run
MOODY = """
from pathlib import Path
from torch.nn import init

def start(mood: str):
    def apply(model, images, generator):
        if not Path(mood).exists():
            raise RuntimeError("not in the mood")
        for weight in model.parameters():
            init.normal_(weight, 0, 0.1, generator=generator)
    return apply
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), *arguments]
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def plan(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an initialisation of one's own, which raises as long as a file is missing."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.py").write_text(MOODY)
    (folder / "own" / "init").mkdir(parents=True)
    (folder / "own" / "init" / "moody.yaml").write_text("_target_: mine.start\nmood: good\n")
    return folder


@pytest.fixture(scope="module")
def first(place: Path) -> subprocess.CompletedProcess[str]:
    """Two inits by two rates: of one init every run fails, at one rate every run diverges; and a rate that is no rate."""
    arguments = [*SMALL, *BASIC, "trust=[mine]", "norm=none", "trainer.precision=float32"]
    axes = ["init=kaiming,moody", "optimizer.lr=0.1,1e30,-1"]
    return run(place, "-m", *axes, *arguments, "trainer.max_steps=5", "hydra.sweep.dir=out", "--config-dir", "own")


@pytest.fixture(scope="module")
def again(place: Path, first: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The command that the first one printed, with the cause of the failures gone and one more level."""
    (line,) = (line for line in first.stdout.splitlines() if line.startswith("go on"))
    command = shlex.split(line.removeprefix("go on"))
    (place / "good").touch()
    (place / "before").write_text(
        json.dumps({str(path): (path / "status.json").read_text() for path in find_runs([place / "out"])})
    )
    return run(place, *(part.replace("init=kaiming,moody", "init=kaiming,moody,xavier") for part in command[1:]))


@pytest.mark.slow
def test_a_failing_run_is_one_row_and_the_exit_code(place: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 1, first.stdout + first.stderr
    assert "4 arms x 1 seed = 4 runs (grid) in out" in first.stdout
    assert "4 runs: 1 done, 1 diverged, 2 failed  in out" in first.stdout
    assert first.stdout.count("not in the mood") >= 2
    assert "train.log" in first.stdout.split("2 failed")[1]
    assert "tensorboard --logdir out" in first.stdout
    manifest = plan(place / "out")
    assert manifest.axes == {"init": ("kaiming", "moody"), "optimizer.lr": ("0.1", "1e+30", "-1")}
    assert manifest.command[:2] == ("train", "-m")
    (baseline,) = (arm for arm in manifest.arms if arm.id == manifest.baseline)
    assert dict(baseline.levels) == {"init": "kaiming", "optimizer.lr": "0.1"}
    for planned in manifest.runs:
        made = read_run(place / "out" / planned.folder)
        assert (made.identity, made.arm) == (planned.identity, planned.arm)
        assert list(made.overrides) == [line for line in planned.overrides if not line.startswith("trust=")]


@pytest.mark.slow
def test_what_is_impossible_is_dropped_with_its_reason(place: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert "dropped: init=kaiming optimizer.lr=-1: optimizer.lr=-1: it should be" in first.stdout
    assert [item.overrides[:2] for item in plan(place / "out").dropped] == [
        ("init=kaiming", "optimizer.lr=-1"),
        ("init=moody", "optimizer.lr=-1"),
    ]


@pytest.mark.slow
def test_one_seed_is_said_to_be_few(first: subprocess.CompletedProcess[str]) -> None:
    assert "Take five: seed=range(5)." in first.stdout


@pytest.mark.slow
def test_the_same_again_makes_what_failed_or_is_new_and_keeps_the_rest(
    place: Path, again: subprocess.CompletedProcess[str]
) -> None:
    assert again.returncode == 0, again.stdout + again.stderr
    assert "6 runs: 3 done, 3 diverged" in again.stdout
    assert "not made again: 1 done, 1 diverged" in again.stdout
    assert "made again: 2 failed" in again.stdout
    before = json.loads((place / "before").read_text())
    kept = [path for path, status in before.items() if (Path(path) / "status.json").read_text() == status]
    assert sorted(json.loads(before[path])["status"] for path in kept) == ["diverged", "done"]
    attempts = sorted((place / "out" / "previous").iterdir())
    assert [json.loads((path / "status.json").read_text())["status"] for path in attempts] == ["failed", "failed"]
    manifest = plan(place / "out")
    assert manifest.axes["init"] == ("kaiming", "moody", "xavier")
    assert len(manifest.runs) == 6


@pytest.mark.slow
def test_what_stands_of_a_plan_is_told_from_the_folders(place: Path, again: subprocess.CompletedProcess[str]) -> None:
    assert again.returncode == 0
    top = place / "out"
    runs = plan(top).runs
    other, going, lost = [standing.run for standing in run_statuses(top, runs, True)][:3]
    assert other is not None
    assert going is not None
    assert lost is not None

    def rewrite(folder: Path, **fields: object) -> None:
        content = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps(content | fields))

    rewrite(other.folder, code="0123456789ab")
    rewrite(lost.folder, status="running", pid=2**22 + 1)
    lock = Lock(going.folder)
    assert lock.acquire() is None
    rewrite(going.folder, status="running", pid=os.getpid())
    kinds = {standing.run.folder: standing.kind for standing in run_statuses(top, runs, False) if standing.run is not None}
    assert (kinds[other.folder], kinds[going.folder], kinds[lost.folder]) == ("outdated", "running", "failed")
    reused = {standing.run.folder: standing.kind for standing in run_statuses(top, runs, True) if standing.run is not None}
    assert reused[other.folder] in ("done", "diverged")
    lock.release()


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_made_and_leaves_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, "-m", *SMALL, "norm=none,batch", "seed=range(3)", "sweep.dry_run=true", "hydra/launcher=basic")
    assert result.returncode == 0, result.stderr
    for said in ("baseline  norm=none", "2 arms x 3 seeds = 6 runs", "time   about", "for 6 runs", "timed on 2 arms"):
        assert said in result.stdout
    assert "with 3 seeds no exact test" in result.stdout
    assert not list(tmp_path.iterdir())


REFUSED = {
    "sweep.design=gird": "sweep.design=gird: it should be 'grid', 'one_at_a_time' or 'leave_one_out'.",
    "sweep.desing=grid": "Did you mean 'sweep.design'?",
    "report.metric=accuracy/tst": "Did you mean 'accuracy/test'?",
    "norm=batch,grup": "norm=grup: there is no such choice. Did you mean norm=group?",
    "sweep.resume=last": "there is no sweep in outputs",
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", REFUSED)
def test_a_sweep_that_cannot_be_made_is_one_message_and_leaves_nothing(tmp_path: Path, arguments: str) -> None:
    result = run(tmp_path, "-m", *SMALL, *arguments.split())
    assert result.returncode == 2, result.stdout + result.stderr
    assert REFUSED[arguments] in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_signal_ends_a_sweep_with_its_account(tmp_path: Path) -> None:
    arguments = ["-m", *SMALL, *BASIC, "seed=0,1", "trainer.epochs=100000", "trainer.max_steps=null", "hydra.sweep.dir=out"]
    process = subprocess.Popen([str(COMMAND), *arguments], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "2 runs: 1 interrupted, 1 not started  in out" in said
    assert "go on  train -m" in said
