"""Files are replaced whole: no reader and no crash sees a part of one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.store.files import write_atomic, write_json

ROOT = Path(__file__).resolve().parents[2]

REPLACE_FOREVER = """
import itertools, sys
from pathlib import Path
from train.store.files import write_atomic
path, size = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for count in itertools.count():
    write_atomic(path, bytes([count % 251]) * size)
"""


def test_write_atomic_survives_a_killed_writer(tmp_path: Path) -> None:
    """All bytes of the file are equal, so that mixed or truncated content would be detected."""
    path, size = tmp_path / "weights.pt", 1_000_000
    write_atomic(path, b"\xff" * size)
    rng = random.Random(0)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", REPLACE_FOREVER, str(path), str(size)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        content = path.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1


def test_write_json_refuses_nan_and_removes_its_temporary_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"one": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"one": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"one": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
