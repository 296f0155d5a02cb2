"""Device, precision and memory format: rules on the hardware, and clear messages when a device is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.harness import SMALL, settings_for, train_in_process
from train.config import TrainerSettings
from train.errors import UsageError
from train.run import device
from train.run.device import Placement


def trainer(*overrides: str) -> TrainerSettings:
    return settings_for([f"trainer.{override}" for override in overrides]).trainer


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_choose_placement_takes_requested_precision(name: str) -> None:
    chosen = device.choose_placement(trainer("device=cpu", f"precision={name}"))
    assert (chosen.precision, chosen.dtype, chosen.reason) == (name, getattr(torch, name), "requested")


@pytest.mark.parametrize(
    ("capabilities", "precision", "reason"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bfloat16", "amx_bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bfloat16", "avx512_bf16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, "float32", "without fast bfloat16"),
        ({}, "float32", "without fast bfloat16"),
    ],
)
def test_auto_precision_follows_cpu_capabilities(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], precision: str, reason: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    chosen = device.choose_placement(trainer("device=cpu"))
    assert chosen.precision == precision
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("name", "layout"), [("auto", "channels_last"), ("channels_last", "channels_last"), ("contiguous", "contiguous")]
)
def test_choose_placement_memory_format(name: str, layout: str) -> None:
    chosen = device.choose_placement(trainer("device=cpu", f"memory_format={name}"))
    assert chosen.layout == layout
    convolution, linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
    chosen.place(nn.Sequential(convolution, nn.Flatten(), linear))
    assert convolution.weight.is_contiguous(memory_format=chosen.memory_format)
    assert linear.weight.is_contiguous()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu9", "unknown device type. Use trainer.device=auto, cpu, cuda, cuda:1 or mps."),
        ("null", "unknown device type"),
        ("0", "Did you mean trainer.device=cuda:0?"),
        ("gpu", "Did you mean trainer.device=cuda?"),
        ("gpu:1", "Did you mean trainer.device=cuda:1?"),
        ("GPU2", "Did you mean trainer.device=cuda:2?"),
        ("cuda3", "Did you mean trainer.device=cuda:3?"),
        ("[0]", "unknown device type"),
        ("cpu:1", "torch sees 1 device"),
        ("cuda:77", "torch sees "),
        ("meta", "torch sees 0 device"),
    ],
)
def test_choose_device_refuses_missing_device(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        device.choose_placement(trainer(f"device={name}"))
    assert str(caught.value).startswith(f"trainer.device={name}: ")
    assert message in str(caught.value)
    assert "trainer.device=auto" in str(caught.value)


@pytest.mark.parametrize(("dtype", "computed"), [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_placement_autocast_sets_precision_of_products(dtype: torch.dtype, computed: torch.dtype) -> None:
    chosen = Placement(torch.device("cpu"), dtype, torch.contiguous_format, "")
    with torch.autocast("cpu", torch.float16), chosen.autocast():  # overrides the enclosing autocast
        assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype is computed


def test_run_records_placement(tmp_path: Path) -> None:
    run = train_in_process(
        tmp_path / "run", [*SMALL, "trainer.precision=bfloat16", "trainer.memory_format=contiguous", "trainer.device=cpu"]
    )
    status = json.loads(run.status_file.read_text())
    assert (status["precision"], status["precision_reason"], status["memory_format"]) == ("bfloat16", "requested", "contiguous")
    assert status["threads"] == torch.get_num_threads()
    assert status["device"].startswith("cpu")
    log = (run.path / "train.log").read_text()
    assert "bfloat16 (requested), contiguous" in log
