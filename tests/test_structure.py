"""The direction of imports between packages, the import cost of fast modules, and the length of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from scripts.architecture import circles, file_imports, imported_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "train"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 300
MAX_IMPORTS = 20

BELOW: dict[str, set[str]] = {
    "evaluation": {
        "run",
        "progress",
        "config",
        "sinks",
        "figures",
        "store",
        "data",
        "parts",
        "text",
        "config_errors",
        "help",
        "command",
        "streams",
        "escape",
        "errors",
    },
    "listing": {
        "report",
        "store",
        "text",
        "naming",
        "help",
        "streams",
        "escape",
        "errors",
    },  # from report: the factors in which runs differ
    "cli": {"sweep", "run", "config_errors", "slips", "help", "command", "naming", "streams", "errors"},
    "sweep": {
        "report",
        "run",
        "collector",
        "config",
        "sinks",
        "store",
        "progress",
        "tags",
        "text",
        "config_errors",
        "command",
        "naming",
        "streams",
        "escape",
        "errors",
    },  # from run: the check of a configuration, in a separate process
    "report": {"figures", "sinks", "store", "tags", "text", "help", "command", "naming", "streams", "escape", "errors"},
    "config_errors": {"slips", "help", "command", "errors"},
    "slips": {"help", "command", "escape", "errors"},
    "help": {"command", "escape", "errors"},
    "naming": set(),
    "collector": set(),
    "run": {
        "collector",
        "config",
        "explain",
        "observe",
        "sinks",
        "store",
        "data",
        "parts",
        "progress",
        "rng",
        "world",
        "text",
        "command",
        "errors",
    },
    "explain": {"columns", "config", "observe", "figures", "sinks", "store", "tags", "text", "errors"},
    "config": {"errors"},
    "observe": {"config", "sinks", "data", "parts", "rng", "tags", "world", "errors"},  # from config: the schema of `observe`
    "sinks": {"figures", "store", "columns", "progress", "tags", "text", "command", "escape", "errors"},
    "figures": {"columns", "tags", "text"},  # not `columns` in it: importing the package imports matplotlib
    "columns": set(),
    "progress": set(),
    "store": {"command", "naming", "streams", "escape", "errors"},
    "data": {"parts", "progress", "rng", "world", "text", "errors"},
    "parts": {"rng", "world", "errors"},
    "rng": set(),
    "world": set(),
    "tags": set(),
    "command": {"escape"},
    "streams": {"escape"},
    "escape": set(),
    "text": set(),
    "errors": set(),
}
"""Package -> the packages that it may import from. A new package needs a line here, which decides its layer."""

KINDS = sorted({path.relative_to(PACKAGE / "parts").parts[0].removesuffix(".py") for path in (PACKAGE / "parts").rglob("*.py")})
SHARED = {"contracts", "isolation", "kinds", "__init__"}
CORE_OF_RUN = [("run", name) for name in ("loop", "step", "observed_step", "recorder", "divergence")]


def dotted(path: Path) -> tuple[str, ...]:
    """Return the path of a module as a tuple: train/run/loop.py -> (run, loop), train/run/__init__.py -> (run, __init__)."""
    return path.relative_to(PACKAGE).with_suffix("").parts


@cache
def imports(path: Path) -> list[str]:
    """Return the modules that a file imports anywhere. `from a import b` gives a.b, since b may be a module or a name in it."""
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(ast.parse(path.read_text()))), "absolute"
    return list(imported_names(path))


def own_imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the imports from this package: train.parts.norm.batch -> (parts, norm, batch)."""
    for name in imports(path):
        head, *rest = name.split(".")
        if head == "train" and rest != ["__version__"]:
            yield tuple(rest)


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=id_of)
def test_module_imports_only_from_lower_packages(path: Path) -> None:
    package = dotted(path)[0]
    if package == "__init__":
        assert not list(own_imports(path))
        return
    assert package in BELOW, f"{package} is missing in the table"
    imported = {target[0] for target in own_imports(path)} - {package}
    assert imported <= BELOW[package], f"{id_of(path)} imports {sorted(imported - BELOW[package])}, which are not below {package}"


def test_table_of_packages_has_no_circle() -> None:
    assert circles(BELOW) == []


def test_files_form_no_circle() -> None:
    """Imports within functions count: two files that need each other are one."""
    assert circles(file_imports()) == []


def test_no_file_imports_too_many() -> None:
    fan_out = {module: len(targets) for module, targets in file_imports().items()}
    assert max(fan_out.values()) <= MAX_IMPORTS, max(fan_out, key=lambda module: fan_out[module])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SHARED])
def test_kinds_of_parts_do_not_import_each_other(kind: str) -> None:
    for path in MODULES:
        if dotted(path)[:2] == ("parts", kind):
            others = {target[1] for target in own_imports(path) if target[0] == "parts"} - {kind} - SHARED
            assert not others, f"{id_of(path)} imports {sorted(others)}"


def test_contracts_import_no_implementation() -> None:
    assert not [target for name in SHARED for target in own_imports(PACKAGE / "parts" / f"{name}.py")]
    assert {target[:2] for target in own_imports(PACKAGE / "data" / "contracts.py")} == {("parts", "contracts")}


