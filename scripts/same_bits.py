"""Prove that two revisions compute the same bits: train everything that `conf` offers at both and compare the results.

    python scripts/same_bits.py 03bcfb5 HEAD                     # some four minutes on two cores
    python scripts/same_bits.py 03bcfb5 HEAD --only 'norm=*'     # some of the cases, by name

A case is one choice in a tiny run, a study, a sweep, a resumed or a diverged run; scripts/catalogue.py lists them. Each revision
is exported into a folder and runs its own `train`, on the CPU with one thread. Weights are compared byte by byte, and so is every
record, summary, status and table, except for the fields in `LEFT_OUT`. Exit codes: 0 same bits, 1 others, 2 not done.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.store.files import MANIFEST_FILE
from train.store.identity import identity
from train.store.run import find_runs, read_run
from train.store.unrecorded import configuration_ids

if TYPE_CHECKING:
    from catalogue import Case
    from same_bits_driver import Revision
    from torch import Tensor

NEW = "norm.s* init.zero_gammas dropout.chosen_depth augment* averaging.* second_pass.* *.frozen.* *.own_share learning_rate.*"
LEFT_OUT = {
    "times": ("* time_s", "* images_per_s", "* started", "* wall_s", "status.json: resumed.*.time"),
    "memory and judgements": ("* peak_memory_bytes", *(f"results.csv: row * {column}" for column in ("trained", "plan", "arm"))),
    "places and versions": (
        *("summary.json: folder", "status.json: pid", "*host", "status.json: versions.*", "* test_correct_by_class*"),
        *("status.json: identity_version", "status.json: git*", "* code", "results.csv: row * command"),
        *("status.json: cuda_graph*", "status.json: data", "status.json: own_*", "status.json: input_shape*"),
    ),
    "facts not recorded before": ("* expected_signal*", *(f"summary.json: fingerprint.{name}" for name in NEW.split())),
    "sentences": (
        *("* reason", "status.json: resumed.*.reason", "status.json: precision_reason", "status.json: diagnosis.text"),
        *("status.json: diagnosis.advice*", "summary.json: initial_verdict.sentence", "summary.json: contradictions*"),
    ),
}
"""What is not compared, as patterns of `FILE: ITEM`: what differs from run to run or names the revision, and free wording."""

SHOWN = 5  # differences of a case that are printed

Items = Mapping[str, Any]
"""Everything in a file of results by its name; tensors stay tensors, and all else is text."""


@dataclass
class Comparison:
    """The comparison of one case. `counts`: kind -> number of things compared."""

    name: str
    differences: list[str] = field(default_factory=list)
    not_compared: str = ""
    counts: Counter[str] = field(default_factory=Counter)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("revisions", nargs=2, metavar="REV", help="as git understands it; what is not committed is not compared")
    made.add_argument("--only", default="*", metavar="PATTERN", help="cases whose names match, as in 'init=*'")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time (%(default)s)")
    made.add_argument("--keep", type=Path, metavar="DIR", help="work in this folder, which must be new, and leave it there")
    return made


def main() -> None:
    from same_bits_driver import CommandError

    arguments = parser().parse_args()
    try:
        sys.exit(run(arguments))
    except CommandError as error:
        print(f"same_bits: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from same_bits_driver import CommandError, Revision, commit_of

    commits = [commit_of(name) for name in arguments.revisions]
    with tempfile.TemporaryDirectory(prefix="same-bits-") as temporary:
        work = Path(temporary) if arguments.keep is None else arguments.keep.resolve()
        try:
            work.mkdir(parents=True, exist_ok=arguments.keep is None)
        except OSError as error:
            raise CommandError(f"--keep: {work} cannot be made ({error.strerror}).") from error
        first, second = map(Revision, arguments.revisions, commits, (work / "first", work / "second"))
        comparisons, codes = compare_revisions(first, second, arguments.only, max(1, arguments.jobs))
    for comparison in comparisons:
        show(comparison)
    for name, code in zip(arguments.revisions, codes, strict=True):
        print(f"code  {name}  {code or 'none'}")
    print(conclusion(comparisons))
    return int(any(comparison.differences for comparison in comparisons))


def compare_revisions(first: Revision, second: Revision, only: str, jobs: int) -> tuple[list[Comparison], list[str | None]]:
    """Run the chosen cases at both and compare them; also returns the ids of their code."""
    from catalogue import ACROSS, cases, write_images
    from same_bits_driver import CommandError, Task, drive, export

    images = first.folder.parent / "images"  # one folder for both: its path is part of a run's configuration
    write_images(images)
    found: list[dict[str, Case]] = []
    for revision in (first, second):
        export(revision)
        made = cases(revision.source / "conf", images)
        found.append({case.name: case for case in made if fnmatchcase(case.name, only)})
    if not any(found):
        raise CommandError(f"--only: no case is called {only!r}.")
    shared = [case for name, case in found[0].items() if name in found[1]]
    # The first revision also begins the run that the second one only resumes.
    begun = [Task("begin for the other", second.case(ACROSS), case.commands[:1]) for case in shared if case.name == ACROSS]
    tasks = [Task(case.name, second.case(case.name), case.commands[case.name == ACROSS :]) for case in shared]
    all_of_first = [*(Task(case.name, first.case(case.name), case.commands) for case in shared), *begun]
    codes = [drive(first, all_of_first, jobs), drive(second, tasks, jobs)]
    compared = [compare_case(case, first.case(case.name), second.case(case.name)) for case in shared]
    gone = [Comparison(name, ["the second revision does not have it"]) for name in found[0] if name not in found[1]]
    new = [Comparison(name, not_compared="new at the second revision") for name in found[1] if name not in found[0]]
    return [*compared, *gone, *new], codes


def compare_case(case: Case, first: Path, second: Path) -> Comparison:
    """Compare the exit codes of a case, and then everything in its two folders."""
    ended = [read_outcome(folder) for folder in (first, second)]
    codes = {command["exit_code"] for outcome in ended for command in outcome}
    if case.may_be_refused and all(ended) and codes == {2}:
        return Comparison(case.name, not_compared=f"both refuse it, exit code 2: {last_line(second / 'log.txt')}")
    if not all(ended) or codes != {case.exit_code}:
        texts = [", ".join(str(command["exit_code"]) for command in outcome) or "none" for outcome in ended]
        wrong = f"exit codes {texts[0]} | {texts[1]}, where {case.exit_code} is right: {last_line(second / 'log.txt')}"
        return Comparison(case.name, [wrong])
    result = compare_folders(case.name, first, second)
    written = [[command["weights_written"] for command in outcome][-min(map(len, ended)) :] for outcome in ended]
    if written[0] != written[1]:
        result.differences.append(f"files of weights that each command wrote: {written[0]} | {written[1]}")
    return result


def read_outcome(folder: Path) -> list[dict[str, Any]]:
    """Return the outcome of each command; empty when the case did not get to its end."""
    path = folder / "outcome.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def last_line(log: Path) -> str:
    """Return the last line of a case's log, shortened."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return textwrap.shorten(lines[-1] if lines else "the log is empty", 100, placeholder=" ...")


