"""The allocation of jobs: how many at a time, on which device, with how many threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.sweep.fake_gpu import fake_gpu
from train.errors import UsageError
from train.sweep import devices
from train.sweep.devices import (
    MAX_JOBS_PER_GPU,
    PoolSettings,
    allocate,
    cpu_cores,
    devices_per_job,
    jobs_per_gpu,
    parse_pool_settings,
    visible_gpus,
)


def settings(**changed: Any) -> PoolSettings:
    values: dict[str, Any] = {
        "devices": "auto",
        "jobs_per_device": None,
        "threads_per_job": None,
        "timeout_minutes": None,
        "retries": 0,
        "mps": "auto",
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
        ({"mps": "yes"}, "mps=yes"),
        ({"mps": None}, "mps=None"),
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


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, cores: int, mebibytes: str = "81559", **more: Any) -> None:
    """Pretend to be a machine with so many cores and GPUs of this memory."""
    monkeypatch.setenv("PATH", fake_gpu(folder / "tools", mebibytes, **more).path)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(devices, "CGROUPS", folder)


GIB = 2**30


@pytest.mark.parametrize(
    ("needed", "cores", "gpus", "jobs"),
    [
        (1 * GIB, 16, 1, MAX_JOBS_PER_GPU),  # small runs
        (20 * GIB, 16, 1, 3),  # memory for three
        (50 * GIB, 16, 1, 1),
        (200 * GIB, 16, 1, 1),  # it will say itself that it does not fit
        (1 * GIB, 3, 1, 3),  # a core each
        (1 * GIB, 8, 2, 4),
        (1 * GIB, 1, 2, 1),
        (None, 16, 1, 1),  # unknown
    ],
)
def test_jobs_per_gpu_follow_memory_and_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: int | None, cores: int, gpus: int, jobs: int
) -> None:
    machine(tmp_path, monkeypatch, cores, count=gpus)
    allocation = allocate(settings(), 1000, "auto", {}, needed)
    assert len(allocation.slots) == jobs * gpus
    assert [slot.device for slot in allocation.slots[:gpus]] == [f"cuda:{index}" for index in range(gpus)], "spread evenly"
    assert {allocation.sharers(slot) for slot in allocation.slots} == {jobs}
    assert allocation.threads == max(1, cores // (jobs * gpus))
    assert len(allocate(settings(jobs_per_device=5), 1000, "auto", {}, needed).slots) == 5 * gpus, "the user decides otherwise"
    assert len(allocate(settings(), 1, "auto", {}, needed).slots) == 1, "never more than jobs"


@pytest.mark.parametrize("row", [{"mebibytes": "[N/A]"}, {"mig": "Enabled"}])
def test_jobs_per_gpu_is_one_on_a_gpu_of_unknown_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, str]
) -> None:
    machine(tmp_path, monkeypatch, 16, **row)
    assert jobs_per_gpu(["0"], GIB, {}) == 1


def test_jobs_per_gpu_goes_by_the_smallest_that_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, 16, count=2)
    (tmp_path / "tools" / "nvidia-smi").write_text("#!/bin/sh\necho '0, 81559, Disabled'\necho '1, 2048, [N/A]'\n")
    assert jobs_per_gpu(["0"], GIB, {}) == MAX_JOBS_PER_GPU
    assert jobs_per_gpu(["0", "1"], GIB, {}) == 2
    assert jobs_per_gpu(["0"], GIB, {"CUDA_VISIBLE_DEVICES": "0"}) == 2, "CUDA may count in another order"
    assert jobs_per_gpu(["GPU-8a"], GIB, {"CUDA_VISIBLE_DEVICES": "GPU-8a"}) == 2
    assert jobs_per_gpu(["MIG-1"], GIB, {"CUDA_VISIBLE_DEVICES": "MIG-1"}) == 1


@pytest.mark.parametrize(
    ("changed", "runs", "needed", "may"),
    [
        ({}, 1000, 90 * GIB, True),  # before it is known that two do not fit
        ({}, 1000, None, True),
        ({}, 2, None, False),
        ({"mps": False}, 1000, None, False),
        ({"jobs_per_device": 1}, 1000, None, False),
        ({"jobs_per_device": 2}, 3, None, True),
        ({"devices": "cpu"}, 1000, None, False),
    ],
)
def test_sweep_that_may_share_a_gpu_is_known_before_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], runs: int, needed: int | None, may: bool
) -> None:
    machine(tmp_path, monkeypatch, 16, count=2)
    assert allocate(settings(**changed), runs, "auto", {}, needed).may_use_mps is may


def test_nvidia_smi_answers_each_question_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take a second, while a sweep waits."""
    machine(tmp_path, monkeypatch, 16)
    tool, log = tmp_path / "tools" / "nvidia-smi", tmp_path / "log"
    tool.write_text(f"#!/bin/sh\necho call >> {log}\necho '0, 81559, Disabled'\n")
    for _ in range(3):
        jobs_per_gpu(["0"], GIB, {})
    assert log.read_text() == "call\n"


def test_sharers_of_the_cpu_are_not_counted() -> None:
    allocation = allocate(settings(devices="cpu", jobs_per_device=3), 9, "auto", {}, GIB)
    assert [allocation.sharers(slot) for slot in allocation.slots] == [1, 1, 1]


@pytest.mark.usefixtures("no_gpus")
def test_mps_is_refused_without_its_tool() -> None:
    assert settings(mps=False).mps is False
    with pytest.raises(UsageError, match=r"hydra\.launcher\.mps=true: nvidia-cuda-mps-control"):
        settings(mps=True)


@pytest.mark.usefixtures("two_gpus")
def test_run_on_several_gpus_has_all_of_its_slot() -> None:
    environment = {"OMP_NUM_THREADS": "1"}
    allocation = allocate(settings(), 3, "auto", environment, needed_bytes=1, per_job=2)
    (slot,) = allocation.slots
    assert slot.environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert allocation.gpus == 2
    assert not allocation.shared
    assert allocate(settings(jobs_per_device=2), 3, "auto", environment, per_job=2).shared
    with pytest.raises(UsageError, match=r"trainer\.devices=3: the sweep has 2 GPU\(s\)"):
        allocate(settings(), 3, "auto", environment, per_job=3)


@pytest.mark.usefixtures("no_gpus")
def test_run_of_several_processes_has_a_core_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpu_cores", lambda: 8)
    assert len(allocate(settings(), 9, "cpu", {"OMP_NUM_THREADS": "1"}, per_job=2).slots) == 4


def test_sweep_under_torchrun_is_refused() -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(UsageError, match="Leave torchrun out"):
        allocate(settings(), 2, "cpu", variables)


@pytest.mark.parametrize(("jobs", "expected"), [([], 2), ([["trainer.devices=4"], ["trainer.devices=1"]], 4)])
def test_slots_suit_the_largest_number_of_devices(jobs: list[list[str]], expected: int) -> None:
    assert devices_per_job(OmegaConf.create({"trainer": {"devices": 2}}), jobs) == expected
