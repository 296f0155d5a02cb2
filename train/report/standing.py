"""Whether the verdicts of a page are final, by one rule.

The verdicts of a sweep are those of its plan: final when every run of it has ended, and computed from its runs alone. A page
before that, one of a sweep that grew after a page had shown final verdicts, and one that does not follow the plan are
exploratory. So a page that is made while a sweep runs does no harm: only one page is final, whatever it is followed by. Without
the rule, five looks at a growing sweep make a false claim in one of eight sweeps (docs/statistics.md).

Runs that are planned before anybody has seen a final page just enlarge the plan: nobody knew what they would decide. So they do
after a page without any interval, which supports no claim.

With planned looks, the verdict of an arm is final when a look has decided it, or when there is none left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from train.report.collect import Collection, PlannedSweep
from train.report.contracts import Claim
from train.store.manifest import Manifest
from train.store.manifest_update import of_plans
from train.store.plans import Standing, closing
from train.store.run import Run
from train.text import plural

ENDED = frozenset({"done", "diverged", "failed", "lost", "incomplete"})
"""The states of runs of which the plan expects no more; a repeated command makes those anew that have no result."""


@dataclass(frozen=True)
class PageStanding:
    """Whether the verdicts are final, and why, in a sentence for the top of the page. `kind`: None where there is no plan."""

    kind: Standing | None = None
    sentence: str = ""


NO_PLAN = PageStanding()


@dataclass(frozen=True)
class FirstPlan:
    """What was planned before anybody saw final verdicts: `collection` has its runs alone.

    `seen`: when a page with final verdicts was made, empty while there is none; `later_runs`: those that were planned or made
    besides.
    """

    collection: Collection
    seen: str
    later_runs: int

    @property
    def manifest(self) -> Manifest:
        return self.collection.plans[0].manifest

    @property
    def runs(self) -> int:
        """Return the number of planned runs."""
        return len(self.manifest.runs)

    @property
    def is_open(self) -> bool:
        return is_open(self.manifest, self.collection.runs)

    @property
    def is_unfinished(self) -> bool:
        """Whether no verdict of the plan is final: runs have not ended, and no planned look has decided an arm."""
        return self.is_open and not self.manifest.planned_looks

    def tag(self, arm: str) -> str:
        """Return what is said at the verdict of an arm between planned looks; `arm`: as these name it."""
        decision = self.manifest.decisions.get(arm)
        if decision is None:
            return "exploratory"
        return "interim" if decision.verdict == "open" else "final"


def first_plan(collection: Collection) -> FirstPlan | None:
    """Return what was planned first; None for runs of no sweep, or of several."""
    if len(collection.plans) != 1:
        return None
    ((folder, manifest),) = ((plan.folder, plan.manifest) for plan in collection.plans)
    look = closing(manifest.looks)
    first = manifest if look is None else of_plans(manifest, look.plans)
    identities = {run.identity for run in first.runs}
    runs = tuple(run for run in collection.runs if run.identity in identities)
    later = {run.identity for run in (*manifest.runs, *collection.runs)} - identities
    restricted = replace(collection, runs=runs, plans=(PlannedSweep(folder, first),))
    return FirstPlan(restricted, "" if look is None else look.when, len(later))


def is_open(manifest: Manifest, runs: Iterable[Run]) -> bool:
    """Return whether verdicts may change: an arm is not decided at planned looks, or, without these, a run has not ended."""
    return bool(_undecided(manifest) if manifest.planned_looks else _open_runs(manifest, runs) or _untuned(manifest))


def _open_runs(manifest: Manifest, runs: Iterable[Run]) -> int:
    """Return the number of runs that are still to end. A choice of a level needs none of those that tried levels any more."""
    ended = {run.identity for run in runs if run.state in ENDED}
    tuned = {arm.id for arm in manifest.arms if arm.tuned in manifest.choices}
    return sum(run.identity not in ended and run.tries not in tuned for run in manifest.runs)


def _untuned(manifest: Manifest) -> int:
    """Return the number of arms whose level is to be chosen before they are compared, or was chosen and has no run yet."""
    if manifest.tuning is None:
        return 0
    compared = {"", *(run.arm for run in manifest.runs if not run.tries)}
    done = {tuned for tuned, choice in manifest.choices.items() if choice.arm in compared}
    return len({arm.tuned for arm in manifest.arms} - done)


def _undecided(manifest: Manifest) -> int:
    """Return the number of arms that planned looks have not decided."""
    planned = manifest.planned_looks
    decided = {arm for arm, decision in manifest.decisions.items() if decision.verdict != "open"}
    return len(set(planned.arms[1:]) - decided) if planned else 0


def standing_of(plan: FirstPlan | None, *, follows_plan: bool, is_of_plan: bool) -> PageStanding:
    """Return the standing of verdicts. `follows_plan`: by metric, baseline and the like; `is_of_plan`: by its runs alone."""
    if plan is None:
        return NO_PLAN
    if not is_of_plan:
        return PageStanding("exploratory", _grown(plan, follows_plan))
    if plan.is_unfinished:
        count = _open_runs(plan.manifest, plan.collection.runs)
        more = f"{count} of the {plural(plan.runs, 'run')} of the plan have not ended"
        if untuned := _untuned(plan.manifest):
            more = f"{plural(untuned, 'arm')} {'has' if untuned == 1 else 'have'} no runs yet at a level that was chosen before"
        return PageStanding("exploratory", f"exploratory: {more}; the verdicts are final when all have.")
    if not follows_plan:
        return PageStanding("exploratory", "exploratory: the report does not follow the plan; see the threats.")
    if plan.is_open:
        return PageStanding("interim", _between_looks(plan.manifest))
    ended = f"all {plural(plan.runs, 'run')} of the plan have ended"
    if plan.manifest.planned_looks:
        ended = "every arm was compared at its planned looks"
    return PageStanding("final", f"final: {ended}. With more runs in this folder, verdicts are exploratory.")


def _between_looks(manifest: Manifest) -> str:
    assert manifest.planned_looks is not None
    arms, looks = len(manifest.planned_looks.arms) - 1, len(manifest.planned_looks.looks)
    taken = max((decision.look for decision in manifest.decisions.values()), default=0)
    if not taken:
        return f"interim: none of the {looks} planned looks was taken yet, so that these verdicts are exploratory."
    decided = arms - _undecided(manifest)
    which = f"the verdicts of {decided} of {plural(arms, 'arm')} are final" if decided else "no arm is decided"
    return f"interim: {taken} of {plural(looks, 'planned look')} taken; {which}."


def _grown(plan: FirstPlan, follows_plan: bool) -> str:
    total = plan.runs + plan.later_runs
    if plan.seen:
        why = f"{plan.later_runs} of the {total} runs were planned after a page of the first {plan.runs} ({_day(plan.seen)})"
    else:
        why = f"{plan.later_runs} of the {total} runs are not of the plan"
    final = "those of the plan alone stand above" if follows_plan else "a report that follows the plan shows the final ones"
    if plan.is_unfinished and not plan.seen:
        final = f"and {_open_runs(plan.manifest, plan.collection.runs)} of the {plural(plan.runs, 'planned run')} have not ended"
    return f"exploratory: {why}; {final}."


def _day(when: str) -> str:
    """Return a stored time to the minute."""
    return when[:16].replace("T", " ")


def tagged(claims: Sequence[Claim], tag: Callable[[str], str]) -> tuple[Claim, ...]:
    """Return the claims with a word at each verdict on its standing. `tag`: gives it for a level."""
    return tuple(replace(claim, levels=tuple(replace(level, tag=tag(level.level)) for level in claim.levels)) for claim in claims)
