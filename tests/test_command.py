"""Commands as text: what is printed gives the same words to the program, through the shell and through Hydra's grammar."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tests.harness import compose_config
from train.command import (
    NO_CHOICE,
    arranged,
    config_folders,
    expanded,
    kept,
    left_out,
    override,
    own_parts,
    quoted,
    repeat_command,
    resume_command,
    stored_command,
    tensorboard_command,
    train_command,
    unquoted,
)
from train.run.resumed_job import folder_to_resume

ROOT = Path(__file__).resolve().parents[1]
ODD = [
    "f8/lr=0.1 (a)",
    "a b",
    "it's",
    'say "x"',
    "a,b",
    "${x}",
    "\\",
    "\\'",
    "null",
    "1e3",
    "012",
    "é",
    "[a]",
    "{a: 1}",
    "~",
    "#",
    "a\tb",
    "$HOME",
]
PARSER = OverridesParser.create()


def read(line: str) -> object:
    """Return the value of an override as a configuration holds it."""
    value = PARSER.parse_overrides([line])[0].value()
    return OmegaConf.create({"key": value}).key if isinstance(value, str) else value


def pasted(command: str) -> list[str]:
    """Return the words that bash passes to the program `train`."""
    program = 'train() { printf "%s\\0" "$@"; }\n' + command
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("text", ODD)
def test_override_gives_hydra_the_same_text(text: str) -> None:
    assert read(override("key", text)) == text
    assert unquoted(quoted(text)) == text


def test_override_gives_hydra_the_same_random_text() -> None:
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(generator.choice("ab \\'\"${},=[]()~#\t:é%10.e-") for _ in range(generator.randrange(1, 9)))
        assert read(override("key", text)) == text, text
        assert unquoted(quoted(text)) == text, text


@pytest.mark.parametrize("folder", [name for name in ODD if name not in ("~", "\\")])
def test_commands_survive_the_shell_with_odd_folders(folder: str, tmp_path: Path) -> None:
    run = tmp_path / folder
    own = own_parts(f"/my conf/{folder}", ["mine", "my.parts"])
    words = pasted(resume_command(run, own))
    assert words[: len(own)] == list(own)
    assert folder_to_resume(words) == str(run)
    repeated = pasted(repeat_command(["-m", "norm=batch,none", "hydra.sweep.dir=other", "sweep.dry_run=true"], run))
    assert repeated[:2] == ["-m", "norm=batch,none"]
    assert [read(word) for word in repeated[2:]] == [str(run)]


KEPT = [
    "norm=batch,none",
    "+trainer.max_steps=5",
    "++seed=range(3)",
    "~optimizer.nesterov",
    "data.root=../photos",
    "data/augment=flip",
]
LEFT_OUT = {
    "trust=[os]": "packages to trust: os",
    "+trust=os": "packages to trust: os",
    " trust=[os]": "settings:  trust",
    "trust.0=os": "settings: trust.0",
    "--config-dir=/a b": "config folders: /a b",
    "-cd=/a": "config folders: /a",
    "--config-path=/a": "config folders: /a",
    "hydra.searchpath=[file:///a]": "config folders: /a",
    "--config-d=/a": "settings: --config-d",
    "--config-name=a": "settings: --config-name",
    "hydra.callbacks.x._target_=os.system": "settings: hydra.callbacks.x._target_",
    "++hydra.launcher={_target_: os.system}": "settings: hydra.launcher",
    "+hydra/callbacks=a": "settings: hydra/callbacks",
    "+norm@hydra.callbacks.x=a": "settings: norm@hydra.callbacks.x",
    "experiment=../../proc/self/cwd/a": "settings: experiment",
    "data/augment=[flip,../../a]": "settings: data/augment",
    "experiment=${norm}${norm}/a": "settings: experiment",
    "../../a=b": "settings: ../../a",
    "hydra.sweep.dir=/a": "",
    "resume=/a": "",
    "/a": "",
}


@pytest.mark.parametrize("stored", LEFT_OUT)
def test_stored_commands_trust_nothing_and_say_so(stored: str, tmp_path: Path) -> None:
    arguments = ["-m", *KEPT, stored]
    assert kept(arguments) == ["-m", *KEPT]
    assert pasted(stored_command(["train", *arguments])) == ["-m", *KEPT]
    assert pasted(stored_command(["train", *arguments], tmp_path)) == ["-m", *KEPT, f"hydra.sweep.dir={tmp_path}"]
    assert pasted(train_command([*KEPT, stored])) == KEPT
    sentence = left_out(arguments, KEPT)
    assert (f"({LEFT_OUT[stored]})" in sentence) if LEFT_OUT[stored] else not sentence


def test_folder_after_a_flag_is_left_out_with_it() -> None:
    for flag in ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "--config-d"):
        assert kept(["-m", flag, "/evil", "norm=batch"]) == ["-m", "norm=batch"]


UNSHOWN = ["a;=1", "a\nb", "a\tb", "\x1b[2J", "a\r\x9b'\\b", "\u202egnp", "caf\udce9", "\u2028\U000e0041", "'\x07\"$x`y`"]


@pytest.mark.parametrize("text", UNSHOWN)
def test_words_are_shown_and_read_back(text: str) -> None:
    command = tensorboard_command(Path(text)).replace("tensorboard", "train", 1)
    assert command.isprintable()
    program = 'train() { printf "%s\\0" "$@"; }\n' + command
    done = subprocess.run(["bash", "-c", program], capture_output=True, timeout=20, check=True)
    assert done.stdout.split(b"\0")[1] == os.fsencode(text)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_cannot_be_an_argument_is_no_command(text: str) -> None:
    assert train_command([f"seed={text}"]) == "(a command with characters that cannot be typed)"


def test_config_folders_are_those_of_flags_and_search_path() -> None:
    arguments = ["--config-dir=a=b", "norm=x", "hydra.searchpath=[file:///c,'d e']", "-cp", "f"]
    assert [str(path) for path in config_folders(arguments)] == ["a=b", "f", "/c", "d e"]


ARRANGED = {
    "norm=batch -m init=xavier": "-m norm=batch init=xavier",
    "norm=batch --cfg job init=xavier": "--cfg job norm=batch init=xavier",
    "resume=auto --config-dir my/a=b seed=1 -m": "--config-dir my/a=b -m resume=auto seed=1",
    "a=1 --info b=2": "a=1 b=2 --info",
    "norm=batch --config-name=x seed=1": "--config-name=x norm=batch seed=1",
    "experiment=null norm=batch study=null": "norm=batch",
    "~optimizer.lr -r seed=1": "-r ~optimizer.lr seed=1",
}


def test_nothing_can_be_chosen_where_nothing_is_the_default() -> None:
    defaults = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())["defaults"]
    groups = [group for item in defaults if isinstance(item, dict) for group, choice in item.items() if choice is None]
    assert [f"{group}=null" for group in groups] == list(NO_CHOICE)


@pytest.mark.parametrize("typed", ARRANGED)
def test_arranged_puts_flags_first(typed: str) -> None:
    assert arranged(typed.split()) == ARRANGED[typed].split()


EXPANDED = {
    "data.root=~/photos": "data.root=/home/me/photos",
    "hydra.run.dir='~/f14'": "hydra.run.dir=/home/me/f14",
    'hydra.run.dir="~/a b"': 'hydra.run.dir="/home/me/a b"',
    "data.root=~/a,~/b": "data.root=/home/me/a,/home/me/b",
    "key=[~/a,'~/it\\'s']": 'key=[/home/me/a,"/home/me/it\'s"]',
    "data.root=~": "data.root=/home/me",
    "key='a,~/b'": "key='a,~/b'",
    "key=a~/b": "key=a~/b",
    "key=~nobody-of-this-name/x": "key=~nobody-of-this-name/x",
    "~model.width": "~model.width",
}


@pytest.mark.parametrize("typed", EXPANDED)
def test_expanded_replaces_the_home_folder_of_paths(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded(typed) == EXPANDED[typed]


def documented_commands() -> list[str]:
    """Return the commands in the help, the README and the comments in `conf`."""
    texts = [ROOT / "README.md", *sorted((ROOT / "conf").rglob("*.yaml"))]
    lines = [line.strip("# \n") for path in texts for line in path.read_text().splitlines()]
    inline = re.findall(r"`(train -m [^`]*)`", (ROOT / "README.md").read_text())
    commands = [line.removesuffix(" for these.") for line in lines if re.match(r"train( -m)?( [\w/]+=|$)|train( +#|.* --)", line)]
    return list(dict.fromkeys([*commands, *inline]))


def first_run(arguments: Sequence[str]) -> list[str]:
    """Return the overrides of the first run of a command."""
    overrides = PARSER.parse_overrides([argument for argument in arguments if "=" in argument])
    kept = [item for item in overrides if not item.key_or_group.startswith(("hydra", "study", "sweep", "resume", "trust"))]
    return [
        f"{item.key_or_group}={next(item.sweep_string_iterator())}" if item.is_sweep_override() else str(item.input_line)
        for item in kept
    ]


def test_documented_commands_are_words_for_bash_and_overrides_for_hydra() -> None:
    commands = documented_commands()
    assert len(commands) > 30
    separated = pasted("; train ---; ".join(re.sub(r" {2,}#.*| +#.*", "", command) for command in commands))
    for command, words in zip(commands, "\0".join(separated).split("\0---\0"), strict=True):
        typed = [word for word in words.split("\0") if "=" in word and not word.startswith("resume=outputs/")]
        overrides = PARSER.parse_overrides(typed)
        assert all(str(item.input_line) in command.replace("'", "") for item in overrides), command


def test_examples_of_the_help_compose() -> None:
    examples = re.findall(r"^    (train [^#\n]*=[^#\n]*)#", (ROOT / "conf/hydra/help/train.yaml").read_text(), re.MULTILINE)
    assert len(examples) >= 5
    for command in examples:
        assert compose_config(first_run(arranged(pasted(command))))
