"""A laboratory for one question: which ingredient of training a convolutional network does what?

`train.load(FOLDER)` returns what a run knows: configuration, records, summary, data, and its model with the trained weights.
`train.runs(FOLDER, where=...)` returns the runs below a folder as a table for pandas, polars and DuckDB.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"
__all__ = ["__version__", "load", "runs"]  # pyright: ignore[reportUnsupportedDunderAll]

_HOMES = {"load": "train.evaluation.load", "runs": "train.listing.api"}
"""Name -> the module that defines it, which is imported when the name is first used. `__init__.pyi` has their types."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(_import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
