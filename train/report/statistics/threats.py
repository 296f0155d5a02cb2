"""Threats to validity that can be detected in the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import factorial, sqrt

import numpy as np

from train.report.contracts import Conditions, Facts, MetricInfo, Sample, Severity, Threat
from train.report.sentence_text import plain, points
from train.report.statistics.contrasts import moments, pooled_variance
from train.report.statistics.normality import normality, outliers
from train.report.statistics.pairing import pairing
from train.sinks.run_text import is_near_the_edge
from train.text import MINUS, listed, number, plural, settings, short_percent

ALPHA = 0.05
CEILING = 0.99
FEW_RUNS = 3
MOST_NAMED = 6
SPREAD_RATIO = 3.0
CONTRADICTIONS = "contradicting_runs"
SHARED: dict[bool | None, str] = {
    True: "All arms share these images, so the intervals hold for these images only.",
    False: "Not all runs were tested on the same images.",
    None: "The intervals hold for these images only, if all arms share them.",
}
"""Whether all runs were tested on the same images -> what that means."""
RANK: dict[Severity, int] = {"serious": 0, "caution": 1, "note": 2}


@dataclass(frozen=True)
class _Evidence:
    """The data that the checks of threats examine."""

    samples: Sequence[Sample]
    facts: Facts
    metric: MetricInfo
    comparisons: int
    tables: int

    def label(self, sample: Sample) -> str:
        return self.facts.label(sample.arm)

    @property
    def spread_out(self) -> list[Sample]:
        """Return the arms with at least three runs that are not all equal."""
        return [sample for sample in self.samples if len(sample.values) >= 3 and len(set(sample.values)) > 1]

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation between seeds, pooled over the arms; None where every arm has one run."""
        variance, df = pooled_variance([moments(sample.values) for sample in self.samples if sample.values])
        return sqrt(variance) if df else None


def find_threats(
    samples: Sequence[Sample], facts: Facts, metric: MetricInfo, *, comparisons: int, tables: int = 1
) -> tuple[Threat, ...]:
    """Return the threats found in the samples of all arms (baseline included), the most serious first.

    `comparisons`: number of differences with an interval in the report; `tables`: the families of such intervals.
    """
    data = _Evidence(samples, facts, metric, comparisons, tables)
    threats = [Threat(*found) for check in _CHECKS for found in check(data)]
    return tuple(sorted((*input_threats(facts), *condition_threats(facts), *threats), key=lambda threat: RANK[threat.severity]))


_Findings = Iterator[tuple[str, str, Severity]]


def input_threats(facts: Facts) -> tuple[Threat, ...]:
    """Return where runs are not what their arms say, or were made from other data, other code or another YAML."""
    return tuple(Threat(*found) for found in (*_contradictions(facts), *_inputs(facts)))


def _contradictions(facts: Facts) -> _Findings:
    """A chosen ingredient that is not in the network: then the arm is not what its name says."""
    arms: dict[str, list[tuple[int, str]]] = {}
    for item in facts.conditions:
        for sentence, count in item.contradictions.items():
            arms.setdefault(sentence, []).append((count, f"{count} of {plural(item.ended, 'run')} of {facts.label(item.arm)}"))
    for sentence, found in arms.items():
        verb = "contradicts its" if sum(count for count, _ in found) == 1 else "contradict their"
        yield CONTRADICTIONS, f"{listed([text for _, text in found])} {verb} configuration: {sentence}", "serious"


def _inputs(facts: Facts) -> _Findings:
    inputs = facts.inputs
    for kind, what, differences in (
        ("data", "different data, though their settings of data are the same", inputs.data),
        ("own_code", "different code of parts of your own", inputs.code),
        ("configurations", "different configurations, though their levels are the same", inputs.configurations),
    ):
        if differences:
            yield kind, f"Runs were made with {what}: {'; '.join(differences)}. They are no runs of one experiment.", "serious"
    if inputs.unknown_data:
        text = f"{plural(inputs.unknown_data, 'run')} did not record the data that went in, nor does a first batch show them"
        yield "unknown_data", f"{text}: whether these were the same as in the other runs is unknown.", "caution"
    if inputs.shown_data:
        text = f"{plural(inputs.shown_data, 'run')} did not record the data that went in"
        yield "shown_data", f"{text}, and counted because the first batch was the same as with the recorded data.", "note"
    if inputs.unknown_code:
        text = f"{plural(inputs.unknown_code, 'run')} did not record the code of parts of your own"
        yield "unknown_code", f"{text}: whether it was the same as in the other runs is unknown.", "caution"