def compare_folders(name: str, first: Path, second: Path) -> Comparison:
    """Compare every file of results below two folders, by its path."""
    result = Comparison(name)
    found = [results_below(folder) for folder in (first, second)]
    for one, other, place in ((*found, "first"), (*reversed(found), "second")):
        result.differences += [f"{path}: only at the {place} revision" for path in sorted(one.keys() - other.keys())]
    for path in sorted(found[0].keys() & found[1].keys()):
        kind, read, count = READERS[found[0][path].name]
        before, after = (read(files[path]) for files in found)
        result.counts[kind] += count(before)
        result.differences += [f"{path}: {text}" for text in compare_items(found[0][path].name, before, after)]
    if not result.counts and not result.differences:
        result.differences.append("it left nothing to compare")
    return result


def results_below(folder: Path) -> dict[str, Path]:
    """Return the files of results by their paths, in which each run of a sweep has the id of its configuration as its name."""
    names = {path: name for sweep in folder.rglob(MANIFEST_FILE) for path, name in names_of_runs(sweep.parent).items()}
    files = [path for path in folder.rglob("*") if path.name in READERS]
    return {
        str(path.parent.with_name(names.get(path.parent, path.parent.name)).relative_to(folder) / path.name): path
        for path in files
    }


def names_of_runs(sweep: Path) -> dict[Path, str]:
    return {path: identity(read_run(path).config) for path in find_runs([sweep])}


