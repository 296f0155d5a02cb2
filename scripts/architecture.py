"""Draw the packages of `train` and who imports whom, from the imports themselves.

    python scripts/architecture.py           # rewrites the picture in docs/architecture.md
    python scripts/architecture.py --check   # exit code 1 when the picture there is not today's

The picture is a Mermaid graph, which code hosts render. An arrow points from a package to one that it imports; arrows that follow
from others are left out. A package stands above everything that it imports.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "train"
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- begin picture -->", "<!-- end picture -->"

Graph = Mapping[str, set[str]]


def imported_names(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, wherever in it; `from a import b` gives `a.b`, as `b` may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    """Return the dotted name of a file: `train/run/loop.py` -> `train.run.loop`; a package is named by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def file_imports() -> dict[str, set[str]]:
    """Return module -> the modules of `train` that its file imports, at its top or inside a function."""
    files = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        names = (name for name in imported_names(path) if name.split(".")[0] == "train")
        targets = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = (targets & set(files)) - {module}
    return graph


def package_imports() -> dict[str, set[str]]:
    """Return package -> the packages that it imports; a file beside the packages counts as one."""
    graph: dict[str, set[str]] = {}
    for module, targets in file_imports().items():
        if module == "train":
            continue
        package = module.split(".")[1]
        graph.setdefault(package, set()).update(target.split(".")[1] for target in targets if target != "train")
        graph[package].discard(package)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of nodes that reach each other, each in order of names (strongly connected components of two or more)."""
    reachable = {node: _reachable(graph, node) for node in graph}
    groups = {
        tuple(sorted({node} | {other for other in reached if node in reachable[other]})) for node, reached in reachable.items()
    }
    return sorted(list(group) for group in groups if len(group) > 1)


def _reachable(graph: Graph, start: str) -> set[str]:
    """Return every node that can be reached from `start` in one step or more."""
    reached: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += graph[node]
    return reached


def floors(graph: Graph) -> list[list[str]]:
    """Return the nodes by height, the top first: a node stands one floor above the highest of those that it imports."""
    height: dict[str, int] = {}

    def height_of(node: str) -> int:
        if node not in height:
            height[node] = 1 + max((height_of(target) for target in graph[node]), default=-1)
        return height[node]

    top = max(map(height_of, graph))
    return [sorted(node for node in graph if height[node] == level) for level in range(top, -1, -1)]


def reduced(graph: Graph) -> dict[str, set[str]]:
    """Return the graph without arrows that follow from others (its transitive reduction)."""
    return {
        node: {target for target in targets if not any(target in _reachable(graph, other) for other in targets - {target})}
        for node, targets in graph.items()
    }


def picture() -> str:
    """Return the packages as a Mermaid graph, the top floor first."""
    graph = package_imports()
    arrows = reduced(graph)
    lines = ["```mermaid", "graph TD"]
    for floor in floors(graph):
        lines += [f"    {node} --> {' & '.join(sorted(arrows[node]))}" if arrows[node] else f"    {node}" for node in floor]
    return "\n".join([*lines, "```"])


def with_picture(document: str) -> str:
    """Return the document with today's picture between its marks."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{picture()}\n{END}{tail}"


def main() -> int:
    """Rewrite the picture, or check it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    document = DOCUMENT.read_text(encoding="utf-8")
    wanted = with_picture(document)
    if wanted == document:
        return 0
    if check:
        print("docs/architecture.md does not show today's imports. Run: python scripts/architecture.py", file=sys.stderr)
        return 1
    DOCUMENT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
