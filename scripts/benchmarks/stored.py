"""Sweep folders as real sweeps leave them, written without training: thousands of runs in seconds."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from train.store.files import CONFIG_FILE, DATA_FILE, METRICS_FILE, OVERRIDES_FILE, STATUS_FILE, SUMMARY_FILE
from train.store.identity import arm_id, identity, with_data
from train.store.manifest import Manifest, PlannedArm, PlannedRun, write_manifest
from train.store.metrics import Record, format_record

AXIS = "model.width"
STATISTICS = ("activation_mean", "activation_std", "activation_zero", "gradient_std", "weight_std", "update_ratio")
ROLES = ("init", "order", "augment", "dropout", "split")
STEPS_OF_EPOCH = 70
DATA = "0123456789ab"
"""The id of the data that the runs say they were made with."""
CLASSES = 10
CONTENT = {
    "classes": [f"class {index}" for index in range(CLASSES)],
    "splits": {
        split: {
            "images": images,
            "counts": [images // CLASSES] * CLASSES,
            "contents": [f"{index:064x}" for index in range(CLASSES)],
        }
        for split, images in (("train", 9000), ("val", 1000), ("test", 2000))
    },
}
"""What the runs say about their data."""
CHOICES = {
    "data": "fashion_mini",
    "augment": "flip_crop",
    "init": "kaiming",
    "norm": "batch",
    "regularization": "weight_decay",
    "model": "convnet",
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "observe": "basic",
}


@dataclass(frozen=True)
class Length:
    """How much a stored run recorded.

    `epochs`: each with a record of the validation split; `every`: steps between two of the training loss; `signals`: records of
    every layer; `layers`: how many there are.
    """

    epochs: int = 12
    every: int = 20
    signals: int = 4
    layers: int = 12

    def steps(self, is_diverged: bool) -> int:
        """Return the last step; a run that diverged ends halfway."""
        return STEPS_OF_EPOCH * (max(1, self.epochs // 2) if is_diverged else self.epochs)


def write_sweep(folder: Path, runs: int, arms: int, *, length: Length | None = None, diverged: int = 0) -> Path:
    """Write a sweep of `runs` runs in all, shared equally by `arms` arms that differ in one axis, and return its folder.

    `diverged`: one run of so many ends early, 0 for none. Equal arguments give equal files.
    """
    length, seeds = length or Length(), max(1, runs // arms)
    planned_arms, planned_runs = [], []
    for arm in range(arms):
        config = configuration(arm + 4, length)
        rest = yaml.dump(config, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
        id, levels = with_data(arm_id(config | seeded(0)), DATA), {AXIS: str(arm + 4)}
        planned_arms.append(PlannedArm(id, levels, (f"{AXIS}={arm + 4}",), data=DATA))
        for seed in range(seeds):
            overrides = (f"{AXIS}={arm + 4}", f"seed={seed}")
            run = PlannedRun(
                with_data(identity(config | seeded(seed)), DATA), id, f"{','.join(overrides)}_{arm:04}{seed:05}", overrides
            )
            planned_runs.append(run)
            is_lost = bool(diverged) and seed % diverged == diverged - 1
            write_run(folder / run.folder, run, rest, StoredRun(arm, seed, len(planned_runs), is_lost), length)
    widths = tuple(arm.levels[AXIS] for arm in planned_arms)
    command = ("train", "-m", f"{AXIS}={','.join(widths)}", f"seed=range({seeds})")
    names = tuple(map(str, range(seeds)))
    manifest = Manifest(
        command=command,
        design="grid",
        axes={AXIS: widths},
        seeds={"seed": names},
        baseline=planned_arms[0].id,
        arms=tuple(planned_arms),
        runs=tuple(planned_runs),
        metric="accuracy/test",
    )
    write_manifest(folder, manifest)
    return folder


@dataclass(frozen=True)
class StoredRun:
    """What sets the numbers of a stored run; `number`: its place in the sweep."""

    arm: int
    seed: int
    number: int
    is_diverged: bool

    @property
    def accuracy(self) -> float:
        """The last accuracy: arms differ by up to 20 points, seeds by about one."""
        noise = random.Random(self.arm * 1_000_003 + self.seed).gauss(0, 0.01)
        return round(min(0.99, 0.7 + 0.2 * (self.arm % 10) / 10 + noise), 4)


def configuration(width: int, length: Length) -> dict[str, Any]:
    """Return the resolved configuration of a run of that width and length, without its seeds."""
    return {
        "data": {
            "root": None,
            "preprocess": "standardize",
            "val_fraction": 0.1,
            "workers": 2,
            "verify": False,
            "_target_": "train.data.fashion_mini.fashion_mini",
        },
        "observe": {
            "thresholds": {
                "fade": 0.2,
                "explode": 5.0,
                "gradient_fade": 0.01,
                "gradient_explode": 100.0,
                "dead": 0.5,
                "saturated": 0.3,
            },
            "level": "basic",
            "every": 50,
            "every_step": False,
            "histogram_every": 0,
            "probe_size": 32,
            "layers": "*",
        },
        "augment": {
            "crop": {"_target_": "train.parts.augment.crop", "padding": None},
            "flip": {"_target_": "train.parts.augment.flip", "p": 0.5},
        },
        "trainer": {
            "epochs": length.epochs,
            "max_steps": None,
            "batch_size": 128,
            "device": "auto",
            "precision": "auto",
            "memory_format": "auto",
            "compile": False,
            "cuda_graph": "auto",
            "grad_clip": None,
            "deterministic": True,
            "record_every": length.every,
            "evaluate_every": 1,
            "score_test": True,
        },
        "init": {"_target_": "train.parts.init.kaiming", "mode": "fan_in", "distribution": "normal"},
        "norm": {"_target_": "train.parts.norm.batch", "eps": 1e-05, "momentum": 0.1},
        "regularization": {
            "_target_": "train.parts.regularization.regularization",
            "weight_decay": 0.0005,
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "decay_bias_and_norm": False,
        },
        "model": {"_target_": "train.parts.model.convnet", "activation": "relu", "stages": 3, "convs": 2, "width": width},
        "optimizer": {"_target_": "train.parts.optimizer.sgd", "lr": 0.2, "momentum": 0.9, "nesterov": True},
        "schedule": {"_target_": "train.parts.schedule.one_cycle", "warmup": 0.3, "start": 0.04, "end": 0.0},
    }


def seeded(seed: int) -> dict[str, Any]:
    return {"seed": seed, "seeds": dict.fromkeys(ROLES, seed)}


def write_run(folder: Path, planned: PlannedRun, config: str, run: StoredRun, length: Length) -> None:
    """Write the folder of one run. `config`: its configuration as YAML, without the seeds."""
    folder.mkdir(parents=True)
    state = "diverged" if run.is_diverged else "done"
    roles = "".join(f"  {role}: {run.seed}\n" for role in ROLES)
    (folder / CONFIG_FILE).write_text(f"seed: {run.seed}\nseeds:\n{roles}{config}")
    (folder / OVERRIDES_FILE).write_text("".join(f"- {override}\n" for override in planned.overrides))
    (folder / STATUS_FILE).write_text(json.dumps(status(planned, run, state, length), indent=2))
    (folder / DATA_FILE).write_text(json.dumps(CONTENT))
    (folder / METRICS_FILE).write_bytes(b"".join(map(format_record, records(run, length))))
    (folder / SUMMARY_FILE).write_text(json.dumps(summary(run, state, length), indent=2))


def status(planned: PlannedRun, run: StoredRun, state: str, length: Length) -> dict[str, Any]:
    minutes, seconds = divmod(run.number, 60)
    return {
        "started": f"2026-01-31T{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}+0000",
        "status": state,
        "pid": 3000 + run.number,
        "host": "elsewhere",
        "identity": planned.identity,
        "identity_version": 3,
        "arm": planned.arm,
        "data": DATA,
        "choices": CHOICES,
        "versions": {"train": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "hydra-core": "1.3.8", "numpy": "2.4.6"},
        "code": "1de4736ba15e",
        "own_code": {},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "device": "cpu, 1 threads",
        "precision": "float32",
        "memory_format": "channels_last",
        "total_steps": length.steps(is_diverged=False),
        "reason": "the training loss was not finite" if run.is_diverged else "",
        "exit_code": 3 if run.is_diverged else 0,
        "wall_s": 12.5,
        "peak_memory_bytes": 500_000_000,
    }


def summary(run: StoredRun, state: str, length: Length) -> dict[str, Any]:
    scores = {"val_accuracy": run.accuracy, "test_accuracy": run.accuracy, "train_loss": 1 - run.accuracy}
    layers = [f"stage{n // 4}.conv{n}" for n in range(length.layers)]
    inits = {name: {"std": 0.17 + run.seed / 1e5, "requested_std": 0.167, "fan_in": 36, "count": 144} for name in layers}
    return {
        "status": state,
        "reason": "",
        "steps": length.steps(run.is_diverged),
        "time_s": 12.0 + run.accuracy,
        "parameters": 162_562,
        "flops_per_image": 32_854_656,
        **(dict.fromkeys(scores) if run.is_diverged else scores),
        "val_examples": 1000,
        "test_examples": 2000,
        "images_per_s": 900.0 + run.seed % 10,
        "peak_memory_bytes": 500_000_000,
        "initial_verdict": {"kind": "healthy", "sentence": "healthy: std falls by x0.98 per layer", "statistic": "", "layer": ""},
        "fingerprint": {"first_batch": {"sha256": f"{run.seed:064x}"}, "init": {"chosen": "kaiming", "layers": inits}},
        "contradictions": [],
    }


def records(run: StoredRun, length: Length) -> Iterator[Record]:
    """Yield the records of a run: layers, training loss and validation split, and the test split at the end."""
    noise = random.Random(run.number)
    total, last = length.steps(is_diverged=False), length.steps(run.is_diverged)
    observed = (n * total // length.signals for n in range(length.signals))
    points: list[tuple[int, dict[str, float]]] = [(step, layer_values(length.layers, noise)) for step in observed if step <= last]
    steps = range(length.every, last + 1, length.every)
    for step in steps:
        loss = math.nan if run.is_diverged and step == steps[-1] else loss_at(step / total, run, noise)
        points.append((step, {"loss/train": loss, "accuracy/train": max(0.1, 1 - loss / 2.5), "lr": 0.1}))
    for step in range(STEPS_OF_EPOCH, last + 1, STEPS_OF_EPOCH):
        loss = loss_at(step / total, run, noise)
        points.append((step, {"loss/val": loss, "accuracy/val": max(0.1, run.accuracy - loss / 5)}))
    if not run.is_diverged:
        points.append((total, {"loss/test": 1.2 - run.accuracy, "accuracy/test": run.accuracy}))
    for step, values in sorted(points, key=lambda point: point[0]):
        yield Record(step, step / STEPS_OF_EPOCH, step / 70, values)


def loss_at(share: float, run: StoredRun, noise: random.Random) -> float:
    return 2.3 * math.exp(-3 * share * run.accuracy) + 0.05 * noise.random()


def layer_values(layers: int, noise: random.Random) -> dict[str, float]:
    names: Sequence[str] = [f"stage{n // 4}.conv{n}" for n in range(layers)]
    return {f"{kind}/{name}": 2.0 ** (-n * noise.random() / 4) for kind in STATISTICS for n, name in enumerate(names)}
