"""The notebook of docs/ runs, and its stored outputs are what its cells show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.long
def test_notebook_shows_what_is_stored() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "notebook.py"), "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
