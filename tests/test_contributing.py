"""The worked example of CONTRIBUTING.md, run from the text of the page."""

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

Train = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def block(language: str) -> str:
    """Return the page's only code block in a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return text


@pytest.fixture
def run(train: Train, tmp_path: Path) -> Train:
    """Return a function that runs the page's command with additional arguments, with the example's two files in `my`."""
    configs = tmp_path / "my" / "conf" / "norm"
    configs.mkdir(parents=True)
    (tmp_path / "my" / "mynorms.py").write_text(block("python"))
    (configs / "group_of.yaml").write_text(block("yaml"))
    (line,) = (line for line in PAGE.splitlines() if line.startswith("PYTHONPATH=my train "))
    return partial(train, *line.split()[2:], PYTHONPATH="my")


def test_example_trains_from_outside_the_checkout(run: Train, tmp_path: Path) -> None:
    result = run("trainer.max_steps=2", "trainer.device=cpu")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list((tmp_path / "outputs").rglob("summary.json"))


def test_example_refuses_a_setting_out_of_range(run: Train) -> None:
    result = run("norm.size=0")
    assert result.returncode != 0
    assert "norm.size" in result.stdout + result.stderr


@pytest.mark.parametrize("name", re.findall(r"tests/[\w/]+\.py::\w+", PAGE))
def test_listed_slow_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert f"def {function}(" in (ROOT / path).read_text()
