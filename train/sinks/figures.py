"""The figures of a run: drawn as it ends, or in a sweep by another process, after the run has left its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from train.sinks.contracts import Sink
from train.store.files import FIGURES_FOLDER
from train.store.inside import Folder


@dataclass(frozen=True)
class Figure:
    """A figure that is not drawn yet. `tag`, `step`: of the image; `draw`: returns it as a PNG, and can be pickled."""

    tag: str
    step: int
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Drawing:
    """Figures of the run in `folder`."""

    folder: Path
    figures: Sequence[Figure]

    def draw(self, target: Sink) -> None:
        """Write the figures to the subfolder `figures`, and pass them to `target`."""
        pictures = [(figure, figure.draw()) for figure in self.figures]
        figures = (Folder(self.folder) / FIGURES_FOLDER).make()
        for figure, png in pictures:
            figures.write(f"{figure.tag.replace('/', '_')}.png", png)
        for figure, png in pictures:
            target.image(figure.tag, figure.step, png)


_deferred: list[Drawing] | None = None


@contextmanager
def deferred() -> Iterator[list[Drawing]]:
    """Draw no figure in this process; give a list to which they are added instead."""
    global _deferred
    before, _deferred = _deferred, []
    try:
        yield _deferred
    finally:
        _deferred = before


def draw(drawing: Drawing, target: Sink) -> None:
    """Draw figures now, unless this process defers them."""
    if _deferred is None:
        drawing.draw(target)
    else:
        _deferred.append(drawing)
