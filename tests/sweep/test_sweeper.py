"""Sweeps through the real command: which runs are launched, which are reused, and the conclusion."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.harness import COMMAND, SMALL
from tests.test_command import pasted
from train.errors import UsageError
from train.store.lock import Lock
from train.store.manifest import Manifest, read_manifest
from train.store.run import find_runs, read_run
from train.sweep.manifest import locked, writable
from train.sweep.reuse import run_statuses

Train = Callable[..., "subprocess.CompletedProcess[str]"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
BASIC = ["hydra/launcher=basic", "sweep.reuse_other_code=true"]  # the code may change while tests run
IN_VAIN = ["data.workers=3", "hydra.run.dir=here"]
OUT = "f8/lr=0.1 (a), b"
FLAKY_INIT = """
from pathlib import Path
from torch.nn import init

def start(flag: str):
    def apply(model, images, generator):
        if not Path(flag).exists():
            raise RuntimeError("the flag is missing")
        for weight in model.parameters():
            init.normal_(weight, 0, 0.1, generator=generator)
    return apply
"""


@pytest.fixture(scope="module")
def run_train(train_in: Train) -> Train:
    """Return a function that runs `train` in a folder with modules of the user's own."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return train_in(folder, *arguments, PYTHONPATH=os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))

    return run


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a custom init that raises until a flag file exists."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.py").write_text(FLAKY_INIT)
    (folder / "own parts" / "init").mkdir(parents=True)
    (folder / "own parts" / "init" / "flaky.yaml").write_text("_target_: mine.start\nflag: ready\n")
    return folder


@pytest.fixture(scope="module")
def first_sweep(run_train: Train, workspace: Path) -> subprocess.CompletedProcess[str]:
    """Two inits at three rates: every run of one init fails, every run at one rate diverges, and one rate is invalid."""
    arguments = [*SMALL, *BASIC, "trust=[mine]", "norm=none", "trainer.precision=float32"]
    axes = ["init=kaiming,flaky", "optimizer.lr=0.1,1e30,-1"]
    return run_train(
        workspace, "-m", *axes, *arguments, "trainer.max_steps=5", f'hydra.sweep.dir="{OUT}"', "--config-dir", "own parts"
    )


@pytest.fixture(scope="module")
def repeated_sweep(
    run_train: Train, workspace: Path, first_sweep: subprocess.CompletedProcess[str]
) -> subprocess.CompletedProcess[str]:
    """The command printed by the first sweep, with the cause of the failures removed and one more level."""
    (line,) = (line for line in first_sweep.stdout.splitlines() if line.startswith("resume"))
    command = pasted(line.removeprefix("resume"))
    (workspace / "ready").touch()
    (workspace / "before").write_text(
        json.dumps({str(path): (path / "status.json").read_text() for path in find_runs([workspace / OUT])})
    )
    return run_train(workspace, *(part.replace("init=kaiming,flaky", "init=kaiming,flaky,xavier") for part in command))


@pytest.mark.slow
def test_failed_runs_are_listed_and_set_exit_code(workspace: Path, first_sweep: subprocess.CompletedProcess[str]) -> None:
    assert first_sweep.returncode == 1, first_sweep.stdout + first_sweep.stderr
    assert f"4 arms x 1 seed = 4 runs (grid) in {OUT}" in first_sweep.stdout
    assert f"4 runs: 1 done, 1 diverged, 2 failed  in {OUT}" in first_sweep.stdout
    assert first_sweep.stdout.count("the flag is missing") >= 2
    assert "train.log" in first_sweep.stdout.split("2 failed")[1]
    assert f"view   tensorboard --logdir '{OUT}'" in first_sweep.stdout
    manifest = manifest_of(workspace / OUT)
    assert manifest.axes == {"init": ("kaiming", "flaky"), "optimizer.lr": ("0.1", "1e+30", "-1")}
    assert manifest.command[:2] == ("train", "-m")
    (baseline,) = (arm for arm in manifest.arms if arm.id == manifest.baseline)
    assert dict(baseline.levels) == {"init": "kaiming", "optimizer.lr": "0.1"}
    for planned in manifest.runs:
        run = read_run(workspace / OUT / planned.folder)
        assert (run.identity, run.arm) == (planned.identity, planned.arm)
        assert list(run.overrides) == [line for line in planned.overrides if not line.startswith("trust=")]


