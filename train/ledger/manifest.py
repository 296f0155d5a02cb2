"""`sweep.json`, in the folder of a sweep: which runs were meant to be made, so that what is missing can be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from train.errors import UsageError

FILE_NAME = "sweep.json"
FORMAT = 1
Design: TypeAlias = Literal["grid", "one_at_a_time", "leave_one_out"]


@dataclass(frozen=True)
class PlannedArm:
    """`id`: as in the status.json of its runs; `levels`: axis -> level, as typed; `overrides`: what leads to the arm, without
    seeds, as typed; `tuned`: what it shares with the arms that differ from it in tuned keys alone, empty where none are tuned."""

    id: str
    levels: Mapping[str, str]
    overrides: tuple[str, ...]
    tuned: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """`folder` is relative to that of the sweep; `overrides` repeat the run as a single one: `train OVERRIDES`."""

    identity: str
    arm: str
    folder: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Dropped:
    """A combination that was not run, and why."""

    overrides: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Manifest:
    """`axes`: axis -> its levels, in the order typed, seeds not among them; `seeds`: the same for seed axes; `baseline`: the id
    of the arm that the others are held against; `zipped`: axes that move together; `study`: the preset's name, or empty; `tune`:
    the axes of which a report chooses a level for each arm, by the validation split."""

    command: tuple[str, ...]
    design: Design
    axes: Mapping[str, tuple[str, ...]]
    seeds: Mapping[str, tuple[str, ...]]
    baseline: str
    arms: tuple[PlannedArm, ...]
    runs: tuple[PlannedRun, ...]
    dropped: tuple[Dropped, ...] = ()
    zipped: tuple[tuple[str, ...], ...] = ()
    study: str = ""
    notes: tuple[str, ...] = field(default=())
    tune: tuple[str, ...] = ()

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT} | asdict(self), indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest | None:
    """Of the sweep in `folder`; None where there is no sweep. UsageError for a file that is damaged or of a later version."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise UsageError(f"{path}: written by another version of train; this one reads format {FORMAT}.")
        return Manifest(
            command=tuple(content["command"]),
            design=content["design"],
            axes={axis: tuple(levels) for axis, levels in content["axes"].items()},
            seeds={axis: tuple(levels) for axis, levels in content["seeds"].items()},
            baseline=content["baseline"],
            arms=tuple(PlannedArm(a["id"], a["levels"], tuple(a["overrides"]), a.get("tuned", "")) for a in content["arms"]),
            runs=tuple(PlannedRun(r["identity"], r["arm"], r["folder"], tuple(r["overrides"])) for r in content["runs"]),
            dropped=tuple(Dropped(tuple(d["overrides"]), d["reason"]) for d in content["dropped"]),
            zipped=tuple(tuple(axes) for axes in content["zipped"]),
            study=content["study"],
            notes=tuple(content["notes"]),
            tune=tuple(content.get("tune", ())),  # sweeps of before have none
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: this is not the plan of a sweep ({type(error).__name__}: {error}).") from None
