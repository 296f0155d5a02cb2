"""The output of the benchmark: medians with their spread, as tables and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median, median_low
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.cli import ENVIRONMENT
from train.run.device import fast_bfloat16_unit
from train.store.code import git_state, versions

from .fixed_cost import PARTS
from .host_time import HOST_PARTS
from .sections import Section
from .sweep import RUNS
from .windows import GRANULARITY_S, Window, processors

SETTINGS = (*ENVIRONMENT, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES")
Spread = tuple[float, float, float]
"""Median, lowest, highest."""


def spread(values: Sequence[float]) -> Spread:
    return median(values), min(values), max(values)


def kept(section: Section, contestant: str) -> list[Window]:
    """Return the windows that count, one per round, in order."""
    return [window for window in section.windows if window.kept and window.contestant == contestant]


def speed(section: Section, contestant: str) -> Spread:
    """Return the speed of a contestant in images per second."""
    return spread([window.images_per_s for window in kept(section, contestant)])


def ratio(section: Section, first: str, second: str) -> Spread:
    """Return the speed of the first over the speed of the second, round by round."""
    pairs = zip(kept(section, first), kept(section, second), strict=True)
    return spread([above.images_per_s / below.images_per_s for above, below in pairs])


def core_speed(section: Section, contestant: str) -> float | None:
    """Return the images of all windows per second of processor time; None where that is unknown."""
    windows = kept(section, contestant)
    times = [window.own_s for window in windows if window.own_s]
    return sum(window.images for window in windows) / sum(times) if len(times) == len(windows) else None


def worker_speed(section: Section, contestant: str) -> float | None:
    """Return the images of all windows per second of the workers' processor time; None where that is unknown or too little."""
    windows = kept(section, contestant)
    times = [window.workers_s or 0.0 for window in windows]
    return sum(window.images for window in windows) / sum(times) if min(times) > GRANULARITY_S else None


def core_ratio(section: Section, first: str, second: str) -> float | None:
    """Return the ratio of two contestants' `core_speed`."""
    above, below = core_speed(section, first), core_speed(section, second)
    return above / below if above and below else None


def part_spread(section: Section, contestant: str, part: str) -> Spread:
    """Return the seconds of one part of a contestant's windows."""
    return spread([window.parts[part] for window in kept(section, contestant)])


def runs_per_hour(section: Section, contestant: str) -> Spread:
    """Return how many runs a contestant of `--sweep` makes in an hour of wall clock, all that they take included."""
    return spread([RUNS * 3600 / window.seconds for window in kept(section, contestant)])


def host_ms(section: Section, contestant: str) -> dict[str, float]:
    """Return HOST_PARTS in ms per step, of the window of median length. They add up to its time. Absent: not measured."""
    windows = kept(section, contestant)
    middle = median_low(window.seconds for window in windows)
    window = next(window for window in windows if window.seconds == middle)
    device = {"device": window.seconds - sum(window.parts.values())}
    return {part: 1000 * seconds / section.procedure.steps for part, seconds in (dict(window.parts) | device).items()}


def split(section: Section) -> list[str]:
    """Return the contestants that say how their time is split."""
    return [name for name in section.contestants if all(window.parts for window in kept(section, name))]


def disturbance(section: Section) -> str:
    """Return a sentence on how far other processes disturbed the windows."""
    counting = [window for window in section.windows if window.kept]
    unseen = sum(window.foreign is None for window in section.windows)
    if unseen:
        return f"Not known for {unseen} of {len(section.windows)} windows: whether other processes disturbed them."
    limit = f"other processes used more than {section.procedure.tolerance:.1%} of the processors' time"
    bad = sum(window.disturbed for window in counting)
    again = len(section.windows) - len(counting)
    taken = f" {again} windows in which {limit} were discarded and repeated." if again else ""
    if not bad:
        return f"No window that counts was disturbed.{taken}"
    return (
        f"DISTURBED: in {bad} of the {len(counting)} windows that count, {limit}, "
        f"even after {section.procedure.repeats} repeats each; the least disturbed attempt counts. "
        f"Do not quote these numbers.{taken}"
    )


