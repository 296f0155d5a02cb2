"""Reports of many runs: the page stays readable and says what it leaves out, time grows linearly, memory stays small."""

from __future__ import annotations

import csv
import gc
import io
import math
import re
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.benchmarks.stored import Length, write_sweep
from train.report.analysis import analyse
from train.report.arms import build_study
from train.report.collect import collect
from train.report.content import build_content
from train.report.curve_data import MOST_LINES, band_of
from train.report.frame import MOST_COMMANDS
from train.report.history import CURVE_TAGS, read_histories, read_history, shared_curve
from train.report.make import ReportOptions, analyse_folders, make_report
from train.report.metric import Metric
from train.report.render import MOST_OPEN, as_text, html, markdown
from train.report.results_csv import csv_text, pairs_text, results
from train.report.selection import MOST_DOTS, MOST_OPEN_ROWS
from train.store.config_text import config_of, load, overrides_of
from train.store.run import Run, find_runs, read_run
from train.store.sharing import Shared

SHORT = Length(epochs=3, every=70, signals=1, layers=3)
RUNS = 110


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """Two arms of many runs, of which every fourth diverged."""
    sweep = write_sweep(tmp_path_factory.mktemp("large") / "sweep", 2 * RUNS, 2, length=SHORT, diverged=4)
    make_report([sweep], sweep, ReportOptions(tensorboard=False, pairs=True))
    return sweep


def test_runs_share_what_they_have_in_common(large):
    """Most of the memory of a report is that of its runs: of each kind of part there is one object per distinct value."""
    runs = collect([large]).runs
    assert len(runs) == 2 * RUNS

    def objects(parts):
        return len(set(map(id, parts)))

    assert objects(run.config["model"] for run in runs) == 2
    assert objects(run.config["trainer"] for run in runs) == 1
    assert objects(run.status[key] for run in runs for key in ("choices", "versions", "git")) == 3
    assert objects(run.choices for run in runs) == objects(run.arm for run in runs) - 1 == 1
    assert objects(key for run in runs for key in run.status) == len(runs[0].status)
    curves = [curve for history in read_histories(runs, CURVE_TAGS).values() for curve in history.curves.values()]
    assert objects(curve.steps for curve in curves) == len({tuple(curve.steps) for curve in curves})


def test_shared_values_are_the_same_and_not_only_equal():
    shared = Shared()
    values = [{"a": value} for value in (1, 1.0, True, 0.0, -0.0, "1", None, [1], ["1"], {"b": 1}, {"b": 1.0}, math.nan)]
    assert [repr(shared.of(value)) for value in values] == list(map(repr, values))
    assert [repr(shared.of(dict(value))) for value in values] == list(map(repr, values))
    assert all(shared.of(dict(value)) is shared.of(dict(value)) for value in values)
    orders = [{"a": 1, "b": 2}, {"b": 2, "a": 1}]
    assert [list(shared.of(order)) for order in orders] == [["a", "b"], ["b", "a"]]
    keys = [{1: "x"}, {True: "x"}, {1.0: "x"}]
    assert [repr(shared.of(key)) for key in keys] == list(map(repr, keys))


def section(page: str, name: str) -> str:
    return page.split(f'id="{name}"')[1].split("</section>")[0]


