"""Execute docs/results.ipynb and store what its cells show, as text alone; with --check, compare that with what is stored.

Numbers are those of the machine, and so are the widths of tables: they are not compared.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "results.ipynb"
TIMEOUT_S = 1200
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
_LINES = re.compile(r"[\s\u2500-\u257f-]+")
"""White space, and what the lines of a table consist of."""


def executed(path: Path) -> NotebookNode:
    """Return the notebook, executed in an empty folder. CellExecutionError when a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its cells start `train`
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        cell.outputs = [_as_text(output) for output in cell.get("outputs", ())] if cell.cell_type == "code" else []
        if cell.cell_type != "code":
            del cell["outputs"]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def _as_text(output: NotebookNode) -> NotebookNode:
    """Return an output with its text alone: the page of a data frame is many times as long."""
    if "data" in output:
        output.data = {"text/plain": output.data.get("text/plain", "")}
    return output


def shown(notebook: NotebookNode) -> list[str]:
    """Return what each cell shows, without numbers and widths."""
    texts = [
        "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", ()))
        for cell in notebook.cells
    ]
    return [_LINES.sub(" ", _NUMBER.sub("#", text)) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the cells show something else")
    check = parser.parse_args().check
    stored, new = nbformat.read(NOTEBOOK, as_version=4), executed(NOTEBOOK)
    if not check:
        nbformat.write(new, NOTEBOOK)
        return
    pairs = list(zip(shown(stored), shown(new), strict=True))
    for number, (old, now) in enumerate(pairs, start=1):
        if old != now:
            print(f"cell {number} shows\n{now}\nand is stored with\n{old}")
    sys.exit(any(old != now for old, now in pairs))


if __name__ == "__main__":
    main()
