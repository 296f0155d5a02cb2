"""Verdicts on exponents as sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from train.report.contracts import Threat
from train.report.findings import Conclusion, Remark, Row, Table, Tone
from train.report.scaling.layers import LOGITS, PLACES
from train.report.scaling.measure import Axis, Quantity, Series
from train.report.scaling.slopes import Exponent, Slope
from train.report.scaling.verdict import MARGIN, Judged, JudgedGroup, Verdict
from train.text import MINUS, factor, listed, plural, setting

NAMES: dict[Quantity, str] = {"activation": "std of the output", "gradient": "std of the gradient", "update": "relative update"}
WHOSE: dict[Quantity, str] = {"activation": "the output", "gradient": "the gradient", "update": "the update"}
RELATIVE = " relative to the last hidden layer"
_TONES: dict[Verdict, Tone] = {"keeps": "good", "grows": "bad", "fades": "bad", "lost": "bad", "undecided": "weak"}
_WORST: tuple[Verdict, ...] = ("lost", "grows", "fades", "undecided", "keeps", "not judged")


def conclusion(found: JudgedGroup, axis: Axis) -> Conclusion:
    """Return the verdict on the whole, and a remark on each statistic at each step."""
    sizes = found.group.sizes
    label = f"{found.group.label}, " if found.group.label else ""
    subject = f"{label}{axis.word} {setting(sizes[0])} to {setting(sizes[-1])}"
    remarks = [*_diverged(found, axis), *(_remark(found, quantity, step, axis) for quantity, step in found.aspects)]
    return Conclusion(subject, _whole(found, axis), tuple(remarks))


def when(step: int) -> str:
    return f"after {plural(step, 'step')}" if step else "at step 0"


def _whole(found: JudgedGroup, axis: Axis) -> str:
    good, bad = axis.whole
    if (worst := found.worst) is not None:
        return f"{bad}: {_deviation(worst, axis)}"
    if found.group.diverged:
        return f"{bad}: {_lost_runs(found, axis)}"
    if undecided := found.undecided:
        one = undecided[0].slope.series
        more = f" and {len(undecided) - 1} more" if len(undecided) > 1 else ""
        which = f"{_which(one)} {when(one.step)}{more}"
        return f"undecided: the interval of {which} is too wide for a verdict; more seeds narrow it"
    return f"{good}: no output, gradient or update grows or fades by more than {axis.word}^{MARGIN:g}"


def _deviation(item: Judged, axis: Axis) -> str:
    series = item.slope.series
    which = _which(series)
    if item.verdict == "lost" or item.slope.judged is None:
        return f"{which} is 0 or not finite {when(series.step)} in {series.lost} of {plural(series.runs, 'run')}"
    relative = RELATIVE if series.relative else ""
    return f"{which}{relative} {item.verdict} as {power(axis, item.slope.judged)} {when(series.step)}"


def _which(series: Series) -> str:
    """Return a statistic of a layer: `the output of stage1.act1`, `the gradient of the output at the end`."""
    label = series.place.label
    if not label.startswith((*PLACES, LOGITS)):
        return f"{WHOSE[series.quantity]} of {label}"
    if series.quantity == "activation":
        return f"the {'std of the ' if label == LOGITS else ''}{label}"
    weights = "weights of the " if series.quantity == "update" and label == LOGITS else ""
    return f"{WHOSE[series.quantity]} of the {weights}{label}"


def power(axis: Axis, exponent: Exponent) -> str:
    """Return an exponent as `width^0.50 (0.45 to 0.55)`."""
    interval = "" if exponent.low is None or exponent.high is None else f" ({two(exponent.low)} to {two(exponent.high)})"
    return f"{axis.word}^{two(exponent.estimate)}{interval}"


def two(value: float) -> str:
    """Return a number with two decimals, without a negative zero."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", MINUS)


def _diverged(found: JudgedGroup, axis: Axis) -> Iterator[Remark]:
    if found.group.diverged:
        yield Remark("diverged", f"{_lost_runs(found, axis)} within the steps of the study.", "bad")


