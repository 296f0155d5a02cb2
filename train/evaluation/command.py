"""What `train-eval` does once its arguments are read: evaluate the runs, show and write the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from train.command import config_dir
from train.config_errors import explain, is_composition_error
from train.data.listing import listed_once
from train.errors import RunError, UsageError
from train.evaluation.arguments import Asked
from train.evaluation.arms import arm_scores
from train.evaluation.evaluate import Evaluation, Request, evaluate_run
from train.evaluation.record import FOLDER, writable, write_arms, write_evaluation
from train.evaluation.show import show_arms, show_evaluation, show_short
from train.run.job import resolve_config
from train.run.loading import loading_shown
from train.sinks.console import shown
from train.store.inside import Folder
from train.store.run import Run


def evaluate_runs(asked: Asked, runs: Sequence[Run | str]) -> int:
    """Evaluate runs, show and write the results, and return the exit code. A text stands for a run that cannot be read."""
    request, console = request_of(asked), Console()
    if len(runs) == 1 and isinstance(runs[0], Run):
        item = _evaluated(runs[0], request)
        out = _written(item, asked.output, figures=True)
        show_evaluation(console, item)
        console.print(shown(f"written: {out}"), soft_wrap=True)
        return 0
    with listed_once():
        return _evaluate_several(asked, request, runs, console)


def _evaluated(run: Run, request: Request) -> Evaluation:
    """Evaluate one run, and show meanwhile how far the images are that are read for it."""
    with loading_shown():
        return evaluate_run(run, request)


def _evaluate_several(asked: Asked, request: Request, runs: Sequence[Run | str], console: Console) -> int:
    done: list[Evaluation] = []
    skipped: list[str] = []
    names: Counter[str] = Counter()
    for run in runs:
        try:
            if isinstance(run, str):
                raise UsageError(run)
            item = _evaluated(run, request)
        except (UsageError, RunError) as error:
            skipped.append(str(error))
            continue
        names[item.name] += 1
        name = item.name + (f"-{names[item.name]}" if names[item.name] > 1 else "")
        _written(item, asked.output and asked.output / name, figures=False)
        show_short(console, item)
        done.append(item)
    if not done:
        raise UsageError(f"{skipped[0]}{f' (None of {len(skipped)} runs can be evaluated.)' if len(skipped) > 1 else ''}")
    arms = arm_scores(done)
    show_arms(console, arms)
    for reason in skipped:
        console.print(shown(f"left out: {reason}", "yellow"), soft_wrap=True)
    if asked.output is None and len(asked.folders) > 1:
        console.print(shown("The means of the arms are written where --output DIR is given."), soft_wrap=True)
        return 0
    above = next(iter(asked.folders))
    out = asked.output or above / FOLDER
    with writable(out):
        write_arms(arms, skipped, _made(asked.output, above))
    console.print(shown(f"written: {out}"), soft_wrap=True)
    return 0


def _written(item: Evaluation, output: Path | None, figures: bool) -> Path:
    """Write an evaluation into `output`, or into the run folder, and return the folder."""
    out = output or item.run.folder / FOLDER
    with writable(out):
        write_evaluation(item, _made(output, item.run.folder), figures)
    return out


def _made(output: Path | None, above: Path) -> Folder:
    """Make and return the folder that the user names, or one in the folder of runs, which is not reached through a link."""
    if output is None:
        return (Folder(above) / FOLDER).make()
    output.mkdir(parents=True, exist_ok=True)
    return Folder(output)


def request_of(asked: Asked) -> Request:
    """Return what to evaluate on. UsageError for overrides that Hydra does not take."""
    overrides = (*filter(None, [asked.choice]), *asked.overrides)
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.is_sweep_override() or override.is_delete() or override.package is not None:
                raise UsageError(f"{override.input_line}: an evaluation takes one value of a key.")
        data = _chosen_data(overrides) if asked.choice else None
    except Exception as error:
        if is_composition_error(error):
            raise UsageError(explain(error, config_dir(), list(overrides))) from None
        raise
    kept = tuple(override for override in asked.overrides if data is None or not override.startswith("data."))
    return Request("val" if asked.split == "val" else "test", kept, data, asked.overrides, asked.trust)


def _chosen_data(overrides: Sequence[str]) -> Mapping[str, Any]:
    """Return the node `data` as a new run with these overrides would have it."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return resolve_config(compose("config", overrides=list(overrides)))["data"]
