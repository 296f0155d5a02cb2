"""The benchmark: that it measures what it says, on sizes that say nothing about speed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from scripts.benchmarks.folder import READERS, missing_decoders
from scripts.benchmarks.host_time import HOST_PARTS, HostClock, TimedReader, TimedRunner, TimedSink
from scripts.benchmarks.lightning_loop import lightning_package
from scripts.benchmarks.report import host_ms
from scripts.benchmarks.sections import Options, check_only, run_section
from scripts.benchmarks.sweep import contestants, pools
from scripts.benchmarks.windows import Procedure, foreign_share, interleave, processors, usage
from tests.sweep.fake_gpu import fake_gpu
from train.cli import ENVIRONMENT
from train.errors import RunError, UsageError
from train.sinks.contracts import Sink

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
TINY = ["model.width=4", "model.stages=2", "trainer.batch_size=8"]
FEW = ["--rounds=2", "--steps=3", "--repeats=0", "--workers=1"]
FILES = ["--images=12", "--image-width=48", "--batch-size=4"]
BUSY = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
linux = pytest.mark.skipif(usage() is None, reason="no /proc/stat on this system")


def benchmark(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::ResourceWarning", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def images_per_s(section: dict, contestant: str) -> list[float]:
    return [w["images"] / w["seconds"] for w in section["windows"] if w["contestant"] == contestant and w["kept"]]


def check_section(section: dict, contestants: list[str], ratios: list[str], images: int) -> None:
    assert list(section["contestants"]) == contestants
    turns = [(w["round"], w["contestant"]) for w in section["windows"]]
    assert turns == [(number, name) for number in range(2) for name in contestants]
    assert all(w["images"] == images and w["seconds"] > 0 and w["kept"] for w in section["windows"])
    assert list(section["ratios"]) == ratios
    for name, figures in section["ratios"].items():
        first, second = (images_per_s(section, contestant) for contestant in name.split("/"))
        expected = [a / b for a, b in zip(first, second, strict=True)]
        wanted = {"median": median(expected), "lowest": min(expected), "highest": max(expected)}
        assert figures == pytest.approx(wanted)


def test_train_loop_splits_the_host_time_of_its_steps(tmp_path):
    section = run_section("loop", options("observe.every=2", only="train"), tmp_path, silent)
    (window,) = section.windows
    assert set(window.parts) == set(HOST_PARTS) - {"device"}
    assert sum(window.parts.values()) <= window.seconds
    assert all(seconds > 0 for part, seconds in window.parts.items() if part != "observation")
    parts = host_ms(section, "train")
    assert list(parts) == list(HOST_PARTS)
    assert sum(parts.values()) == pytest.approx(1000 * window.seconds / 9)


@dataclass
class Script(Sink):
    """A reader and a sink that take their time on a clock of their own."""

    time: float = 0.0
    steps_per_epoch: int = 4
    train_state: Any = field(default_factory=lambda: SimpleNamespace(model=None, scored=None, placement=None))
    observer: Any = None

    def train(self, batch: object, lr_factor: float) -> None:  # noqa: ARG002
        self.takes(10.0)

    def takes(self, seconds: float) -> None:
        self.time += seconds

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for step in range(start, self.steps_per_epoch):
            self.takes(1.0)
            yield epoch + step

    def eval_batches(self) -> Iterator[Any]:
        yield from ()

    def progress(self, step: int, epoch: float, values: object) -> None:  # noqa: ARG002
        self.takes(0.25)

    def record(self, record: object) -> None:  # noqa: ARG002
        self.takes(0.25)


def test_host_clock_adds_up_to_the_whole():
    script = Script()
    clock = HostClock(lambda: script.time)
    sink, something = TimedSink(script, clock), cast(Any, None)
    runner = TimedRunner(cast(Any, script), clock)
    for batch in TimedReader(script, clock).epoch(0):
        if batch == 0:  # observed
            script.takes(16.0)
            sink.record(something)
        else:
            runner.train(batch, 1.0)
            script.takes(0.5)
        sink.progress(1, 0.0, {})
    assert clock.parts(script.time) == {"step": 40.0, "reader": 4.0, "observation": 6.0, "records": 1.25, "rest": 1.5}


@pytest.mark.long
def test_benchmark_measures_every_section(tmp_path):
    path = tmp_path / "out.json"
    sections = ["--loop", "--cost-of-observing", "--image-folder"]
    done = benchmark(*sections, *TINY, "trainer.precision=bfloat16", *FEW, *FILES, f"--json={path}")
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert {name: found["environment"][name] for name in ENVIRONMENT} == ENVIRONMENT
    loop, observing, folder = found["sections"]
    lightning = lightning_package() is not None
    ratios = ["train/plain", "train_float32/plain", *["train/lightning"] * lightning, "train/bare"]
    check_section(loop, ["train", "plain", "bare", *["lightning"] * lightning, "train_float32"], ratios, images=24)
    assert ("No lightning: it is not installed" in done.stdout) is not lightning
    names = ["train", "train_full", "train_unobserved"]
    check_section(observing, names, ["train/train_unobserved", "train_full/train_unobserved"], images=24)
    readers = [name for name in READERS if name not in missing_decoders()]
    others = [f"{name}/folder_reader" for name in readers if name != "folder_reader"]
    check_section(folder, [*readers, "torchvision_folder"], ["folder_reader/torchvision_folder", *others], images=12)
    assert folder["core_ratios"].keys() == folder["ratios"].keys()
    if usage() is not None:
        for name, found in folder["images_per_core_s"].items():
            own_s = sum(window["own_s"] for window in folder["windows"] if window["contestant"] == name)
            assert found is None or found == pytest.approx(24 / own_s)
        for name, found in folder["images_per_worker_core_s"].items():
            workers_s = sum(window["workers_s"] for window in folder["windows"] if window["contestant"] == name)
            assert found is None or found == pytest.approx(24 / workers_s)
        assert "img/s a core" in done.stdout
    assert ("No folder_turbojpeg: data.decoder=turbojpeg: this needs" in done.stdout) is ("folder_turbojpeg" not in readers)
    precisions = {name: detail.split(",")[0] for name, detail in loop["contestants"].items()}
    assert precisions.pop("lightning", "").startswith("Lightning" if lightning else "")
    assert precisions == {"train": "bfloat16", "plain": "float32", "bare": "bfloat16", "train_float32": "float32"}
    assert "train / plain" in done.stdout
    assert "No train_eager and no bare_graph: on cpu `train` is eager." in done.stdout
    for window in loop["windows"]:
        split = {"train": set(HOST_PARTS) - {"device"}, "train_float32": set(HOST_PARTS) - {"device"}, "bare": {"step"}}
        assert set(window["parts"]) == split.get(window["contestant"], set())


@pytest.mark.long
def test_benchmark_times_whole_sweeps(tmp_path):
    path = tmp_path / "out.json"
    small = [*TINY, "model.width=8", "observe=off", "--rounds=1", "--steps=2", "--repeats=0"]
    done = benchmark("--sweep", "--only=sweep_mps,sweep_pool", *small, f"--json={path}")
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(path.read_text())["sections"]
    assert list(section["contestants"]) == ["sweep_pool"]
    (window,) = section["windows"]
    assert window["images"] == 12 * 2 * 8  # runs, steps, batch
    assert section["runs_per_hour"]["sweep_pool"]["median"] == pytest.approx(12 * 3600 / window["seconds"])
    assert "trainings per hour" in done.stdout
    assert "No sweep_mps and no sweep_one_per_gpu: on cpu there is no GPU to share." in done.stdout


@pytest.mark.long
def test_benchmark_compares_no_sweep_that_left_runs_out(tmp_path):
    """No norm of eight groups fits a width of four."""
    with pytest.raises(RunError, match="made 8 of the 12 runs"):
        run_section("sweep", options("observe=off", only="sweep_pool"), tmp_path, silent)


def test_sweeps_that_share_a_gpu_need_one(tmp_path, monkeypatch):
    """And NVIDIA's tool, or what is measured as MPS would be none."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    names, absent = pools(gpu)
    assert names == ["sweep_pool", "sweep_one_per_gpu"]
    assert "No sweep_mps: nvidia-cuda-mps-control is neither on PATH" in absent[0]
    monkeypatch.setenv("PATH", fake_gpu(tmp_path / "tools").path)
    assert pools(gpu) == (["sweep_mps", "sweep_pool", "sweep_one_per_gpu"], [])
    made = dict(contestants(["norm=none"], 1, tmp_path / "sweeps", pools(gpu)[0]))
    commands = {name: next(make().commands(2)) for name, make in made.items() if name != "sweep_plain"}
    assert {name: [word for word in command if word.startswith("hydra.launcher")] for name, command in commands.items()} == {
        "sweep_mps": ["hydra.launcher.mps=true"],
        "sweep_pool": ["hydra.launcher.mps=false"],
        "sweep_one_per_gpu": ["hydra.launcher.jobs_per_device=1"],
    }


