"""The report of a sweep, made by the command: the files it writes and their content."""

import csv
import io
import re
import statistics
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from train.report.make import ReportOptions, make_report
from train.store.manifest import Dropped
from train.store.run import find_runs
from train.text import MINUS

BASE = ("init=kaiming", "norm=batch")
ARMS = {
    BASE: (0.80, 0.81, 0.82),
    ("init=kaiming", "norm=none"): (0.60, 0.61, 0.63),
    ("init=gaussian", "norm=batch"): (0.79, 0.80, 0.81),
    ("init=gaussian", "norm=none"): (0.30, 0.31, 0.29),
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A completed grid with one planned run missing and one combination dropped from the plan."""
    dropped = [Dropped(("init=lsuv", "norm=none"), "lsuv needs <a norm>")]
    return write_sweep(tmp_path_factory.mktemp("report") / "sweep", ARMS, without=1, dropped=dropped)


@pytest.fixture(scope="module")
def output(sweep, train_report) -> str:
    result = train_report(sweep)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(scope="module")
def page(sweep, output) -> str:
    assert output
    return (sweep / "report.html").read_text()


def results(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))


def table_rows(page: str) -> dict[str, list[str]]:
    """Return label -> the cells of its row as text; the baseline's is `baseline`."""
    body = page.split('<table class="arms">')[1].split("</tbody>")[0].split("<tbody>")[1]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>") if "<td" in row]
    plain = [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in rows]
    return {"baseline" if row[1].startswith("baseline ") or "(baseline)" in row[1] else row[1]: row for row in plain}


def test_terminal_prints_claims_and_path_of_page(output, sweep):
    assert re.search(r"^norm: (better|worse) \(exploratory\)$", output, re.MULTILINE)
    assert output.rstrip().endswith(str(sweep / "report.html"))


@pytest.mark.usefixtures("page")
def test_report_writes_all_figures_and_adds_no_run_folder(sweep):
    figures = {path.name for path in (sweep / "figures").iterdir()}
    assert figures == {
        f"{name}.svg" for name in ("differences", "interactions", "curves", "activation_std", "gradient_std", "cost")
    }
    assert (sweep / "report.md").read_text().count("figures/") == len(figures)
    assert all((sweep / link).exists() for link in re.findall(r"\]\((figures/[^)]+)\)", (sweep / "report.md").read_text()))
    assert len(list(find_runs([sweep]))) == 11


def test_page_is_self_contained(page):
    assert not re.search(r"<script|<link[^>]+stylesheet|https?://(?!www\.w3\.org)", page)
    assert page.count('src="data:image/svg+xml;base64,') == 6


def test_page_orders_its_sections(page):
    ids = re.findall(r'<section id="(\w+)">', page)
    assert ids == ["claims", "arms", "factors", "figures", "threats", "excluded", "commands", "versions"]
    assert page.index("train -m init=kaiming,gaussian") < page.index('id="claims"')
    assert "accuracy/test) after the last step" in page
    assert "not at the best epoch; as planned before the first run" in page


def test_table_sorts_by_effect_and_averages_completed_runs(page):
    rows = table_rows(page)
    assert list(rows) == ["baseline", "init=gaussian norm=batch", "init=kaiming norm=none", "init=gaussian norm=none"]
    assert rows["baseline"][1] == "init=kaiming norm=batch (baseline)"
    for arm, accuracies in zip(
        ("baseline", "init=kaiming norm=none"), (ARMS[BASE], ARMS["init=kaiming", "norm=none"]), strict=True
    ):
        mean, sd = 100 * statistics.mean(accuracies), 100 * statistics.stdev(accuracies)
        assert rows[arm][3] == f"{mean:.2f} ± {sd / 3**0.5:.2f}"
        assert rows[arm][4] == f"{sd:.2f}"
    assert rows["init=kaiming norm=none"][6].startswith(f"{MINUS}19.67 [")
    assert rows["init=gaussian norm=none"][2] == "2 / 0 / 0 1 incomplete"
    assert rows["baseline"][10] == "0/3 [0, 56] %"


def test_table_draws_a_dot_per_run(page):
    strips = page.split('<table class="arms">')[1].split("</table>")[0]
    assert strips.count("<circle") == 11
    assert "seed 1: 61.00 %" in strips


def test_page_lists_missing_runs_and_dropped_combinations(page):
    excluded = page.split('id="excluded"')[1].split("</section>")[0]
    assert "train init=gaussian norm=none seed=2" in excluded
    assert "lsuv needs &lt;a norm&gt;" in excluded


def test_page_lists_the_command_of_every_run(page):
    commands = page.split('id="commands"')[1].split("</section>")[0]
    assert len(re.findall(r"^(?:.*<pre>)?train init=\w+ norm=\w+ seed=\d", commands, re.MULTILINE)) == 11


@pytest.mark.usefixtures("page")
def test_results_csv_has_a_row_per_run(sweep):
    rows = results(sweep)
    assert len(rows) == 11
    accuracy_of = {(row["init"], row["norm"], row["seed"]): float(row["test_accuracy"]) for row in rows}
    assert accuracy_of == {
        (arm[0][5:], arm[1][5:], str(seed)): accuracy
        for arm, accuracies in ARMS.items()
        for seed, accuracy in enumerate(accuracies)
        if (arm[0], seed) != ("init=gaussian", 2) or arm[1] == "norm=batch"
    }
    assert all((sweep / row["folder"]).is_dir() for row in rows)
    assert {row["is_baseline"] for row in rows if row["norm"] == "none"} == {"false"}


@pytest.mark.usefixtures("page")
def test_rerun_report_is_byte_identical(sweep):
    def content() -> dict[Path, bytes]:
        files = [*sweep.glob("*.*"), *sweep.glob("figures/*"), *sweep.glob("summary/**/*")]
        return {path: path.read_bytes() for path in files if path.is_file()}

    before = content()
    make_report([sweep], sweep, ReportOptions())
    assert content() == before


def test_report_with_other_baseline_metric_and_pairs(sweep, train_report, tmp_path):
    result = train_report(sweep, "--out", tmp_path, "--baseline", "norm=none init=gaussian", "--metric", "loss/train", "--pairs")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report.html").read_text()
    assert "init=gaussian norm=none: as requested." in page
    assert "Lower is better" in page
    assert page.split('id="pairs"')[1].split("</section>")[0].count(" minus ") == 6
    assert next(iter(table_rows(page))) == "init=kaiming norm=batch"


def test_metric_can_come_from_records_alone(sweep, tmp_path):
    make_report([sweep], tmp_path, ReportOptions(metric="activation_std/stage0.conv3", tensorboard=False))
    assert all(0 < float(row["activation_std/stage0.conv3"]) <= 1 for row in results(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "acuracy/test"], r"--metric acuracy/test: .* Did you mean 'accuracy/test'\?.* loss/train"),
        (["--baseline", "init=lsuv"], r"--baseline 'init=lsuv' matches no arm.*init=gaussian norm=none"),
        (["--baseline", "init=kaiming"], r"matches several arms"),
        (["--smallest-effect", "-1"], r"-1 is not a positive number"),
    ],
)
def test_bad_option_exits_with_one_message(sweep, train_report, arguments, message):
    result = train_report(sweep, *arguments)
    assert result.returncode == 2
    assert re.search(message, result.stderr, re.DOTALL)
    assert "Traceback" not in result.stderr


def test_report_rejects_folders_without_runs(train_report, tmp_path):
    for folder, message in ((tmp_path, "no run found"), (tmp_path / "nowhere", "no such folder")):
        result = train_report(folder)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_report_rejects_unwritable_out(sweep, train_report, tmp_path):
    (tmp_path / "file").write_text("")
    result = train_report(sweep, "--out", tmp_path / "file" / "deeper")
    assert result.returncode == 2
    assert "--out" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.long
def test_many_arms_with_long_names_are_drawn(tmp_path):
    for i in range(20):
        for seed in range(1 + i % 2):
            overrides = [
                "augment=none",
                "init=gaussian",
                f"init.std={i + 1}e-3",
                "schedule=cosine",
                f"trainer.grad_clip={i + 1}",
                f"seed={seed}",
            ]
            write_run(tmp_path / f"{i}-{seed}", overrides, 0.5 + i / 50 + seed / 100, started=i, records=2)
    make_report([tmp_path], tmp_path / "out", ReportOptions(tensorboard=False))
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {"curves_accuracy_val", "curves_loss_train", "differences", "activation_std", "gradient_std", "cost"}