def test_page_of_many_runs_lists_some_and_counts_the_rest(large):
    page, text = ((large / name).read_text() for name in ("report.html", "report.md"))
    diverged = 2 * (RUNS // 4)
    excluded = section(page, "excluded")
    assert diverged > MOST_OPEN
    assert f"<details><summary>{diverged}, listed below</summary>" in excluded
    assert excluded.count("<tr><th scope") == 1 + diverged
    commands = section(page, "commands")
    assert commands.count("<details><summary>") == 2
    assert commands.count("seed=") == text.count("    train model") == 2 * MOST_COMMANDS
    assert f"and {RUNS - MOST_COMMANDS} more in results.csv" in commands
    assert text.count(f"and {RUNS - MOST_COMMANDS} more in results.csv") == 2
    assert len(list(csv.DictReader((large / "results.csv").read_text().splitlines()))) == 2 * RUNS
    assert len((large / "pairs.csv").read_text().splitlines()) == 2


def test_page_of_many_runs_draws_a_band_and_some_dots(large):
    page = (large / "report.html").read_text()
    assert page.count("<circle") == 2 * MOST_DOTS
    assert f"{RUNS - RUNS // 4} runs, of which {MOST_DOTS} are shown" in page
    assert "the band covers the middle 80 % of those that trained" in section(page, "figures")
    curves = (large / "figures" / "curves.svg").read_text()
    assert len(re.findall(r'id="(?:PolyCollection|FillBetweenPolyCollection)_', curves)) == 4, "two arms in two charts"
    assert curves.count('id="line2d_') < 4 * (2 * MOST_LINES + 2) + 200


def test_band_holds_the_middle_of_the_runs(large):
    curves = [read_history(read_run(path), CURVE_TAGS).curves for path in find_runs([large])]
    shared = shared_curve([curve["loss/val"] for curve in curves if len(curve["loss/val"].steps) == SHORT.epochs])
    assert shared is not None
    for point, (epoch, low, high) in enumerate(band_of(shared)):
        column = sorted(shared.values[:, point].tolist())
        inside = [value for value in column if low <= value <= high]
        assert epoch == point + 1
        assert 0.8 * len(column) <= len(inside) <= 0.8 * len(column) + 2
        assert low in column
        assert high in column


def test_curves_are_compared_at_the_steps_that_all_have(large):
    first, second, *_ = (read_history(read_run(path), ["loss/train"]).curves["loss/train"] for path in find_runs([large]))
    kept = {name: getattr(second, name)[1:] for name in ("steps", "epochs", "times_s", "values")}
    shared = shared_curve([first, replace(second, **kept)])
    assert shared is not None
    assert shared.steps.tolist() == list(first.steps)[1:]
    assert shared.epochs.tolist() == list(first.epochs)[1:]
    assert shared.values.tolist() == [list(first.values)[1:], list(second.values)[1:]]
    assert shared_curve([]) is None


def test_pairs_are_capped_and_all_in_a_table(tmp_path):
    sweep = write_sweep(tmp_path / "sweep", 24, 12, length=Length(1, 70, 0, 0))
    analysis = analyse_folders([sweep], ReportOptions(pairs=True))
    content = build_content(analysis, ())
    rows = list(csv.DictReader(io.StringIO(pairs_text(analysis))))
    excluding = sum(float(row["low"]) > 0 or float(row["high"]) < 0 for row in rows)
    sentence = f"60 of 66 pairs: those with the smallest adjusted p. {excluding} intervals exclude zero."
    assert len(rows) == 66
    page = html(content, sweep)
    assert f"{sentence} All pairs are in pairs.csv." in page
    assert f"{sentence} All pairs are in pairs.csv." in markdown(content, sweep)
    assert section(page, "pairs").count("<tr") == 1 + 60


@pytest.mark.parametrize("place", [0, MOST_OPEN_ROWS - 1, MOST_OPEN_ROWS, 69])
def test_row_of_the_baseline_is_open(tmp_path, place):
    """Wherever it stands among the arms: first, at either side of the limit, last."""
    sweep = write_sweep(tmp_path / "sweep", 70, 70, length=Length(1, 70, 0, 0))
    arm = analyse_folders([sweep], ReportOptions()).ranked[place]
    analysis = analyse_folders([sweep], ReportOptions(baseline=arm.id))
    assert analysis.ranked[place].is_baseline
    page, terminal = html(build_content(analysis, ()), sweep), as_text(analysis, sweep / "report.html")
    shown, folded = section(page, "arms").split("<details>")
    assert [place + 1] == [int(row) for row in re.findall(r'<tr class="baseline">\s*<td[^>]*>(\d+)<', shown)]
    assert (shown.count('data-label="#"'), folded.count('data-label="#"')) == (MOST_OPEN_ROWS, 70 - MOST_OPEN_ROWS)
    assert "(baseline)" in terminal.split("\narm ")[1]
    assert terminal.endswith(f"... and 50 more\n\nreport: {sweep / 'report.html'}")


@pytest.mark.parametrize(
    "text",
    [
        "seed: 3\nseeds:\n  init: 3\n  order: 4\ndata:\n  root: null\nmodel: {width: 2}\n",
        "seed: 3\nseeds:\n  init: 3\nseed: 5\n",
        "seed: 3\nseeds:\n  init: 3\ndata: &a [1]\nmore: *a\n",
        "seed: 3\nseeds:\n  init: 3\n  on: 4\ndata: 1\n",
        "seed: 010\nseeds:\n  init: 3\ndata: 1\n",
        "seed: 3\nseeds:\n  init: 3\nplain text\n",
        "seed: 3\nseeds:\n  init: 3\n",
        "seed: 3\nseeds: {}\ndata: 1\n",
        "data: 1\nseed: 3\n",
        "",
    ],
)
def test_configuration_is_what_yaml_says(text):
    try:
        expected = load(text)
    except Exception as error:
        with pytest.raises(type(error)):
            config_of(text)
        return
    assert config_of(text) == config_of(text) == expected


@pytest.mark.parametrize(
    "text",
    ["- a=1\n- +b.c=x/y\n", "- ~a=\n- seed=3\n", "- 'a=[1,2]'\n", "- a=1 # one\n", "- a: 1\n", "- 3\n", "- a=1", "[]\n", "- =\n"],
)
def test_overrides_are_what_yaml_says(text):
    try:
        expected = load(text)
    except Exception as error:
        with pytest.raises(type(error)):
            overrides_of(text)
        return
    assert overrides_of(text) == expected


def cpu_s(stored: Run, count: int) -> float:
    """Return the least processor time of three reports, without figures, on so many runs of one arm that are like `stored`."""
    history = read_history(stored, CURVE_TAGS)
    runs = [
        replace(stored, folder=Path(f"/runs/{n}"), identity=str(n), summary={**stored.summary, "test_accuracy": n / count})
        for n in range(count)
    ]
    collection = replace(collect([stored.folder]), runs=tuple(runs))
    times = []
    for _ in range(3):
        start = time.process_time()
        histories = dict.fromkeys((run.folder for run in runs), history)
        analysis = analyse(build_study(collection), Metric("accuracy/test"), histories, pairs=False, smallest_effect=None)
        build_content(analysis, ())
        csv_text(results(analysis, Path("/runs")))
        times.append(time.process_time() - start)
    return min(times)


def test_time_grows_with_the_number_of_runs_of_an_arm(large):
    """Four times the runs take at most 2.3 times 2.3 the processor time."""
    stored = read_run(next(find_runs([large])))
    assert cpu_s(stored, 800) < 2.3**2 * cpu_s(stored, 200)


def test_memory_of_a_run_is_small(large):
    """What is read of a run stays below 25 kB, half of it the values of status.json and summary.json."""
    folders = list(find_runs([large]))
    tracemalloc.start()
    try:
        kept = []
        for some in (folders[:20], folders[20:100]):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            runs = collect(some).runs
            kept.append((runs, read_histories(runs, CURVE_TAGS)))
            used = tracemalloc.get_traced_memory()[0] - before
        assert used / 80 < 25_000
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_page_of_a_larger_sweep_hardly_grows(tmp_path):
    """It grows by the rows of more diverged runs. A later report without pairs takes the table of an earlier one away."""
    sizes = []
    for runs in (400, 800):
        sweep = write_sweep(tmp_path / str(runs), runs, 2, diverged=50)
        sizes.append(make_report([sweep], sweep, ReportOptions(pairs=True))[0].stat().st_size)
    assert (sweep / "pairs.csv").exists()
    make_report([sweep], sweep, ReportOptions())
    assert not (sweep / "pairs.csv").exists()
    assert sizes[1] < 1.3 * sizes[0] < 1_000_000
