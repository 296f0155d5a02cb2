"""What a reader is told of tuned keys: the levels in a table, what the choice rests on, and what speaks against it.

`Chosen` throughout: the name of an arm, as in sentences, and its choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from train.report import sentence_text, table_text
from train.report.contracts import Severity, Threat
from train.report.metric import Metric
from train.report.tuning import Choice, Level
from train.sinks.number_text import plural

VALIDATION = Metric("accuracy/val")
Chosen: TypeAlias = tuple[str, Choice]


@dataclass(frozen=True)
class LevelRow:
    """One level in one arm. `arm` is empty below the first level of an arm; accuracies are percent, without the unit."""

    arm: str
    level: str
    mean: str
    standard_error: str
    count: int
    diverged: int
    failed: int
    waiting: int
    chosen: bool
    remark: str


def level_rows(chosen: Sequence[Chosen]) -> tuple[LevelRow, ...]:
    """Every level of every arm."""
    return tuple(
        LevelRow(
            arm=name if place == 0 else "",
            level=level.name,
            mean=table_text.bare(VALIDATION, level.mean),
            standard_error=table_text.bare(VALIDATION, level.standard_error) if len(level.values) > 1 else "",
            count=len(level.values),
            diverged=level.diverged,
            failed=level.failed,
            waiting=level.waiting,
            chosen=level is choice.chosen and choice.was_measured,
            remark=_remark(choice) if level is choice.chosen else "as good; the first was taken" if level in choice.tied else "",
        )
        for name, choice in chosen
        for place, level in enumerate(choice.levels)
    )


def _remark(choice: Choice) -> str:
    if choice.lost_all:
        return "none could be chosen: runs diverged or failed at every level"
    if not choice.was_measured:
        return "none could be chosen yet" if choice.is_provisional else "none could be chosen"
    ends = [
        f"the {end} {key} tried" if len(choice.chosen.setting) > 1 else f"the {end} tried" for key, end in choice.edges.items()
    ]
    so_far = ["so far"] if choice.is_provisional else []
    alone = ["the only one tried"] if _is_alone(choice) else []
    return ", ".join(["chosen", *so_far, *ends, *alone])


def tuning_paragraphs(keys: Sequence[str], chosen: Sequence[Chosen], metric: Metric) -> tuple[str, ...]:
    """How it was chosen and what that cost: paragraphs."""
    what = sentence_text.listed(list(keys))
    how = (
        f"Not an ingredient here, but tuned for every arm: {what}. Each arm is compared at the level with the best mean "
        "validation accuracy after the last step of its runs. A level that lost runs (diverged, failed) ranks behind those that "
        "lost none."
    )
    used = (
        f"The arms are compared by {metric.name}, on the very split that they were tuned on: all figures are optimistic."
        if is_of_validation(metric)
        else f"The {metric.name}, by which they are compared, had no part in the choice."
    )
    return how, f"{used} It took {cost(chosen)}."


def level_note(choice: Choice) -> str:
    """Beside the arm's name."""
    return f"at {choice.chosen.name}" if choice.was_measured else f"no level could be chosen; here {choice.chosen.name}"


def cost(chosen: Sequence[Chosen]) -> str:
    """`60 runs, of which 15 at the chosen levels are compared and 45 at others only served to choose`"""
    compared = sum(len(choice.chosen.runs) for _, choice in chosen)
    others = sum(len(level.runs) for _, choice in chosen for level in choice.others)
    total = plural(compared + others, "run")
    return f"{total}, of which {compared} at the chosen levels are compared and {others} at others only served to choose"


def is_of_validation(metric: Metric) -> bool:
    return metric.tag.endswith("/val")


def tuning_threats(keys: Sequence[str], chosen: Sequence[Chosen], metric: Metric) -> tuple[Threat, ...]:
    """Reasons to trust the choice, and what follows from it, less. None where nothing is tuned."""
    if not keys:
        return ()
    found = [threat for look in _LOOKS for threat in look(chosen)]
    kind, sentence, severity = _same_runs(keys, metric)
    return tuple(Threat(*threat) for threat in [*found, (kind, sentence, severity)])


_Found = Iterator[tuple[str, str, Severity]]