@pytest.mark.slow
def test_impossible_arms_are_dropped_with_reason(workspace: Path, first_sweep: subprocess.CompletedProcess[str]) -> None:
    assert "dropped: init=kaiming optimizer.lr=-1: optimizer.lr=-1: it should be" in first_sweep.stdout
    assert [item.overrides[:2] for item in manifest_of(workspace / OUT).dropped] == [
        ("init=kaiming", "optimizer.lr=-1"),
        ("init=flaky", "optimizer.lr=-1"),
    ]


@pytest.mark.slow
def test_single_seed_prints_hint(first_sweep: subprocess.CompletedProcess[str]) -> None:
    assert "one seed per arm does not show the spread between runs. Use five: 'seed=range(5)'." in first_sweep.stdout


@pytest.mark.slow
def test_repeated_sweep_launches_failed_and_new_runs_only(
    workspace: Path, repeated_sweep: subprocess.CompletedProcess[str]
) -> None:
    assert repeated_sweep.returncode == 0, repeated_sweep.stdout + repeated_sweep.stderr
    assert "6 runs: 3 done, 3 diverged" in repeated_sweep.stdout
    assert " reused: 1 done, 1 diverged" in repeated_sweep.stdout
    assert " rerun: 2 failed" in repeated_sweep.stdout
    before = json.loads((workspace / "before").read_text())
    unchanged = [path for path, status in before.items() if (Path(path) / "status.json").read_text() == status]
    assert sorted(json.loads(before[path])["status"] for path in unchanged) == ["diverged", "done"]
    attempts = sorted((workspace / OUT / "previous").iterdir())
    assert [json.loads((path / "status.json").read_text())["status"] for path in attempts] == ["failed", "failed"]
    manifest = manifest_of(workspace / OUT)
    assert manifest.axes["init"] == ("kaiming", "flaky", "xavier")
    assert len(manifest.runs) == 6


@pytest.mark.slow
def test_run_statuses_reads_run_folders(workspace: Path, repeated_sweep: subprocess.CompletedProcess[str]) -> None:
    assert repeated_sweep.returncode == 0
    sweep = workspace / OUT
    runs = manifest_of(sweep).runs
    outdated, running, lost = [status.run for status in run_statuses(sweep, runs, True)][:3]
    assert outdated is not None
    assert running is not None
    assert lost is not None

    def rewrite(folder: Path, **fields: object) -> None:
        content = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps(content | fields))

    rewrite(outdated.folder, code="0123456789ab")
    rewrite(lost.folder, status="running", pid=2**22 + 1)
    lock = Lock(running.folder)
    assert lock.acquire() is None
    rewrite(running.folder, status="running", pid=os.getpid())
    kinds = {status.run.folder: status.kind for status in run_statuses(sweep, runs, False) if status.run is not None}
    assert (kinds[outdated.folder], kinds[running.folder], kinds[lost.folder]) == ("outdated", "running", "failed")
    reused = {status.run.folder: status.kind for status in run_statuses(sweep, runs, True) if status.run is not None}
    assert reused[outdated.folder] in ("done", "diverged")
    lock.release()


LOCKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (lambda lock: lock.symlink_to("elsewhere"), "is a link.* Remove it, or replace it"),
    "pipe": (os.mkfifo, "is no regular file.* Remove it, or replace it"),
    "hard link": (lambda lock: lock.hardlink_to(lock.parent / "file"), "has another name.* Remove it, or replace it"),
    "of another user": (lambda lock: lock.touch(mode=0), "Permission denied.* It may belong to another user"),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_lock_of_a_sweep_that_cannot_be_taken_is_one_message(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root opens every file, so the system's answer is given by hand where the tests run as root."""
    make, message = LOCKS[kind]
    (tmp_path / "file").touch()
    make(tmp_path / ".lock")
    if kind == "of another user" and os.access(tmp_path / ".lock", os.W_OK):
        opened = os.open

        def refuse(path: str, *arguments: int, **more: int) -> int:
            if path == ".lock":
                raise PermissionError(13, "Permission denied", path)
            return opened(path, *arguments, **more)

        monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(UsageError, match=rf"hydra\.sweep\.dir={tmp_path}: .*\.lock.*{message}"),
        writable(tmp_path),
        locked(tmp_path),
    ):
        raise AssertionError("it is locked")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_report_prints_commands_that_repeat_its_rows(
    run_train: Train, workspace: Path, first_sweep: subprocess.CompletedProcess[str]
) -> None:
    """In the table and on both pages. Packages to trust and folders of YAML are named, for the reader to add."""
    assert first_sweep.returncode == 1
    (made,) = re.findall(r"\*\*Command:\*\* `(.*)`\n", (workspace / OUT / "report.md").read_text())
    typed = manifest_of(workspace / OUT).command[2:]
    own = ("--config-dir", "own parts", "trust=[mine]")
    assert set(own) < set(typed)
    assert pasted(made)[1:] == [word for word in typed if word not in own and not word.startswith("hydra")]
    runs = {run.identity: run for run in map(read_run, find_runs([workspace / OUT]))}
    with (workspace / OUT / "results.csv").open(newline="") as file:
        rows = {row["identity"]: row["command"] for row in csv.DictReader(file)}
    table = pq.read_table(workspace / OUT / "results.parquet", columns=["identity", "command"]).to_pylist()
    assert {row["identity"]: row["command"] for row in table} == rows
    page, markdown = ((workspace / OUT / name).read_text() for name in ("report.html", "report.md"))
    for name, command in rows.items():
        assert command in html.unescape(page)
        assert f"    {command}\n" in markdown
        assert pasted(command) == list(runs[name].overrides)
    for text in (html.unescape(page), markdown):
        assert "packages to trust: mine; config folders: " in text
    flaky = next(name for name, run in runs.items() if run.choices["init"] == "flaky")
    shown = run_train(workspace, *own, *pasted(rows[flaky]), "--cfg", "job")
    assert "_target_: mine.start" in shown.stdout, shown.stderr


