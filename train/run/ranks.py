"""The processes of a run on several devices: how rank 0 starts the others, what they do, and what becomes of them.

Rank 0 is the command, or a job of a sweep: it checks everything, owns the run folder and all views, and is the one that signals
reach. The others get the checked settings and run the same loop without a folder. They are started by `torch.multiprocessing`,
or with rank 0 by `torchrun`. None of them outlives the process that started it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import ClassVar, NoReturn

import torch
from torch import distributed as dist
from torch import multiprocessing
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import start_processes

from train.config import Settings, TrainerSettings
from train.errors import RunError, UsageError
from train.run.follower import agreed_saver, agreed_stop, train_as_rank
from train.run.loop import Saver
from train.run.setup import prepare
from train.run.signals import HELD_SIGNALS, StopSignal, signal_with_number
from train.run.torchrun import refuse_other_size, started_by_torchrun
from train.run.trust import set_trusted, trusted
from train.world import PATIENCE, World

HOST = "127.0.0.1"
POLL_S = 0.05
END_S = 10.0
"""How long the other ranks may take to end after rank 0 has done with them."""
DEAD_S = 5.0
"""How long rank 0 has to notice that another rank is dead, before it ends as well."""
LOST = 1
GLOO_SOURCES = "gloo/transport/"


class RankLostError(RunError):
    """Another rank has ended without saying why. The run ends as if it had been killed itself: its state is `lost`."""


@dataclass(frozen=True)
class RankSettings:
    """What rank 0 broadcasts to the others, so that they can take part. `threads`: of its tensor operations."""

    settings: Settings
    trusted: Sequence[str]
    size: int
    threads: int


class Ranks:
    """The other ranks of a run, as rank 0 sees them; there are none for a run on one device.

    `place`: the number of this rank's GPU on this machine; `has_broadcast`: whether those that torchrun has started have their
    settings.
    """

    has_broadcast: ClassVar[bool] = False

    def __init__(self, settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
        self.world = World(0, settings.trainer.devices)
        self._settings = settings
        self._external = started_by_torchrun(environment)
        self._store: Store | None = None
        self.place = None if self.world.is_alone else int(environment.get("LOCAL_RANK", 0)) if self._external else 0
        self._processes: Sequence[BaseProcess] = ()
        self._done = threading.Event()
        if self._external:
            refuse_other_size(settings.trainer.devices, environment)
        elif not self.world.is_alone:
            refuse_missing(settings.trainer)

    def start(self, device: torch.device) -> None:
        """Start the others, or broadcast the settings to those that torchrun started. They prepare themselves meanwhile."""
        if self.world.is_alone:
            return
        threads = torch.get_num_threads()
        if device.type == "cpu":
            threads = max(1, threads // (1 if self._external else self.world.size))
            torch.set_num_threads(threads)
        settings = RankSettings(self._settings, tuple(trusted()), self.world.size, threads)
        if self._external:
            self._store, _, _ = next(rendezvous("env://"))
            Ranks.has_broadcast = True
            self._store.set("settings", pickle.dumps(settings))  # pyright: ignore[reportArgumentType]
            return
        listener = socket.create_server((HOST, 0))  # no other machine is to reach it
        port = listener.getsockname()[1]
        self._store = TCPStore(
            HOST, port, None, is_master=True, timeout=PATIENCE, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        main, sys.modules["__main__"] = sys.modules["__main__"], type(sys)("__main__")  # which each would run again
        try:
            context = start_processes(_follow, (port, settings), self.world.size - 1, join=False, start_method="spawn")
        finally:
            sys.modules["__main__"] = main
        assert context is not None
        self._processes = [process for process in context.processes if process is not None]
        threading.Thread(target=self._end_with_the_dead, daemon=True).start()

    def connect(self, device: torch.device) -> None:
        """Wait until all are ready, and make the process groups."""
        if self._store is None:
            return
        keys = [f"ready {rank}" for rank in range(1, self.world.size)]
        while not self._store.check(keys):
            if self._dead() or self._store.check(["error"]):
                raise self.explain(None) or RankLostError("another rank has ended")
            time.sleep(POLL_S)
        self.world.connect(self._store, device)

    def explain(self, error: BaseException | None) -> RunError | None:
        """Return what another rank failed of, or that it is dead; None where `error` is this rank's own."""
        if self._store is None:
            return None
        is_lost = error is None or is_of_connection(error)
        if not is_lost:
            return None
        self._done.set()
        deadline = time.monotonic() + DEAD_S
        while not self._dead() and not self._store.check(["error"]) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for rank, process in enumerate(self._processes, 1):
            if (code := process.exitcode) is not None and code < 0:
                return RankLostError(f"rank {rank} of {self.world.size} was ended by {signal_with_number(-code)}.")
        if self._store.check(["error"]):
            return RunError(self._store.get("error").decode())
        return RankLostError(f"the connection to another of the {self.world.size} ranks has ended.")

    def stop(self, own: StopSignal) -> StopSignal:
        """Return the stop flag of a run on all its ranks."""
        return agreed_stop(own, self.world)

    def saver(self, own: Saver) -> Saver:
        """Return the saver of a run on all its ranks."""
        return agreed_saver(own, self.world)

    def end(self, failed: bool) -> None:
        """Let the other ranks end; `failed`: at once."""
        self._done.set()
        deadline = time.monotonic() + (0.0 if failed else END_S)
        if not failed:
            self.world.close()
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._processes = ()

    def _dead(self) -> list[BaseProcess]:
        return [process for process in self._processes if process.exitcode is not None]

    def _end_with_the_dead(self) -> None:
        """In a thread: end this process if another rank is dead and no collective says so, as NCCL's do not.

        A rank that has done its part ends before rank 0 has written the results.
        """
        left = list(self._processes)
        while not any(process.exitcode for process in left):
            left = [process for process in left if process.exitcode is None]
            if not left:
                return
            wait([process.sentinel for process in left])
        if self._done.wait(2 * DEAD_S):
            return
        for process in self._processes:
            process.kill()
        os._exit(LOST)


