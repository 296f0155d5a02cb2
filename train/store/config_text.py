"""Reads `config.yaml` of thousands of runs that differ in their seeds alone."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from train.store.files import CONFIG_FILE, OVERRIDES_FILE
from train.store.plain import parse_yaml

_SEED, _ROLE = r"(?:0|[1-9]\d{0,17})", r"(?!(?:yes|no|on|off|true|false|null):)[a-z_]+"
_SEEDS = re.compile(rf"\Aseed: ({_SEED})\nseeds:\n((?:  {_ROLE}: {_SEED}\n)+)(?=[a-z])")
"""How a configuration begins as run folders hold it: of this, the meaning is plain without a parser."""

_PLAIN = re.compile(r"(?:- [A-Za-z_+~][\w.+~/@-]*=[\w.,/+-]*\n)+", re.ASCII)
"""Overrides that are text whatever their values are, because of the equals sign."""


def config_of(text: str) -> Any:
    """Return what the YAML of a configuration holds. Its parts are shared with other configurations: do not change them.

    What follows the seeds is parsed once for all runs that have it in common. MalformedError if it holds no plain values.
    """
    found = _SEEDS.match(text)
    rest = _loaded(text[found.end() :]) if found else None
    if found is None or not isinstance(rest, dict):
        return load(text)
    roles = (line.strip().partition(": ") for line in found[2].splitlines())
    return {"seed": int(found[1]), "seeds": {role: int(seed) for role, _, seed in roles}} | rest


def overrides_of(text: str) -> Any:
    """Return what the YAML of a list of overrides holds. MalformedError if it holds no plain values."""
    return [line[2:] for line in text.splitlines()] if _PLAIN.fullmatch(text) else load(text, OVERRIDES_FILE)


def load(text: str, name: str = CONFIG_FILE) -> Any:
    """Return what YAML text holds. MalformedError if it holds no plain values; `name`: of its file."""
    return parse_yaml(text.encode(), name)


@lru_cache(maxsize=256)
def _loaded(text: str) -> Any:
    return load(text)
