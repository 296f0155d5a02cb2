"""The commonest slips in the arguments of `train`, answered with the argument that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from train.command import CONFIG_DIR, MULTIRUN, config_folders, overrides_of, quoted
from train.errors import UsageError
from train.escape import shell_command
from train.help.catalogue import Catalogue

COMMANDS = {
    "train": ("train",),
    "sweep": ("train", "-m"),
    "report": ("train-report",),
    "diff": ("train-report", "diff"),
    "eval": ("train-eval",),
} | {command: (command,) for command in ("train-report", "train-eval")}
"""Words that are taken for the first of a command, and that command."""
OF_OWN = {
    "data": "Images of your own: data=image_folder data.root=FOLDER.",
    "model": "Torchvision's models: model=torchvision model.name=NAME.",
}
"""What else can be chosen of a group."""
LISTS = ("augment",)
"""Groups of which a run may have several choices."""
UNKNOWN = re.compile(r"unrecognized arguments: (?P<flag>\S+)")
COMMAS = re.compile(r"\s*[,;][\s,;]*")
SEEDS = re.compile(r"(?P<first>\d+)(?:-|:|\.\.)(?P<last>\d+)|\[(?P<list>\d+(?:,\d+)+)\]")
PAIR = re.compile(r"(?P<key>[\w./]+)[: ](?P<value>\S+)")


def check_arguments(arguments: Sequence[str], config_dir: Path) -> None:
    """Raise UsageError for a flag that Hydra does not know, and for a word that is neither a flag nor an override."""

    def catalogue() -> Catalogue:  # only for a command that is wrong
        return Catalogue([config_dir, *config_folders(arguments)])

    _check_flags(arguments, catalogue)
    words = overrides_of(arguments)
    for number in range(len(words)):
        if message := _fault(words, number, catalogue):
            raise UsageError(message)


def _check_flags(arguments: Sequence[str], catalogue: Callable[[], Catalogue]) -> None:
    def refuse(message: str) -> NoReturn:
        if match := UNKNOWN.match(message):
            raise UsageError(_unknown_flag(match["flag"], arguments, [*parser._option_string_actions], catalogue()))
        raise UsageError(f"{message.removeprefix('argument ').rstrip('.')}. train --hydra-help explains the flags.")

    parser = get_args_parser()
    parser.error = refuse  # argparse would print how Hydra is used, and exit
    folder = parser.parse_args(arguments).config_dir
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"{CONFIG_DIR} {folder}: there is no such folder. Name one with YAML files of your own.")


def _fault(words: Sequence[str], number: int, catalogue: Callable[[], Catalogue]) -> str:
    """Return what is wrong with a word before Hydra reads it; empty if that is nothing."""
    word = words[number]
    key, equals, value = word.partition("=")
    if not word:
        return "'': an empty word is no override. Leave it out."
    if word in ("resume", "resume="):
        return f"{word}: the folder of a run is missing, as in resume=FOLDER."
    if word.startswith("~"):
        default = catalogue().default(key[1:])
        return (
            f"{word}: a run needs a choice of this group. Leave this out: its default is {key[1:]}={default}." if default else ""
        )
    if not key and len(_torn(words, number)) == 1:
        return f"{word}: a key is missing in front of '='."
    if key == "seed" and (match := SEEDS.fullmatch(value)):
        seeds = match["list"] or f"range({match['first']},{int(match['last']) + 1})"
        return f"{word}: a run has one seed. To train one run for each: -m {shell_command([f'seed={seeds}'])}"
    if value.startswith("[") and "." not in key and key not in LISTS and key in catalogue().groups:
        several = value.strip("[]")
        return f"{word}: a run has one choice of {key}. To train one run for each: -m {key}={several}" if "," in several else ""
    return "" if equals else _stray(words, number, catalogue())


def _unknown_flag(flag: str, arguments: Sequence[str], flags: Sequence[str], catalogue: Catalogue) -> str:
    """Explain a flag that does not exist: `--norm batch` for norm=batch, `--dry-run`, `--hlep`."""
    name, equals, value = flag.partition("=")
    word = name.strip("-").replace("-", "_")
    after = next(iter(arguments[arguments.index(flag) + 1 :]), "") if flag in arguments else ""
    if not equals and after and not after.startswith("-") and "=" not in after:
        value = after
    if setting := _override(word, value, catalogue) if len(word) > 1 else "":
        return f"{flag}: settings have no dashes in front. Did you mean {setting}?"
    long = sorted(flag for flag in flags if flag.startswith("--"))
    nearest = difflib.get_close_matches(name, long, n=1, cutoff=0.7) or [
        f for f in long if len(word) == 1 and f[2] == word.lower()
    ]
    hint = f"Did you mean {nearest[0]}?" if len(nearest) == 1 else f"Known: {', '.join(long)}."
    return f"{flag}: there is no such flag. {hint}"


def _override(word: str, value: str, catalogue: Catalogue) -> str:
    """Return the override that sets what `word` names to `value`, for the shell; empty if it names nothing."""
    if word in catalogue.groups:
        return shell_command([f"{word}={value or catalogue.choices(word)[0]}"])
    for setting in catalogue.settings_named(word)[:1]:
        value = value or {"false": "true", "null": "VALUE"}.get(setting.value, setting.value)
        *choice, name = catalogue.with_choice(setting).name.split(" ")
        return shell_command([*choice, f"{name}={value}"])
    return ""


def _stray(words: Sequence[str], number: int, catalogue: Catalogue) -> str:
    """Explain a word without `=`, by itself and its neighbours."""
    word, after = words[number], next(iter(words[number + 1 :]), "")
    before = words[number - 1] if number else ""
    key, _, value = before.partition("=")
    if len(parts := _torn(words, number)) > 1:
        return f"{' '.join(parts)}: an override has no spaces. Did you mean {shell_command([''.join(parts)])}?"
    if value and word in catalogue.choices(key):
        return f"{before} {word}: between values are commas. Did you mean -m {key}={value},{word}?"
    if number == 0 and word in COMMANDS and len(words) > 1:
        return f"{word}: this is no override. Did you mean: {shell_command([*COMMANDS[word], *words[1:]])}"
    if f"--{word}" in ("--help", "--version", "--multirun", "--info"):
        return f"{word}: this is no override. Did you mean --{word}?"
    if setting := _without_equals(word, after, catalogue):
        return setting
    if choices := catalogue.choices(word):
        known = ", ".join(choices)
        return f"{word}: a choice is missing, as in {word}={choices[0]}. Known: {known}. train --help {word} explains them."
    return _word(word, catalogue)


def _without_equals(word: str, after: str, catalogue: Catalogue) -> str:
    """Explain `norm:batch`, or the two words `norm` and `batch`; empty if it is neither."""
    pair = PAIR.fullmatch(word)
    if not pair and after and "=" not in after and after not in catalogue.groups:
        pair = PAIR.fullmatch(f"{word} {after}")
    setting = _override(pair["key"], pair["value"], catalogue) if pair else ""
    return f"{pair[0]}: between a key and its value is an equals sign. Did you mean {setting}?" if pair and setting else ""


def _torn(words: Sequence[str], number: int) -> list[str]:
    """Return the words around `number` that were one override before spaces came into it: `norm`, `=`, `batch`."""

    def belong(before: str, after: str) -> bool:
        return before.endswith(("=", ",")) or after.startswith(("=", ","))

    first = last = number
    while first > 0 and belong(words[first - 1], words[first]):
        first -= 1
    while last + 1 < len(words) and belong(words[last], words[last + 1]):
        last += 1
    return list(words[first : last + 1])


def _word(word: str, catalogue: Catalogue) -> str:
    """Explain a word that stands alone."""
    if choices := catalogue.choices_called(word):
        return f"{word}: the group is missing. Did you mean {_either(choices)}?"
    if any(setting.name == word for setting in catalogue.shared if not setting.value):
        return f"{word}: this is a section. Set one of its keys: train --help {word} explains them."
    if "/" in word or Path(word).exists():
        return f"{word}: this is no override. To resume a run: resume=FOLDER. To report on runs: train-report FOLDER."
    if setting := _override(word, "", catalogue):
        return f"{word}: a value is missing, as in {setting}. train --help {word} explains it."
    names = [*catalogue.groups, *(name for group in catalogue.groups for name in catalogue.choices(group))]
    nearest = difflib.get_close_matches(word, names, n=1)
    hint = f"Did you mean {_either(catalogue.choices_called(nearest[0]) or [f'{nearest[0]}=CHOICE'])}?" if nearest else ""
    return f"{word}: this is no override. {hint or 'Overrides are written key=value; train --help shows examples.'}"


def unknown_choice(missing: str, options: Sequence[str], catalogue: Catalogue) -> str:
    """Explain a choice that does not exist, such as `init/xavir`. `options`: those that Hydra names; it has more than ours."""
    group = next((group for group in catalogue.groups if missing.startswith(f"{group}/")), missing.rpartition("/")[0])
    choice = missing.removeprefix(f"{group}/")
    names = sorted(name for name in options or catalogue.choices(group) if not name.startswith("_"))
    parts = re.split(r"[ +;|&]+", choice)
    if len(parts) > 1 and {*parts} <= {*names}:
        several = f"{group}=[{','.join(parts)}]" if group in LISTS else f"{group}={','.join(parts)}"
        return f"{group}={choice}: between choices are commas. Did you mean {shell_command([several])}?"
    nearest = difflib.get_close_matches(choice.lower(), names, n=1, cutoff=0.65)
    meant = [_with_key(group, name, choice, catalogue) for name in catalogue.choices_meant(group, choice) or nearest]
    hint = f"Did you mean {_either(meant)}? " if meant else ""
    own = f" {OF_OWN[group]}" if group in OF_OWN else ""
    return f"{group}={choice}: there is no such choice. {hint}Known: {', '.join(names)}.{own}"


def _with_key(group: str, name: str, word: str, catalogue: Catalogue) -> str:
    """Return a choice, with the key of it that has the word for a value: `model=torchvision model.name=resnet18`."""
    keys = [setting.name for setting in catalogue.settings_of(group, name) if setting.value == word]
    return " ".join([f"{group}={name}", *(f"{key}={word}" for key in keys[:1])])


def several_values(override: str, arguments: Sequence[str], catalogue: Catalogue) -> str:
    """Explain several values without -m; empty for those of a key that is not known."""
    key, _, value = override.partition("=")
    settings = [setting for setting in catalogue.settings if setting.name == key]
    if key not in catalogue.groups and not settings:
        return ""
    also = ""
    if key in LISTS:
        also = f" To apply all of them to every image: {shell_command([f'{key}=[{value}]'])}."
    elif re.fullmatch(r"\d+,\d+", value) and any("." in setting.value for setting in settings):
        also = f" A decimal point is a dot: {key}={value.replace(',', '.')}."
    command = shell_command(["train", MULTIRUN[0], *arguments])
    return f"{override}: a single run takes one value.{also} Add -m (--multirun) to train one run for each: {command}"


def unreadable(override: str, catalogue: Catalogue) -> str:
    """Explain an override that is not in Hydra's grammar."""
    hint = next((text for text in _variants(override) if _is_readable(text)), "")
    key, _, value = override.partition("=")
    if hint:
        remedy = f"Did you mean {shell_command([hint])}?"
    elif key in catalogue.groups:
        remedy = f"train --help {key} explains the choices and their settings."
    elif value and _is_readable(quotation := f"{key}={quoted(value)}"):
        remedy = f"Quote values that contain commas, spaces, brackets or quotes: {shell_command([quotation])}"
    else:
        remedy = "Overrides are written key=value; train --help shows examples."
    return f"cannot read the override '{override}'. {remedy}"


def _variants(override: str) -> Iterator[str]:
    """Yield the override with each of the customary faults mended."""
    text = re.sub(r"\s*=[=\s]*", "=", override, count=1).strip(" ,;")
    key, _, value = text.partition("=")
    yield text
    yield f"{key.replace(':', '.')}={value}"
    yield f"{key}={COMMAS.sub(',', value)}"
    if value.startswith("("):
        yield f"{key}=[{value.strip('()')}]"
    yield text + "]" * (value.count("[") - value.count("]")) + "}" * (value.count("{") - value.count("}"))


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([override])
    except OverrideParseException:
        return False
    return True


def _either(words: Sequence[str]) -> str:
    """Join alternatives: 'a', 'a or b', 'a, b or c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
