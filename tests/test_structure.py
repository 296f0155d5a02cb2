"""The direction of imports: a module knows only what lies below it, and what starts quickly stays quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "train"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 350

BELOW: dict[str, set[str]] = {
    "cli": {"sweep", "run", "config_errors", "naming", "errors"},
    "sweep": {
        "report",
        "run",
        "config",
        "sinks",
        "store",
        "config_errors",
        "naming",
        "errors",
    },  # of run: what checks a configuration, in a process apart
    "report": {"sinks", "store", "naming", "errors"},
    "config_errors": {"errors"},
    "naming": set(),
    "run": {"config", "observe", "sinks", "store", "data", "parts", "rng", "errors"},
    "config": {"errors"},
    "observe": {"config", "sinks", "data", "parts", "rng", "errors"},  # of the schema: how it is to look
    "sinks": {"store", "errors"},
    "store": {"errors"},
    "data": {"parts", "rng", "errors"},
    "parts": {"rng", "errors"},
    "rng": set(),
    "errors": set(),
}
"""Room -> the rooms that it may import from. A new room needs a line here, which is where its place is decided."""

KINDS = sorted({path.relative_to(PACKAGE / "parts").parts[0].removesuffix(".py") for path in (PACKAGE / "parts").rglob("*.py")})
SHARED = {"contracts", "__init__"}


def dotted(path: Path) -> tuple[str, ...]:
    """train/run/loop.py -> (run, loop); a package is its `__init__`."""
    return path.relative_to(PACKAGE).with_suffix("").parts


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in it; `from a import b` gives a and a.b, as b may be either."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What it imports of this package: train.parts.norm.batch -> (parts, norm, batch)."""
    for name in imports(path):
        head, *rest = name.split(".")
        if head == "train" and rest != ["__version__"]:
            yield tuple(rest)


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=id_of)
def test_a_module_imports_only_from_below(path: Path) -> None:
    room = dotted(path)[0]
    if room == "__init__":
        assert not list(own_imports(path))
        return
    assert room in BELOW, f"{room} has no place in the table"
    reached = {target[0] for target in own_imports(path)} - {room}
    assert reached <= BELOW[room], f"{id_of(path)} imports {sorted(reached - BELOW[room])}, which do not lie below {room}"


def test_the_table_has_no_circle() -> None:
    def below(room: str, seen: tuple[str, ...] = ()) -> None:
        assert room not in seen, " -> ".join((*seen, room))
        for lower in BELOW[room]:
            below(lower, (*seen, room))

    for room in BELOW:
        below(room)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SHARED])
def test_kinds_of_parts_do_not_know_each_other(kind: str) -> None:
    for path in MODULES:
        if dotted(path)[:2] == ("parts", kind):
            others = {target[1] for target in own_imports(path) if target[0] == "parts"} - {kind, "contracts"}
            assert not others, f"{id_of(path)} imports {sorted(others)}"


def test_contracts_of_parts_and_data_know_no_implementation() -> None:
    assert not list(own_imports(PACKAGE / "parts" / "contracts.py"))
    assert {target[:2] for target in own_imports(PACKAGE / "data" / "contracts.py")} == {("parts", "contracts")}


def libraries(*rooms: str) -> set[str]:
    return {name.split(".")[0] for path in MODULES for name in imports(path) if dotted(path)[: len(rooms)] == rooms}


@pytest.mark.parametrize("stranger", ["hydra", "omegaconf", "tensorboard", "rich"])
@pytest.mark.parametrize("rooms", [("parts",), ("data",), ("observe",), ("run", "loop"), ("run", "step")], ids="/".join)
def test_the_numerical_core_does_not_know_how_it_is_configured_or_shown(rooms: tuple[str, ...], stranger: str) -> None:
    assert stranger not in libraries(*rooms)


def test_one_place_turns_configuration_into_calls() -> None:
    callers = {id_of(path) for path in MODULES for name in imports(path) if name.startswith("hydra.utils")}
    assert callers == {"train/run/build.py"}


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("train.cli", {"torch", "hydra", "pydantic"}),
        ("train.config_errors", {"torch"}),
        ("train.naming", {"torch", "hydra"}),
        ("train.config", {"torch", "hydra"}),
        ("train.sinks.contracts", {"torch", "rich", "tensorboard"}),
        ("train.store.run", {"torch", "hydra", "pydantic"}),
        ("train.report.cli", {"torch", "hydra", "matplotlib", "scipy", "tensorboard"}),
        ("train.report.tensorboard", {"torch", "hydra", "matplotlib", "pydantic"}),
        ("train.run.job", {"torch"}),
        ("train.sweep.sweeper", {"torch"}),
        ("train.sweep.fork_server", {"torch", "hydra"}),
        ("train.sweep.pool", {"torch"}),
        ("train.run.session", {"torchvision", "rich", "tensorboard"}),
    ],
)
def test_what_an_import_does_not_bring_along(module: str, strangers: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted({strangers!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("path", MODULES, ids=id_of)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MOST_LINES
