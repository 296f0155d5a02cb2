"""The command `train-report` of folders or of a table, and its `diff`, `signals` and `effects` of two folders, without torch."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from train.errors import RunError, UsageError
from train.help.parser import Parser
from train.report.make_table import make_table_report
from train.report.metric import DEFAULT
from train.report.options import AnalysisName, ReportOptions
from train.report.pages import make_pages
from train.report.read_table import TableColumns
from train.store.where import HELP
from train.streams import protect_output, replace_unprintable, say, say_error

DESCRIPTION = """\
Makes one page from run folders: the effects of the ingredients, their uncertainty, and their cost.

  train-report outputs/2026-01-31_sweep            # a sweep, complete or still running
  train-report outputs                             # every run below a folder
  train-report RUN RUN RUN --baseline norm=none    # any set of runs
  train-report outputs --where norm=batch,layer    # some of them; --by KEY: a page for each value of a key
  train-report diff RUN RUN                        # compare two runs
  train-report signals RUN RUN                     # lay their layers over each other
  train-report effects SWEEP SWEEP                 # lay what changes do in two recipes side by side
  train-report TABLE --arm norm,lr --seed seed     # runs that were not made here: a row each, CSV or Parquet
"""

EPILOG = """\
Diverged, failed and running runs are counted and listed but excluded from means.
Verdicts are final when every run of the sweep's plan has ended; before, and of runs that were planned after such a page, they are
exploratory. The folder's sweep.json records each page.
Of a folder with runs of several data sets or lengths, the page has the largest group that can be compared, and lists the others.
Runs chosen by --where or --by are reported in FOLDER/where_... and FOLDER/by_..., without a plan, and with a caution.
The metric is taken after the last step. Choose it before you see results: a metric picked for its results proves nothing.

