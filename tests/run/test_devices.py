"""A run on several devices is the run on one: two processes with gloo on a CPU, float32, without dropout."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing
from torch._C._distributed_c10d import TCPStore

from tests.conftest import Train
from tests.harness import SMALL, settings_for
from train.config import Settings
from train.run.setup import prepare
from train.run.step import training_loss
from train.store.metrics import read_records
from train.store.run import read_run
from train.world import ALONE, World

TOLERANCE = 1e-5
"""Of the largest gradient of a layer: float32 sums of half as many images, then of two such sums."""
OF_BATCH_NORM = 5e-4
"""torch's CPU kernel for batch norm is less exact than our sums, and the gradient of a bias before a norm is noise."""
NORMS = {"none": TOLERANCE, "layer": TOLERANCE, "instance": TOLERANCE, "group": TOLERANCE, "batch": OF_BATCH_NORM}
PLAIN = [*SMALL, "regularization.dropout=0", "trainer.precision=float32", "trainer.batch_size=16"]


def choices(norm: str) -> list[str]:
    return [*PLAIN, f"norm={norm}", *(["norm.groups=2"] if norm == "group" else [])]


def gradients(settings: Settings, world: World) -> dict[str, torch.Tensor]:
    """Return the gradients of the first batch's loss."""
    setup = prepare(settings, world=world)
    readers = setup.open_readers()
    state = setup.train_state(readers)
    state.model.train()
    training_loss(state, state.forward, next(readers.train.epoch(0)))[0].backward()
    return {name: weight.grad for name, weight in state.model.named_parameters() if weight.grad is not None}


def as_rank(rank: int, port: int, settings: dict[str, Settings], path: str) -> None:
    """In a process of its own: store the gradients for all settings."""
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    world = World(rank, 2)
    world.connect(store, torch.device("cpu"))
    found = {name: gradients(chosen, world) for name, chosen in settings.items()}
    torch.save(found, f"{path}/{rank}.pt")
    world.close()


@pytest.mark.slow
def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    settings = {norm: settings_for(choices(norm)) for norm in NORMS}
    settings["mixup"] = settings_for([*choices("group"), "augment=[flip_crop,mixup]"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    multiprocessing.spawn(as_rank, (port, settings, str(tmp_path)), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, chosen in settings.items():
        expected = gradients(chosen, ALONE)
        for weight, gradient in expected.items():
            assert torch.equal(first[name][weight], second[name][weight])
            bound = NORMS.get(name, TOLERANCE) * gradient.abs().max().item() + 1e-6
            torch.testing.assert_close(first[name][weight], gradient, rtol=0, atol=bound, msg=f"{name} {weight}")


def values(run: Path) -> dict[tuple[int, str], float]:
    return {(r.step, tag): value for r in read_records(run / "metrics.jsonl") for tag, value in r.values.items()}


def files(run: Path) -> list[str]:
    """Return the names of a run's files; one of TensorBoard also has the time and the process in its name."""
    return sorted(file.name.partition(".tfevents")[0] for file in run.iterdir())


@pytest.mark.slow
def test_run_on_two_devices_has_one_folder_and_the_records_of_one(train: Train, tmp_path: Path) -> None:
    arguments = [*choices("group"), "observe=full", "trainer.max_steps=3", "trainer.record_every=1"]
    for devices in (1, 2):
        result = train(*arguments, f"trainer.devices={devices}", f"hydra.run.dir={devices}")
        assert result.returncode == 0, result.stdout + result.stderr
        assert not result.stderr
    one, two = (values(tmp_path / name) for name in "12")
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert math.isclose(two[key], value, rel_tol=1e-4, abs_tol=1e-6), key
    status: dict[str, Any] = dict(read_run(tmp_path / "2").status)
    assert status["devices"] == 2
    assert "eager" in str(status["cuda_graph_reason"])
    assert files(tmp_path / "1") == files(tmp_path / "2")


@pytest.mark.long
def test_divergence_is_found_at_the_same_step_in_the_same_layer(train: Train, tmp_path: Path) -> None:
    arguments = [*choices("none"), "observe=basic", "trainer.max_steps=4", "optimizer.lr=1e12"]
    broken = []
    for devices in (1, 2):
        result = train(*arguments, f"trainer.devices={devices}", f"hydra.run.dir={devices}")
        assert result.returncode == 3, result.stdout + result.stderr
        broken.append([line for line in result.stdout.splitlines() if "broke first" in line or "diverged:" in line])
    assert broken[0] == broken[1] != []
    assert values(tmp_path / "1").keys() == values(tmp_path / "2").keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trainer.batch_size=9"],
            "trainer.devices=2: every device gets as many images, and 9 cannot be divided so. Use trainer.batch_size=8 or",
        ),
        (["trainer.device=cpu:0"], "trainer.device=cpu:0 names one device"),
        (["trainer.compile=true"], "trainer.compile=true works on one device only"),
        (["trainer.max_steps=0"], "a run without a train step is one of one device"),
    ],
)
def test_what_several_devices_cannot_do_is_refused(train: Train, arguments: list[str], message: str) -> None:
    result = train(*SMALL, "trainer.devices=2", *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
