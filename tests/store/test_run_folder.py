"""`RunFolder`: one owner, files that are complete at every moment, identities."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.harness import SMALL, compose_config
from train.errors import UsageError
from train.store.identity import identity
from train.store.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"seed": 0, "seeds": {"init": 0}, "norm": {"_target_": "a.b", "eps": 1e-5}}


def test_claim_succeeds_in_one_of_twenty_threads(tmp_path: Path) -> None:
    barrier = threading.Barrier(20)

    def claim(number: int) -> bool:
        folder = RunFolder(tmp_path / "run")
        barrier.wait()
        try:
            folder.claim(CONFIG | {"number": number}, [f"number={number}"])
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        claimed = list(pool.map(claim, range(20)))
    assert sum(claimed) == 1
    winner = claimed.index(True)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["number"] == winner
    assert yaml.safe_load((tmp_path / "run" / "overrides.yaml").read_text()) == [f"number={winner}"]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "running"


CLAIM_ON_INPUT = """
import sys
from pathlib import Path
from train.errors import UsageError
from train.store.run_folder import RunFolder
print("ready", flush=True)
sys.stdin.readline()
try:
    RunFolder(Path(sys.argv[1])).claim({"seed": 0}, [])
except UsageError as error:
    assert "already holds a run" in str(error) or "is using this run folder" in str(error)
    sys.exit(2)
"""


def test_claim_succeeds_in_one_of_six_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIM_ON_INPUT, str(tmp_path / "run")]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert sorted(process.returncode for process in processes) == [0, 2, 2, 2, 2, 2]


def test_refuse_if_taken_names_the_folder(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").claim(CONFIG, [])
    with pytest.raises(UsageError, match=r"hydra\.run\.dir=.*run: this folder already holds a run"):
        RunFolder(tmp_path / "run").refuse_if_taken()
    RunFolder(tmp_path / "other").refuse_if_taken()


def test_update_never_exposes_a_partial_status(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(CONFIG, [])
    done = threading.Event()

    def write() -> None:
        for count in range(200):
            folder.update(count=count, padding="x" * (1 + count * 97 % 5000))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        assert json.loads(folder.status_file.read_text())["status"] == "running"
        reads += 1
    writer.join()
    assert reads > 10
    assert json.loads(folder.status_file.read_text())["count"] == 199


def test_identity_depends_on_every_value_but_not_on_the_order() -> None:
    assert identity({"a": 1, "b": {"c": [1, 2]}}) == identity({"b": {"c": [1, 2]}, "a": 1})
    configs = [
        compose_config([*SMALL, *extra]) for extra in ([], ["seed=1"], ["norm.eps=1e-4"], ["trainer.epochs=2"], ["init=xavier"])
    ]
    assert len({identity(config) for config in configs}) == len(configs)
    assert identity(compose_config(SMALL)) == identity(compose_config(SMALL))


def test_claim_stores_an_arm_id_that_ignores_seeds(tmp_path: Path) -> None:
    def claim(name: str, *overrides: str) -> dict[str, str]:
        folder = RunFolder(tmp_path / name)
        folder.claim(compose_config([*SMALL, *overrides]), overrides)
        return json.loads(folder.status_file.read_text())

    base, seed, role, norm = claim("a"), claim("b", "seed=5"), claim("c", "seeds.order=7"), claim("d", "norm=layer")
    assert base["arm"] == seed["arm"] == role["arm"] != norm["arm"]
    assert len({run["identity"] for run in (base, seed, role, norm)}) == 4
