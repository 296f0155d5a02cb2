"""State, for each level of a factor, the verdict that the runs support, in a sentence with its evidence.

Every verdict follows from the simultaneous interval of a difference to the baseline, so the verdicts of one sweep contain a false
`better` or `worse` in at most 5 % of sweeps:

    equivalent       the interval lies within the smallest effect of interest on either side of 0
    better, worse    it excludes 0; where it reaches into the smallest effect of interest, the sentence says so
    inconclusive     it includes 0 and reaches beyond; the sentence gives the minimum detectable effect of the design (80 % power)
                     at the measured spread, and the number of seeds that would detect the smallest effect of interest
    different        as better or worse, by a metric of which nobody knows whether higher is better
    not_comparable   the metric alone does not compare the two: runs on either side diverged or failed, those that trained are
                     a selection, or the two sides had different training budgets

Divergence is an outcome, too, and so is learning nothing: the sentence says whether the rates differ significantly, by tests that
are a family of their own. Where not equally many runs trained, those that did are a selection, and
the means compare the two sides only if the rates do not differ at 5 % (before the correction for several levels) and

- of two arms, the verdict is better, worse or equivalent, and stays the same whichever of the surplus runs are left out
  (`train.report.statistics.trimming`);
- in a grid, combinations remain in which every run trained: the effect is averaged over these alone.

A learning rate that was not tuned per arm qualifies a claim but does not void it, and the sentence says so. A factor that sets
the budget (or the rate) is compared across budgets (or rates), since that is the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from statistics import harmonic_mean

from train.report import rate_text, sentence_text
from train.report.contracts import Comparison, Effect, LevelClaim, MetricInfo, Rate, Sample, Verdict, Wording
from train.report.grid_contracts import JOINED, MainEffect
from train.report.statistics.contrasts import runs_to_detect
from train.report.statistics.rates import differ, divergence, equal_rates_p, training
from train.report.statistics.trimming import trimmed_effects
from train.text import plural, settings

BUDGET_TOLERANCE = 0.01


def _is_complete(sample: Sample) -> bool:
    """Whether a grid averages over this arm."""
    return bool(sample.values) and not (sample.diverged or sample.untrained)


@dataclass(frozen=True)
class LevelComparison:
    """A level and its baseline: `treatment` and `control` are all arms on either side, `names` their names in this order.

    `pairs`: a treatment and a control arm that differ in this factor alone; `family_size`: how many levels the report compares
    with a baseline; `look_level`: the two-sided level of the effect's interval, where a planned look gives it.
    """

    wording: Wording
    factor: str
    level: str
    names: tuple[str, str]
    effect: Effect
    treatment: tuple[Sample, ...]
    control: tuple[Sample, ...]
    pairs: tuple[tuple[Sample, Sample], ...]
    family_size: int
    averaged_over: str = ""
    look_level: float | None = None

    def claim(self) -> LevelClaim:
        verdict, sentence = self._verdict()
        return LevelClaim(self.level, verdict, sentence, self.effect, self._seeds if verdict == "inconclusive" else None)

    @property
    def is_comparable(self) -> bool:
        """Whether the means compare the two sides."""
        return not (self._nothing_trained or self._obstacles())

    def _verdict(self) -> tuple[Verdict, str]:
        if self._nothing_trained:
            return "not_comparable", f"{' and '.join(self.names)}: no run of either trained, so there is nothing to compare."
        if obstacles := self._obstacles():
            return "not_comparable", self._not_comparable(obstacles)
        verdict = self._by(self.effect)
        if self.effect.bound is None:
            return verdict, self._no_interval()
        forms = {"equivalent": self._equivalent, "inconclusive": self._inconclusive}
        return verdict, forms.get(verdict, self._different)() + self._about_rates()

    def _by(self, effect: Effect) -> Verdict:
        """Return the verdict that follows from an interval."""
        if effect.bound is None:
            return "inconclusive"
        if effect.bound <= self.wording.smallest_effect:
            return "equivalent"
        if not effect.excludes_zero:
            return "inconclusive"
        better = self.wording.metric.higher_is_better
        return "different" if better is None else "better" if (effect.difference > 0) == better else "worse"

    def _obstacles(self) -> list[str]:
        """Return why the accuracies do not compare the two sides; empty when they do."""
        facts, sides = self.wording.facts, (self.treatment, self.control)
        obstacles = [*self._contradicted(), *self._lost_runs()]
        failed = [(sum(sample.failed for sample in side), name) for side, name in zip(sides, self.names, strict=True)]
        obstacles += [f"{plural(count, 'run')} with {name} failed" for count, name in failed if count]
        obstacles += [
            f"no run of {facts.label(sample.arm)} completed at any level tried"
            for sample in (*self.treatment, *self.control)
            if sample.arm in facts.lost_at_every_level
        ]
        if not set(self.factor.split(JOINED)) & set(facts.budget_factors):
            left, right = self._values("budgets")
            ends = zip((left[0], left[-1]), (right[0], right[-1]), strict=True) if left and right else ()
            if not all(isclose(a, b, rel_tol=BUDGET_TOLERANCE) for a, b in ends):
                obstacles.append(f"the budgets differ ({settings(left)} against {settings(right)}), counted in training images")
        return obstacles

    def _contradicted(self) -> list[str]:
        """Return the ingredients in the names that networks lack: those of this factor, and those that one side alone lacks."""
        sides = [self._contradictions(side) for side in (self.treatment, self.control)]
        return [
            f"{count} of {plural(total, 'run')} with {name} contradict{'s' * (count == 1)} the configuration: {sentence}"
            for found, other, name in zip(sides, reversed(sides), self.names, strict=True)
            for choice, (count, total, sentence) in found.items()
            if choice not in other or self._is_about_factor(choice)
        ]

    def _contradictions(self, side: tuple[Sample, ...]) -> dict[str, tuple[int, int, str]]:
        """Return choice -> how many runs of one side, out of how many, lack it, and the first sentence that says so."""
        arms = {sample.arm for sample in side}
        conditions = [item for item in self.wording.facts.conditions if item.arm in arms]
        total, found = sum(item.ended for item in conditions), dict[str, tuple[int, int, str]]()
        for sentence, count in (pair for item in conditions for pair in item.contradictions.items()):
            choice = sentence.partition(", but")[0]
            earlier, _, first = found.get(choice, (0, 0, sentence.partition(". ")[0].rstrip(".")))
            found[choice] = (earlier + count, total, first)
        return found

    def _is_about_factor(self, choice: str) -> bool:
        key = f"{choice.partition('=')[0]}."
        names = [f"{part.lstrip('+~')}." for part in self.factor.split(JOINED)]
        return any(key.startswith(name) or name.startswith(key) for name in names)

    def _lost_runs(self) -> list[str]:
        """Return which rates make the runs in the means a selection."""
        if not self._some_untrained:
            return [f"{self._rates(divergence)} diverged"] if self._any("diverged") else []
        rates = [(training((treatment,)), training((control,))) for treatment, control in self.pairs]
        if not any(differ(*pair) for pair in rates):
            return []
        alike = equal_rates_p(rates) >= 1 - self.wording.confidence
        if alike and self._selection_is_harmless():
            return []
        depends = ", on which the verdict depends" if alike else ""
        return [f"{self._rates(training)} trained, and those that trained are a selection{depends}"]

    def _selection_is_harmless(self) -> bool:
        """Whether the verdict does not depend on which runs did not train."""
        if self._any("diverged") or isinstance(self.effect, MainEffect):  # of a grid, combinations with such runs are left out
            return not self._any("diverged") and isfinite(self.effect.difference)
        count, confidence = (1, 1 - self.look_level) if self.look_level else (self.family_size, self.wording.confidence)
        trimmed = trimmed_effects(*self.pairs[0], count, confidence)
        verdict, *others = (self._by(effect) for effect in (self.effect, *trimmed))
        return verdict != "inconclusive" and set(others) <= {verdict}

    def _rates(self, measure: Callable[[tuple[Sample, ...]], Rate]) -> str:
        return rate_text.rates(measure, (self.treatment, self.control), self.names)

    def _any(self, name: str) -> bool:
        return any(getattr(sample, name) for sample in (*self.treatment, *self.control))

    @property
    def _some_untrained(self) -> bool:
        return self._any("untrained")

    @property
    def _nothing_trained(self) -> bool:
        """Whether runs ended on both sides, and none of them learned anything."""
        return self._some_untrained and not self._any("values")

    def _values(self, name: str) -> list[tuple[float, ...]]:
        """Return the distinct values of the conditions' field `name` over the arms of either side that are compared."""
        compared = [pair for pair in self.pairs if all(map(_is_complete, pair))] if len(self.treatment) > 1 else []
        sides = [{sample.arm for sample in side} for side in zip(*(compared or [*self.pairs]), strict=True)]
        conditions = self.wording.facts.conditions
        return [tuple(sorted({v for item in conditions if item.arm in arms for v in getattr(item, name)})) for arms in sides]

    def _not_comparable(self, obstacles: Sequence[str]) -> str:
        text = f"{' and '.join(self.names)} cannot be compared by {self.wording.metric.name} alone: {'; '.join(obstacles)}."
        if isfinite(self.effect.difference):
            measured = self._sized(sentence_text.signed, self.effect.difference)
            which = "The runs that trained" if self._some_untrained else "The completed runs"
            text += f" {which} differ by {measured} ({self._support}), which supports no claim."
        if self.wording.facts.tuned:  # chosen levels lost the fewest runs, so a test of these losses would prove nothing
            return f"{text} These are the runs at the level chosen for each arm; the tuning table lists the others."
        return text + self._compared_rates()

    def _about_rates(self) -> str:
        """Say how many runs trained, and why the others do not prevent the claim; empty where all did."""
        if not self._some_untrained:
            return ""
        if self.wording.facts.tuned:
            return f" {self._rates(training)} trained at the level chosen for each arm."
        without = rate_text.left_out(self.pairs[0], self.names) if isinstance(self.effect, Comparison) else ""
        return f" {self._rates(training)} trained{without}.{self._compared_rates()}"

    def _compared_rates(self) -> str:
        size, confidence = self.family_size, self.wording.confidence
        return rate_text.compared_rates(self.pairs, self.names, size, confidence, of_training=self._some_untrained)

    def _no_interval(self) -> str:
        counts = [sum(len(sample.values) for sample in side) for side in (self.treatment, self.control)]
        return (
            f"{' against '.join(self.names)}: no conclusion about {self.wording.metric.name} from "
            f"{counts[0]} against {plural(counts[1], 'run')} ({self.effect.note or 'one side has no value'})."
        )

    def _different(self) -> str:
        direction = "higher" if self.effect.difference > 0 else "lower"
        size = self._sized(sentence_text.plain, abs(self.effect.difference))
        text = f"{self.names[0]} has a {self.wording.metric.name} {size} {direction} than {self.names[1]} ({self._support})"
        if self.effect.nearest < self.wording.smallest_effect:
            text += f", a difference that is possibly too small to matter: it may be below {self._smallest}"
        return f"{text}{self._qualification}."

    def _equivalent(self) -> str:
        measured = sentence_text.signed(self.effect.difference, self.wording.metric, self._decimals)
        limit = self._sized(sentence_text.at_least, self.effect.bound or 0.0)
        return (
            f"{' against '.join(self.names)}: no difference in {self.wording.metric.name} larger than {limit} "
            f"(measured {measured}, {self._support}), within {self._smallest}{self._qualification}."
        )

    def _inconclusive(self) -> str:
        measured = self._sized(sentence_text.signed, self.effect.difference)
        detectable = self._sized(sentence_text.at_least, self.effect.detectable or 0.0)
        text = (
            f"{' against '.join(self.names)}: the difference in {self.wording.metric.name} is {measured} "
            f"({self._support}){self._qualification}. At this spread, the minimum detectable effect is {detectable} (80 % power)"
        )
        if self._has_power:
            return f"{text}, not above {self._smallest}: the true difference may be near that."
        seeds = f"about {count} seeds" if (count := self._seeds) else "thousands of seeds"
        return f"{text}. Detecting {self._smallest}, takes {seeds} per arm."

    @property
    def _has_power(self) -> bool:
        """Whether the runs would detect the smallest effect of interest as they are."""
        return self.effect.detectable is not None and self.effect.detectable <= self.wording.smallest_effect

    @property
    def _seeds(self) -> int | None:
        """The number of seeds per arm that would detect the smallest effect of interest.

        Unequal numbers of runs count as their harmonic mean, with which equal ones would have the same standard error.
        """
        counts = [len(sample.values) for pair in self.pairs for sample in pair if sample.values]
        if self._has_power or not counts:
            return None
        runs = int(harmonic_mean(counts) + 1e-9)
        return runs_to_detect(self.wording.smallest_effect, self.effect, runs, self.family_size, self.wording.confidence)

    @property
    def _smallest(self) -> str:
        """The smallest effect of interest, and who chose it."""
        limit = sentence_text.exact(self.wording.smallest_effect, self.wording.metric) + sentence_text.points(self.wording.metric)
        return f"{limit}, the {'default ' if self.wording.is_default else ''}smallest effect of interest"

    @property
    def _decimals(self) -> int:
        return sentence_text.decimals_for(self.effect, self.wording.metric, self.wording.smallest_effect)

    def _sized(self, form: Callable[[float, MetricInfo, int], str], value: float) -> str:
        """Return `value` in the digits that the interval supports, with its unit."""
        return form(value, self.wording.metric, self._decimals) + sentence_text.points(self.wording.metric)

    @property
    def _support(self) -> str:
        """The evidence for the difference, such as `95 % CI +1.1 to +5.3, 5 against 5 runs, Welch`."""
        effect, wording = self.effect, self.wording
        parts = [sentence_text.interval(effect, wording.metric, self._decimals, wording.confidence)]
        if isinstance(effect, Comparison | MainEffect):
            parts.append(f"{effect.n} against {plural(effect.n_baseline, 'run')}{' that trained' * self._some_untrained}")
        return ", ".join(filter(None, [*parts, (effect.note or "Welch") if effect.low is not None else "", self.averaged_over]))

    @property
    def _qualification(self) -> str:
        """The end of the claim: its scope and the learning rate at which it holds."""
        facts, scope = self.wording.facts, f", {self.wording.scope}" if self.wording.scope else ""
        left, right = self._values("learning_rates")
        if not (left and right):
            return scope
        if facts.tuned_over:
            return f"{scope}, with the learning rate tuned for every arm over {settings(facts.tuned_over)}"
        if set(self.factor.split(JOINED)) & set(facts.rate_factors):
            return scope
        if left != right:
            rates = f"{settings(left)} against {settings(right)}"
            return f"{scope}, with the learning rate changed as well ({rates})"
        return f"{scope}, at the learning {'rate' if len(left) == 1 else 'rates'} {settings(left)}, not tuned per arm"