def _lost_runs(data: _Evidence) -> _Findings:
    outcomes: tuple[tuple[str, Severity, str], ...] = (
        ("diverged", "serious", "the means cover only the other runs, which are a selection"),
        ("untrained", "serious", "the means cover only the other runs, which are a selection"),
        ("failed", "serious", "if the failures depend on the arm, the remaining runs are a selection"),
        ("missing", "caution", "the numbers may change when these runs finish"),
    )
    for name, severity, meaning in outcomes:
        affected = [sample for sample in data.samples if getattr(sample, name)]
        counts = [(getattr(sample, name), data.label(sample)) for sample in affected]
        if counts:
            if name in ("diverged", "untrained") and not any(sample.values for sample in affected):
                meaning = "no other run is left to average"
            total = sum(count for count, _ in counts)
            verbs = {"missing": "is missing" if total == 1 else "are missing", "untrained": "learned nothing"}
            verb = verbs.get(name, name)
            where = listed([f"{count} of {arm}" for count, arm in counts])
            yield f"{name}_runs", f"{plural(total, 'run')} {verb} ({where}): {meaning}.", severity


def _few_runs(data: _Evidence) -> _Findings:
    few = [f"{data.label(sample)} ({len(sample.values)})" for sample in data.samples if 0 < len(sample.values) < FEW_RUNS]
    if few:
        single = any(len(sample.values) == 1 for sample in data.samples)
        spread = "The spread of two runs is poorly known, that of one unknown" if single else "Their spread is poorly known"
        yield "few_runs", f"Fewer than {FEW_RUNS} runs with a value: {listed(few)}. {spread}.", "serious"


def _constant(data: _Evidence) -> _Findings:
    constant = [data.label(sample) for sample in data.samples if len(sample.values) > 1 and len(set(sample.values)) == 1]
    if constant:
        text = f"All runs of {listed(constant)} gave exactly the same {data.metric.name}"
        why = "nothing was learned, the seeds change nothing, or the metric is too coarse to tell the runs apart"
        yield "constant_arm", f"{text}: {why}.", "caution"


def condition_threats(facts: Facts) -> tuple[Threat, ...]:
    """Return in which versions of the code, devices, precisions and machines runs differ."""
    return tuple(Threat(*found) for found in _conditions(facts))


def _conditions(facts: Facts) -> _Findings:
    fields: tuple[tuple[str, str, Severity], ...] = (
        ("versions", "versions of the code", "serious"),
        ("devices", "devices", "caution"),
        ("device_counts", "the number of devices", "caution"),
        ("precisions", "precisions", "caution"),
        ("hosts", "machines", "note"),
    )
    for name, what, severity in fields:
        values = [tuple(getattr(conditions, name)) for conditions in facts.conditions]
        every = sorted({value for arm_values in values for value in arm_values})
        if len(every) > 1:
            is_unequal = len({tuple(sorted(set(arm_values))) for arm_values in values if arm_values}) > 1
            cause = "not equally in all arms, so it may cause differences between arms"
            consequence = cause if is_unequal else "each of which is in every arm"
            named = "; ".join([*every[:MOST_NAMED], *([f"{len(every) - MOST_NAMED} more"] if len(every) > MOST_NAMED else [])])
            yield name, f"Runs differ in {what} ({named}), {consequence}.", severity if is_unequal else "note"


def _budgets(data: _Evidence) -> _Findings:
    budgets = _union(data.facts.conditions, "budgets")
    if len(budgets) > 1:
        text = f"Runs have different training budgets ({settings(budgets)} training images)."
        yield "budgets", text, "note" if data.facts.budget_factors else "serious"


def _learning_rate(data: _Evidence) -> _Findings:
    rates = _union(data.facts.conditions, "learning_rates")
    if data.facts.rate_factors or data.facts.tuned_over or not rates:
        return
    many = "the rate" if len(rates) == 1 else "rates"
    text = f"The learning rate was not tuned per arm; {many} {settings(rates)} may suit some arms better than others"
    remedy = "To tune it for every arm, sweep levels of optimizer.lr with sweep.tune=optimizer.lr"
    yield "learning_rate", f"{text}, and another rate may rank them differently. {remedy}.", "caution"


def _union(conditions: Sequence[Conditions], name: str) -> list[float]:
    return sorted({value for each in conditions for value in getattr(each, name)})


def _shared_seeds(data: _Evidence) -> _Findings:
    pairs = pairing(data.samples)
    if pairs is None:
        return
    size = f"{pairs.correlation:+.2f}".replace("-", MINUS)
    text = (
        f"Runs of different arms with the same seed correlate by {size} (p {pairs.p:.2g}, {pairs.arms} arms, {pairs.seeds} seeds"
    )
    text += "); the intervals treat all runs as independent"
    if pairs.p >= ALPHA:
        weak = ", and so few could not" if factorial(pairs.seeds) ** (pairs.arms - 1) < 1 / ALPHA else ""
        yield "shared_seeds", f"{text}, which these runs do not contradict{weak}.", "note"
    elif pairs.correlation > 0:
        text += f", so they are conservative: pairing by seed would multiply their widths by about {pairs.width:.2f}."
        yield "shared_seeds", text, "note"
    else:
        yield "shared_seeds", f"{text}, so they are too narrow.", "caution"


