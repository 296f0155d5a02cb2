"""What a page suggests where verdicts are inconclusive: how many seeds would detect the smallest effect, and how to take them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from train.command import stored_command
from train.report.analysis import Analysis
from train.report.arms import Study

MOST_SEEDS = 100
"""Of the commands that a report suggests."""
_OF_PLACE = ("seed", "hydra.sweep.dir", "sweep.resume")
_OF_STAGES = ("sweep.until", "sweep.margin", "sweep.max_seeds", "sweep.stages")


@dataclass(frozen=True)
class MoreSeeds:
    """A sentence, and the commands that it introduces."""

    sentence: str = ""
    commands: tuple[str, ...] = ()


def more_seeds(analysis: Analysis) -> MoreSeeds:
    """Return what would detect the smallest effect at all levels that are inconclusive; empty if that takes too many seeds, or
    runs are still open."""
    levels = [level for claim in (analysis.final or analysis).claims for level in claim.levels if level.verdict == "inconclusive"]
    wanted = analysis.wording.smallest_effect
    counts = [level.seeds or inf for level in levels if (level.effect.detectable or 0.0) > wanted]
    if not counts or max(counts) > MOST_SEEDS or analysis.is_open:
        return MoreSeeds()
    count = int(max(counts))
    commands = fresh_seeds(analysis.study, count, wanted)
    if not commands:
        return MoreSeeds()
    blocks = ", all at once, or in blocks that end as soon as they decide" if len(commands) > 1 else ""
    return MoreSeeds(
        f"Seeds that would detect the smallest effect of interest at the inconclusive levels (80 % power): {count} per arm. "
        "Added to this folder after this page, they make exploratory verdicts. For final ones, take fresh seeds in a new "
        f"folder{blocks}:",
        commands,
    )


def fresh_seeds(study: Study, count: int, margin: float) -> tuple[str, ...]:
    """Return the commands that take `count` seeds that no arm has had: all at once, and in blocks as large as this sweep.

    `margin`: within which a difference does not matter, in units of the metric. Empty where the roles of the seeds vary apart.
    """
    manifest = study.manifest
    if manifest is None or set(manifest.seeds) - {"seed"}:
        return ()
    used = {run.seed for run in study.runs}
    first, block = max(used, default=0) + 1, max(2, len(used))
    rest = [argument for argument in manifest.command if _key(argument) not in (*_OF_PLACE, *_OF_STAGES)]
    at_once = stored_command([*rest, f"seed=range({first},{first + count})"])
    if count <= block or study.is_grid or study.tune or any(_key(argument) == "report.pairs" for argument in rest):
        return (at_once,)  # planned looks compare arms with the baseline, at levels that are known
    in_blocks = ["sweep.until=decided", f"sweep.margin={margin:g}", f"sweep.max_seeds={count}"]
    return at_once, stored_command([*rest, *in_blocks, f"seed=range({first},{first + block})"])


def _key(argument: str) -> str:
    return argument.lstrip("+").partition("=")[0]
