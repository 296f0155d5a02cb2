"""The launchers and the search of others, each in an environment of its own: a failed run never ends the others."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.sweep.nodes import RAY_VARIABLES
from tests.sweep.test_pool import AWKWARD, SMALL
from train.store.run import find_runs, read_run

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "conf" / "hydra" / "launcher").glob("*.yaml"))
INSTALL_HINT = re.compile(r"the extra `(?P<extra>\w+)`.*pip install (?P<package>\S+)$", re.DOTALL | re.MULTILINE)
LAUNCHERS = {"joblib_cores": "joblib", "slurm_local": "submitit", "ray_cluster": "ray"}
"""Preset -> extra. tests/sweep/test_sweeper.py covers Hydra's own `basic`."""


def run_sweep(python: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{AWKWARD}", "OMP_NUM_THREADS": "1", **RAY_VARIABLES}
    small = [override for override in SMALL if not override.startswith("hydra.launcher")]
    command = [python, "-m", "train.cli", "-m", "--config-dir", str(AWKWARD), *small, *arguments, f"hydra.sweep.dir={folder}"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launcher_ends_runs_as_the_pool_does(launcher: str, python_with: Callable[[str], str], tmp_path: Path) -> None:
    arguments = [f"hydra/launcher={launcher}", "model.how=fine,fails,diverges"]
    result = run_sweep(python_with(LAUNCHERS[launcher]), tmp_path / "sweep", *arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    runs = {run.config["model"]["how"]: run for run in map(read_run, find_runs([tmp_path / "sweep"]))}
    assert {how: run.state for how, run in runs.items()} == {"fine": "done", "fails": "failed", "diverges": "diverged"}
    assert runs["fails"].reason == "ValueError: this model fails on purpose"
    assert "Traceback" in (runs["fails"].folder / "train.log").read_text()
    for name in ("config.yaml", "overrides.yaml", "status.json", "metrics.jsonl", "summary.json", "train.log", "weights.pt"):
        assert (runs["fine"].folder / name).is_file()


class Evil:
    """An object whose pickle leaves a file as it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.long
def test_pickles_of_a_received_sweep_are_not_read(python_with: Callable[[str], str], tmp_path: Path) -> None:
    """Jobs have the numbers of processes, so that a stranger can guess them. One that dies leaves no result in their place."""
    sweep, mark = tmp_path / "sweep", tmp_path / "read"
    for number in range(os.getpid(), os.getpid() + 3000):
        folder = sweep / ".submitit" / str(number)
        folder.mkdir(parents=True)
        (folder / f"{number}_0_result.pkl").write_bytes(pickle.dumps(Evil(mark)))
    result = run_sweep(python_with("submitit"), sweep, "hydra/launcher=slurm_local", "model.how=dies")
    assert result.returncode == 1, result.stdout + result.stderr
    assert not mark.exists()
    assert list(sweep.glob(".submitit/*/*/*_submitted.pkl"))


@pytest.mark.long
def test_search_keeps_the_best_trial(python_with: Callable[[str], str], tmp_path: Path) -> None:
    arguments = ["hydra/sweeper=search", "hydra/launcher=basic", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    result = run_sweep(python_with("optuna"), tmp_path, *arguments, "model.how=fine", "optimizer.lr=tag(log,interval(0.001,1))")
    assert result.returncode == 0, result.stdout + result.stderr
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    assert len({run.config["optimizer"]["lr"] for run in runs}) == 3
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(run.summary["val_accuracy"] for run in runs)


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["basic", "pool"])
def test_search_goes_on_after_diverged_trials(launcher: str, python_with: Callable[[str], str], tmp_path: Path) -> None:
    arguments = ["hydra/sweeper=search", f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=1"]
    result = run_sweep(python_with("optuna"), tmp_path, *arguments, "model.how=choice(fine,diverges)")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert {read_run(folder).state for folder in find_runs([tmp_path])} == {"done", "diverged"}
    assert yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())["best_params"] == {"model.how": "fine"}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_launcher_preset_names_extra_to_install(preset: Path) -> None:
    text = preset.read_text()
    if "_target_: hydra_plugins.train." in text:
        return
    head = text.partition("\ndefaults:")[0].replace("\n# ", " ").splitlines()[0]
    match = INSTALL_HINT.search(head.partition("  train -m")[0].strip())
    assert match, f"{preset.name}: its comment must end with: Needs the extra `name`: pip install package"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith(match["package"]) for requirement in extras[match["extra"]])
