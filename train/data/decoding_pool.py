"""A pool of processes that decode image files, one batch per request, or make parts of a cache of them.

A worker gets a `DecodeRequest` and returns pixels. It keeps no state and holds no labels, so any worker can answer any request.

Why `forkserver`: forking this process is unsafe once CUDA or an OpenMP region has run in it, and spawning imports torch anew for
each worker, some seconds of a core. The server imports once, runs nothing, and forks each worker in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from train.data.cached_image import CachedReader
from train.data.contracts import Decoding
from train.data.decode import Frame, Region, Size
from train.data.jpeg import read_image
from train.errors import RunError
from train.parts.contracts import Framing
from train.rng import generator


@dataclass(frozen=True)
class DecodeRequest:
    """The images of one batch.

    `indices`: positions in the split, which the draws depend on; `epoch`: None asks for the test regions; `rows`: of images in a
    cache, see `CachedImages`."""

    paths: list[str]
    indices: list[int]
    epoch: int | None
    rows: list[list[int]] | None = None


class Decoder(Dataset[Tensor | RunError]):
    """A data set whose items are decoded batches: request -> uint8 [N, C, H, W]. `cache`: reads them instead, if not None.

    A file that cannot be decoded is returned as the error itself: raised in a worker, it would reach the user wrapped in the
    worker's traceback."""

    def __init__(
        self,
        framing: Framing,
        channels: int,
        augment_seed: int,
        decoding: Decoding = Decoding(),  # noqa: B008
        cache: CachedReader | None = None,
    ) -> None:
        self.framing = framing
        self.channels = channels
        self.augment_seed = augment_seed
        self.decoding = decoding
        self.cache = cache

    def __getitem__(self, request: DecodeRequest) -> Tensor | RunError:
        size, images = self.framing.size(), list[Tensor]()
        for number, (path, index) in enumerate(zip(request.paths, request.indices, strict=True)):
            region = self.framing.test_region
            if request.epoch is not None:
                draw = generator(self.augment_seed, "augment", request.epoch, index)
                region = partial(self.framing.train_region, draw)
            try:
                images.append(self._image(path, request.rows[number] if request.rows else None, partial(_frame, region, size)))
            except RunError as error:
                return error
        # Channels innermost, as they are decoded: turning them around in here would take 4 % of a worker's time. In a worker,
        # `default_collate` puts the batch into shared memory at once; a further copy took 40 % of its time on a cache of pixels.
        return default_collate([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)

    def _image(self, path: str, row: Sequence[int] | None, frame: Frame) -> Tensor:
        if self.cache is not None and row is not None:
            return self.cache.read(row, frame)
        return read_image(path, frame, self.channels, self.decoding)


def _frame(region: Callable[[int, int], Region], size: Size, height: int, width: int) -> tuple[Region, Size]:
    return region(height, width), size


class _RequestSampler:
    """The sampler of a DataLoader that outlives an epoch; its requests are set before each epoch."""

    requests: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.requests)


class DecodingPool:
    """A pool of `workers` single-threaded processes around one `Decoder`, or `Maker` of a cache; 0 works in this process.

    keep: the processes wait for the next call instead of ending with each. pin: the batches lie in pinned memory.
    """

    def __init__(self, decoder: Dataset[Any], workers: int, *, keep: bool, pin: bool = False) -> None:
        self._sampler = _RequestSampler()
        self._make = partial(_loader, decoder, self._sampler, workers, keep=keep, pin=pin)
        self._loader: DataLoader[Any] | None = None
        self._running: Generator[Any, None, None] | None = None

    def decoded(self, requests: Iterable[Any]) -> Generator[Any, None, None]:
        """Yield the answer to each request, in order; an iterator of an earlier call ends.

        RunError naming the file that cannot be decoded; the processes have ended then."""
        self._stop()
        self._running = self._answers(requests)
        return self._running

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        self._stop()
        self._loader = None

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _answers(self, requests: Iterable[Any]) -> Generator[Any, None, None]:
        """Yield what the workers return.

        A DataLoader ends its processes when the last reference to its iterator goes. A traceback would hold one, so errors are
        raised outside of the loop."""
        self._sampler.requests = requests
        if self._loader is None:
            self._loader = self._make()
        failure: RunError | None = None
        try:
            for answer in _started(self._loader):
                if isinstance(answer, RunError):
                    failure = answer
                    break
                yield answer
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            if isinstance(error, RuntimeError) and not re.search("exited unexpectedly|killed by signal", str(error)):
                raise
            failure = RunError(
                f"A process that decodes image files ended unexpectedly ({error}). Memory, or a container's shared memory, "
                "may have run out: lower data.workers or trainer.batch_size."
            )
        if failure is not None:
            self._loader = None
            raise failure


def _loader(decoder: Dataset[Any], sampler: _RequestSampler, workers: int, *, keep: bool, pin: bool) -> DataLoader[Any]:
    return DataLoader(
        decoder,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        persistent_workers=keep and workers > 0,
        pin_memory=pin,
        multiprocessing_context=_context() if workers else None,
        worker_init_fn=_start,
        generator=torch.Generator(),  # or it would draw its base seed from the global generator
    )


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers and return the loader's iterator.

    They start with the signals blocked that ask a run to stop, save or give way: a batch system sends these to every process of a
    job, and the run decides for all."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    asking = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asking)
    try:
        resource_tracker.ensure_running()  # the first time it lets SIGTERM through again
        signal.pthread_sigmask(signal.SIG_BLOCK, asking)
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server ignores a module that it cannot import: outside of an installation it may not find ours.
    context.set_forkserver_preload(["torch.utils.data", "PIL.Image", __name__])
    return context


def _start(worker: int) -> None:  # noqa: ARG001
    """Set up a new worker, which only its parent ends: by asking or by dying."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the run decides when it is over
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata, once per worker
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with its parent.

    torch watches the server that forked the worker instead, which itself waits for the workers to end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
