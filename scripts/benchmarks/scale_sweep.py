"""Rows of `--scale`: planning a sweep, its controller, its runs, an image folder that its arms share, the end of a run.

Libraries are imported when a row is measured: each has a process of its own, and its memory should not hold those of others.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from train import cli

from .scale_work import Work

HALF = 2
"""An input of n things that belong to two groups has half of n in each."""


def plan(overrides: list[str]) -> Callable[[], object]:
    """Return the call that plans a sweep with these overrides."""
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from train.sweep.axes import read_request
    from train.sweep.plan import make_plan
    from train.sweep.settings import parse_sweep

    loader = config_loader()
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    settings, _ = parse_sweep({key: OmegaConf.to_container(master[key], resolve=True) for key in ("sweep", "report")})
    return partial(make_plan, read_request(None, overrides, loader), settings, loader, master)


def config_loader() -> Any:
    """Return Hydra's loader of this program's configurations. Hydra stays initialised."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    cli.register_resolvers()
    if not GlobalHydra.instance().is_initialized():
        initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir()))
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.config_loader


def values(count: int, start: int = 1) -> str:
    return ",".join(str(start + index) for index in range(count))


def plan_arms(size: int, folder: Path) -> Callable[[], object]:  # noqa: ARG001
    rates = ",".join(f"{index / 1000:g}" for index in range(1, size // HALF + 1))
    return plan(["norm=none,batch", f"optimizer.lr={rates}"])


def plan_seeds(size: int, folder: Path) -> Callable[[], object]:  # noqa: ARG001
    return plan([f"seed=range({size})"])


def plan_dropped(size: int, folder: Path) -> Callable[[], object]:  # noqa: ARG001
    return plan(["norm=group,none", f"norm.groups={values(size // HALF)}"])


TINY = (
    *("data=noise", "data.shape=[1,16,16]", "data.train_size=48", "data.test_size=16", "data.val_fraction=0.25"),
    *("model.width=8", "trainer.batch_size=8", "trainer.epochs=1", "trainer.max_steps=2"),
)
"""A run that does next to nothing besides what every run does."""


def command(size: int, folder: Path) -> Callable[[], object]:
    """Return the call of a whole sweep, from the command to its report."""
    train = str(Path(sys.executable).with_name("train"))
    line = [train, "-m", *TINY, "hydra.launcher.jobs_per_device=1", f"seed=range({size})", f"hydra.sweep.dir={folder / 'sweep'}"]
    source = str(Path(cli.__file__).resolve().parents[1])
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return partial(subprocess.run, line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)


def controller(size: int, folder: Path) -> Callable[[], object]:
    """Return the call that runs the jobs of a sweep, here, without what comes before and after."""
    from hydra.types import RunMode

    from train.sweep.devices import parse_pool_settings
    from train.sweep.pool import LaunchRequest, launch

    loader = config_loader()
    master = loader.load_configuration("config", [f"hydra.sweep.dir={folder}"], RunMode.MULTIRUN)
    request = LaunchRequest(loader, master, "train.cli:task", parse_pool_settings("cpu", 1, 1, None, 0, False))
    jobs = [[*TINY, f"seed={seed}", f"hydra.sweep.subdir={seed}"] for seed in range(size)]
    return partial(_quietly, partial(launch, request, jobs, 0))


def _quietly(call: Callable[[], object]) -> object:
    output, sys.stdout = sys.stdout, open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    try:
        return call()
    finally:
        sys.stdout.close()
        sys.stdout = output


def image_folder(size: int, folder: Path) -> Callable[[], object]:
    """Return the check of one arm on a folder of that many images, whose hashes are known."""
    return _checks(1, size, folder)


def image_folder_arms(size: int, folder: Path) -> Callable[[], object]:
    """Return the check of that many arms on one folder of images, whose hashes are known."""
    return _checks(size, FILES, folder)


FILES = 10_000


def _checks(arms: int, files: int, folder: Path) -> Callable[[], object]:
    from hydra.types import RunMode

    from train.data.file_hashes import SETTLED_S
    from train.run.dry_run import check_configs
    from train.sweep.composer import experiment_content

    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    root = folder / "images"
    write_images(root, files)
    loader = config_loader()
    lines = ["data=image_folder", f"data.root={root}", "data.size=16", "data.short_side=16", "model.width=8"]
    config = experiment_content(loader.load_configuration("config", lines, RunMode.RUN))
    configs = [{**config, "optimizer": {**config["optimizer"], "lr": 0.001 * (1 + arm)}} for arm in range(arms)]
    time.sleep(SETTLED_S)  # hashes of files that are newer are not kept
    problem = check_configs((configs[:1], (), False, []))[0].problem
    assert problem is None, problem
    return partial(check_configs, (configs, (), False, []))


def write_images(root: Path, count: int) -> None:
    """Write that many tiny PNG files of two classes and two splits; all are links to one, as only their number matters."""
    from PIL import Image

    root.mkdir()
    Image.new("RGB", (16, 16)).save(root / "image.png")
    for split, share in (("train", 0.9), ("val", 0.1)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for index in range(int(count * share) // HALF):
                shutil.copyfile(root / "image.png", root / split / name / f"{index:07}.png")


def bad_end(size: int, folder: Path) -> Callable[[], object]:
    """Return the explanation and the heat maps of a run that diverged after so many records of its layers."""
    from hydra.types import RunMode

    from train.config import ThresholdSettings
    from train.explain.diagnosis import Switches
    from train.explain.sink import ExplanationSink, NetworkInfo
    from train.sinks.broadcast import BroadcastSink
    from train.sinks.contracts import Summary
    from train.sinks.figures import deferred
    from train.sinks.heatmap import HeatMapSink

    loader = config_loader()
    thresholds = ThresholdSettings(**loader.load_configuration("config", [], RunMode.RUN).observe.thresholds)
    network = NetworkInfo((), (), 10, Switches("kaiming", "none", "relu", 0.1, None, None))
    nowhere = BroadcastSink([])
    sinks = BroadcastSink([ExplanationSink(nowhere, folder, "", network, thresholds), HeatMapSink(nowhere)])

    def end() -> None:
        with deferred():
            for record in records(size):
                sinks.record(record)
            sinks.finish(Summary("diverged", "", folder, size, 1.0, 1, 1))

    return end


STATISTICS = ("activation_std", "activation_dead", "gradient_std", "weight_std", "update_ratio")
LAYERS = 20


def records(count: int) -> Iterator[Any]:
    """Yield the records of a run whose last loss is not finite."""
    from train.store.metrics import Record

    for step in range(count):
        last = math.nan if step == count - 1 else 1.0
        observed = {f"{name}/layer{layer}": 0.1 + step % 7 / 100 for name in STATISTICS for layer in range(LAYERS)}
        yield Record(step, 0.0, 0.0, {"loss/train": last, **observed, "activation_std/layer3": last})


WORKS = (
    Work("plan: arms", "arms", 100, plan_arms),
    Work("plan: seeds", "seeds", 1000, plan_seeds),
    Work("plan: dropped", "combinations", 100, plan_dropped, keeps_nothing=True),
    Work("check: image folder", "files", 20_000, image_folder),
    Work("check: arms on an image folder", "arms", 20, image_folder_arms),
    Work("controller", "runs", 20, controller, keeps_nothing=True),
    Work("sweep", "runs", 20, command, processes=True),
    Work("end of a diverged run", "records", 2_000, bad_end, keeps_nothing=True),
)
