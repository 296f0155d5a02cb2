"""The code that went into the parts of a run and is neither ours nor Python's own: modules outside site-packages, and packages.

It begins with the functions that a configuration names and follows what their modules import, so it is the same whatever else
the process has loaded for another run. Modules that a function imports only as it runs count if they are loaded by then.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from train.store.code import DEPENDENCY, source_id
from train.store.identity import current_target

OURS = frozenset({"train", "hydra_plugins", DEPENDENCY, "__main__"})
"""Top-level modules that are not looked at: `train.store.code` compares these, and the program that was started is no part."""
INSTALLED = frozenset({"site-packages", "dist-packages"})


def own_code(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return module -> a hash of its source, and package -> its version, for all that the built `parts` consist of.

    The hash ignores comments, docstrings and formatting. `parts`: the configuration of every group.
    """
    found: dict[str, str] = {}
    pending = [name for target in _targets(parts) for name in _prefixes(current_target(target))]
    visited: set[str] = set()
    while pending:
        name = pending.pop()
        module = sys.modules.get(name)
        top = name.partition(".")[0]
        if module is None or name in visited or top in OURS or top in sys.stdlib_module_names:
            continue
        visited.add(name)
        path = _file(module)
        if path is not None and not INSTALLED & set(path.parts):
            found[name], imported = _source(name, path)
            pending += [*imported, *_held_modules(module)]
        elif path is not None:
            found |= _version(top)
    return found


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            else:
                yield from _targets(value)
    elif isinstance(node, list):
        for item in node:
            yield from _targets(item)


def _prefixes(dotted: str) -> list[str]:
    """Return a.b.c, a.b and a for a.b.c: importing a module runs the packages around it, too."""
    parts = dotted.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


@cache
def _source(name: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a module's source, and the names that it may import. It is read once: a loaded module stays as it is."""
    try:
        content = path.read_bytes()
        tree = ast.parse(content)
    except (OSError, SyntaxError, ValueError):  # not Python: a compiled extension
        content = path.read_bytes() if path.is_file() else b""
        return f"source {hashlib.sha256(content).hexdigest()[:12]}", ()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return f"source {source_id(content)[:12]}", tuple(_imports(tree, package))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _prefixes(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from _prefixes(f"{module}.{alias.name}")


def _held_modules(module: ModuleType) -> Iterator[str]:
    """Yield the modules of what a module holds, which finds those that it imported by their name in a string."""
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield from _prefixes(value.__name__)
        elif isinstance(value, type | FunctionType):
            yield from _prefixes(value.__module__)


@cache
def _version(top: str) -> dict[str, str]:
    """Return the version of the package that brings a top-level module; nothing if no installed package does."""
    try:
        return {top: metadata.version(top)}
    except (metadata.PackageNotFoundError, ValueError):
        names = metadata.packages_distributions().get(top, [])
        return {name: metadata.version(name) for name in names[:1]}
