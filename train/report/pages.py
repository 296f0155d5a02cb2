"""What `train-report` makes of folders: one page, or one for each value of a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from train.errors import UsageError
from train.escape import line
from train.naming import slug
from train.report.collect import Collection, collect
from train.report.make import make_page
from train.report.options import ReportOptions
from train.report.subset import Chosen, by_value, comparable, others_text, selected
from train.store.where import conditions_of


def make_pages(folders: Sequence[Path], out: Path | None, options: ReportOptions, where: Sequence[str], by: Sequence[str]) -> str:
    """Make the page of the runs in `folders`, and return what a terminal shows.

    `out`: the folder of the page; None for the first of `folders`, or a folder in it for runs that are chosen. `where`:
    conditions; `by`: keys, of which each value has a page. UsageError when that fails.
    """
    conditions = conditions_of(where)
    collection = collect(folders)
    if not where and not by:
        kept = comparable(collection)
        return _with_others(make_page(kept, out or folders[0], options)[1], kept)
    if where:
        chosen = selected(collection, conditions)
        if not by:
            return _page(chosen, out or folders[0] / f"where_{slug(where)}", options)
        collection, options = chosen.collection, _tuned(options, chosen)
    return _pages(by_value(collection, by), out or folders[0], options)


def _page(chosen: Chosen, out: Path, options: ReportOptions) -> str:
    return make_page(chosen.collection, out, _tuned(options, chosen))[1]


def _tuned(options: ReportOptions, chosen: Chosen) -> ReportOptions:
    """Return the options with the tuned keys of the plan. TensorBoard's charts of the arms stay those of all runs."""
    return replace(options, tune=options.tune or chosen.tune, tensorboard=False)


def _pages(groups: Sequence[Chosen], out: Path, options: ReportOptions) -> str:
    """Make a page of each group below `out`. UsageError if none can be made."""
    texts: list[str] = []
    failed: list[str] = []
    for number, chosen in enumerate(groups):
        folder = f"by_{slug(chosen.name.split())}"
        same = sum(f"by_{slug(other.name.split())}" == folder for other in groups[:number])
        try:
            texts.append(f"== {line(chosen.name)}\n{_page(chosen, out / (f'{folder}_{same + 1}' if same else folder), options)}")
        except UsageError as error:
            failed.append(f"== {line(chosen.name)}\nno page: {line(str(error))}")
    if not texts:
        raise UsageError(f"--by: no page can be made. {failed[0]}")
    return "\n\n".join([*texts, *failed])


def _with_others(shown: str, collection: Collection) -> str:
    """Return what a terminal shows of a page, and which runs it is not on."""
    subset = collection.subset
    if subset is None:
        return shown
    lines = [subset.sentence, "Not on this page, as they cannot be compared with these:", *others_text(collection)]
    return "\n".join([shown, "", *map(line, lines)])