def test_dry_run_prints_plan_and_writes_nothing(train: Train, tmp_path: Path) -> None:
    result = train("-m", *SMALL, "norm=none,batch", "seed=range(3)", "sweep.dry_run=true", "hydra/launcher=basic", *IN_VAIN)
    assert result.returncode == 0, result.stderr
    assert "note   data.workers=3: no effect, as data=noise is held in memory." in result.stdout
    assert "note   hydra.run.dir=here: no effect, as this is not a single run." in result.stdout
    planned = (
        "  norm=none (baseline)\n",
        "baseline: norm=none\n",
        "2 arms x 3 seeds = 6 runs",
        "power  3 seeds detect a difference of 3.1 standard",
    )
    for text in (*planned, "time   about", "for 6 runs", "timed on 2 arms"):
        assert text in result.stdout
    assert "with 3 seeds no exact test" in result.stdout
    assert not list(tmp_path.iterdir())


REFUSED = {
    "sweep.design=gird": "sweep.design=gird: it should be 'grid', 'one_at_a_time' or 'leave_one_out'.",
    "sweep.spread=0": "sweep.spread=0: it should be greater than 0",
    "sweep.tune_seeds=3": "sweep.tune_seeds=3: no key is tuned. Name one, as in sweep.tune=optimizer.lr, or leave this out.",
    "sweep.desing=grid": "Did you mean 'sweep.design'?",
    "report.metric=accuracy/tst": "Did you mean 'accuracy/test'?",
    "norm=batch,null": "norm=null: there is no such choice. Known: batch, ghost, group, group_ws, instance, layer, none, rms.",
    "augment=[flip],[flip,1]": "augment=1: there is no such choice.",
    "norm=batch,none optimizer.lr=0.1,${nothing}": "optimizer.lr: Interpolation key 'nothing' not found",
    "sweep=null": "sweep=null: this is a group of keys, but it was set to a value.",
    "hydra.sweep.subdir=${hydra.job.num}": "hydra.sweep.subdir=${hydra.job.num}: a sweep names the folders of its runs itself",
    "hydra.sweep.subdir=mine": "hydra.sweep.subdir=mine: a sweep names the folders of its runs itself",
    "norm=batch,grup": "norm=grup: there is no such choice. Did you mean norm=group?",
    "sweep.resume=last": "there is no sweep in outputs",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_invalid_sweep_prints_one_message_and_writes_nothing(train: Train, tmp_path: Path, arguments: str) -> None:
    result = train("-m", *SMALL, *arguments.split())
    assert result.returncode == 2, result.stdout + result.stderr
    assert REFUSED[arguments] in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_signal_ends_sweep_with_conclusion(tmp_path: Path) -> None:
    arguments = ["-m", *SMALL, *BASIC, "seed=0,1", "trainer.epochs=100000", "trainer.max_steps=null", "hydra.sweep.dir=out"]
    process = subprocess.Popen([str(COMMAND), *arguments], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "2 runs: 1 interrupted, 1 not started  in out" in output
    assert "resume train -m" in output
