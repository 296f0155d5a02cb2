"""Describe tuned keys to the reader: the levels as a table, how the choice was made, and the threats to it.

`Chosen` is an arm's label and its choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from train.report import table_text
from train.report.contracts import Severity, Threat
from train.report.metric import Metric
from train.report.tuning import Level, TunedLevel
from train.store.choices import Tuning
from train.text import listed, plural

VALIDATION = Metric("accuracy/val")
Chosen: TypeAlias = tuple[str, TunedLevel]


@dataclass(frozen=True)
class LevelRow:
    """One level of one arm. `arm` is empty below the arm's first level; accuracies are percentages without the unit."""

    arm: str
    level: str
    mean: str
    standard_error: str
    count: int
    diverged: int
    failed: int
    incomplete: int
    is_chosen: bool
    remark: str


def level_rows(chosen: Sequence[Chosen]) -> tuple[LevelRow, ...]:
    """Return a row for every level of every arm."""
    return tuple(
        LevelRow(
            arm=name if position == 0 else "",
            level=level.name,
            mean=table_text.bare(VALIDATION, level.mean),
            standard_error=table_text.bare(VALIDATION, level.standard_error) if len(level.values) > 1 else "",
            count=len(level.values),
            diverged=level.diverged,
            failed=level.failed,
            incomplete=level.pending,
            is_chosen=level is choice.chosen and choice.was_measured,
            remark=_remark(choice) if level is choice.chosen else "tied; the first was chosen" if level in choice.tied else "",
        )
        for name, choice in chosen
        for position, level in enumerate(choice.levels)
    )


def _remark(choice: TunedLevel) -> str:
    """Return the note beside the chosen level."""
    if choice.lost_all:
        return "none could be chosen: runs diverged or failed at every level"
    if not choice.was_measured:
        return "none could be chosen yet" if choice.is_provisional else "none could be chosen"
    ends = [
        f"the {end} {key} tried" if len(choice.chosen.setting) > 1 else f"the {end} tried" for key, end in choice.edges.items()
    ]
    so_far = ["so far"] if choice.is_provisional else []
    single = ["the only one tried"] if _has_one_level(choice) else []
    return ", ".join(["chosen", *so_far, *ends, *single])


def tuning_paragraphs(
    keys: Sequence[str], chosen: Sequence[Chosen], metric: Metric, tuning: Tuning | None = None
) -> tuple[str, ...]:
    """Return paragraphs on how levels were chosen and how many runs that took. `tuning`: of the runs that only tried levels."""
    names = listed(list(keys))
    if tuning is not None:
        return _staged_paragraphs(names, chosen, metric, tuning)
    rule = (
        f"Tuned for every arm, and not compared as a factor: {names}. Each arm is compared at the level with the best mean "
        "validation accuracy after the last step of its runs. Levels that lost runs (diverged, failed) rank below levels that "
        "lost none."
    )
    independence = (
        f"The arms are compared by {metric.name}, on the split on which they were tuned: all results are optimistic."
        if is_of_validation(metric)
        else f"The {metric.name}, by which the arms are compared, played no part in the choice."
    )
    return rule, f"{independence} Tuning took {cost(chosen)}."


def _staged_paragraphs(names: str, chosen: Sequence[Chosen], metric: Metric, tuning: Tuning) -> tuple[str, ...]:
    seeds = f"{'seed' if len(tuning.seeds) == 1 else 'seeds'} {listed([str(seed) for seed in tuning.seeds])}"
    share = "" if tuning.epochs == 1 else f", for {100 * tuning.epochs:g} % of the epochs, rounded up"
    beyond = f"up to {plural(tuning.extend, 'level')} beyond either end of a range of numbers"
    further = f", and {beyond} while the best lay at its edge" if tuning.extend else ""
    rule = (
        f"Tuned for every arm, and not compared as a factor: {names}. Before the comparison, each level was tried with the "
        f"{seeds}{share}{further}. The level with the best mean validation accuracy after the last step is kept in "
        "sweep.json. Levels that lost runs (diverged, failed) rank below levels that lost none."
    )
    independence = (
        "The arms are compared at these levels with other seeds, which played no part in the choice: it cannot flatter an arm."
    )
    if is_of_validation(metric):
        independence += f" But the images of the validation split served the choice and serve the comparison by {metric.name}."
    return rule, f"{independence} Tuning took {cost(chosen)}."


def level_note(choice: TunedLevel) -> str:
    """Return the level at which an arm is compared, to stand beside its label."""
    return f"at {choice.chosen.name}" if choice.was_measured else f"no level could be chosen; this is {choice.chosen.name}"


def cost(chosen: Sequence[Chosen]) -> str:
    """Return the number of runs: `60 runs: 15 at the chosen levels are compared, 45 at other levels only served to choose`."""
    compared = sum(len(choice.compared) for _, choice in chosen)
    others = sum(len(choice.unchosen) for _, choice in chosen)
    if any(choice.is_separate for _, choice in chosen):
        return f"{plural(others, 'run')} that only served to choose, besides the {compared} that are compared"
    total = plural(compared + others, "run")
    return f"{total}: {compared} at the chosen levels are compared, {others} at other levels only served to choose"


def is_of_validation(metric: Metric) -> bool:
    """Return whether the metric is measured on the split that also chose the levels."""
    return metric.tag.endswith("/val")


