"""What became of a completed run: whether it trained, by the rule of `train.report.statistics.trained`.

The rule is applied to the split of the metric: test or validation. A run is not asked to generalise where the metric is one of
the training split: there, a last training loss below guessing's by a margin will do. For any other metric, the test split counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Literal, TypeAlias

from train.report.history import History
from train.report.inputs import data_contents
from train.report.metric import Metric, as_float
from train.report.statistics.trained import ALPHA, MARGIN, Guessing, Scores, guessing, is_trained
from train.store.inputs import read_data
from train.store.run import Run
from train.tags import split
from train.text import percent, plural

Basis: TypeAlias = Literal["scores", "equal classes", "training loss", "diagnosis", "no step", "table", "unknown"]
CANNOT_LEARN = "cannot_learn"
SELECTION = (
    " Arms of which not equally many runs trained are compared by the means of those that did if the rates do not differ at 5 % "
    "(exact test, not adjusted), no run diverged, and the verdict is better, worse or equivalent, with and without the lowest "
    "and the highest of the runs by which one arm has more (Lee 2009); in a grid, over the combinations in which every run "
    "trained."
)
"""The rule of `train.report.level_claim` for what may be a selection."""


@dataclass(frozen=True)
class Outcome:
    """Whether a run trained; None if nothing tells. `basis`: how that is known."""

    trained: bool | None
    basis: Basis


def outcomes(runs: Sequence[Run], metric: Metric, histories: Mapping[Path, History]) -> dict[Path, Outcome]:
    """Return run folder -> outcome of every completed run."""
    contents = data_contents(runs)
    done = [run for run in runs if run.state == "done"]
    content_of = {run.folder: contents[run.data] if run.data else read_data(run.folder) for run in done}
    return {run.folder: _outcome(run, metric, histories[run.folder], content_of[run.folder]) for run in done}


def _outcome(run: Run, metric: Metric, history: History, content: Mapping[str, Any]) -> Outcome:
    if run.summary.get("steps") == 0:
        return Outcome(trained=False, basis="no step")
    own = _says_it_did_not_learn(run)
    of_training = split(metric.tag)[1] == "train"
    part = scored_split(run, metric)
    counted = guessing(class_counts(content, part)) if part else None
    guess = counted or _equal_classes(run)
    if part and guess is not None:
        trained = is_trained(_scores(run, part, history), guess, at_chance=own)
        if trained or not of_training:
            return Outcome(trained, "scores" if counted else "equal classes")
    if of_training and guess is not None:
        loss = Metric("loss/train").value(run, history)
        return Outcome(not own and loss < MARGIN * guess.loss, "training loss")
    return Outcome(trained=False, basis="diagnosis") if own else Outcome(None, "unknown")


def rule(metric: Metric, found: Iterable[Outcome]) -> str:
    """Return the rule by which runs count as trained, in sentences, and if some did not, how arms are compared then.

    Empty where of no run it is known.
    """
    outcomes = [outcome for outcome in found if outcome.trained is not None]
    if not outcomes:
        return ""
    selection = "" if all(outcome.trained for outcome in outcomes) else SELECTION
    if all(outcome.basis == "table" for outcome in outcomes):
        return f"Whether a run trained is what the table says.{selection}"
    part, margin = split(metric.tag)[1], percent(MARGIN, 0)
    where = "the split of the metric" if part in ("test", "val") else "the test split, or else the validation split"
    fits = f", or if its last training loss is below {margin} of guessing's" if part == "train" else ""
    return (
        f"A run trained if, on {where}, more images are right than guessing explains, or its loss is below guessing's by more "
        f"than chance explains, each at an error rate of {percent(ALPHA / 2, 2)} for predictions that have nothing to do with "
        f"the classes (guessing: the shares of the classes, the same for every image){fits}. A run whose training loss was never "
        f"below {margin} of ln(classes) must be better on that split by a margin: a loss below that share of guessing's, or "
        "twice its accuracy, but no more than halfway from there to 100 %. The rule is fixed before the runs."
        f"{selection}"
    )


def scored_split(run: Run, metric: Metric) -> str:
    """Return the split whose scores tell: that of the metric, else the test split, else the validation split; empty if none."""
    part = split(metric.tag)[1]
    wanted = (part,) if part in ("test", "val") else ("test", "val")
    return next((name for name in wanted if _images(run, name) > 0), "")


def class_counts(content: Mapping[str, Any], part: str) -> list[float]:
    """Return the number of images of each class in a split, by data.json; empty if that is not recorded.

    A validation split that the data set does not bring is drawn from the training split, class by class.
    """
    splits = content.get("splits")
    found = (splits.get(part) or splits.get("train" if part == "val" else "")) if isinstance(splits, Mapping) else None
    counts = found.get("counts") if isinstance(found, Mapping) else None
    return [as_float(count) for count in counts] if isinstance(counts, list) else []


def _equal_classes(run: Run) -> Guessing | None:
    """Return guessing among the outputs of the last layer, for runs that do not record their data: classes taken as equal."""
    fingerprint = run.summary.get("fingerprint")
    init = fingerprint.get("init") if isinstance(fingerprint, Mapping) else None
    layers = init.get("layers") if isinstance(init, Mapping) else None
    last = list(layers.values())[-1] if isinstance(layers, Mapping) and layers else None
    outputs = last.get("fan_out") if isinstance(last, Mapping) else None
    return Guessing(log(outputs), 1 / outputs) if isinstance(outputs, int) and outputs > 1 else None


def _scores(run: Run, part: str, history: History) -> Scores:
    accuracy, loss = (Metric(f"{name}/{part}").value(run, history) for name in ("accuracy", "loss"))
    return Scores(accuracy, loss, _images(run, part))


def _images(run: Run, part: str) -> int:
    return Metric(f"accuracy/{part}").examples(run) or 0


def _says_it_did_not_learn(run: Run) -> bool:
    diagnosis = run.status.get("diagnosis")
    return isinstance(diagnosis, Mapping) and diagnosis.get("kind") == CANNOT_LEARN


def unknown_outcomes(found: Iterable[Outcome]) -> str:
    """Return a sentence on runs of which only assumptions tell whether they trained, or nothing; empty if there are none."""
    bases = [outcome.basis for outcome in found]
    unknown, assumed = bases.count("unknown"), bases.count("equal classes")
    if unknown:
        return (
            f"{plural(unknown, 'run')} did not record the numbers of images of their classes: whether they trained is unknown, "
            "and they count as trained."
        )
    if assumed:
        return (
            f"{plural(assumed, 'run')} did not record the numbers of images of their classes: whether they trained is judged as "
            "if all classes had equally many."
        )
    return ""
