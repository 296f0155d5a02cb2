"""Evaluations as files: evaluation.json, evaluation.md and the figures, in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train.errors import UsageError
from train.escape import markdown
from train.evaluation.arms import ArmScore, Mean
from train.evaluation.evaluate import Evaluation
from train.evaluation.words import (
    ARM_HEADS,
    CLASS_HEADS,
    CLASS_NOTE,
    arm_rows,
    class_mean_rows,
    class_rows,
    facts,
    left_out,
    shown_classes,
)
from train.store.files import encode_json
from train.store.inside import Folder
from train.store.metrics import encode_float

FOLDER = "evaluation"
JSON, PAGE = "evaluation.json", "evaluation.md"
FIGURES = {
    "confusion": "Confusions: of the images of each class (rows), the share taken for each class (columns).",
    "reliability": "Calibration: accuracy against confidence.",
    "mistakes": "The worst mistakes, by the loss: class, predicted class and its probability.",
}


def write_evaluation(item: Evaluation, out: Folder, figures: bool) -> None:
    """Write an evaluation of one run into a folder that exists; without figures, those of an earlier one are removed. OSError."""
    drawn = draw(item) if figures else {}
    for name in FIGURES.keys() - drawn.keys():
        for suffix in ("png", "svg"):
            out.remove(f"{name}.{suffix}")
    for name, pictures in drawn.items():
        for suffix, content in pictures.items():
            out.write(f"{name}.{suffix}", content)
    out.write(JSON, encode_json(evaluation_json(item)))
    out.write(PAGE, evaluation_page(item, [name for name in FIGURES if name in drawn]).encode())


def write_arms(arms: Sequence[ArmScore], skipped: Sequence[str], out: Folder) -> None:
    """Write the means of arms into a folder that exists. OSError."""
    out.write(JSON, encode_json({"format": 1, "arms": [arm_json(arm) for arm in arms], "skipped": list(skipped)}))
    out.write(PAGE, arms_page(arms, skipped).encode())


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Turn an OSError into a UsageError that names a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{out}: the evaluation cannot be written ({reason}). Name another folder with --output.") from None


def draw(item: Evaluation) -> dict[str, dict[str, bytes]]:
    """Return name -> suffix -> content of the figures."""
    from train.figures.evaluation import ReliabilityBin, Tile, draw_confusion, draw_mistakes, draw_reliability
    from train.figures.style import style, to_png, to_svg

    bins = [ReliabilityBin(**vars(part)) for part in item.calibration.bins]
    tiles = [Tile(mistake.picture, mistake.true, mistake.predicted, mistake.probability) for mistake in item.mistakes]
    caption = f"calibration error {dict(facts(item))['calibration error']}"
    with style():
        figures = {
            "confusion": draw_confusion([score.name for score in item.classes], item.confusion),
            "reliability": draw_reliability(bins, caption),
            **({"mistakes": draw_mistakes(tiles)} if tiles else {}),
        }
        return {name: {"png": to_png(figure), "svg": to_svg(figure)} for name, figure in figures.items()}


def evaluation_json(item: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain values. NaN and infinities are text, as in metrics.jsonl."""
    return {
        "format": 1,
        "run": item.name,
        "arm": item.run.arm,
        "seed": item.run.seed,
        "split": item.split,
        "images": item.score.examples,
        "device": item.device,
        "precision": item.precision,
        "batch_size": item.batch_size,
        "accuracy": encode_float(item.score.accuracy),
        "accuracy_interval": list(item.interval),
        "loss": encode_float(item.score.loss),
        "equal_to_run": item.equality.equal,
        "equal_to_run_reason": item.equality.reason,
        "classes": [
            {**_plain(vars(score)), "accuracy": encode_float(score.accuracy), "interval": list(score.interval)}
            for score in item.classes
        ],
        "confusion": item.confusion.tolist(),
        "calibration": {
            "expected_calibration_error": encode_float(item.calibration.error),
            "bins": [_plain(vars(part)) for part in item.calibration.bins],
        },
        "mistakes": [_plain({k: v for k, v in vars(part).items() if k != "picture"}) for part in item.mistakes],
        "notes": list(item.notes),
    }


def arm_json(arm: ArmScore) -> dict[str, Any]:
    """Return the means of an arm as plain values."""

    def mean(value: Mean) -> dict[str, Any]:
        return _plain(vars(value))

    return {
        "arm": arm.arm,
        "overrides": list(arm.overrides),
        "runs": [item.name for item in arm.evaluations],
        "not_in_the_mean": [item.name for item in arm.others],
        **({"accuracy": mean(arm.accuracy), "loss": mean(arm.loss)} if arm.evaluations else {}),
        "classes": [{"name": name, **mean(value)} for name, value in arm.classes],
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: encode_float(value) if isinstance(value, float) else value for name, value in fields.items()}


def evaluation_page(item: Evaluation, figures: Sequence[str]) -> str:
    """Return an evaluation as Markdown. All text is escaped."""
    scores, more = shown_classes(item)
    lines = ["# Evaluation", "", *(f"- **{name}:** {markdown(value)}" for name, value in facts(item)), ""]
    lines += [*_table(CLASS_HEADS, class_rows(scores)), "", *([more, ""] if more else []), CLASS_NOTE, ""]
    for name in figures:
        lines += [FIGURES[name], "", f"![{FIGURES[name]}]({name}.svg)", ""]
    return "\n".join(lines)


def arms_page(arms: Sequence[ArmScore], skipped: Sequence[str]) -> str:
    """Return the means of arms as Markdown. All text is escaped."""
    lines = ["# Evaluation", "", "Means over the runs of an arm, and their standard deviation.", ""]
    lines += [*_table(ARM_HEADS, arm_rows(arms)), "", "Mean accuracy of each class.", "", *_table(*class_mean_rows(arms)), ""]
    return "\n".join([*lines, *(f"- {markdown(text)}" for text in (*left_out(arms), *skipped)), ""])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(cell if cell[:2] == '--' else markdown(cell) for cell in line)} |" for line in lines]
