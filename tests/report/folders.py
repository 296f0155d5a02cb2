"""Write run folders like those of real trainings, in milliseconds."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.harness import compose_config
from train.store.identity import arm_id, experiment_of, identity
from train.store.manifest import Design, Dropped, Manifest, PlannedArm, PlannedRun, write_manifest
from train.store.metrics import encode_float

GROUPS = ("data", "augment", "init", "norm", "regularization", "model", "optimizer", "schedule", "observe")
DEFAULTS = {"data": "fashion_mini", "augment": "flip_crop", "init": "kaiming", "norm": "batch", "regularization": "weight_decay"}
DEFAULTS |= {"model": "convnet", "optimizer": "sgd", "schedule": "one_cycle", "observe": "basic"}
STATISTICS = ("activation_mean", "activation_std", "activation_zero", "gradient_std", "weight_std", "update_ratio")
START_TIME_S = 1_750_000_000


def without_seed(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith("seed=")]


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return experiment_of(compose_config(overrides))


def config_for(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that the command would resolve. The seed is set by hand, because composing is slow."""
    config = deepcopy(_composed(tuple(without_seed(overrides))))
    seed = next((int(override.partition("=")[2]) for override in overrides if override.startswith("seed=")), 0)
    return config | {"seed": seed, "seeds": dict.fromkeys(config["seeds"], seed)}


def write_run(
    folder: Path,
    overrides: Sequence[str] = (),
    accuracy: float | None = 0.8,
    state: str = "done",
    *,
    reason: str = "",
    records: int = 6,
    layers: int = 4,
    started: int = 0,
    choices: Mapping[str, str] | None = None,
    status: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run folder in `state`, with `accuracy` on the test split if done. `status` and `summary` replace entries."""
    folder.mkdir(parents=True)
    config = config_for(overrides)
    levels = dict(override.split("=", 1) for override in overrides if "=" in override)
    options = DEFAULTS | {group: levels[group] for group in GROUPS if group in levels} | dict(choices or {})
    resources = {"device": "cpu, 1 threads", "precision": "float32", "wall_s": 12.5, "peak_memory_bytes": 500_000_000}
    content = {
        "status": state,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(START_TIME_S + started)),
        "pid": 1,
        "host": "elsewhere",
        "identity": identity(config),
        "arm": arm_id(config),
        "choices": options,
        "versions": {"train": "0.1.0", "python": "3.11.7", "torch": "2.14.1"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "reason": reason,
    }
    (folder / "status.json").write_text(json.dumps(content | resources | dict(status or {})))
    dump = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    (folder / "config.yaml").write_text(yaml.dump(config, Dumper=dump, sort_keys=False))
    (folder / "overrides.yaml").write_text(yaml.dump(list(overrides), Dumper=dump))
    write_records(folder / "metrics.jsonl", accuracy, records, layers, str(folder), state)
    if state in ("done", "diverged"):
        steps = {"steps": 10 * max(records - 1, 0)}
        write_summary(folder, accuracy if state == "done" else None, state, steps | dict(summary or {}))
    return folder


def write_summary(folder: Path, accuracy: float | None, state: str, extra: Mapping[str, Any] | None) -> None:
    content = {
        "status": state,
        "reason": "",
        "time_s": 12.0 + (accuracy or 0),
        "parameters": 162_562,
        "flops_per_image": 32_854_656,
        "val_accuracy": accuracy,
        "val_examples": 1000 if accuracy is not None else 0,
        "test_accuracy": accuracy,
        "test_examples": 2000 if accuracy is not None else 0,
        "train_loss": None if accuracy is None else 1 - accuracy,
        "val_loss": None if accuracy is None else 1.1 - accuracy,
        "test_loss": None if accuracy is None else 1.2 - accuracy,
        "images_per_s": 900.0,
        "peak_memory_bytes": 500_000_000,
    }
    (folder / "summary.json").write_text(json.dumps(content | dict(extra or {})))


def write_records(path: Path, accuracy: float | None, records: int, layers: int, name: str, state: str) -> None:
    """Write `records` of each kind: layer statistics, training loss and validation split; then the test split, if reached."""
    generator = random.Random(name)
    final = accuracy if accuracy is not None else 0.1
    step = 0
    with path.open("w") as file:
        for i in range(records):
            step, share = 10 * i, i / max(records - 1, 1)
            values = {
                f"{kind}/stage{n // 4}.conv{n}": 2.0 ** (-n * generator.random() / 4)
                for kind in STATISTICS
                for n in range(layers)
            }
            _line(file, step, values)
            is_last_of_diverged = state == "diverged" and i == records - 1
            loss = math.nan if is_last_of_diverged else 2.3 - 2.3 * final * share + 0.05 * generator.random()
            _line(file, step, {"loss/train": loss, "accuracy/train": final * share, "lr": 0.1})
            _line(file, step, {"loss/val": loss, "accuracy/val": final * share + 0.01 * generator.random()})
        if state in ("done", "failed") and accuracy is not None:
            _line(file, step, {"loss/test": 1.2 - accuracy, "accuracy/test": accuracy})


def _line(file: Any, step: int, values: Mapping[str, float]) -> None:
    row = {"step": step, "epoch": step / 100, "time_s": step / 50, "values": {tag: encode_float(v) for tag, v in values.items()}}
    file.write(json.dumps(row, separators=(",", ":")) + "\n")


def write_sweep(
    folder: Path,
    arms: Mapping[tuple[str, ...], Sequence[float]],
    *,
    design: Design = "grid",
    without: int = 0,
    dropped: Sequence[Dropped] = (),
    **run: Any,
) -> Path:
    """Write a sweep with its manifest.

    `arms`: overrides of an arm, the baseline first -> the accuracy of each seed; `without`: how many planned runs of the last arm
    are missing.
    """
    axes: dict[str, list[str]] = {}
    planned_arms, planned_runs = [], []
    for arm in arms:
        for key, _, level in (override.partition("=") for override in arm):
            axes.setdefault(key, []).extend([level] if level not in axes.get(key, []) else [])
    last = list(arms)[-1]
    for arm, accuracies in arms.items():
        for seed, accuracy in enumerate(accuracies):
            overrides = [*arm, f"seed={seed}"]
            name = f"{','.join(overrides)}_{identity(config_for(overrides))[:8]}"
            planned_runs.append(
                PlannedRun(identity(config_for(overrides)), arm_id(config_for(overrides)), name, tuple(overrides))
            )
            if arm != last or seed < len(accuracies) - without:
                write_run(folder / name, overrides, accuracy, started=len(planned_runs), **run)
        levels = dict(override.split("=", 1) for override in arm)
        planned_arms.append(PlannedArm(arm_id(config_for(arm)), levels, arm))
    manifest = Manifest(
        command=("train", "-m", *(f"{key}={','.join(levels)}" for key, levels in axes.items()), "seed=range(3)"),
        design=design,
        axes={key: tuple(levels) for key, levels in axes.items()},
        seeds={"seed": tuple(str(seed) for seed in range(max(map(len, arms.values()))))},
        baseline=planned_arms[0].id,
        arms=tuple(planned_arms),
        runs=tuple(planned_runs),
        dropped=tuple(dropped),
        metric="accuracy/test",
    )
    folder.mkdir(exist_ok=True)
    write_manifest(folder, manifest)
    return folder
