"""Print the tables of docs/statistics.md: how often the rule of `train.report.statistics.trained`, the test of rates, and claims
about arms that do not always train err.

python scripts/outcome_errors.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from train.report.claims import claims_of_arms  # noqa: E402
from train.report.contracts import Rate, Sample, Wording  # noqa: E402
from train.report.metric import Metric  # noqa: E402
from train.report.statistics.compare import compare  # noqa: E402
from train.report.statistics.rates import equal_rates_p, training  # noqa: E402
from train.report.statistics.trained import ALPHA, Scores, guessing, is_trained, lower_loss, more_correct  # noqa: E402

PAGE = ROOT / "docs" / "statistics.md"
RUNS, SWEEPS, SIGNIFICANT = 2_000, 5_000, 0.05
LEAST_RUNS, MOST_VALUES = 50, 5_000_000
SD = 0.003
"""Of accuracies between seeds."""
RULES = ("unless rates differ significantly", "only if rates are equal", "the rule")
SIZES = ((100, 2), (100, 10), (1000, 2), (1000, 10), (1000, 100), (2000, 10), (10000, 10))
"""Images of the split, and classes."""

Draw = Callable[[np.random.Generator, int, int], Scores]


def scores_of(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Scores:
    """Return the scores of predictions [images, classes]."""
    losses = np.asarray(special.logsumexp(logits, axis=1)) - logits[np.arange(len(labels)), labels]
    return Scores(float((logits.argmax(axis=1) == labels).mean()), float(losses.mean()), len(labels))


def labels_of(images: int, classes: int) -> NDArray[np.int64]:
    return np.arange(images) % classes


def independent(spread: float) -> Draw:
    """Return a draw of a network whose outputs, of standard deviation `spread`, have nothing to do with the labels."""

    def draw(generator: np.random.Generator, images: int, classes: int) -> Scores:
        return scores_of(generator.normal(0, spread, (images, classes)), labels_of(images, classes))

    return draw


def constant(generator: np.random.Generator, images: int, classes: int) -> Scores:
    """Draw a network that predicts the same for every image, close to the shares."""
    return scores_of(np.broadcast_to(generator.normal(0, 0.01, classes), (images, classes)), labels_of(images, classes))


def untrained(spread: float) -> Draw:
    """Return a draw of an untrained network: half of the variance of its outputs is common to the images of a class."""

    def draw(generator: np.random.Generator, images: int, classes: int) -> Scores:
        labels = labels_of(images, classes)
        common = generator.normal(0, spread / 2**0.5, (classes, classes))[labels]
        return scores_of(common + generator.normal(0, spread / 2**0.5, (images, classes)), labels)

    return draw


def learned(signal: float) -> Draw:
    """Return a draw of a network that learned a little: the output of the right class is higher by `signal`, at a calibrated
    scale."""

    def draw(generator: np.random.Generator, images: int, classes: int) -> Scores:
        labels = labels_of(images, classes)
        logits = generator.normal(0, signal, (images, classes))
        logits[np.arange(images), labels] += signal**2
        return scores_of(logits, labels)

    return draw


def drawn(draw: Draw, images: int, classes: int, runs: int) -> list[Scores]:
    """Return the scores of `runs` runs, of fewer where the split is large."""
    generator = np.random.default_rng(0)
    return [draw(generator, images, classes) for _ in range(min(runs, max(LEAST_RUNS, MOST_VALUES // (images * classes))))]


def share(judge: Callable[[Scores], bool], runs: Sequence[Scores]) -> float:
    """Return the share of runs that `judge` accepts."""
    return float(np.mean([judge(scores) for scores in runs]))


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["--:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def percent(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %"


def false_trained(runs: int) -> Iterator[Sequence[str]]:
    """Yield, by size of the split, how often networks that learned nothing are called trained."""
    kinds = (constant, independent(0.02), independent(0.3), untrained(0.05), untrained(0.5))
    for images, classes in SIZES:
        guess = guessing([1] * classes)
        assert guess is not None
        found = [drawn(kind, images, classes, runs) for kind in kinds]
        cells = [percent(share(lambda s, g=guess: is_trained(s, g), scores)) for scores in found]
        own = [percent(share(lambda s, g=guess: is_trained(s, g, at_chance=True), scores)) for scores in found[3:]]
        yield [f"{images:,}", str(classes), *cells, *own]


def false_untrained(runs: int) -> Iterator[Sequence[str]]:
    """Yield, for networks that learned a little, how often each test, and both together, miss it."""
    for images, classes in SIZES:
        guess = guessing([1] * classes)
        assert guess is not None
        for signal in (0.1, 0.2, 0.4):
            tests = (
                lambda s, g=guess: more_correct(s, g, ALPHA),
                lambda s, g=guess: lower_loss(s, g, ALPHA),
                lambda s, g=guess: is_trained(s, g),
            )
            found = drawn(learned(signal), images, classes, runs)
            accuracy = float(np.mean([scores.accuracy for scores in found]))
            yield [f"{images:,}", str(classes), percent(accuracy), *(percent(1 - share(test, found)) for test in tests)]


def rejections(seeds: int, rates: Sequence[tuple[float, float]], sweeps: int) -> float:
    """Return the share of sweeps in which the rates differ significantly; `rates`: of both arms in each combination."""
    generator = np.random.default_rng(0)
    counts = generator.binomial(seeds, np.array(rates), (sweeps, len(rates), 2))
    distinct, times = np.unique(counts.reshape(sweeps, -1), axis=0, return_counts=True)
    rejected = [equal_rates_p(pairs(row.reshape(-1, 2), seeds)) <= SIGNIFICANT for row in distinct]
    return float(times[rejected].sum() / sweeps)


def pairs(counts: NDArray[np.int64], seeds: int) -> list[tuple[Rate, Rate]]:
    left, right = ([Rate(int(count), seeds, 0.0, 1.0) for count in counts[:, side]] for side in (0, 1))
    return list(zip(left, right, strict=True))


def rate_errors(sweeps: int) -> Iterator[Sequence[str]]:
    """Yield, by seeds and combinations, how often equal rates are found to differ, and how often unequal ones are."""
    for seeds in (3, 5, 10, 20):
        for combinations in (1, 2, 4):
            equal = [[(rate, rate)] * combinations for rate in (0.3, 0.6, 0.9)]
            mixed = [(rate, rate) for rate in (0.1, 0.95, 0.5, 0.7)[:combinations]]
            unequal = [[(1.0, other)] * combinations for other in (0.6, 0.2)]
            found = [rejections(seeds, rates, sweeps) for rates in (*equal, mixed, *unequal)]
            yield [str(seeds), str(combinations), *map(percent, found)]


def claims_made(runs: int, rate: float, *, worst: bool, difference: float, sweeps: int) -> NDArray[np.float64]:
    """Return the shares of sweeps that claim better or worse, by each of `RULES`.

    The baseline always trains, the arm at `rate`: by chance, or never its `worst` runs. `difference`: in standard deviations.
    """
    generator, found = np.random.default_rng(0), np.zeros(3)
    for _ in range(sweeps):
        baseline, values = generator.normal(0.0, SD, (2, runs))
        kept = values > SD * special.ndtri(1 - rate) if worst else generator.random(runs) < rate
        control = Sample("b", tuple(baseline))
        treatment = Sample("a", tuple(values[kept] + difference * SD), untrained=int((~kept).sum()))
        compared = compare(control, [treatment])
        differs = any(comparison.excludes_zero for comparison in compared)
        rates = [(training([treatment]), training([control]))]
        samples, comparisons = {"a": treatment, "b": control}, {item.arm: item for item in compared}
        (claim,) = claims_of_arms({"a": ["a"]}, comparisons, samples, "b", Wording(Metric("accuracy/test")))
        found += [
            differs and equal_rates_p(rates) > SIGNIFICANT,
            differs and bool(kept.all()),
            claim.levels[0].verdict in ("better", "worse"),
        ]
    return found / sweeps


def claim_errors(sweeps: int) -> Iterator[Sequence[str]]:
    """Yield, by seeds, rate and which runs do not train, how often no difference and how often a large one is claimed."""
    for runs in (3, 5, 10):
        for rate in (0.8, 0.5):
            for worst in (False, True):
                found = [claims_made(runs, rate, worst=worst, difference=size, sweeps=sweeps) for size in (0.0, 5.0)]
                which = "its worst" if worst else "by chance"
                yield [str(runs), percent(rate), which, *(percent(value) for shares in found for value in shares)]


def tables(runs: int = RUNS, sweeps: int = SWEEPS) -> list[str]:
    """Return the four tables as Markdown."""
    return [
        table(
            [
                "images",
                "classes",
                "constant",
                "independent, sd 0.02",
                "independent, sd 0.3",
                "untrained, sd 0.05",
                "untrained, sd 0.5",
                "sd 0.05, found at chance",
                "sd 0.5, found at chance",
            ],
            false_trained(runs),
        ),
        table(["images", "classes", "accuracy", "accuracy alone", "loss alone", "the rule"], false_untrained(runs)),
        table(
            [
                "seeds",
                "combinations",
                "30 % both",
                "60 % both",
                "90 % both",
                "mixed, equal",
                "100 % against 60 %",
                "100 % against 20 %",
            ],
            rate_errors(sweeps),
        ),
        table(
            ["seeds", "rate of training", "which do not", *(f"{size}: {rule}" for size in ("0", "5 sd") for rule in RULES)],
            claim_errors(sweeps // 5),
        ),
    ]


if __name__ == "__main__":
    print("\n".join(tables()), flush=True)
