"""The worked example of CONTRIBUTING.md, run from the text of the page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def block(language: str) -> str:
    """Return the page's only code block in a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder to run the page's command in, with the example's two files in `my`."""
    configs = tmp_path / "my" / "conf" / "norm"
    configs.mkdir(parents=True)
    (tmp_path / "my" / "mynorms.py").write_text(block("python"))
    (configs / "group_of.yaml").write_text(block("yaml"))
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the page's command with additional arguments."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith("PYTHONPATH=my train "))
    checkout = str(Path(__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "train.cli", *line.split()[2:], *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["my", checkout])},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_example_trains_from_outside_the_checkout(folder: Path) -> None:
    result = run(folder, "trainer.max_steps=2", "trainer.device=cpu")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list((folder / "outputs").rglob("summary.json"))


@pytest.mark.slow
def test_example_refuses_a_setting_out_of_range(folder: Path) -> None:
    result = run(folder, "norm.size=0")
    assert result.returncode != 0
    assert "norm.size" in result.stdout + result.stderr