def threats(groups: Sequence[JudgedGroup], axis: Axis) -> Iterator[Threat]:
    """Yield what runs of a few steps do not show, and what is known of fewer runs than were trained."""
    for found in groups:
        if found.group.diverged and (last := found.group.steps[-1]):
            label = f"{found.group.label}: " if found.group.label else ""
            text = f"{label}{_lost_runs(found, axis)}: what is said of the signal {when(last)} is that of runs that got there"
            yield Threat("diverged_runs", f"{text}, which are a selection.", "serious")
    if groups:
        yield Threat(
            "early_signal",
            f"Compared is the size of signals {listed([when(step) for step in groups[0].group.steps])}, and no accuracy. That "
            f"settings found at one {axis.word} suit another if the signal keeps its size is what theory says, not these runs.",
            "note",
        )


def _lost_runs(found: JudgedGroup, axis: Axis) -> str:
    return (
        listed(
            [
                f"{count} of {plural(of, 'run')} at {axis.word} {setting(size)}"
                for size, (count, of) in found.group.diverged.items()
            ]
        )
        + " diverged"
    )


def _remark(found: JudgedGroup, quantity: Quantity, step: int, axis: Axis) -> Remark:
    """Return the verdict on one statistic at one step: the worst of its layers, with the numbers."""
    items = found.at(quantity, step)
    verdicts = {item.verdict for item in items}
    verdict: Verdict = next(word for word in _WORST if word in verdicts)
    affected = [item for item in items if item.verdict == verdict]
    judged = [item for item in items if item.verdict != "not judged"]
    worst = max(affected, key=lambda item: item.excess)
    relative = RELATIVE if any(item.slope.series.relative for item in judged) else ""
    parts = [f"{NAMES[quantity]}{relative} {when(step)}", _of_layers(affected, judged, worst, verdict, axis), _theory(items)]
    text = f"{parts[0]}: {'; '.join(filter(None, parts[1:]))}."
    return Remark(verdict, text, _TONES.get(verdict, "plain"))


def _of_layers(affected: Sequence[Judged], judged: Sequence[Judged], worst: Judged, verdict: Verdict, axis: Axis) -> str:
    count = f"{len(affected)} of {plural(len(judged), 'layer')}"
    exponents = [item.slope.judged.estimate for item in affected if item.slope.judged is not None]
    if verdict == "lost":
        most = max(affected, key=lambda item: item.slope.series.lost)
        return f"it is lost in {count}; most: {_deviation(most, axis)}"
    if verdict == "not judged" or not exponents:
        return _described(affected)
    span = f"{two(min(exponents))} to {two(max(exponents))}" if len(exponents) > 1 else two(exponents[0])
    if verdict == "keeps":
        return f"all {plural(len(judged), 'layer')} keep it, with exponents of {span}"
    if verdict == "undecided":
        others = ", and the others keep it" if len(affected) < len(judged) else ""
        return f"the intervals of {count}, with exponents of {span}, are too wide for a verdict{others}"
    change = f", {factor(worst.slope.change)} from the smallest to the largest" if not worst.slope.series.relative else ""
    return f"it {verdict} in {count}, with exponents of {span}; most: {_deviation(worst, axis)}{change}"


def _described(items: Sequence[Judged]) -> str:
    found = [item for item in items if item.slope.exponent is not None]
    return "; ".join(
        f"{item.slope.series.place.label} {two(item.slope.exponent.estimate)}" for item in found if item.slope.exponent
    )


