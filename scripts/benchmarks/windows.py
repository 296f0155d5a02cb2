"""Timed windows, interleaved between the contestants, that detect when other processes used the processor.

Detection works on Linux only; elsewhere windows are timed and interleaved without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import psutil

Seconds: TypeAlias = Mapping[str, float]
"""The parts of a time by name."""

GRANULARITY_S = 0.03
"""The error of the kernel's clock ticks; it matters for windows of a second or less."""
IDLE_SHARE, IDLE_AFTER_S, SETTLED_BY_S = 0.1, 0.2, 10.0


class Contestant(Protocol):
    """A program under comparison: it can do a number of steps and keeps its state in between."""

    @property
    def name(self) -> str: ...

    @property
    def detail(self) -> str:
        """Device and precision, for the output."""
        ...

    def window(self, steps: int) -> Callable[[], Seconds | None]:
        """Prepare a window and return the function whose call is timed. It may return how its own time is split."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Procedure:
    """The settings of all windows.

    `lead_in`: untimed steps before each window; `repeats`: further attempts at a disturbed window; `tolerance`: share of all
    processors' time that others may use."""

    rounds: int
    steps: int
    batch_size: int
    lead_in: int
    repeats: int
    tolerance: float


@dataclass(frozen=True)
class Window:
    """One timing.

    `foreign`: the share of all processors' time that other processes used, None where it is unknown; `kept`: whether this is the
    attempt of its round that counts; `parts`: what the contestant says of its time, if anything; `own_s`: the processor time of
    this process and its descendants, and `workers_s`: of the descendants, None where they are unknown."""

    contestant: str
    round: int
    attempt: int
    seconds: float
    images: int
    foreign: float | None
    disturbed: bool
    kept: bool = False
    parts: Seconds = field(default_factory=dict)
    own_s: float | None = None
    workers_s: float | None = None

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Usage:
    """Processor time so far, in seconds.

    `all_s`: of everything on the processors that this process may use; `own_s`: of this process and its descendants, living and
    ended; `process_s`: of this process alone."""

    at: float
    all_s: float
    own_s: float
    process_s: float


def usage() -> Usage | None:
    """Return the processor time so far; None where the kernel does not report it."""
    try:
        return Usage(time.perf_counter(), _busy_s(), _own_s(), time.process_time())
    except (OSError, AttributeError, LookupError, psutil.Error):  # LookupError: a container shows fewer processors
        return None


def foreign_share(before: Usage | None, after: Usage | None) -> float | None:
    """Return the share of the processors' time between two readings that other processes used; None where it is unknown."""
    if before is None or after is None or after.all_s == before.all_s:  # some containers show a clock that stands still
        return None
    capacity = (after.at - before.at) * processors()
    foreign = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    return max(0.0, foreign - GRANULARITY_S) / capacity


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _busy_s() -> float:
    """Return the busy time of the processors. Stolen time counts: another virtual machine disturbs as well."""
    every = psutil.cpu_times(percpu=True)
    mine = [every[index] for index in os.sched_getaffinity(0)]
    return sum(t.user + t.nice + t.system + t.irq + t.softirq + t.steal for t in mine)


def _own_s() -> float:
    """Return the time of this process and its descendants; an ended child counts in its parent, which has reaped it."""
    process, total = psutil.Process(), 0.0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it ended just now
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return round(total, 6)  # an ended child's time is part of another addend, and must not become less by rounding


def settle() -> None:
    """Wait until this process and its descendants are idle: workers fill their queues after a window has ended."""
    deadline = time.perf_counter() + SETTLED_BY_S
    before = usage()
    while time.perf_counter() < deadline:
        time.sleep(IDLE_AFTER_S)
        after = usage()
        if before is None or after is None or (after.own_s - before.own_s) <= IDLE_SHARE * (after.at - before.at):
            return
        before = after


def interleave(
    contestants: Sequence[Contestant], procedure: Procedure, wait: Callable[[], None], say: Callable[[str], None]
) -> list[Window]:
    """Take windows in turn (A B C A B C ...) and return every attempt in order. `wait` returns when the device is idle."""
    windows: list[Window] = []
    for number in range(procedure.rounds):
        for contestant in contestants:
            attempts: list[Window] = []
            while len(attempts) <= procedure.repeats and not (attempts and not attempts[-1].disturbed):
                attempts.append(take(contestant, procedure, number, len(attempts), wait))
                say(line(attempts[-1], procedure))
            best = attempts[-1] if not attempts[-1].disturbed else min(attempts, key=lambda window: window.foreign or 0.0)
            windows += [replace(window, kept=window is best) for window in attempts]
    return windows


def take(contestant: Contestant, procedure: Procedure, number: int, attempt: int, wait: Callable[[], None]) -> Window:
    """Time one window."""
    settle()
    contestant.window(procedure.lead_in)()
    run = contestant.window(procedure.steps)
    wait()
    before = usage()
    started = time.perf_counter()
    parts = run() or {}
    wait()
    seconds = time.perf_counter() - started
    after = usage()
    foreign = foreign_share(before, after)
    own_s = after.own_s - before.own_s if before and after else None
    process_s = after.process_s - before.process_s if before and after else 0.0
    workers_s = None if own_s is None else max(0.0, own_s - process_s)
    disturbed = foreign is not None and foreign > procedure.tolerance
    images = procedure.steps * procedure.batch_size
    facts = (contestant.name, number, attempt, seconds, images, foreign, disturbed)
    return Window(*facts, parts=parts, own_s=own_s, workers_s=workers_s)


def line(window: Window, procedure: Procedure) -> str:
    others = "" if window.foreign is None else f", others used {window.foreign:.1%} of the processors"
    verdict = " -> disturbed" if window.disturbed else ""
    return f"round {window.round + 1}/{procedure.rounds} {window.contestant}: {window.images_per_s:,.0f} img/s{others}{verdict}"