@pytest.mark.cuda
@pytest.mark.slow
def test_benchmark_of_a_gpu_shows_eager_and_graph(tmp_path):
    path = tmp_path / "out.json"
    done = benchmark("--loop", "--only=train,train_eager,bare,bare_graph", *TINY, *FEW, "--steps=8", f"--json={path}")
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(path.read_text())["sections"]
    ratios = ["train/train_eager", "train/bare", "train_eager/bare", "train/bare_graph", "bare_graph/bare"]
    check_section(section, ["train", "train_eager", "bare", "bare_graph"], ratios, images=64)
    assert section["contestants"]["train"].endswith(", the step a CUDA graph")
    assert section["contestants"]["train_eager"].endswith(", the step eager: trainer.cuda_graph=false")
    assert all(window["parts"]["step"] > 0 for window in section["windows"])


@pytest.mark.long
def test_benchmark_splits_the_time_of_a_run(tmp_path):
    path = tmp_path / "out.json"
    done = benchmark("--fixed-cost", "--only=run_0,run_20", *TINY, "--rounds=1", "--repeats=0", f"--json={path}")
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(path.read_text())["sections"]
    assert list(section["contestants"]) == ["run_0", "run_20"]
    seconds = {name: {part: s["median"] for part, s in parts.items()} for name, parts in section["seconds"].items()}
    assert seconds["run_0"]["steps"] == 0
    for (name, parts), window in zip(seconds.items(), section["windows"], strict=True):
        assert parts["beyond"] == pytest.approx(parts["around"] + parts["inside"])
        whole = sum(parts[part] for part in ("composing", "steps", "beyond", "figures"))
        assert whole == pytest.approx(window["seconds"], abs=0.2)
        assert parts["figures"] > 0
        assert name in done.stdout
    assert seconds["run_20"]["steps"] > 0