def _outliers(data: _Evidence) -> _Findings:
    unit = points(data.metric).replace("percentage points", "%")
    for sample, index in outliers(data.spread_out, ALPHA):
        values = sample.values
        others = values[:index] + values[index + 1 :]
        low, high, outlier, mean = (
            plain(value, data.metric, 2) if data.metric.is_share else number(value)
            for value in (min(others), max(others), values[index], sum(others) / len(others))
        )
        seed = f"seed {sample.seeds[index]}" if sample.seeds else f"run {index + 1}"
        text = f"{data.label(sample)}, {seed}: {outlier}{unit} lies far from the other runs of the arm ({low} to {high}{unit})"
        yield "outlier_seed", f"{text}; without it the mean of the arm is {mean}{unit}.", "caution"


def _non_normality(data: _Evidence) -> _Findings:
    tested = normality(data.spread_out)
    if tested is None:
        return
    p, fewest = tested
    if p < ALPHA:
        text = f"The runs of the arms deviate from a normal distribution (p {p:.2g}), which the intervals assume."
        yield "non_normality", text, "caution"
        return
    weak = f"With {fewest} runs in an arm, the test detects only gross departures."
    yield "non_normality", f"No deviation from normally distributed runs was detected (p {p:.2g}). {weak}", "note"


def _unequal_spread(data: _Evidence) -> _Findings:
    variances = [moments(sample.values).variance for sample in data.spread_out]
    if len(variances) < 2:
        return
    least, most = min(variances), max(variances)
    ratio = sqrt(most / least)
    if ratio >= SPREAD_RATIO:
        large, small = (data.label(data.spread_out[variances.index(variance)]) for variance in (most, least))
        text = f"The standard deviation between seeds is {ratio:.1f} times as large in {large} as in {small}"
        yield "unequal_spread", f"{text}; each interval uses the spread of its own arms.", "note"


def _test_set(data: _Evidence) -> _Findings:
    """Compare the binomial standard error of one accuracy with the spread between seeds."""
    means = [float(np.mean(sample.values)) for sample in data.samples if sample.values]
    if not (data.metric.is_share and data.facts.test_size and means):
        return
    images, seed_sd = data.facts.test_size, data.seed_sd
    median = min(max(float(np.median(means)), 0.0), 1.0)
    if is_near_the_edge(median, images):  # Agresti & Coull (1998, The American Statistician 52): 0 would say that it is certain
        median = (median * images + 2) / (images + 4)
    sampling_sd = sqrt(median * (1 - median) / images)
    sampling = plain(sampling_sd, data.metric, 2) + points(data.metric)
    seeds = "an unknown amount" if seed_sd is None else plain(seed_sd, data.metric, 2) + points(data.metric)
    text = (
        f"The {data.metric.name} is measured on {data.facts.test_size:,} images: their choice alone moves it by {sampling} "
        f"(one standard error), seeds by {seeds}. {SHARED[data.facts.inputs.same_test_data]}"
    )
    yield "test_set", text, "caution" if seed_sd is None or sampling_sd > seed_sd else "note"


def _ceiling(data: _Evidence) -> _Findings:
    if not data.metric.is_share:
        return
    high = [data.label(sample) for sample in data.samples if sample.values and float(np.mean(sample.values)) >= CEILING]
    if high:
        message = f"{listed(high)}: at or above {short_percent(CEILING)}, which leaves little headroom for differences."
        yield "ceiling", message, "caution"


def _many_comparisons(data: _Evidence) -> _Findings:
    if data.comparisons > 1:
        chance = 1 - 0.95**data.comparisons
        share = short_percent(chance)
        text = f"{data.comparisons} differences are tested; at 5 % each, chance finds at least one in up to {share} of sweeps"
        within = f", within each of the {data.tables} tables" if data.tables > 1 else ""
        corrected = f"The intervals and adjusted p values correct for this{within}, within this report only"
        yield "comparisons", f"{text}. {corrected}.", "note"


_CHECKS: tuple[Callable[[_Evidence], _Findings], ...] = (
    _lost_runs,
    _few_runs,
    _budgets,
    _learning_rate,
    _outliers,
    _constant,
    _ceiling,
    _test_set,
    _non_normality,
    _unequal_spread,
    _shared_seeds,
    _many_comparisons,
)