def compare_items(file: str, first: Items, second: Items) -> Iterator[str]:
    """Return the differing items with both values, except for those that are left out."""
    for name in [*first, *(name for name in second if name not in first)]:
        found = difference(first.get(name), second.get(name))
        if found and not any(fnmatchcase(f"{file}: {name}", pattern) for pattern in chain(*LEFT_OUT.values())):
            yield f"{name}: {found}"


def difference(first: Any, second: Any) -> str:
    """Return both items as text; empty when they are bit-exact (a NaN equals itself). None is a missing item."""
    if any(item is None or isinstance(item, str) for item in (first, second)):
        texts = ["missing" if item is None else item if isinstance(item, str) else "a tensor" for item in (first, second)]
        return " | ".join(texts) if texts[0] != texts[1] else ""
    forms = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in (first, second)]
    if forms[0] != forms[1]:
        return " | ".join(forms)
    places = (raw_bytes(first) != raw_bytes(second)).any(dim=1).nonzero().flatten().tolist()
    if not places:
        return ""
    values = " | ".join(repr(tensor.flatten()[places[0]].item()) for tensor in (first, second))
    return f"{len(places)} of {first.numel()} values, first at {places[0]}: {values}"


def raw_bytes(tensor: Tensor) -> Tensor:
    """Return uint8 [values, bytes of a value]."""
    import torch

    plain = tensor.clone(memory_format=torch.contiguous_format)  # else a dimension of size one may keep an odd stride
    return plain.reshape(-1, 1).view(torch.uint8)


def read_weights(path: Path) -> Items:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def read_records(path: Path) -> Items:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {f"record {place} {key}": text for place, line in enumerate(lines) for key, text in flatten(json.loads(line))}


def read_json(path: Path) -> Items:
    return dict(flatten(json.loads(path.read_text(encoding="utf-8"))))


def read_status(path: Path) -> Items:
    """Read a status, with ids of the configuration alone: older versions of the identity know no data."""
    ids = configuration_ids(path.parent)
    return {name: ids.get(text.strip('"'), text) for name, text in read_json(path).items()}


def read_table(path: Path) -> Items:
    """Read a table with its rows in the order of their runs: a report ranks arms by its own judgement."""
    ids = configuration_ids(path.parent) | {run.name: name for run, name in names_of_runs(path.parent).items()}
    with path.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: ids.get(folder := row.get("folder") or "", folder))
    return {f"row {place} {key}": ids.get(str(text), str(text)) for place, row in enumerate(rows) for key, text in row.items()}


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield each leaf of a JSON value by its path, as the JSON text that tells -0.0 from 0.0 and 1 from 1.0."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None or not value:
        yield name, json.dumps(value)
        return
    for key, part in parts:
        yield from flatten(part, f"{name}.{key}" if name else str(key))


READERS: dict[str, tuple[str, Callable[[Path], Items], Callable[[Items], int]]] = {
    "weights.pt": ("weight tensors", read_weights, len),
    "metrics.jsonl": ("records", read_records, lambda items: len({name.split()[1] for name in items})),
    "summary.json": ("summaries", read_json, lambda _: 1),
    "status.json": ("statuses", read_status, lambda _: 1),
    "results.csv": ("tables", read_table, lambda _: 1),
}
"""File of results -> what it holds, how it is read, and how its items are counted."""


def show(comparison: Comparison) -> None:
    """Print the differences of a case, if it has any."""
    if comparison.differences:
        print(f"DIFFERENT  {comparison.name}: {len(comparison.differences)} differences, as FIRST | SECOND")
        print(*(f"    {text}" for text in comparison.differences[:SHOWN]), sep="\n")


def conclusion(comparisons: Sequence[Comparison]) -> str:
    """Return the last lines of the output: what was compared, what was not, and the verdict."""
    compared = [comparison for comparison in comparisons if not comparison.not_compared]
    different = sum(bool(comparison.differences) for comparison in compared)
    counts = sum((comparison.counts for comparison in compared), Counter[str]())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    verdict = f"DIFFERENT: {different} of {len(compared)} cases" if different else f"same bits: {len(compared)} cases"
    lines = [f"not compared: {item.name} ({item.not_compared})" for item in comparisons if item.not_compared]
    lines += [f"left out: {reason} ({', '.join(patterns)})" for reason, patterns in LEFT_OUT.items()]
    return "\n".join([*lines, f"{verdict}; {kinds or 'nothing compared'}"])


if __name__ == "__main__":
    main()
