"""Folders of commit 03bcfb5, stored in `tests/stored`: the run can be resumed, the sweep reported and its runs reused."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.harness import COMMAND, resume_in_process
from train.store.identity import VERSION, arm_id, identity
from train.store.manifest import read_manifest, upgraded_manifest
from train.store.metrics import read_records
from train.store.run import find_runs, read_run
from train.sweep.reuse import stored_runs

STORED = Path(__file__).resolve().parents[1] / "stored"
Train = Callable[..., subprocess.CompletedProcess[str]]


def copy_stored(name: str, target: Path) -> Path:
    """Copy a stored folder, as if made with the installed torch: runs of another version would rightly not be comparable."""
    shutil.copytree(STORED / name, target)
    for file in target.rglob("status.json"):
        status: dict[str, Any] = json.loads(file.read_text())
        file.write_text(json.dumps(status | {"versions": status["versions"] | {"torch": metadata.version("torch")}}))
    return target


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_identity_of_version_one_is_the_stored_one(name: str) -> None:
    folders = list(find_runs([STORED / name]))
    assert folders
    for folder in folders:
        status, config = json.loads((folder / "status.json").read_text()), read_run(folder).config
        assert identity(config, 1) == status["identity"]
        assert arm_id(config, version=1) == status["arm"]


def test_read_run_computes_the_present_ids_of_an_old_run() -> None:
    """It was made with data.workers=1, which version 1 of the identity hashed."""
    run = read_run(STORED / "run")
    assert run.identity == identity(run.config, VERSION) != run.status["identity"]
    assert run.arm == arm_id(run.config) != run.status["arm"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), ("data.workers=0",)], ids=["same options", "other workers"])
def test_resume_continues_a_stored_run(changes: tuple[str, ...], tmp_path: Path) -> None:
    folder = copy_stored("run", tmp_path / "run")
    before = list(read_records(folder / "metrics.jsonl"))
    assert resume_in_process(folder, changes)[1] == "done"
    after = list(read_records(folder / "metrics.jsonl"))
    assert after[: len(before)] == before
    steps = [record.step for record in after if "loss/train" in record.values]
    assert steps == list(range(10, 301, 10))
    status = json.loads((folder / "status.json").read_text())
    assert status["resumed"][-1]["step"] == before[-1].step + 1
    assert status["identity_version"] == VERSION


def test_upgraded_manifest_has_the_ids_of_its_runs() -> None:
    manifest = read_manifest(STORED / "sweep")
    assert manifest is not None
    assert manifest.identity_version == 1
    runs = [read_run(folder) for folder in find_runs([STORED / "sweep"])]
    present = upgraded_manifest(manifest, runs)
    assert {run.identity for run in runs} < {planned.identity for planned in present.runs}
    assert {run.arm for run in runs} == {arm.id for arm in present.arms}
    assert present.baseline in {arm.id for arm in present.arms}
    assert len(present.runs) == len(runs) + 1, "one run is missing"


@pytest.mark.slow
def test_report_counts_a_stored_sweep(tmp_path: Path) -> None:
    folder = copy_stored("sweep", tmp_path / "sweep")
    command = [str(COMMAND.with_name("train-report")), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done"] * 7
    assert len({row["arm_id"] for row in rows}) == 4
    assert sum(row["is_baseline"] == "true" for row in rows) == 2
    page = (folder / "report.md").read_text()
    assert "1 not started" in page
    assert "as planned in the sweep" in page


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["data.workers=0", pytest.param("data.workers=1", marks=pytest.mark.long)])
def test_repeated_sweep_reuses_stored_runs(workers: str, train: Train, tmp_path: Path) -> None:
    """Its command, unchanged and with another number of workers, trains only the missing run."""
    folder = copy_stored("sweep", tmp_path / "sweep")
    manifest = read_manifest(folder)
    assert manifest is not None
    command = [argument if not argument.startswith("data.workers") else workers for argument in manifest.command[1:]]
    before = {path: (path / "summary.json").read_bytes() for path in find_runs([folder])}
    result = train(*command, "hydra/launcher=basic")
    assert result.returncode == 0, result.stdout + result.stderr
    after = {path: (path / "summary.json").read_bytes() for path in find_runs([folder])}
    assert len(after) == 8
    assert all(after[path] == content for path, content in before.items()), result.stdout
    repeated = read_manifest(folder)
    assert repeated is not None
    assert len(repeated.runs) == 8
    assert len(repeated.arms) == 4
    assert {run.identity for run in repeated.runs} == {run.identity for run in stored_runs(folder)}
    page = (folder / "report.md").read_text()
    assert "7 runs did not record the data that went in, and counted because the first batch was the same" in page
    serious = [line for line in page.splitlines() if "**serious:**" in line]
    expected = ("Fewer than 3 runs with a value", "2 runs learned nothing")
    assert [line for line in serious if not any(text in line for text in expected)] == []
