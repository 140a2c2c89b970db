"""When a run is asked to end before its last step: a signal (the job is to be preempted) or its time limit."""

from __future__ import annotations

import signal
import time
from types import FrameType

import torch

from imanim import distributed


class Stopper:
    """Remembers that a signal came or that time is up. The ranks ask each other at every step and validation batch and decide
    together, so every rank finishes the same step and saves.

    Attributes:
        reason: why this rank was asked, in words; empty while nobody asked.
        stopping: whether the ranks have decided to stop.
        preempted: whether they do because of a signal: the run wants to go on later.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, max_minutes: float | None):
        self.reason = ""
        self.stopping = self.preempted = self._signalled = False
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._before = {s: signal.signal(s, self._caught) for s in self.SIGNALS}

    def asked(self) -> tuple[bool, bool]:
        """Whether this rank was asked to stop, and whether by a signal."""
        if not self.reason and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "max_minutes is over"
        return bool(self.reason), self._signalled

    def decide(self, any_asked: bool, any_signalled: bool) -> None:
        """Takes in what the ranks found together (``distributed.any_rank`` of everybody's ``asked``)."""
        self.stopping |= any_asked
        self.preempted |= any_signalled
        if self.stopping and not self.reason:
            self.reason = "another rank was asked to stop"

    def poll(self, device: torch.device) -> bool:
        """Asks the other ranks. Every rank must call it. Returns ``preempted``: what is under way is to be left."""
        self.decide(*distributed.any_rank(*self.asked(), device=device))
        return self.preempted

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.reason, self._signalled = signal.Signals(number).name, True

    def close(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
