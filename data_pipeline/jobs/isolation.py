"""Each video in a process of its own, watched: one that hangs, eats memory or crashes is killed and named, and the others go on.

The processes are forked from a server that has imported everything and holds nothing, so starting one costs milliseconds and
no video inherits what an earlier one left behind. A process tells at every frame that it is alive.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from data_pipeline.config import LimitsConfig
from imanim.errors import InputError

Task = TypeVar("Task")
Beat = Callable[[], None]
BEAT_SEC = 0.5
LOOK_SEC = 0.25
# Address space that is reserved and never touched is no memory: the limit on it catches only what grows between two looks.
HEADROOM = 2.0
PRELOAD = ("data_pipeline.jobs.unit",)


@dataclass(frozen=True)
class Ended(Generic[Task]):
    """What became of a task: its ``result``, or the ``reason`` for which there is none."""

    task: Task
    result: Any = None
    reason: str | None = None
    detail: str = ""


@dataclass(eq=False)
class _Running(Generic[Task]):
    task: Task
    process: Any
    pipe: Connection
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    peak_bytes: int = 0


def run(
    work: Callable[[Task, Beat], Any], tasks: Sequence[Task], workers: int, limits: LimitsConfig
) -> Iterator[Ended[Task]]:
    """Runs ``work(task, beat)`` for every task, ``workers`` at a time; yields what became of each as it ends.

    Args:
        work: a function of a module, so that another process finds it; its result must pass a pipe.

    Raises:
        InputError: a task raised it: the whole batch stops (disk full, networks missing).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    queue, flying = deque(tasks), list[_Running[Task]]()
    try:
        while queue or flying:
            while queue and len(flying) < workers:
                flying.append(_start(context, work, queue.popleft(), limits))
            wait([r.pipe for r in flying], timeout=LOOK_SEC)
            for running in list(flying):
                ended = _look(running, limits)
                if ended is not None:
                    flying.remove(running)
                    _reap(running)
                    yield ended
    finally:
        for running in flying:
            _reap(running)


def _start(context: Any, work: Callable[[Task, Beat], Any], task: Task, limits: LimitsConfig) -> _Running[Task]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, work, task, limits), daemon=True)
    process.start()
    theirs.close()
    return _Running(task, process, ours)


def _child(pipe: Connection, work: Callable[[Task, Beat], Any], task: Task, limits: LimitsConfig) -> None:
    """The other side: works, says now and then that it lives, sends what came out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and kills
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = int(limits.memory_gb * HEADROOM * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    last = 0.0

    def beat() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > BEAT_SEC:
            last = now
            pipe.send(("alive", None))

    try:
        message = ("done", work(task, beat))
    except MemoryError:
        message = ("memory", None)
    except InputError as error:
        message = ("stop", str(error))
    pipe.send(message)
    pipe.close()


def _look(running: _Running[Task], limits: LimitsConfig) -> Ended[Task] | None:
    """What became of a running task, or None while it goes on within its limits."""
    task, now = running.task, time.monotonic()
    try:
        while running.pipe.poll():
            kind, value = running.pipe.recv()
            running.heard = now
            if kind == "done":
                return Ended(task, value)
            if kind == "stop":
                raise InputError(value)
            if kind == "memory":
                return Ended(
                    task, None, "out_of_memory", f"asked for more than {limits.memory_gb:g} GB (limits.memory_gb)"
                )
    except EOFError:
        running.process.join(10)
        return Ended(task, None, "crashed", _why(running.process.exitcode))
    running.peak_bytes = max(running.peak_bytes, _resident(running.process.pid))
    if running.peak_bytes > limits.memory_gb * 1e9:
        return Ended(task, None, "out_of_memory", f"used more than {limits.memory_gb:g} GB (limits.memory_gb)")
    if now - running.heard > limits.stall_sec:
        return Ended(task, None, "stalled", f"no frame for {limits.stall_sec:g} s (limits.stall_sec)")
    if now - running.began > limits.total_sec:
        return Ended(task, None, "out_of_time", f"not finished in {limits.total_sec:g} s (limits.total_sec)")
    return None


def _why(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        with contextlib.suppress(ValueError):
            return f"the process that decoded it was ended by {signal.Signals(-exitcode).name} (a decoder's crash, or memory)"
    return f"the process that decoded it ended with code {exitcode}"


def _resident(pid: int | None) -> int:
    """Resident memory of a process in bytes, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _reap(running: _Running[Any]) -> None:
    running.process.kill() if running.process.is_alive() else None
    running.process.join()
    running.pipe.close()
