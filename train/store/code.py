"""The identity of the code that determines a run's numbers, which tells whether runs of one configuration are comparable.

A commit hash cannot tell: it changes with the documentation, and does not change with an uncommitted edit. The id ignores
comments, docstrings and formatting. Ids that `scripts/same_bits.py` has proved bit-exact are listed as equivalent.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("run", "observe", "data", "parts", "config.py", "rng.py", "tags.py", "world")
"""The sources that a run's numbers depend on. Reports, sinks and sweeps may change between two runs of one experiment."""

EQUIVALENT = Path(__file__).with_name("equivalent_code.txt")
"""The list of equivalent ids: one id per line, then the reason for its entry."""

DEPENDENCY = "torch"
"""The dependency whose version must match, too."""

DEPENDENCIES = (DEPENDENCY, "torchvision", "hydra-core", "omegaconf", "tensorboard", "numpy", "pillow")
"""The dependencies whose versions a run records."""


@cache
def code_id() -> str:
    """Return twelve hexadecimal digits: a hash of the sources that a run's numbers depend on."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for name in PACKAGES:
        top = package / name
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            digest.update(f"{path.relative_to(package).as_posix()}\0{source_id(path.read_bytes())}\0".encode())
    return digest.hexdigest()[:12]


def source_id(source: bytes) -> str:
    """Return a hash of a Python source that ignores comments, docstrings and formatting.

    It visits the syntax tree field by field, because `ast.dump` and `ast.unparse` differ between versions of Python.
    """
    tokens: list[str] = []
    _add_tokens(ast.parse(source), tokens)
    return hashlib.sha256("\0".join(tokens).encode()).hexdigest()


def _add_tokens(node: Any, tokens: list[str]) -> None:
    if isinstance(node, ast.AST):
        tokens.append(type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some format specifications with an empty string
                value = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
            if value is not None and value != [] and name != "kind":  # `kind` is the u of u"", and type comments are comments
                tokens.append(name)
                _add_tokens(value, tokens)
        tokens.append(")")
    elif isinstance(node, list):
        for item in node:
            if not _does_nothing(item):
                _add_tokens(item, tokens)
    else:
        tokens.append(f"{type(node).__name__} {node!r}")


def _does_nothing(node: Any) -> bool:
    """Return whether a statement is a docstring or `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


@cache
def equivalent_ids() -> frozenset[str]:
    """Return the listed ids. The code of each of them computes the same numbers."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines if line.strip() and not line.startswith("#"))


def is_same_code(stored: str, present: str | None = None) -> bool:
    """Return whether code with the id `stored` computes the same numbers as the present code.

    After an edit that has not been proved bit-exact, the present id is not in the list and matches only itself.
    """
    present = code_id() if present is None else present
    return stored == present or {stored, present} <= equivalent_ids()


def code_difference(status: Mapping[str, Any]) -> str:
    """Return how our code and torch differ from those of the run with this status.json; empty if the numbers are the same."""
    recorded = dict(status.get("versions") or {})
    installed = metadata.version(DEPENDENCY)
    if recorded.get(DEPENDENCY, installed) != installed:
        return f"made with {DEPENDENCY} {recorded[DEPENDENCY]}, but {installed} is installed"
    if not is_same_code(str(status.get("code", ""))):
        return "made by another version of this program"
    return ""


def numbers_key(status: Mapping[str, Any]) -> str:
    """Return a key that two runs share if their code makes the same numbers; empty for a run without a code id."""
    code = str(status.get("code") or "")
    if not code:
        return ""
    recorded = status.get("versions")
    version = recorded.get(DEPENDENCY, "") if isinstance(recorded, Mapping) else ""
    return f"{DEPENDENCY} {version}, code {'equivalent' if code in equivalent_ids() else code}"


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python and of the packages that results may depend on."""
    from train import __version__

    return {"train": __version__, "python": platform.python_version()} | {name: metadata.version(name) for name in DEPENDENCIES}


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether tracked files differ from it; None outside a checkout."""
    if not (checkout / ".git").exists():
        return None
    try:
        commit = run_git(checkout, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(run_git(checkout, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def run_git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
