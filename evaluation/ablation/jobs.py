"""Runs commands that depend on each other, several at a time, and remembers which are done.

A job's record, log and lock lie in one folder under its key. A job that was done is not run again; one that failed or was stopped
is (what it had finished is its own business: trainings and measurements resume). Several of us may work on one folder, on one
machine or many: a job that another holds is left to it, others are done meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imanim.data.files import read_json, write_json

DONE, FAILED, SKIPPED, STOPPED = "done", "failed", "skipped", "stopped"
_TOLD_LINES = 3
_AGAIN_SEC = 0.5
"""How soon a job that another holds is tried again."""


@dataclass(frozen=True)
class Job:
    """A command, and the jobs that must be done before it.

    Attributes:
        key: names its files.
        cpu_sec: a forecast; None: unknown.
        accepted: exit codes that count as done.
        made: a file that is there when it is done, whatever the exit code says.
    """

    key: str
    title: str
    command: tuple[str, ...]
    parents: tuple[str, ...] = ()
    cpu_sec: float | None = None
    accepted: tuple[int, ...] = (0,)
    made: Path | None = None


class Runner:
    """Runs jobs below one folder.

    Args:
        folder: of records, logs and locks.
        root: where commands are started.
        say: told when a job starts or ends.
    """

    def __init__(self, folder: Path, root: Path, say: Callable[[str], None] = print):
        self.folder, self.root, self.say = folder, root, say
        self._children: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopping = False

    def record(self, key: str) -> dict[str, Any]:
        """What is known of a job: ``state``, ``seconds``, ``cpu_sec`` (over all tries), ``code``; empty when it never ran."""
        path = self.folder / f"{key}.json"
        return read_json(path) if path.is_file() else {}

    def is_done(self, job: Job) -> bool:
        """Whether it ended well, and what it made is still there."""
        return self.record(job.key).get("state") == DONE and (job.made is None or job.made.is_file())

    def run(self, jobs: Sequence[Job], parallel: int) -> dict[str, str]:
        """Runs what is not done, earlier jobs first, ``parallel`` at a time. Returns key -> state.

        A failed job stops those that need it, no others. SIGTERM and an interrupt are handed on to the children; what was not
        finished is ``stopped``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        states = {job.key: DONE for job in jobs if self.is_done(job)}
        waiting = {job.key: job for job in jobs if job.key not in states}  # also those that are running
        running: dict[Future[str | None], Job] = {}
        held: dict[str, float] = {}  # until when a job is left to another
        with self._signals(), ThreadPoolExecutor(parallel) as pool:
            while waiting:
                stopping = self._stopping
                idle = {key: job for key, job in waiting.items() if job not in running.values()}
                ready = {key: job for key, job in idle.items() if held.get(key, 0.0) <= time.monotonic()}
                for job in _startable(ready, states, parallel - len(running), stopping):
                    running[pool.submit(self._one, job)] = job
                for key, state in _given_up(idle, states, stopping):
                    states[key] = state
                    del waiting[key]
                if waiting and not running:
                    time.sleep(_AGAIN_SEC)
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    job, ended = running.pop(future), future.result()
                    if ended is None:
                        held[job.key] = time.monotonic() + _AGAIN_SEC
                    else:
                        states[job.key] = ended
                        del waiting[job.key]
        return states

    @property
    def stopping(self) -> bool:
        """Whether we were told to end."""
        return self._stopping

    def _one(self, job: Job) -> str | None:
        """Its state when it has ended; None: another is at it."""
        with open(self.folder / f"{job.key}.lock", "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of when we and the child have ended, however
            except BlockingIOError:
                return None
            known = self.record(job.key)
            if self.is_done(job) or self._stopping:
                return DONE if self.is_done(job) else STOPPED
            self.say(f"{job.title}: started")
            started = time.monotonic()
            code, cpu_sec = self._command(job, lock.fileno())
            ended_well = code in job.accepted and (job.made is None or job.made.is_file())
            state = DONE if ended_well else STOPPED if self._stopping else FAILED
            seconds = known.get("seconds", 0.0) + time.monotonic() - started
            spent = {"seconds": seconds, "cpu_sec": known.get("cpu_sec", 0.0) + cpu_sec}
            write_json(
                self.folder / f"{job.key}.json",
                {"state": state, "title": job.title, "command": list(job.command), "code": code, **spent},
            )
        told = f"{job.title}: {state} ({spent['cpu_sec']:.0f} s of one core, {seconds:.0f} s on the clock)"
        self.say(
            told
            if state != FAILED
            else f"{told}, exit code {code}; {self.folder / job.key}.log ends:\n{self._end(job)}"
        )
        return state

    def _command(self, job: Job, lock: int) -> tuple[int, float]:
        """Runs it to its end: (exit code, seconds of CPU). The child holds the ``lock`` too: it may outlive us."""
        # One thread each: small models are slower with more, and jobs share the cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with open(self.folder / f"{job.key}.log", "ab") as log:
            with self._guard:
                child = subprocess.Popen(
                    job.command, cwd=self.root, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    start_new_session=True, pass_fds=(lock,),
                )  # fmt: skip
                self._children.add(child)
            _, status, used = os.wait4(child.pid, 0)
            with self._guard:
                self._children.discard(child)
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode, used.ru_utime + used.ru_stime

    def _end(self, job: Job) -> str:
        lines = (self.folder / f"{job.key}.log").read_text(errors="replace").strip().splitlines()
        return "\n".join(f"    {line[-300:]}" for line in lines[-_TOLD_LINES:])

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 and Ctrl-C end the children (trainings save), and us when they have ended."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            self._stopping = True
            for child in list(self._children):
                child.send_signal(signal.SIGTERM)

        before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _startable(waiting: Mapping[str, Job], states: Mapping[str, str], free: int, stopping: bool) -> list[Job]:
    if stopping or free <= 0:
        return []
    return [job for job in waiting.values() if all(states.get(p) == DONE for p in job.parents)][:free]


def _given_up(waiting: Mapping[str, Job], states: Mapping[str, str], stopping: bool) -> list[tuple[str, str]]:
    """Jobs that will not run: one that they need was not done, or we are ending."""
    if stopping:
        return [(key, STOPPED) for key in waiting]
    lost = (FAILED, SKIPPED, STOPPED)
    return [(key, SKIPPED) for key, job in waiting.items() if any(states.get(p) in lost for p in job.parents)]
