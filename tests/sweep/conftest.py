"""Fixtures for tests of plans and of the launchers of others."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tests.sweep.slurm import empty_queue, slurm_of
from train import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def loader() -> Iterator[Any]:
    """Hydra's config loader with the program's own configuration."""
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader


@pytest.fixture(scope="session")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that returns the Python of an environment with an extra of pyproject.toml, added to what is installed."""

    @cache
    def install(extra: str) -> str:
        folder = tmp_path_factory.mktemp(extra)
        venv.create(folder, symlinks=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "installed.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        python = str(folder / "bin" / "python")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--retries=1",
            *project["optional-dependencies"][extra],
        ]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=600, check=False)
        if "connection broken" in done.stderr:
            pytest.skip(f"the extra `{extra}` cannot be installed without a network")
        assert done.returncode == 0, done.stderr
        return python

    return install


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables of a real Slurm of one node."""
    with slurm_of(tmp_path_factory.mktemp("slurm")) as started:
        yield started.variables


@pytest.fixture
def python(python_with: Callable[[str], str], slurm: dict[str, str]) -> Iterator[str]:
    """The Python of an environment with submitit. At the end of the test Slurm has no job left."""
    yield python_with("submitit")
    empty_queue(slurm)