@pytest.mark.long
def test_plain_run_trains_and_tests():
    program = SCRIPT.parent / "benchmarks" / "plain_run.py"
    command = [sys.executable, str(program), "--workers=1", *TINY, "trainer.max_steps=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["val", "test"]


def options(*overrides: str, only: str) -> Options:
    sizes = {"rounds": 1, "repeats": 0, "tolerance": 1.0, "workers": 1, "images": 4, "image_width": 48, "batch_size": 4}
    return Options(overrides=[*TINY, *overrides], only=frozenset({only}), steps=9, **sizes)


@pytest.mark.parametrize(
    ("section", "chosen", "error", "expected"),
    [
        ("loop", options("augment=rotate", only="plain"), UsageError, "choose augment=flip_crop"),
        ("loop", options("data=noise", "data.shape=[4,16,16]", only="plain"), UsageError, "choose data=fashion_mini"),
        ("loop", options("trainer.max_steps=5", only="train"), RunError, "ends after 5 steps"),
        ("observing", options("observe=off", only="train"), UsageError, "leave observe=off out"),
    ],
)
def test_benchmark_refuses_incomparable_settings(tmp_path, section, chosen, error, expected):
    with pytest.raises(error, match=expected):
        run_section(section, chosen, tmp_path, silent)


def test_benchmark_suggests_nearest_contestant():
    with pytest.raises(UsageError, match="Did you mean 'plain'"):
        check_only(["train", "plane"])


def silent(text: str) -> None: ...


def spin(seconds: float) -> None:
    """Keep a processor busy, so that the kernel counts ticks even on an idle machine."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@dataclass
class Spinner:
    """Works for 2.5 ms a step, and remembers what it was asked for."""

    name: str
    detail: str = ""
    asked: list[int] = field(default_factory=list)

    def window(self, steps: int) -> Callable[[], None]:
        self.asked.append(steps)
        return partial(spin, steps / 400)

    def close(self) -> None: ...


def procedure(repeats: int, tolerance: float) -> Procedure:
    return Procedure(rounds=2, steps=20, batch_size=5, lead_in=1, repeats=repeats, tolerance=tolerance)


def test_interleave_takes_turns_after_lead_in():
    contestants = [Spinner("a"), Spinner("b")]
    windows = interleave(contestants, procedure(repeats=3, tolerance=1.0), lambda: None, silent)
    assert [(w.round, w.contestant) for w in windows] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert all(w.kept and w.images == 100 and 0.02 <= w.seconds < 1 for w in windows)
    assert contestants[0].asked == [1, 20, 1, 20]


@linux
def test_interleave_repeats_disturbed_windows():
    windows = interleave([Spinner("a")], procedure(repeats=2, tolerance=-1.0), lambda: None, silent)
    assert [(w.round, w.attempt, w.disturbed) for w in windows] == [(r, a, True) for r in range(2) for a in range(3)]
    for _, attempts in groupby(windows, key=lambda window: window.round):
        shares = [(w.foreign or 0.0, w.kept) for w in attempts]
        assert [kept for _, kept in shares].count(True) == 1
        assert min(shares)[0] == next(share for share, kept in shares if kept)


@linux
def test_usage_counts_descendants_only():
    before = usage()
    command = [sys.executable, "-c", f"{BUSY}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alive = usage()
        child.communicate("\n")
    between = usage()
    # The shell ends at once, so that its child becomes a child of the system.
    subprocess.run(["sh", "-c", '"$0" -c "$1" & sleep 0.1', sys.executable, BUSY], check=True)
    time.sleep(1.5)
    after = usage()
    assert before is not None
    assert alive is not None
    assert between is not None
    assert after is not None
    assert alive.own_s - before.own_s >= 0.38
    assert between.own_s >= alive.own_s
    assert after.own_s - between.own_s < 0.2
    share = foreign_share(between, after)
    assert share is not None
    assert share * processors() * (after.at - between.at) >= 0.25
