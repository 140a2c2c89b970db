"""A rank that has died or hangs is named, and ends the run within a stated time, instead of leaving the others to wait for it."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Any, NamedTuple

from imanim import distributed

BEAT_SEC = 1.0
SILENT_SEC = 4.0
"""A living process beats in this time even while Python waits for a slow call."""
EXIT_LOST_RANK = 71


class Report(NamedTuple):
    """What a rank last said of itself. progress counts what it has begun; beat counts how often it has reported."""

    rank: int
    node: str
    pid: int
    beat: int
    progress: int
    doing: str

    def encode(self) -> str:
        return "\t".join(map(str, self))

    @staticmethod
    def decode(text: str) -> Report:
        rank, node, pid, beat, progress, doing = text.split("\t")
        return Report(int(rank), node, int(pid), int(beat), int(progress), doing)

    def __str__(self) -> str:
        return f"rank {self.rank} (node {self.node}, process {self.pid})"


class Watch:
    """Every rank's word on what it is doing, in a store of their own, and a thread that reads it when nothing moves any more.

    Args:
        timeout_sec: how long one thing (a micro-batch, a validation batch, a checkpoint) may take; then the run ends with exit code
            ``EXIT_LOST_RANK``. It starts with :meth:`begin`; every rank must call that.
    """

    def __init__(self, timeout_sec: float):
        self.timeout_sec = timeout_sec
        self._beat = self._progress = 0
        self._doing, self._since = "starting", time.monotonic()
        self._store: Any = None
        self._over = threading.Event()

    def begin(self) -> None:
        """Connects the ranks. A collective."""
        here = distributed.place()
        if here.world_size > 1:
            self._store = _connect(here)
        self._tell()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def mark(self, doing: str) -> None:
        """This rank begins something else: a word or two for the message, should it never end."""
        self._progress += 1
        self._doing, self._since = doing, time.monotonic()

    def close(self) -> None:
        """Ends the watch."""
        self._over.set()

    def missing(self) -> str:
        """Which ranks have gone, after a connection broke. Takes a few seconds."""
        try:
            silent = _silent(self._reports(), self._later())
        except Exception:  # the store is in rank 0's process: nothing else of it fails
            return "rank 0 has ended"
        return f"{_names(silent)} has ended" if silent else "a connection between ranks broke, though every rank lives"

    def _run(self) -> None:
        while not self._over.wait(BEAT_SEC):
            try:
                self._tell()
            except Exception:  # rank 0 has ended, and the store with it; what waits for it fails by itself, or never
                if self._stuck_sec() > self.timeout_sec:
                    self._end("rank 0 has ended")
                continue
            if self._stuck_sec() > self.timeout_sec:
                self._end(self._verdict())

    def _stuck_sec(self) -> float:
        return time.monotonic() - self._since

    def _verdict(self) -> str:
        reports = self._reports()
        silent = _silent(reports, self._later())
        if silent:
            return f"{_names(silent)} does not answer any more"
        return f"{_names(behind(reports))} is behind: {behind(reports)[0].doing}"

    def _end(self, what: str) -> None:
        """Ends this process at once: its main thread waits for another rank and can do nothing any more."""
        if self._over.is_set():
            return
        sys.stdout.flush()
        here = distributed.place().rank
        print(
            f"error: rank {here}: nothing has moved for {self.timeout_sec:g} s ({self._doing}); {what}", file=sys.stderr
        )
        print(
            "failures.timeout_sec says how long a step may take; the same command continues from the newest checkpoint",
            file=sys.stderr,
        )
        faulthandler.dump_traceback(file=sys.stderr)
        sys.stderr.flush()
        os._exit(EXIT_LOST_RANK)

    def _tell(self) -> None:
        self._beat += 1
        if self._store is not None:
            self._store.set(str(distributed.place().rank), self._report().encode())

    def _report(self) -> Report:
        here = distributed.place()
        return Report(here.rank, socket.gethostname(), os.getpid(), self._beat, self._progress, self._doing)

    def _reports(self) -> list[Report]:
        if self._store is None:
            return [self._report()]
        keys = [str(rank) for rank in range(distributed.place().world_size)]
        return [Report.decode(value.decode()) for value in self._store.multi_get(keys)]

    def _later(self) -> list[Report]:
        until = time.monotonic() + SILENT_SEC
        while time.monotonic() < until:
            time.sleep(BEAT_SEC / 2)
            self._tell()
        return self._reports()


def behind(reports: list[Report]) -> list[Report]:
    """Those that have begun the least: the others wait for them."""
    least = min(report.progress for report in reports)
    return [report for report in reports if report.progress == least]


def _silent(before: list[Report], after: list[Report]) -> list[Report]:
    return [now for then, now in zip(before, after) if then.beat == now.beat]


def _names(reports: list[Report]) -> str:
    shown = ", ".join(map(str, reports[:4]))
    return shown if len(reports) <= 4 else f"{shown} and {len(reports) - 4} more"


def _connect(here: distributed.Place) -> Any:
    """A key-value store that the first rank serves, apart from the process group's: that one may be blocked."""
    from torch.distributed import TCPStore

    host, patience = os.environ["MASTER_ADDR"], timedelta(seconds=60)
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=patience) if here.is_first else None
    port = distributed.from_first(store.port if store is not None else None)
    store = store or TCPStore(host, port, is_master=False, timeout=patience)
    store.set(str(here.rank), Report(here.rank, socket.gethostname(), os.getpid(), 0, 0, "starting").encode())
    distributed.barrier()
    return store