def hardware() -> dict[str, Any]:
    """Return the hardware of this machine."""
    cuda = torch.cuda.is_available()
    return {
        "processor": processor_name(),
        "processors": processors(),
        "threads": torch.get_num_threads(),
        "fast_bfloat16": fast_bfloat16_unit(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "system": platform.platform(),
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def as_json(sections: Sequence[Section], overrides: Sequence[str]) -> dict[str, Any]:
    """Return all measurements as plain values: speeds in images per second, `foreign` as a fraction."""
    return {
        "hardware": hardware(),
        "versions": versions(),
        "git": git_state(Path(__file__).resolve().parents[2]),
        "environment": {name: os.environ.get(name) for name in SETTINGS},
        "overrides": list(overrides),
        "sections": [section_json(section) for section in sections],
    }


def section_json(section: Section) -> dict[str, Any]:
    names = ("median", "lowest", "highest")
    return {
        "name": section.name,
        "procedure": asdict(section.procedure),
        "contestants": dict(section.contestants),
        "images_per_s": {name: dict(zip(names, speed(section, name), strict=True)) for name in section.contestants},
        "ratios": {f"{a}/{b}": dict(zip(names, ratio(section, a, b), strict=True)) for a, b in section.ratios},
        "images_per_core_s": {name: core_speed(section, name) for name in section.contestants},
        "images_per_worker_core_s": {name: worker_speed(section, name) for name in section.contestants},
        "core_ratios": {f"{a}/{b}": core_ratio(section, a, b) for a, b in section.ratios},
        "disturbance": disturbance(section),
        "notes": list(section.notes),
        "runs_per_hour": {
            name: dict(zip(names, runs_per_hour(section, name), strict=True))
            for name in section.contestants
            if section.name == "sweep"
        },
        "seconds": {
            name: {part: dict(zip(names, part_spread(section, name, part), strict=True)) for part in kept(section, name)[0].parts}
            for name in split(section)
        },
        "windows": [asdict(window) for window in section.windows],
    }


def show(console: Console, section: Section) -> None:
    """Print speeds, ratios and notes."""
    for table in TABLES.get(section.name, (table_of_speeds,)):
        console.print(table(section))
    for first, second in section.ratios:
        middle, low, high = ratio(section, first, second)
        by_core = core_ratio(section, first, second) if section.name == "folder" else None
        core = f", {by_core:.3f} by processor time" if by_core else ""
        console.print(Text.assemble(f"{first} / {second}: ", (f"{middle:.3f}", "bold"), f"  ({low:.3f} .. {high:.3f}){core}"))
    for note in (disturbance(section), *section.notes):
        console.print(Text(f"- {note}"))
    console.print()


def table_of_speeds(section: Section) -> Table:
    table = new_table(section.title, "img/s", "lowest .. highest", "ms per step")
    for name, detail in section.contestants.items():
        middle, low, high = speed(section, name)
        batch_ms = section.procedure.batch_size / middle * 1000
        add_row(table, name, detail, f"{middle:,.0f}", f"{low:,.0f} .. {high:,.0f}", f"{batch_ms:.2f}")
    return table


def table_of_reading(section: Section) -> Table:
    table = new_table(section.title, "img/s", "lowest .. highest", "img/s a core", "img/s a core\nof the workers")
    for name, detail in section.contestants.items():
        middle, low, high = speed(section, name)
        cores = (f"{found:,.0f}" if found else "" for found in (core_speed(section, name), worker_speed(section, name)))
        add_row(table, name, detail, f"{middle:,.0f}", f"{low:,.0f} .. {high:,.0f}", *cores)
    return table


def table_of_host_time(section: Section) -> Table:
    table = new_table("The host's time of a step: ms and share, in the window of median length", *HOST_PARTS)
    for name in split(section):
        found = host_ms(section, name)
        whole = sum(found.values())
        cells = (f"{found[part]:.3f}\n{found[part] / whole:.1%}" if part in found else "" for part in HOST_PARTS)
        add_row(table, name, "", *cells)
    return table


def table_of_runs(section: Section) -> Table:
    table = new_table(section.title, "trainings per hour", "lowest .. highest", "s per sweep")
    for name, detail in section.contestants.items():
        middle, low, high = runs_per_hour(section, name)
        add_row(table, name, detail, f"{middle:,.0f}", f"{low:,.0f} .. {high:,.0f}", f"{RUNS * 3600 / middle:.1f}")
    return table


def table_of_parts(section: Section) -> Table:
    table = new_table(section.title, *PARTS)
    for name, detail in section.contestants.items():
        spreads = [part_spread(section, name, part) for part in PARTS]
        add_row(table, name, detail, *(f"{middle:.2f}\n{low:.2f} .. {high:.2f}" for middle, low, high in spreads))
    return table


def new_table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    return table


def add_row(table: Table, name: str, detail: str, *cells: str) -> None:
    table.add_row(Text.assemble((name, "bold"), *([("\n" + detail, "dim")] if detail else [])), *map(Text, cells))


TABLES: Mapping[str, Sequence[Callable[[Section], Table]]] = {
    "loop": (table_of_speeds, table_of_host_time),
    "folder": (table_of_reading,),
    "sweep": (table_of_runs,),
    "fixed": (table_of_parts,),
}
"""Section -> its tables; of others: `table_of_speeds`."""


def heading(console: Console) -> None:
    """Print the machine in one line."""
    facts, has = hardware(), versions()
    gpu = f", {facts['gpu']}" if facts["gpu"] else ""
    unit = f", {facts['fast_bfloat16']}" if facts["fast_bfloat16"] else ""
    console.print(
        Text(
            f"{facts['processor']}{unit}, {facts['processors']} processors, {facts['threads']} threads{gpu}; "
            f"torch {has['torch']}, torchvision {has['torchvision']}, Python {has['python']}"
        )
    )
