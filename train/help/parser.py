"""The arguments of `train-report`, `train-eval` and `train-runs`: help that fits the terminal, one message for what is wrong."""

from __future__ import annotations

import argparse
import difflib
import re
from importlib import metadata
from typing import Any, NoReturn

from train import __version__
from train.errors import UsageError
from train.escape import terminal
from train.help.layout import fitted, terminal_width

UNKNOWN = re.compile(r"unrecognized arguments: (?P<word>\S+)")


def version(program: str) -> str:
    """Return the versions of this program and of what its numbers depend on, without importing it."""
    return f"{program} {__version__} (torch {metadata.version('torch')}, Hydra {metadata.version('hydra-core')})"


class _Help(argparse.HelpFormatter):
    """Descriptions keep their examples, and all lines fit the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_width())

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002  # argparse gives it
        return fitted(text, width)


class Parser(argparse.ArgumentParser):
    """A parser whose messages show all characters: a folder that the shell named may have any name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, formatter_class=_Help)
        self.add_argument("--version", action="version", version=version(self.prog), help="show the versions and exit")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        super().exit(status, message and terminal(message))

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, which is one line and names a remedy, in place of printing how the program is used."""
        if match := UNKNOWN.match(message):
            word = match["word"]
            if not word.startswith("-"):
                raise UsageError(f"{word}: there is one argument too many. {self.prog} --help explains the arguments.")
            nearest = difflib.get_close_matches(word.partition("=")[0], self._option_string_actions, n=1)
            hint = f"Did you mean {nearest[0]}?" if nearest else f"{self.prog} --help lists the options."
            raise UsageError(f"{word}: there is no such option. {hint}")
        raise UsageError(f"{message.removeprefix('argument ').rstrip('.')}. {self.prog} --help explains the arguments.")