Writes report.html (one file, no network needed), report.md, results.csv and results.parquet (one row per run), curves.parquet
(one row per run, tag and step) and figures/; of a TABLE report.html, report.md and figures/ alone, into TABLE_report.
In a TABLE, a column named state may say that a run diverged or failed: it needs no metric then.
The page shows part of what is very long: many runs of an arm as a band and some dots, the first runs and commands of a list.
TensorBoard shows means and intervals of the arms as runs below FOLDER/summary.
"""

DIFF = """\
Compares two runs: their option groups, every configuration key, code, versions and machine, and results.
"""


SIGNALS = """\
Lays the layers of two runs over each other: std and mean of the activations, and std of the gradients, at the first and the last
observation, as a table and as signals.svg.
"""

EFFECTS = """\
Lays what a change does in two sweeps side by side, as a table, effects.svg and effects.csv: leaving an ingredient out of a full
recipe, say, and adding it to a bare one. A change starts at the level of the baseline of B; where that is none, it is what the
ingredient adds. A minus B tells whether it depends on the rest of the recipe.
"""

WATCH_S = 30.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the console command and exit. The exit code is 2, with one message, for errors that the user can fix."""
    protect_output()
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(command_line))


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    replace_unprintable()
    try:
        if arguments[:1] == ["diff"]:
            return _diff(diff_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["signals"]:
            return _signals(signals_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["effects"]:
            return _effects(effects_parser().parse_args(arguments[1:]))
        return _report(parser().parse_args(arguments))
    except (UsageError, RunError) as error:
        say_error("train-report", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="train-report", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "folders", nargs="+", type=_folder, metavar="FOLDER", help="a sweep, a run, a folder above them, or a TABLE"
    )
    parser.add_argument(
        "--out",
        type=_folder,
        metavar="DIR",
        help="folder for the report; default: the first FOLDER, or one in it for --where and --by",
    )
    _add_question(parser)
    parser.add_argument("--where", nargs="+", action="extend", default=[], metavar="CONDITION", help=HELP)
    parser.add_argument(
        "--by", action="extend", type=_keys, default=[], metavar="KEY", help="a page for each value of this key, such as data"
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="also write paper/: figures as wide as a column (PDF, and PGF where LaTeX is found), and a LaTeX table of the arms",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_positive,
        const=WATCH_S,
        metavar="SECONDS",
        help="make the page anew while runs are running, when they have got on, at most every so many seconds (default: 30)",
    )
    parser.add_argument(
        "--no-tensorboard", dest="tensorboard", action="store_false", help="do not write TensorBoard charts of the arms"
    )
    _add_columns(parser)
    return parser


def _add_question(parser: argparse.ArgumentParser) -> None:
    """Add what is compared, and how."""
    parser.add_argument(
        "--analysis",
        choices=get_args(AnalysisName),
        help="what the page answers: which arm is better (arms), which random choices make the spread (variance), whether a "
        "verdict holds with more epochs or data (budget), whether the signal keeps its size as the net grows (width, depth); "
        "default: the sweep's, else arms",
    )
    _add_metric(parser)
    parser.add_argument(
        "--baseline",
        default="",
        metavar="ARM",
        help="arm with which the others are compared: overrides that match one arm, such as 'init=kaiming norm=none', or its id; "
        "default: the sweep's, else the arm that shares most settings with the others",
    )
    parser.add_argument(
        "--tune",
        action="extend",
        type=_keys,
        default=[],
        metavar="KEY",
        help="tuned key, such as optimizer.lr (several with commas); it is no factor: every arm is compared at the level with "
        "its best validation accuracy; default: sweep.tune of the sweep",
    )
    parser.add_argument("--pairs", action="store_true", help="also compare all pairs of arms, and write them to pairs.csv")
    parser.add_argument(
        "--smallest-effect",
        type=_positive,
        metavar="X",
        help="smallest effect of interest, as a fraction for accuracies (0.01 is one percentage point); decides between "
        "'equivalent' and 'inconclusive'",
    )


def _add_metric(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric",
        default=DEFAULT,
        metavar="TAG",
        help="metric by which arms are compared, such as accuracy/val or loss/train; default: %(default)s",
    )


def _add_columns(parser: argparse.ArgumentParser) -> None:
    """Add which columns of a TABLE hold what."""
    table = parser.add_argument_group("columns of a TABLE")
    table.add_argument(
        "--arm",
        action="extend",
        type=_keys,
        default=[],
        metavar="COLUMN",
        help="column in which arms differ (several with commas)",
    )
    table.add_argument("--seed", default="", metavar="COLUMN", help="column of the seeds; --metric names that of the results")
    table.add_argument(
        "--better", choices=("higher", "lower"), help="which values of the metric are better, where its name does not tell"
    )


def diff_parser() -> argparse.ArgumentParser:
    return _parser_of_two("diff", DIFF)


def signals_parser() -> argparse.ArgumentParser:
    return _add_out(_parser_of_two("signals", SIGNALS))


def effects_parser() -> argparse.ArgumentParser:
    parser = _add_out(_parser_of_two("effects", EFFECTS, "a sweep"))
    _add_metric(parser)
    return parser


def _add_out(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--out", type=_folder, default=Path(), metavar="DIR", help="folder for the figure; default: this one")
    return parser


def _parser_of_two(name: str, description: str, what: str = "a run") -> argparse.ArgumentParser:
    parser = Parser(prog=f"train-report {name}", description=description)
    parser.add_argument("first", type=_folder, metavar="A", help=f"folder of {what}")
    parser.add_argument("second", type=_folder, metavar="B", help="another one")
    return parser


def _folder(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111  # pathlib raises for a user who does not exist


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a positive number")


def _report(arguments: argparse.Namespace) -> int:
    values: dict[str, Any] = vars(arguments) | {"tune": tuple(arguments.tune)}
    folders, out, where, by = (values.pop(name) for name in ("folders", "out", "where", "by"))
    paper, watch = values.pop("paper"), values.pop("watch")
    arm, seed, better = tuple(values.pop("arm")), values.pop("seed"), values.pop("better")
    options = ReportOptions(**values)
    tables = [path for path in folders if path.is_file()]
    if tables:
        if len(folders) > 1 or where or by or paper or watch or options.tune or options.analysis not in (None, "arms"):
            others = "without folders, other tables, --where, --by, --paper, --watch, --tune and --analysis"
            raise UsageError(f"{tables[0]}: a table is reported alone, {others}.")
        (table,) = tables
        columns = TableColumns(arm, seed, options.metric, better)
        say(make_table_report(table, out or table.with_name(f"{table.stem}_report"), columns, options)[1], wraps=True)
        return 0
    if arm or seed or better:
        raise UsageError(f"--arm, --seed and --better name columns of a table of runs, and {folders[0]} is no file.")
    if (where or by) and (paper or watch):
        raise UsageError("--paper and --watch are for whole folders: omit --where and --by.")
    if watch:
        from train.report.watch import watch_report

        watch_report(folders, out or folders[0], options, watch)
    else:
        say(make_pages(folders, out, options, where, by), wraps=True)
    if paper:
        from train.report.make import analyse_folders
        from train.report.paper import write_paper

        say(write_paper(analyse_folders(folders, options), out or folders[0]))
    return 0


def _signals(options: argparse.Namespace) -> int:
    from train.report.signals import overlay

    say(overlay(options.first, options.second, options.out))
    return 0


def _effects(options: argparse.Namespace) -> int:
    from train.report.two_recipes import lay_side_by_side

    say(lay_side_by_side(options.first, options.second, options.out, ReportOptions(metric=options.metric)))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from train.report.diff import difference

    say(difference(options.first, options.second))
    return 0
