"""The data with which runs count that do not record them: runs of older versions, and those that failed before they read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from train.store.identity import arm_id, identity, run_id, with_data
from train.store.manifest import Manifest
from train.store.run import Run, find_runs, read_run


def with_known_data(runs: Iterable[Run], manifests: Iterable[Manifest]) -> list[Run]:
    """Return the runs, each with the data that are known or supposed to be its own, and with the ids that follow.

    A run without a record has the data of the runs whose first batch is the same, also of one that a sweep drew to find out
    (`Manifest.first_batches`). Otherwise its data stay unknown, and it counts for the arm of the same configuration, if there is
    exactly one.
    """
    runs, manifests = list(runs), list(manifests)
    batches = {hash: data for manifest in manifests for hash, data in manifest.first_batches.items()}
    batches |= {run.first_batch: run.data for run in runs if run.data and run.first_batch}
    arms = {arm.id: arm.data for manifest in manifests for arm in manifest.arms if arm.data}
    arms |= {run.arm: run.data for run in runs if run.data}
    return [run if run.data else _supposed(run, batches, arms) for run in runs]


def _supposed(run: Run, batches: Mapping[str, str], arms: Mapping[str, str]) -> Run:
    shown = batches.get(run.first_batch, "") if run.first_batch else ""
    arm = arm_id(run.config)
    possible = {data for data in arms.values() if with_data(arm, data) in arms}
    data = shown or (possible.pop() if len(possible) == 1 else "")
    if not data or not run.identity:
        return run
    return replace(
        run,
        identity=with_data(identity(run.config), data),
        arm=with_data(arm, data),
        data=data,
        data_known="first batch" if shown else "unknown",
    )


def configuration_ids(folder: Path) -> dict[str, str]:
    """Return stored id -> id of the configuration alone, for the runs in a folder and their arms.

    An id that does not follow from the configuration and the data of its run is left out.
    """
    runs = [read_run(path) for path in find_runs([folder])]
    ids = [(run, "identity", run.identity, identity(run.config)) for run in runs]
    ids += [(run, "arm", run.arm, arm_id(run.config)) for run in runs]
    return {str(run.status.get(name)): id for run, name, known, id in ids if known == run_id(id, run.config, run.data)}
