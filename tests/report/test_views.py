"""`train-report --paper`, `--watch` and `signals A B`."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from train.escape import latex
from train.report import cli
from train.report.paper import COLUMN_IN, PROGRAMS
from train.report.signals import FIGURE

ARMS = {("norm=batch",): (0.80, 0.81, 0.82), ("norm=none",): (0.60, 0.61, 0.63)}
HAS_LATEX = any(map(shutil.which, PROGRAMS)) and subprocess.run(["kpsewhich", "pgf.sty"], capture_output=True).returncode == 0
DOCUMENT = r"""\documentclass[twocolumn]{article}\usepackage{pgf}\usepackage{graphicx}
\setlength\textwidth{6.75in}\setlength\columnsep{0.25in}\begin{document}
\begin{table}\input{paper/arms.tex}\end{table}
\begin{figure}\input{paper/differences.pgf}\end{figure}
\begin{figure}\includegraphics{paper/differences.pdf}\end{figure}
x\end{document}"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep", ARMS)


def test_paper_has_figures_as_wide_as_a_column_and_a_table(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")  # without LaTeX
    assert cli.run([str(sweep), "--paper", "--no-tensorboard"]) == 0
    assert f"paper: {sweep / 'paper'} (no PGF: none of xelatex" in capsys.readouterr().out
    names = {path.stem for path in (sweep / "figures").glob("*.svg")}
    pictures = {path.stem: path.read_bytes() for path in (sweep / "paper").glob("*.pdf")}
    assert pictures.keys() == names
    for picture in pictures.values():
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", picture)
        assert box
        assert float(box[1]) == pytest.approx(72 * COLUMN_IN)
    table = (sweep / "paper" / "arms.tex").read_text()
    assert re.search(r"norm=\\penalty200\{\}none & 61\.33 \$\\pm\$ 0\.88 & \$-\$19\.67 & ", table)
    assert table.count(r"\\") == 2 + 2 + 1, "the heading, the arms, and an interval"


@pytest.mark.long
@pytest.mark.skipif(not HAS_LATEX, reason="no LaTeX with pgf.sty on this machine")
def test_table_and_figure_of_a_paper_compile_within_their_column(sweep: Path) -> None:
    program = next(filter(shutil.which, PROGRAMS))
    assert cli.run([str(sweep), "--paper", "--no-tensorboard"]) == 0
    (sweep / "doc.tex").write_text(DOCUMENT)
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "doc.tex"]
    done = subprocess.run(command, cwd=sweep, capture_output=True, text=True, timeout=120, check=True)
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a_b & 50 % #1 $x$", r"a\_b \& 50 \% \#1 \$x\$"),
        ("x^2 ~ {y}", r"x\textasciicircum{}2 \textasciitilde{} \{y\}"),
        ("< 0.0001", "$<$ 0.0001"),
        ("one\nline", "one line"),
    ],
)
def test_no_character_of_a_name_is_a_command_of_latex(text: str, written: str) -> None:
    assert latex(text) == written


def test_watch_makes_the_page_anew_until_all_runs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(tmp_path / "sweep", ARMS, without=1)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # after a wait in which nothing happened
            write_run(folder / "late", ["norm=none", "seed=2"], 0.63, started=9)

    monkeypatch.setattr(time, "sleep", wait)
    assert cli.run([str(folder), "--watch", "5", "--no-tensorboard"]) == 0
    assert waits == [5.0, 5.0]
    assert capsys.readouterr().out.count("report: ") == 2
    assert "6 runs of 2 arms: 6 done" in (folder / "report.md").read_text().replace("**", "")


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_watch_takes_a_positive_number(sweep: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([str(sweep), f"--watch={value}"]) == 2
    assert value in capsys.readouterr().err


def test_signals_lays_the_layers_of_two_runs_over_each_other(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted(path.parent for path in sweep.glob("*/status.json"))[::3]
    assert cli.run(["signals", str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    for title in ("std of the activations", "std of the gradients"):
        assert re.search(rf"^{title} +A first +B first +A last +B last$", text, re.MULTILINE)
    assert text.startswith(f"A  {first}\nB  {second}\n")
    assert (tmp_path / "out" / FIGURE).read_text().count("<svg") == 1


def test_signals_of_a_folder_without_layers_is_one_message(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(path.parent for path in sweep.glob("*/status.json"))
    (run / "metrics.jsonl").write_text("")
    assert cli.run(["signals", str(run), str(run)]) == 2
    assert "no record observes its layers. Train with observe=basic" in capsys.readouterr().err
    assert cli.run(["signals", str(tmp_path / "nothing"), str(run)]) == 2
