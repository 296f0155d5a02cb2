"""What a run asks of a Ray cluster, by the resources of its nodes as Ray counts them."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from train.sweep.ray_cluster import Cluster, RaySettings

CPUS = Cluster([{"CPU": 8.0}, {"CPU": 2.0}])
GPUS = Cluster([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}])
AUTO = {"num_cpus": "auto", "num_gpus": "auto"}


@pytest.mark.parametrize(
    ("cluster", "trainer", "job", "remote", "expected", "at_once"),
    [
        (CPUS, {}, [], AUTO, (1, 0), 10),
        (CPUS, {"devices": 2}, [], AUTO, (2, 0), 5),
        (CPUS, {}, ["trainer.devices=4"], AUTO, (4, 0), 2),
        (GPUS, {}, [], AUTO, (1, 1), 2),
        (GPUS, {"devices": 2, "device": "cuda"}, [], AUTO, (1, 2), 1),
        (GPUS, {"device": "cpu"}, [], AUTO, (1, 0), 16),
        (GPUS, {}, ["trainer.device=cpu"], AUTO, (1, 0), 16),
        (GPUS, {}, [], AUTO | {"num_gpus": 0.25}, (1, 0.25), 8),
        (GPUS, {}, [], {"num_cpus": 0.5, "num_gpus": 0.1}, (0.5, 0.1), 16),
    ],
)
def test_run_asks_for_what_it_trains_on(
    cluster: Cluster,
    trainer: dict[str, object],
    job: list[str],
    remote: dict[str, object],
    expected: tuple[float, float],
    at_once: int,
) -> None:
    demand = cluster.demand(RaySettings({}, remote), OmegaConf.create({"trainer": trainer}), job)
    assert (demand["num_cpus"], demand["num_gpus"]) == expected
    assert cluster.at_once(demand) == at_once
    assert not cluster.lacking(demand)


def test_run_that_fits_no_node_is_named() -> None:
    assert GPUS.lacking({"num_cpus": 1, "num_gpus": 4}) == "a run asks for num_gpus=4 and no node has more than 2"
    assert CPUS.lacking({"num_cpus": 10, "num_gpus": 0}) == "a run asks for num_cpus=10 and no node has more than 8"