def _same_runs(keys: Sequence[str], metric: Metric) -> tuple[str, str, Severity]:
    what = sentence_text.listed(list(keys))
    if is_of_validation(metric):
        said = (
            f"The levels of {what} were chosen on the validation split, and the arms are compared on it ({metric.name}), by the "
            "same runs: all figures are optimistic, the more so the more levels an arm had. Compare by accuracy/test instead."
        )
        return "tuned_on_the_metric", said, "serious"
    said = (
        f"Tuning and comparing used the same runs, hence the same seeds: levels of {what} were chosen by validation accuracy, "
        f"and arms are compared by {metric.name}. The intervals take the chosen levels as given; that other seeds might "
        "have chosen others is not in them."
    )
    return "tuned_with_the_same_seeds", said, "note"


def _nothing_to_choose(chosen: Sequence[Chosen]) -> _Found:
    lost = [
        f"{name} ({sentence_text.listed([level.name for level in choice.levels])}; {plural(_lost(choice), 'run')})"
        for name, choice in chosen
        if choice.lost_all
    ]
    if lost:
        yield "tuning_lost", f"Every run diverged or failed at every level tried: {sentence_text.listed(lost)}.", "serious"
    unmeasured = [name for name, choice in chosen if not choice.was_measured and not choice.lost_all]
    if unmeasured:
        arms = sentence_text.listed(unmeasured)
        said = f"No run of {arms} that came to its end has a validation accuracy: nothing could be chosen"
        yield "tuning_unmeasured", f"{said}, and the first level is shown.", "serious"


def _lost(choice: Choice) -> int:
    return sum(level.lost for level in choice.levels)


def _lossy(chosen: Sequence[Chosen]) -> _Found:
    lossy = [f"{name} ({choice.chosen.name})" for name, choice in chosen if choice.was_measured and choice.chosen.lost]
    if lossy:
        said = "No level without diverged or failed runs could be chosen for"
        how = "levels that wait for no run came first, then the smallest share lost"
        yield "tuning_lossy", f"{said} {sentence_text.listed(lossy)}: {how}.", "serious"


def _alone(chosen: Sequence[Chosen]) -> _Found:
    alone = [f"{name} ({choice.chosen.name})" for name, choice in chosen if choice.was_measured and _is_alone(choice)]
    if alone:
        said = f"Only one level was tried for {sentence_text.listed(alone)}"
        yield "tuning_one_level", f"{said}: that is no tuning, and another may suit better.", "caution"


def _is_alone(choice: Choice) -> bool:
    return sum(level.was_tried for level in choice.levels) == 1


def _edges(chosen: Sequence[Chosen]) -> _Found:
    at = [
        f"{name} ({key}={choice.chosen.setting[key]}, the {end})" for name, choice in chosen for key, end in choice.edges.items()
    ]
    if at:
        said = f"The chosen level lies at the edge of the range tried for {sentence_text.listed(at)}"
        yield "tuning_edge", f"{said}: the best may lie outside. Widen the range until it does not.", "caution"


def _unequal(chosen: Sequence[Chosen]) -> _Found:
    """Whoever was tried more often had more chances to look good."""
    counts = {name: sum(level.was_tried for level in choice.levels) for name, choice in chosen}
    if len(set(counts.values())) > 1:
        said = sentence_text.listed([f"{count} of {name}" for name, count in counts.items()])
        yield "tuning_unequal", f"Arms were tuned over unequal numbers of levels ({said}): more tries flatter.", "caution"
    uneven = [name for name, choice in chosen if len({level.size for level in choice.levels if level.was_tried}) > 1]
    if uneven:
        said = f"Levels of {sentence_text.listed(uneven)} were tried with unequal numbers of runs"
        yield "tuning_uneven", f"{said}: their means are not equally well known.", "caution"


def _provisional(chosen: Sequence[Chosen]) -> _Found:
    waiting = sum(level.waiting for _, choice in chosen for level in choice.levels if choice.was_measured)
    if waiting:
        said = f"Choices are provisional: {plural(waiting, 'run')} at the levels tried gave no validation accuracy yet"
        yield "tuning_provisional", f"{said}; the arms may be compared at other levels when they do.", "caution"


def _ties(chosen: Sequence[Chosen]) -> _Found:
    tied = [f"{name} ({sentence_text.listed(_names(choice))})" for name, choice in chosen if choice.tied]
    if tied:
        yield "tuning_tie", f"Levels were equally good for {sentence_text.listed(tied)}: the first was taken.", "note"


def _names(choice: Choice) -> list[str]:
    tied: list[Level] = [choice.chosen, *choice.tied]
    return [level.name for level in tied]


_LOOKS: tuple[Callable[[Sequence[Chosen]], _Found], ...] = (
    _nothing_to_choose,
    _lossy,
    _alone,
    _edges,
    _unequal,
    _provisional,
    _ties,
)
