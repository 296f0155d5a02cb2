"""Where jobs run: how many at once, on which device, with how many threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from train.errors import UsageError
from train.sweep.devices import PoolSettings, allocate, cpu_cores, parse_pool_settings, visible_gpus


def settings(**changed: Any) -> PoolSettings:
    keys: dict[str, Any] = {
        "devices": "auto",
        "jobs_per_device": None,
        "threads_per_job": None,
        "timeout_minutes": None,
        "retries": 0,
    }
    return parse_pool_settings(**(keys | changed))


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver tells of two."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"devices": "gpu"}, "devices=gpu"),
        ({"devices": []}, "devices=[]"),
        ({"devices": [0, 0]}, "devices=[0, 0]"),
        ({"devices": -1}, "devices=-1"),
        ({"devices": True}, "devices=True"),
        ({"jobs_per_device": 0}, "jobs_per_device=0"),
        ({"jobs_per_device": 1.5}, "jobs_per_device=1.5"),
        ({"threads_per_job": "two"}, "threads_per_job=two"),
        ({"timeout_minutes": 0}, "timeout_minutes=0"),
        ({"timeout_minutes": "1h"}, "timeout_minutes=1h"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": None}, "retries=None"),
    ],
)
def test_a_wrong_value_is_named(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as error:
        settings(**changed)
    assert f"hydra.launcher.{named}:" in str(error.value)


@pytest.mark.usefixtures("no_gpus")
def test_on_a_cpu_there_is_a_job_per_core_but_never_more_than_runs() -> None:
    many = allocate(settings(), 1000, "auto", {})
    assert (len(many.slots), many.threads) == (cpu_cores(), 1)
    one = allocate(settings(), 1, "auto", {})
    assert (len(one.slots), one.threads) == (1, cpu_cores()), "what one job leaves of the cores is its own"
    chosen = allocate(settings(jobs_per_device=3, threads_per_job=2), 1000, "auto", {})
    assert (len(chosen.slots), chosen.threads) == (3, 2)


@pytest.mark.usefixtures("no_gpus")
def test_threads_of_the_users_own_choice_count() -> None:
    own = allocate(settings(), 1, "auto", {"OMP_NUM_THREADS": "1"})
    assert own.threads == 1
    assert len(allocate(settings(threads_per_job=cpu_cores()), 1000, "auto", {}).slots) == 1


@pytest.mark.usefixtures("two_gpus")
def test_each_gpu_takes_a_job_and_the_job_sees_no_other() -> None:
    found = allocate(settings(), 1000, "auto", {})
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found.slots] == ["0", "1"]
    assert not found.shared
    assert {slot.environment["CUDA_DEVICE_ORDER"] for slot in found.slots} == {"PCI_BUS_ID"}, "nvidia-smi counts so"
    own = allocate(settings(), 1, "auto", {"CUDA_VISIBLE_DEVICES": "1"})
    assert own.slots[0].environment == {"CUDA_VISIBLE_DEVICES": "1"}, "the user counts as CUDA does"
    shared = allocate(settings(devices=[1], jobs_per_device=3), 2, "auto", {})
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared.slots] == ["1", "1"]
    assert shared.shared
    assert allocate(settings(devices=1), 1, "cuda", {}).slots[0].device == "cuda:1"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "names"),
    [("1", ["1"]), ("", []), ("-1", []), ("1,7,0", ["1"]), ("GPU-8a,1", ["GPU-8a", "1"]), ("NoDevFiles", [])],
)
def test_gpus_that_are_hidden_from_this_process_are_hidden_from_its_jobs(visible: str, names: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == names


@pytest.mark.usefixtures("two_gpus")
def test_the_cpu_can_be_asked_for_where_there_are_gpus() -> None:
    for wish in (allocate(settings(devices="cpu"), 2, "auto", {}), allocate(settings(), 2, "cpu", {})):
        assert {slot.device for slot in wish.slots} == {"cpu"}
        assert all(slot.environment == {"CUDA_VISIBLE_DEVICES": ""} for slot in wish.slots)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_or_fits_no_place_is_refused() -> None:
    with pytest.raises(UsageError, match=r"there is no GPU 2; known: 0 to 1"):
        allocate(settings(devices=[0, 2]), 4, "auto", {})
    with pytest.raises(UsageError, match=r"trainer\.device=cuda:1"):
        allocate(settings(), 4, "cuda:1", {})