def refuse_missing(trainer: TrainerSettings) -> None:
    """Raise UsageError where this machine has fewer GPUs than a run is to train on."""
    found = torch.cuda.device_count()
    if trainer.device.partition(":")[0] in ("auto", "cuda") and 0 < found < trainer.devices:
        raise UsageError(
            f"trainer.devices={trainer.devices}: torch sees {found} GPU(s). Use trainer.devices={found}, or trainer.device=cpu."
        )


def is_of_connection(error: BaseException) -> bool:
    """Return whether an exception says that the connection to another rank has ended.

    NCCL raises torch's DistBackendError and a TCPStore its DistNetworkError. Where a rank is killed, gloo raises a RuntimeError
    and no class of it (torch 2.14): its text begins with the place in gloo's sources, `[.../gloo/transport/tcp/pair.cc:561]`.
    """
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and GLOO_SOURCES in str(error))


def _follow(index: int, port: int, settings: RankSettings) -> NoReturn:
    """The other ranks that rank 0 starts."""
    _end_with(parent_process())
    store = TCPStore(HOST, port, None, is_master=False, timeout=timedelta(seconds=60), wait_for_workers=False)
    _take_part(store, World(index + 1, settings.size), settings, index + 1)


def follow_torchrun() -> int:
    """Take part as one of the processes that torchrun has started, with the settings of rank 0. Return 0 if there is no run."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _end_with(None)
    store, _, _ = next(rendezvous("env://"))
    store.wait(["settings"], PATIENCE)
    content = store.get("settings")
    if content:
        _take_part(store, World(rank, size), pickle.loads(content), int(os.environ.get("LOCAL_RANK", rank)))
    return 0


def dismiss_torchrun() -> None:
    """As rank 0 of torchrun: let the others end that wait for settings, if there was no run."""
    if not Ranks.has_broadcast:
        store, _, _ = next(rendezvous("env://"))
        store.set("settings", "")


def _take_part(store: Store, world: World, settings: RankSettings, place: int) -> NoReturn:
    """Train as one of the ranks, and end this process. An error is what rank 0 then says."""
    for number in HELD_SIGNALS:  # rank 0 broadcasts when to stop
        signal.signal(number, signal.SIG_IGN)
    log = logging.getLogger("train")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    torch.set_num_threads(settings.threads)
    set_trusted(tuple(settings.trusted))
    code = 0
    try:
        setup = prepare(settings.settings, world=world, place=place)
        train_as_rank(setup, lambda: _join(store, world, setup.placement.device))
        world.close()
    except Exception as error:
        code = 1
        if not is_of_connection(error):
            store.set("error", f"rank {world.rank} of {world.size}: {type(error).__name__}: {' '.join(str(error).split())}")
    _exit(code)


def _exit(code: int) -> NoReturn:
    """End this process without the end of its interpreter, where C++ once aborted a rank that had done its part."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _join(store: Store, world: World, device: torch.device) -> None:
    store.set(f"ready {world.rank}", "")
    world.connect(store, device)


def _end_with(parent: BaseProcess | None) -> None:
    """End this process when the one that started it has ended, however that came about."""
    multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]
    first = os.getppid()

    def watch() -> None:
        if parent is not None:
            parent.join()
        while parent is None and os.getppid() == first:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