def tuning_threats(keys: Sequence[str], chosen: Sequence[Chosen], metric: Metric) -> tuple[Threat, ...]:
    """Return the threats to the choice of levels and to what follows from it; none without tuned keys."""
    if not keys:
        return ()
    threats = [threat for check in _CHECKS for threat in check(chosen)]
    joint = [] if chosen and all(choice.is_separate for _, choice in chosen) else [_same_runs(keys, metric)]
    return tuple(Threat(*threat) for threat in [*threats, *joint])


_Threats = Iterator[tuple[str, str, Severity]]


def _same_runs(keys: Sequence[str], metric: Metric) -> tuple[str, str, Severity]:
    names = listed(list(keys))
    if is_of_validation(metric):
        sentence = (
            f"The levels of {names} were chosen on the validation split, and the arms are compared on it ({metric.name}), with "
            "the same runs: all results are optimistic, more so with more levels per arm. Compare by accuracy/test instead."
        )
        return "tuned_on_the_metric", sentence, "serious"
    sentence = (
        f"Tuning and comparison used the same runs and the same seeds: levels of {names} were chosen by validation accuracy, "
        f"and arms are compared by {metric.name}. The intervals take the chosen levels as given; they do not include the "
        "uncertainty of the choice."
    )
    return "tuned_with_the_same_seeds", sentence, "note"


def _no_choice(chosen: Sequence[Chosen]) -> _Threats:
    lost = [
        f"{name} ({listed([level.name for level in choice.levels])}; {plural(_lost(choice), 'run')})"
        for name, choice in chosen
        if choice.lost_all
    ]
    if lost:
        yield "tuning_lost", f"Every run diverged or failed at every level tried: {listed(lost)}.", "serious"
    unmeasured = [name for name, choice in chosen if not choice.was_measured and not choice.lost_all]
    if unmeasured:
        arms = listed(unmeasured)
        message = f"No completed run of {arms} has a validation accuracy: no level could be chosen"
        yield "tuning_unmeasured", f"{message}, and the first one is shown.", "serious"


def _lost(choice: TunedLevel) -> int:
    return sum(level.lost for level in choice.levels)


def _lossy(chosen: Sequence[Chosen]) -> _Threats:
    lossy = [f"{name} ({choice.chosen.name})" for name, choice in chosen if choice.was_measured and choice.chosen.lost]
    if lossy:
        message = "No level without diverged or failed runs could be chosen for"
        rule = "levels without pending runs ranked first, then those with the smallest share of lost runs"
        yield "tuning_lossy", f"{message} {listed(lossy)}: {rule}.", "serious"


def _single_level(chosen: Sequence[Chosen]) -> _Threats:
    single = [f"{name} ({choice.chosen.name})" for name, choice in chosen if choice.was_measured and _has_one_level(choice)]
    if single:
        message = f"Only one level was tried for {listed(single)}"
        yield "tuning_one_level", f"{message}: it was not tuned, and another level may be better.", "caution"


def _has_one_level(choice: TunedLevel) -> bool:
    return sum(level.was_tried for level in choice.levels) == 1


def _edges(chosen: Sequence[Chosen]) -> _Threats:
    at_edge = [
        f"{name} ({key}={choice.chosen.setting[key]}, the {end})" for name, choice in chosen for key, end in choice.edges.items()
    ]
    if at_edge:
        message = f"The chosen level is at the edge of the range tried for {listed(at_edge)}"
        yield "tuning_edge", f"{message}: the best level may lie outside. Widen the range.", "caution"


def _unequal(chosen: Sequence[Chosen]) -> _Threats:
    """More levels give an arm more chances of a good result."""
    counts = {name: sum(level.was_tried for level in choice.levels) for name, choice in chosen}
    if len(set(counts.values())) > 1:
        message = listed([f"{count} of {name}" for name, count in counts.items()])
        sentence = f"Arms were tuned over unequal numbers of levels ({message})"
        if all(choice.is_separate for _, choice in chosen):
            rule = "the range of an arm whose best level lies at the edge is extended, by the same rule for every arm"
            yield "tuning_unequal", f"{sentence}: {rule}.", "note"
        else:
            yield "tuning_unequal", f"{sentence}: more levels favour an arm.", "caution"
    uneven = [name for name, choice in chosen if len({level.size for level in choice.levels if level.was_tried}) > 1]
    if uneven:
        message = f"Levels of {listed(uneven)} were tried with unequal numbers of runs"
        yield "tuning_uneven", f"{message}: their means are not equally precise.", "caution"


def _provisional(chosen: Sequence[Chosen]) -> _Threats:
    provisional = [choice for _, choice in chosen if choice.was_measured and choice.is_provisional]
    pending = sum(level.pending for choice in provisional for level in choice.levels)
    if pending:
        message = f"Choices are provisional: {plural(pending, 'run')} at the levels tried gave no validation accuracy yet"
        yield "tuning_provisional", f"{message}; the chosen levels may change when they end.", "caution"


def _ties(chosen: Sequence[Chosen]) -> _Threats:
    tied = [f"{name} ({listed(_tied_names(choice))})" for name, choice in chosen if choice.tied]
    if tied:
        yield "tuning_tie", f"Levels were tied for {listed(tied)}: the first was chosen.", "note"


def _tied_names(choice: TunedLevel) -> list[str]:
    levels: list[Level] = [choice.chosen, *choice.tied]
    return [level.name for level in levels]


_CHECKS: tuple[Callable[[Sequence[Chosen]], _Threats], ...] = (
    _no_choice,
    _lossy,
    _single_level,
    _edges,
    _unequal,
    _provisional,
    _ties,
)
