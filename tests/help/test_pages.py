"""`train --help` and its topics: everything in `conf/` is explained by the comments of its own file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.catalogue import choices, groups
from train import cli
from train.errors import UsageError
from train.evaluation import arguments as evaluation
from train.help.pages import help_page, topics_of
from train.report import cli as report

CONF = cli.config_dir()
WIDTHS = [60, 80, 140]


def page(monkeypatch: pytest.MonkeyPatch, *topics: str, width: int = 100, own: tuple[Path, ...] = ()) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    return help_page([CONF, *own], topics)


def plain(text: str) -> str:
    return " ".join(text.split())


def test_overview_names_every_choice_and_marks_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(monkeypatch, width=140)
    section = text[text.index("Ingredients") : text.index("Keys used most")]
    defaults = {
        key: value for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"][1:] for key, value in entry.items()
    }
    entries: list[list[str]] = []  # a long list goes on in the next line
    for words in filter(None, map(str.split, section.splitlines()[1:])):
        entries.append(words) if words[0] in groups(CONF) else entries[-1].extend(words)
    for group in groups(CONF):
        (entry,) = (entry for entry in entries if entry[0] == group)
        names = {path.stem for path in (CONF / group).glob("*.yaml")}
        marked = {f"{name}*" if name == defaults[group] else name for name in names}
        assert set(entry[1:]) == marked


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    topics = [*groups(CONF), "hydra/launcher", "hydra/sweeper", "trainer", "seeds", "checkpoint", "sweep", "report"]
    for topic in [None, *topics]:
        text = page(monkeypatch, *([topic] if topic else []), width=width)
        assert [line for line in text.splitlines() if len(line) > width and len(line.split()) > 2] == [], topic


def test_page_of_a_group_has_comments_and_settings_of_each_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for group in groups(CONF):
        text = plain(page(monkeypatch, group))
        for choice in choices(CONF):
            if choice.startswith(f"{group}="):
                content = (CONF / group / f"{choice.partition('=')[2]}.yaml").read_text()
                head = re.match(r"(?:# @package.*\n)?((?:#.*\n)+)", content)
                assert head
                assert choice in text
                assert plain(re.sub(r"^# ?", "", head[1], flags=re.MULTILINE).splitlines()[0]) in text
    assert "norm.groups=8 has to divide the channels of every normalised layer" in plain(page(monkeypatch, "norm"))
    assert "With every choice of data" in page(monkeypatch, "data")
    assert "sets norm=none,batch,layer,instance,group" in plain(page(monkeypatch, "study=norms"))
    assert "sets data=image_folder 'augment=[multi_scale,flip]'" in plain(page(monkeypatch, "experiment=imagenet_resnet50"))


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("norm=group", "norm.groups=8 has to divide"),
        ("norm.groups", "norm=group norm.groups=8 has to divide"),
        ("groups", "norm=group norm.groups=8 has to divide"),
        ("group", "Group normalisation (Wu & He 2018)"),
        ("trainer", "trainer.epochs=12 passes over the training images; 0: only build"),
        ("trainer.cuda_graph", "keeps no count in Python"),
        ("dropout", "regularization.dropout=0.0 probability of turning a unit off"),
        ("multi_scale", "crop 28); false: as they are"),
        ("hydra.launcher", "hydra.launcher.devices=auto auto | cpu | [0,1]"),
        ("seed=range(5)", "One seed determines all randomness."),
        ("norm=?", "Batch normalisation (BN, Ioffe & Szegedy 2015)"),
    ],
)
def test_topic_is_a_choice_a_section_or_a_key(topic: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert expected in plain(page(monkeypatch, topic))


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("norm=grup", "--help norm=grup: there is no such choice. Known: batch"),
        ("trainer.epocs", "Did you mean 'trainer.epochs'?"),
        ("learning_rate", "Did you mean 'optimizer.lr'?"),
        ("xyz", "--help xyz: there is nothing of this name. Known: data, augment"),
    ],
)
def test_unknown_topic_is_one_message(topic: str, expected: str) -> None:
    with pytest.raises(UsageError, match=re.escape(expected)):
        help_page([CONF], [topic])


def test_own_choices_have_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "mine.yaml").write_text("# A norm of my own.\n_target_: mine.norm\nsize: 3  # of a group\n")
    assert "norm=mine A norm of my own. norm.size=3 of a group" in plain(page(monkeypatch, "norm", own=(tmp_path,)))
    (tmp_path / "norm" / "mine.yaml").write_text("a: 1\n\tb: 2\n")
    assert "layer mine none" in page(monkeypatch, own=(tmp_path,))
    with pytest.raises(UsageError, match=r"mine.yaml: this file cannot be read as YAML"):
        page(monkeypatch, "norm=mine", own=(tmp_path,))


@pytest.mark.parametrize(
    ("arguments", "topics"),
    [
        (["--help"], []),
        (["-h", "norm"], ["norm"]),
        (["norm", "--help", "--config-dir", "conf"], ["norm"]),
        (["norm=?"], ["norm=?"]),
        (["norm=batch", "trainer?"], ["trainer?"]),
        (["norm=batch"], None),
        (["data.root=what?"], None),
    ],
)
def test_help_is_asked_for_by_a_flag_or_a_question_mark(arguments: list[str], topics: list[str] | None) -> None:
    assert topics_of(arguments) == topics


def examples(text: str) -> list[str]:
    """Return the commands among the lines of a help text, with their comments and continuations."""
    joined = text.replace("\\\n", "\\\0")
    lines = [line.replace("\0", "\n") for line in joined.splitlines()]
    return [line for line in lines if re.match(r" +(train|train-report|train-eval|tensorboard)( .*=| -| [A-Zo]|$|  )", line)]


@pytest.mark.parametrize("width", WIDTHS)
def test_bash_reads_the_examples_as_they_are_printed(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command is one command: the words after # are none of its words, and those of all widths are the same."""
    topics = [(), *((group,) for group in groups(CONF)), ("hydra/launcher",)]
    texts = [page(monkeypatch, *topic, width=width) for topic in topics]
    texts += [parser().format_help() for parser in (report.parser, evaluation.parser)]
    found = [command for text in texts for command in examples(text)]
    assert len(found) > 30
    script = 'run() { printf "%s\\n" "$*"; }\n' + "\n".join(re.sub(r"^ *", "run ", command) for command in found)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    assert len(printed) == len(found)
    assert not [line for line in printed if "#" in line]
    assert "train -m norm=none,batch seed=range(5)" in printed
    assert "train-report RUN RUN RUN --baseline norm=none" in printed
    assert "train-eval RUN data=image_folder data.root=photos data.size=32 data.short_side=32" in printed
    assert "train -m hydra/launcher=ray_cluster hydra.launcher.ray.init.address=auto norm=none,batch seed=range(5)" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x", "--metrc", "y"], "--metrc: there is no such option. Did you mean --metric?"),
        ([], "the following arguments are required: FOLDER. train-report --help explains the arguments."),
        (["x", "--smallest-effect", "much"], "--smallest-effect: much is not a positive number."),
    ],
)
def test_report_refuses_in_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.run(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"train-report: {expected}")
    assert len(error.splitlines()) == 1