def libraries(*packages: str) -> set[str]:
    return {name.split(".")[0] for path in MODULES for name in imports(path) if dotted(path)[: len(packages)] == packages}


@pytest.mark.parametrize("library", ["hydra", "omegaconf", "tensorboard", "rich"])
@pytest.mark.parametrize("packages", [("parts",), ("data",), ("observe",), *CORE_OF_RUN], ids="/".join)
def test_numerical_core_imports_no_configuration_or_display(packages: tuple[str, ...], library: str) -> None:
    assert library not in libraries(*packages)


def test_only_build_calls_targets() -> None:
    callers = {id_of(path) for path in MODULES for name in imports(path) if name.startswith("hydra.utils")}
    assert callers == {"train/run/build.py"}


PRINTS = {"print": "train/streams.py", "traceback.print_exception": "", "Text": "train/sinks/console.py"}
PRINTS |= {"argparse.ArgumentParser": ""}
"""Calls that bring text to a terminal, and the only file that may make them, as it shows all characters."""


def test_text_reaches_a_terminal_in_one_place() -> None:
    for path in MODULES:
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        assert [call for call in calls & PRINTS.keys() if PRINTS[call] != id_of(path)] == [], id_of(path)


HANDLE_RUN_FOLDERS = {"store", "sinks", "figures", "explain", "report", "run", "sweep", "cli", "evaluation", "listing"}
BY_PATH = {
    *("read_text", "write_text", "read_bytes", "write_bytes", "touch", "unlink", "rename", "rmdir"),
    *("iterdir", "glob", "rglob", "hardlink_to", "symlink_to"),
}
"""Calls that reach a file by its path, through whatever links are on the way."""
NO_RUN_FOLDER = {
    "train/store/inside.py": BY_PATH | {"open"},
    "train/store/code.py": {"read_text", "read_bytes", "rglob"},  # our own sources
    "train/run/own_code.py": {"read_bytes"},  # the user's sources
    "train/run/job.py": {"rmdir"},  # an empty folder that Hydra has just made
    "train/sweep/devices.py": {"read_text"},  # /proc and /sys
}


def calls_by_path(path: Path) -> Iterator[str]:
    """Yield the calls of a module that open, list or delete files by path. What a `Folder` opens does not count."""
    for node in ast.walk(ast.parse(path.read_text())):
        function = node.func if isinstance(node, ast.Call) else None
        if isinstance(function, ast.Name) and function.id == "open":
            yield "open"
        elif isinstance(function, ast.Attribute):
            owner = ast.unparse(function.value)
            if function.attr in BY_PATH or (function.attr == "open" and not owner.startswith(("Folder(", "self"))):
                yield function.attr


@pytest.mark.parametrize("path", [path for path in MODULES if dotted(path)[0] in HANDLE_RUN_FOLDERS], ids=id_of)
def test_files_of_runs_are_reached_through_one_module(path: Path) -> None:
    """A folder may come from somebody else, and `train/store/inside.py` alone knows how to follow nothing out of it."""
    assert set(calls_by_path(path)) <= NO_RUN_FOLDER.get(id_of(path), set())


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("train", {"torch", "numpy", "hydra", "omegaconf", "yaml", "train.errors", "train.evaluation"}),
        ("train.cli", {"torch", "hydra", "pydantic", "pyarrow"}),
        ("train.evaluation.load", {"torch", "hydra", "matplotlib", "rich"}),
        ("train.evaluation.cli", {"torch", "hydra", "matplotlib", "scipy"}),
        ("train.listing.cli", {"torch", "hydra", "matplotlib", "scipy", "pyarrow"}),
        ("train.config_errors", {"torch"}),
        ("train.naming", {"torch", "hydra"}),
        ("train.config", {"torch", "hydra"}),
        ("train.tags", {"torch", "hydra", "matplotlib"}),
        ("train.sinks.contracts", {"torch", "rich", "tensorboard"}),
        ("train.store.run", {"torch", "hydra", "omegaconf", "pydantic", "filelock", "psutil"}),
        ("train.store.failure", {"torch", "hydra", "omegaconf", "pydantic"}),
        ("train.store.metrics", {"torch", "hydra", "yaml"}),
        ("train.report.cli", {"torch", "hydra", "matplotlib", "scipy", "tensorboard", "pyarrow"}),
        ("train.report.tensorboard", {"torch", "hydra", "matplotlib", "pydantic"}),
        ("train.explain.sink", {"torch", "matplotlib"}),
        ("train.run.job", {"torch"}),
        ("train.sweep.sweeper", {"torch", "pyarrow"}),
        ("train.sweep.fork_server", {"torch", "hydra"}),
        ("train.sweep.pool", {"torch"}),
        ("train.run.session", {"torchvision", "rich", "tensorboard", "pyarrow"}),
    ],
)
def test_import_of_module_loads_no_forbidden_library(module: str, forbidden: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted({forbidden!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "scripts").rglob("*.py"))], ids=id_of)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
