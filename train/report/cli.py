"""The commands `train-report FOLDER...` and `train-report diff A B`. Neither imports torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from train.errors import RunError, UsageError
from train.report.make import ReportOptions, analyse_folders, write_report
from train.report.metric import DEFAULT

DESCRIPTION = """\
Turns run folders into one page: what the ingredients did, how sure that is, and what it cost.

  train-report outputs/2026-01-31_sweep            a sweep, finished or still going
  train-report outputs                             every run below a folder
  train-report RUN RUN RUN --baseline norm=none    any mixture of runs
  train-report diff RUN RUN                        how two runs differ
"""

EPILOG = """\
Runs that diverged or failed are counted and listed, never averaged in; runs that are still going are shown as such.
The metric is the one of the last step. Choose it before you look: a metric that was picked because it looks good proves nothing.

Written are report.html (one file, no network needed), report.md, results.csv (one row a run) and figures/.
TensorBoard shows means and intervals of the arms as runs below FOLDER/summary.
"""

DIFF = """\
Shows how two runs differ: in their choices, in every configuration key (not in lines of text), in code, versions and machine,
and in what came out.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console command. Exits with 2, and one message, for what the user can put right."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: Sequence[str]) -> int:
    """The exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without Unicode gets question marks
    try:
        if arguments[:1] == ["diff"]:
            return _diff(diff_parser().parse_args(arguments[1:]))
        return _report(parser().parse_args(arguments))
    except (UsageError, RunError) as error:
        print(f"train-report: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="train-report", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a sweep, a run, or any folder above them")
    made.add_argument("--out", type=Path, metavar="DIR", help="where the report goes; default: the first FOLDER")
    made.add_argument(
        "--metric",
        default=DEFAULT,
        metavar="TAG",
        help="what the arms are compared by, such as accuracy/val or loss/train; default: %(default)s",
    )
    made.add_argument(
        "--baseline",
        default="",
        metavar="ARM",
        help="what the arms are held against: overrides that single one out, such as 'init=kaiming norm=none', or an arm's id; "
        "default: the sweep's own, else the arm that shares most with the others",
    )
    made.add_argument(
        "--tune",
        action="extend",
        type=_keys,
        default=[],
        metavar="KEY",
        help="what was tuned, such as optimizer.lr (several with commas): no ingredient; every arm is compared at the level with "
        "its best validation accuracy; default: as the sweep was told by sweep.tune",
    )
    made.add_argument("--pairs", action="store_true", help="compare all pairs of arms as well")
    made.add_argument(
        "--smallest-effect",
        type=_positive,
        metavar="X",
        help="the difference that would matter, as a fraction for accuracies (0.01 is one percentage point); decides between 'no "
        "effect larger than' and 'underpowered'",
    )
    made.add_argument("--no-tensorboard", action="store_true", help="write no charts of the arms for TensorBoard")
    return made


def diff_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="train-report diff", description=DIFF, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("first", type=Path, metavar="A", help="a run folder")
    made.add_argument("second", type=Path, metavar="B", help="another")
    return made


def _keys(typed: str) -> list[str]:
    return [key.strip() for key in typed.split(",") if key.strip()]


def _positive(typed: str) -> float:
    value = float(typed)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{typed} is not a positive number")
    return value


def _report(options: argparse.Namespace) -> int:
    asked = ReportOptions(
        metric=options.metric,
        baseline=options.baseline,
        pairs=options.pairs,
        smallest_effect=options.smallest_effect,
        tensorboard=not options.no_tensorboard,
        tune=tuple(options.tune),
    )
    analysis = analyse_folders(options.folders, asked)
    out = options.out or options.folders[0]
    page = write_report(analysis, out, tensorboard=asked.tensorboard)
    from train.report.terminal import as_text

    print(as_text(analysis, page))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from train.report.diff import difference

    print(difference(options.first, options.second))
    return 0