def _theory(items: Sequence[Judged]) -> str:
    """Return how far the exponents are from those that theory expects."""
    errors = [
        (abs(item.slope.exponent.estimate - item.slope.expected), item.slope)
        for item in items
        if item.slope.exponent is not None and item.slope.expected is not None
    ]
    if not errors:
        return ""
    most, slope = max(errors, key=lambda pair: pair[0])
    expected = sorted(slope.expected for _, slope in errors if slope.expected is not None)
    span = two(expected[0]) if two(expected[0]) == two(expected[-1]) else f"{two(expected[0])} to {two(expected[-1])}"
    whose = " of the gradients themselves" if slope.series.quantity == "gradient" else ""
    layers = plural(len(errors), "layer")
    return f"theory expects {span}{whose} for {layers}, and is off by at most {most:.2f} ({slope.series.place.label})"


def tables(found: JudgedGroup, axis: Axis) -> Iterator[Table]:
    """Yield a table for each step: a row per layer with the exponents of its statistics, theory's, and the verdict."""
    for step in found.group.steps:
        label = f"{found.group.label}: " if found.group.label else ""
        quantities: list[Quantity] = [quantity for quantity, at in found.aspects if at == step]
        theory: list[Quantity] = [q for q in quantities if any(item.slope.expected is not None for item in found.at(q, step))]
        columns = [("layer", "")]
        for quantity in quantities:
            columns.append((NAMES[quantity], "exponent, simultaneous 95 % CI"))
            columns += [("theory", "")] if quantity in theory else []
        yield Table(
            f"{label}{'exponents' if label else 'Exponents'} of the {axis.word} {when(step)}",
            (*columns, ("verdict", "")),
            tuple(_rows(found, step, quantities, theory)),
            _note(axis, quantities),
            frozenset({0, len(columns)}),
        )


def _note(axis: Axis, quantities: Sequence[Quantity]) -> str:
    gradient = (
        " Gradients are judged relative to the last hidden layer: the head scales all of them."
        if "gradient" in quantities
        else ""
    )
    return (
        f"An exponent a means that the statistic changes as {axis.word}^a: the slope from the smallest to the largest "
        f"{axis.word}, which tells nothing of others. Within {MARGIN:g} of 0 it is said to keep its size; a relative update may "
        f"fall as {axis.word}^{two(axis.least_update)}, and keeps within {MARGIN:g} of the exponents from there to 0.{gradient}"
    )


def _rows(found: JudgedGroup, step: int, quantities: Sequence[Quantity], theory: Sequence[Quantity]) -> Iterator[Row]:
    by_place: dict[str, dict[Quantity, Judged]] = {}
    for quantity in quantities:
        for item in found.at(quantity, step):
            by_place.setdefault(item.slope.series.place.label, {})[quantity] = item
    order = list(dict.fromkeys(series.place.label for series in found.group.series))
    for label in sorted(by_place, key=order.index):
        items = by_place[label]
        cells = [_name(next(iter(items.values())))]
        for quantity in quantities:
            slope = items[quantity].slope if quantity in items else None
            cells.append(_cell(slope))
            cells += [_expected(slope)] if quantity in theory else []
        verdicts: dict[Quantity, Verdict] = {
            quantity: item.verdict for quantity, item in items.items() if item.verdict not in ("keeps", "not judged")
        }
        text = "; ".join(f"{WHOSE[quantity].removeprefix('the ')} {verdict}" for quantity, verdict in verdicts.items())
        yield Row((*cells, text or "keeps"), any(item.is_against for item in items.values()))


def _name(item: Judged) -> str:
    place = item.slope.series.place
    names = list(dict.fromkeys(place.names.values()))
    return (
        place.label
        if names == [place.label]
        else f"{place.label} ({names[0]} to {names[-1]})"
        if len(names) > 1
        else f"{place.label} ({names[0]})"
    )


def _cell(slope: Slope | None) -> str:
    if slope is None or slope.exponent is None:
        return "\N{EN DASH}"
    exponent = slope.exponent
    return two(exponent.estimate) + (
        "" if exponent.low is None or exponent.high is None else f" [{two(exponent.low)}, {two(exponent.high)}]"
    )


def _expected(slope: Slope | None) -> str:
    return "\N{EN DASH}" if slope is None or slope.expected is None else two(slope.expected)
