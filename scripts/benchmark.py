"""How fast this program is, as ratios measured side by side in one run.

    python scripts/benchmark.py                              # the training loop, at the default configuration
    python scripts/benchmark.py model=resnet norm=group      # at another one: any overrides of `train`
    python scripts/benchmark.py --cost-of-observing          # with and without measuring inside the network
    python scripts/benchmark.py --image-folder               # reading photographs, by decoder and cache
    python scripts/benchmark.py --sweep                      # many runs, from the command to the report
    python scripts/benchmark.py --fixed-cost                 # a run of 0, 20 and 200 steps: seconds beyond its steps
    python scripts/benchmark.py --scale                      # CPU time and memory at a size and at twice that size

The loop of `train` (its readers, observation, sinks and live view; no evaluation) is compared with
- plain: a DataLoader of PIL images, torchvision's transforms, float32, `.item()` at every step;
- lightning: Lightning's Trainer on the data of `plain`, in the precision of `train`, where Lightning is installed;
- bare: forward, backward and update on one batch that lies on the device, in the precision and memory format of `train`;
- bare_graph: on a GPU, replays of the whole step as one CUDA graph, on one batch;
- and is shown without a CUDA graph (train_eager, on a GPU) and in float32 (train_float32), since its default may be bfloat16.
A second table splits the host's time of a step: what `train` takes beyond the bare step.

The contestants take turns, and each has one timed window per round. A window in which other processes used more than
--tolerance of the processors is discarded and taken again, at most --repeats times; other users of a GPU are not noticed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from train import cli

if TYPE_CHECKING:
    from benchmarks.sections import Options

SECTIONS = {
    "loop": "--loop",
    "observing": "--cost-of-observing",
    "folder": "--image-folder",
    "sweep": "--sweep",
    "fixed": "--fixed-cost",
}


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("overrides", nargs="*", help="as for `train`, for the sections that train")
    add = made.add_argument_group("sections (default: --loop)").add_argument
    add("--loop", action="store_true", help="the training loop against a plain one, the bare step and Lightning")
    add("--cost-of-observing", action="store_true", help="the training loop against itself with observe=off")
    add("--image-folder", action="store_true", help="reading JPEGs by decoder and cache, against torchvision's pipeline")
    add("--sweep", action="store_true", help="a whole sweep, by `train -m` and by hand: trainings per hour")
    add("--fixed-cost", action="store_true", help="what a run costs beyond its steps, in a worker of the fork server")
    add("--scale", action="store_true", help="how planning, sweeps and reports grow with their size; alone, without windows")
    add = made.add_argument_group("windows").add_argument
    add("--only", default="", metavar="A,B", help="these contestants or rows alone, by the names in the output")
    add("--rounds", type=positive, default=5, help="windows of each contestant that count; of --scale, at most (%(default)s)")
    add(
        "--steps",
        type=positive,
        help="steps per window (training: 100, up to a multiple of observe.every; files: 20; sweep: 140)",
    )
    add("--repeats", type=int, default=3, help="further attempts at a disturbed window (%(default)s)")
    add("--tolerance", type=float, default=0.03, help="share of the processors that others may use (%(default)s)")
    add("--json", metavar="PATH", help="write everything measured as one line of JSON; - is standard output")
    add = made.add_argument_group("sizes").add_argument
    add("--workers", type=positive, default=2, help="processes of each reader that has any (%(default)s)")
    add("--images", type=positive, default=400, help="JPEGs to generate (%(default)s)")
    add("--image-width", type=positive, default=500, help="their longer side in pixels (%(default)s)")
    add("--batch-size", type=positive, default=32, help="for --image-folder (%(default)s)")
    return made


def main() -> None:
    arguments = parser().parse_intermixed_args()
    cli.prepare_process()  # first of all: libraries read the environment as they load
    try:
        scale(arguments) if arguments.scale else run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(cli.report_error(error))


def run(arguments: argparse.Namespace) -> None:
    """Measure the chosen sections, one after the other, and show each as it is done."""
    from benchmarks import report
    from benchmarks.sections import run_section, wanted
    from rich.console import Console

    options = options_from(arguments)
    chosen = [name for name, flag in SECTIONS.items() if getattr(arguments, flag[2:].replace("-", "_"))] or ["loop"]
    chosen = [name for name in chosen if wanted(name, options)]
    console = Console(highlight=False, stderr=arguments.json == "-")
    report.heading(console)
    sections = []
    with tempfile.TemporaryDirectory(prefix="train-benchmark-") as folder:
        for name in chosen:
            sections.append(run_section(name, options, Path(folder) / name, say))
            report.show(console, sections[-1])
    write_json(arguments.json, report.as_json(sections, options.overrides))


def scale(arguments: argparse.Namespace) -> None:
    """Measure how the chosen kinds of work grow, and show them. Nothing else is to be chosen."""
    from benchmarks import scale
    from rich.console import Console

    rows = [scale.grown(work, arguments.rounds, say) for work in scale.wanted(names(arguments.only))]
    scale.show(Console(highlight=False, stderr=arguments.json == "-"), rows)
    write_json(arguments.json, {"scale": scale.as_json(rows)})


def write_json(path: str | None, content: object) -> None:
    """Write one line of JSON; `-` is standard output, None nowhere."""
    text = json.dumps(content, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    elif path:
        Path(path).write_text(text, encoding="utf-8")


def names(only: str) -> frozenset[str]:
    return frozenset(name for name in only.split(",") if name)


def options_from(arguments: argparse.Namespace) -> Options:
    """UsageError for a contestant that does not exist."""
    from benchmarks.sections import Options, check_only

    only = names(arguments.only)
    check_only(only)
    return Options(
        overrides=arguments.overrides,
        only=only,
        rounds=arguments.rounds,
        steps=arguments.steps,
        repeats=max(0, arguments.repeats),
        tolerance=arguments.tolerance,
        workers=arguments.workers,
        images=arguments.images,
        image_width=arguments.image_width,
        batch_size=arguments.batch_size,
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
