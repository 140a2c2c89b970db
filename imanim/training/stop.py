"""When a run is asked to end before its last step: a signal (the job is to be preempted) or its time limit."""

from __future__ import annotations

import signal
import time
from types import FrameType


class Stopper:
    """Remembers that a signal came or that time is up. The loop asks once a step and the ranks decide together, so every rank
    finishes the same step and saves.

    Attributes:
        reason: why, in words; empty while nobody asked.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, max_minutes: float | None):
        self.reason = ""
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._before = {s: signal.signal(s, self._caught) for s in self.SIGNALS}

    def wants_to_stop(self) -> bool:
        """Whether this rank was asked to stop."""
        if not self.reason and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "max_minutes is over"
        return bool(self.reason)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name

    def close(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
