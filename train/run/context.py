"""The context of a GPU, begun before torch is imported.

The driver needs half a second and more to make it, and no Python. Torch uses the primary context of a device, which this is, and
waits where it is not complete. Source: the CUDA Driver API reference, "Primary Context Management".
"""

from __future__ import annotations

import ctypes
import re
import threading
from importlib import metadata

from train.run.signals import held_signals

DRIVER = "libcuda.so.1"
_ONE_GPU = re.compile(r"auto|cuda(:(?P<number>\d+))?")
_begun = set[int]()


def begin_context(device: str, devices: int = 1) -> None:
    """Begin to make the context of the GPU that `trainer.device` means, in a thread; do nothing where that is none, or unknown.

    The end of the process waits for the thread, as the driver is not to be left in the middle of it.
    """
    chosen = _ONE_GPU.fullmatch(device)
    if chosen is None or devices > 1 or _is_without_cuda():
        return
    number = int(chosen["number"] or 0)
    if number not in _begun:
        _begun.add(number)
        with held_signals():  # they are for the main thread; a thread starts with what is held back
            threading.Thread(target=_make_context, args=(number,)).start()


def _is_without_cuda() -> bool:
    """Return whether the installed torch says that it cannot use a GPU. Its context would only take memory there."""
    try:
        return "+cpu" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return True


def _make_context(number: int) -> None:
    """Make the primary context of this GPU. What fails here fails again, with a message, where torch uses the GPU."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:  # there is none
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), number) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
