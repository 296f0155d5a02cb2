"""The allocation of jobs: how many at a time, on which device, with how many threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from train.errors import UsageError
from train.sweep.devices import PoolSettings, allocate, cpu_cores, parse_pool_settings, visible_gpus


def settings(**changed: Any) -> PoolSettings:
    values: dict[str, Any] = {
        "devices": "auto",
        "jobs_per_device": None,
        "threads_per_job": None,
        "timeout_minutes": None,
        "retries": 0,
    }
    return parse_pool_settings(**(values | changed))


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that nvidia-smi lists two GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "value_text"),
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
def test_parse_pool_settings_names_invalid_value(changed: dict[str, Any], value_text: str) -> None:
    with pytest.raises(UsageError) as error:
        settings(**changed)
    assert f"hydra.launcher.{value_text}:" in str(error.value)


@pytest.mark.usefixtures("no_gpus")
def test_allocate_on_cpu_gives_one_slot_per_core_up_to_runs() -> None:
    many = allocate(settings(), 1000, "auto", {})
    assert (len(many.slots), many.threads) == (cpu_cores(), 1)
    single = allocate(settings(), 1, "auto", {})
    assert (len(single.slots), single.threads) == (1, cpu_cores()), "a single job gets all cores"
    chosen = allocate(settings(jobs_per_device=3, threads_per_job=2), 1000, "auto", {})
    assert (len(chosen.slots), chosen.threads) == (3, 2)


@pytest.mark.usefixtures("no_gpus")
def test_allocate_respects_user_threads() -> None:
    chosen = allocate(settings(), 1, "auto", {"OMP_NUM_THREADS": "1"})
    assert chosen.threads == 1
    assert len(allocate(settings(threads_per_job=cpu_cores()), 1000, "auto", {}).slots) == 1


@pytest.mark.usefixtures("two_gpus")
def test_allocate_gives_one_slot_per_gpu_visible_to_its_job_only() -> None:
    allocation = allocate(settings(), 1000, "auto", {})
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in allocation.slots] == ["0", "1"]
    assert not allocation.shared
    assert {slot.environment["CUDA_DEVICE_ORDER"] for slot in allocation.slots} == {"PCI_BUS_ID"}, "the order of nvidia-smi"
    restricted = allocate(settings(), 1, "auto", {"CUDA_VISIBLE_DEVICES": "1"})
    assert restricted.slots[0].environment == {"CUDA_VISIBLE_DEVICES": "1"}, "the user's index follows CUDA's order"
    shared = allocate(settings(devices=[1], jobs_per_device=3), 2, "auto", {})
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared.slots] == ["1", "1"]
    assert shared.shared
    assert allocate(settings(devices=1), 1, "cuda", {}).slots[0].device == "cuda:1"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "names"),
    [("1", ["1"]), ("", []), ("-1", []), ("1,7,0", ["1"]), ("GPU-8a,1", ["GPU-8a", "1"]), ("NoDevFiles", [])],
)
def test_visible_gpus_respects_cuda_visible_devices(visible: str, names: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == names


@pytest.mark.usefixtures("two_gpus")
def test_allocate_on_cpu_hides_gpus_from_jobs() -> None:
    for allocation in (allocate(settings(devices="cpu"), 2, "auto", {}), allocate(settings(), 2, "cpu", {})):
        assert {slot.device for slot in allocation.slots} == {"cpu"}
        assert all(slot.environment == {"CUDA_VISIBLE_DEVICES": ""} for slot in allocation.slots)


@pytest.mark.usefixtures("two_gpus")
def test_allocate_rejects_missing_gpu_and_fixed_cuda_device() -> None:
    with pytest.raises(UsageError, match=r"there is no GPU 2; available: 0 to 1"):
        allocate(settings(devices=[0, 2]), 4, "auto", {})
    with pytest.raises(UsageError, match=r"trainer\.device=cuda:1"):
        allocate(settings(), 4, "cuda:1", {})
