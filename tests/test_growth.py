"""What takes twice the work takes at most twice the time, and some more; what ends leaves nothing behind."""

from __future__ import annotations

import gc
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from scripts.benchmarks.scale import WORKS, is_settled
from scripts.benchmarks.scale_sweep import bad_end, write_images
from scripts.benchmarks.scale_work import Cost, Work, cost_of
from tests.sweep.conftest import loader  # noqa: F401
from train.run.dry_run import check_configs
from train.sweep.axes import read_request
from train.sweep.composer import experiment_content
from train.sweep.devices import allocate, parse_pool_settings
from train.sweep.display import LineDisplay
from train.sweep.failures import Failure, unusable_combination
from train.sweep.fork_server import ForkServer
from train.sweep.jobs import Job
from train.sweep.plan import make_plan
from train.sweep.pool import LaunchRequest, Pool
from train.sweep.progress import JobRow
from train.sweep.settings import parse_sweep

AT_MOST = 2.3
"""How many times the CPU time twice the work may take."""
NOISE_S = 0.02
MOST_PAIRS = 10
"""How often both are measured before the growth counts as real."""
MEMORY = 1.1
"""How many times the memory twice the work may take where nothing is to be kept."""


def cpu_s(call: Callable[[], object], times: int = 3) -> float:
    """Return the lowest CPU time of some calls."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)


def test_planning_composes_once_per_choice_of_files(loader: Any) -> None:  # noqa: F811
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    settings, _ = parse_sweep(compose_settings(master))

    def plan(arms: int) -> object:
        rates = ",".join(str(rate) for rate in range(1, arms + 1))
        return make_plan(read_request(None, [f"optimizer.lr={rates}"], loader), settings, loader, master)

    composing = cpu_s(lambda: loader.load_sweep_config(master, ["optimizer.lr=1"]), times=2)
    assert cpu_s(lambda: plan(30), times=1) < 15 * composing


def compose_settings(master: DictConfig) -> dict[str, Any]:
    return {key: OmegaConf.to_container(master[key], resolve=True) for key in ("sweep", "report")}


def test_search_for_an_unusable_level_is_linear() -> None:
    def search(count: int) -> Callable[[], object]:
        requested = [{"norm": str(index % 2), "lr": str(index // 2)} for index in range(count)]
        failures = [Failure(levels, "", ("norm", "lr")) for levels in requested[1::4]]
        return lambda: unusable_combination(requested, failures)

    assert search(8)() is None
    assert cpu_s(search(20_000)) < AT_MOST * cpu_s(search(10_000)) + NOISE_S


def test_diagnosis_of_a_long_run_is_linear(tmp_path: Path) -> None:
    once, twice = (cpu_s(lambda count=count: bad_end(count, tmp_path)(), times=2) for count in (500, 1000))
    assert twice < AT_MOST * once + NOISE_S


def end_at_once(config: DictConfig) -> float:  # noqa: ARG001
    """The task of a job that leaves the files of a run and does nothing else."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "status.json").write_text(json.dumps({"status": "done", "pid": os.getpid(), "total_steps": 2}))
    (folder / "metrics.jsonl").write_text('{"step":2,"epoch":1.0,"time_s":0.5,"values":{"accuracy/test":0.5}}\n')
    return 0.5


class MemoryAtEachEnd(LineDisplay):
    """A display that notes how much memory Python's objects take as each job has ended."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.sizes: list[int] = []

    def job_ended(self, row: JobRow, now: float) -> None:  # noqa: ARG002
        assert row.state == "done", row.reason
        gc.collect()
        self.sizes.append(tracemalloc.get_traced_memory()[0])


@pytest.mark.long
def test_controller_keeps_next_to_nothing_of_a_run_that_has_ended(loader: Any, tmp_path: Path) -> None:  # noqa: F811
    """About a thousand bytes: label, folder and score, for the display and for Hydra. A composed configuration has 300,000."""
    count, settled = 24, 8
    master = loader.load_configuration("config", [f"hydra.sweep.dir={tmp_path}"], RunMode.MULTIRUN)
    settings = parse_pool_settings("cpu", 1, 1, None, 0, mps=False)
    request = LaunchRequest(loader, master, f"{__name__}:{end_at_once.__name__}", settings)
    jobs = [Job(n, [f"seed={n}", f"hydra.sweep.subdir={n}"], JobRow(n + 1, str(n))) for n in range(count)]
    display = MemoryAtEachEnd()
    with ForkServer(1) as fork_server:
        pool = Pool(request, jobs, allocate(settings, count, "cpu"), fork_server, display)
        tracemalloc.start()
        try:
            pool.run()
        finally:
            tracemalloc.stop()
    assert len(display.sizes) == count
    assert display.sizes[-1] - display.sizes[settled] < 3000 * (count - settled)


def test_arms_of_a_check_list_an_image_folder_once(
    loader: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, listed, scandir = tmp_path / "images", list[str](), os.scandir
    write_images(images, 40)
    lines = ["data=image_folder", f"data.root={images}", "data.size=16", "data.short_side=16", "trainer.batch_size=8"]
    config = experiment_content(loader.load_configuration("config", lines, RunMode.RUN))
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    assert [check.problem for check in check_configs(([config] * 3, (), False, []))] == [None] * 3
    folders = [path for path in listed if path.endswith(("/a", "/b"))]
    assert len(folders) == len(set(folders)) == 4
    (images / "val" / "b" / "new.png").write_bytes((images / "image.png").read_bytes())
    before, after = (check_configs(([config], (), False, []))[0].inputs for _ in range(2))
    assert before == after
    (images / "val" / "b" / "new.png").unlink()
    assert check_configs(([config], (), False, []))[0].inputs != before, "files are listed anew by the next check"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([], False), ([1.0], False), ([1.0, 1.2], False), ([1.3, 1.0, 1.04], True), ([1.0, 2.0, 1.5], False), ([0.001, 0.01], True)],
)
def test_measurement_is_repeated_until_two_agree(seconds: list[float], expected: bool) -> None:
    assert is_settled([Cost(value, 0.0) for value in seconds]) == expected


@pytest.mark.long
@pytest.mark.parametrize("work", [work for work in WORKS if not work.processes], ids=lambda work: work.name)
def test_twice_the_work_takes_at_most_twice_the_time(work: Work) -> None:
    """At a quarter of the sizes of the benchmark, which also has whole sweeps. Neighbours on the machine only ever add CPU time,
    so the lowest of some measurements tells, and more are made where two do not settle it."""
    size = work.size // 4
    pairs: list[tuple[Cost, Cost]] = []
    once, twice = 0.0, 1.0
    while len(pairs) < 2 or (twice >= AT_MOST * once + NOISE_S and len(pairs) < MOST_PAIRS):
        pairs.append((cost_of(work, size), cost_of(work, 2 * size)))
        once, twice = (min(cost.cpu_s for cost in costs) for costs in zip(*pairs, strict=True))
    assert twice < AT_MOST * once + NOISE_S
    if work.keeps_nothing:
        smaller, larger = (min(cost.peak_mb for cost in costs) for costs in zip(*pairs, strict=True))
        assert larger < MEMORY * smaller
