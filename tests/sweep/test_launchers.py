"""Hydra's standard launchers: a failed run never ends the others, and run folders equal those of the pool."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.sweep.test_pool import AWKWARD, SMALL
from train.store.run import find_runs, read_run

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "conf" / "hydra" / "launcher").glob("*.yaml"))
INSTALL_HINT = re.compile(r"the extra `(?P<extra>\w+)`.*pip install (?P<package>\S+)$", re.DOTALL | re.MULTILINE)
LAUNCHERS = [  # tests/sweep/test_sweeper.py covers Hydra's own `basic`
    ("joblib_cores", "hydra_joblib_launcher"),
    ("slurm_local", "hydra_submitit_launcher"),
    ("ray_cluster", "hydra_ray_launcher"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "package"), LAUNCHERS, ids=[name for name, _ in LAUNCHERS])
def test_launcher_ends_runs_as_the_pool_does(launcher: str, package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(f"hydra_plugins.{package}") is None:
        pytest.skip(f"{package} is not installed: pip install {package.replace('_', '-')}")
    overrides = [override for override in SMALL if not override.startswith("hydra.launcher")]
    command = [sys.executable, "-m", "train.cli", "-m", "--config-dir", str(AWKWARD), f"hydra/launcher={launcher}", *overrides]
    result = subprocess.run(
        [*command, "model.how=fine,fails,diverges", f"hydra.sweep.dir={tmp_path}/sweep"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(AWKWARD), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    runs = {run.config["model"]["how"]: run for run in map(read_run, find_runs([tmp_path / "sweep"]))}
    assert {how: run.state for how, run in runs.items()} == {"fine": "done", "fails": "failed", "diverges": "diverged"}
    assert runs["fails"].reason == "ValueError: this model fails on purpose"
    assert "Traceback" in (runs["fails"].folder / "train.log").read_text()
    for name in ("config.yaml", "overrides.yaml", "status.json", "metrics.jsonl", "summary.json", "train.log", "weights.pt"):
        assert (runs["fine"].folder / name).is_file()


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
