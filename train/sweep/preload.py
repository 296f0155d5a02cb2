"""What the fork server imports, once for all jobs of a sweep; importing it also prepares that process for forking.

It only imports: a worker starts with OpenMP and CUDA uninitialised, and the server has one thread, as a fork copies no other.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil

from train.store.code import code_id

MODULES = (
    "train.cli",
    "train.naming",
    "train.run",
    "train.sweep.job",
    "train.data",
    "train.parts",
    "train.observe",
    "train.explain",
    "train.figures",
    "train.sinks",
    "train.store",
    "psutil",
    "torch._inductor",  # `torch.use_deterministic_algorithms` imports it, with dynamo and sympy: two seconds
    "matplotlib.backends.backend_agg",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "antlr4.LL1Analyzer",
    "numpy.polynomial",
    "omegaconf._impl",
    "torch.utils.serialization",
    "pydantic._internal._serializers",
)
"""The modules that every run imports, directly or not. For a package of this project, all its modules."""


def import_package(name: str) -> None:
    """Import a module; for a package of this project, also all its submodules."""
    module = importlib.import_module(name)
    if name.startswith("train.") and hasattr(module, "__path__"):
        for _, submodule, _ in pkgutil.iter_modules(module.__path__, f"{name}."):
            import_package(submodule)


for _name in MODULES:
    import_package(_name)
code_id()  # hash the sources that are loaded now, once for all workers
gc.collect()
gc.freeze()  # else the first collection in each worker would copy every page that holds an object
