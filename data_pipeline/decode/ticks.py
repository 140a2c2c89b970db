"""The ticks of a constant frame rate, and the frame that each shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from data_pipeline.decode.frames import Frame
from data_pipeline.sources import Unusable

MIN_RATE = 0.8  # of the wanted rate: below, frames would be shown twice, and the motion would stutter
EPSILON = 1e-6  # of a tick: a frame that is due at a tick is not late by rounding


def ticks(frames: Iterable[Frame], fps: float, *, max_gap_sec: float = math.inf) -> Iterator[tuple[Frame, list[int]]]:
    """Frames that are shown, each with its ticks: tick k is at k/fps from the first frame on, and shows the frame nearest in time.

    Needs one frame of look-ahead, so it streams. After a hole in time longer than ``max_gap_sec`` ticks count on from the next
    frame: nothing is shown of the hole itself.

    Raises:
        Unusable: frame_rate: fewer than 0.8 frames a tick; too_few_frames: fewer than three.
    """
    clock = _Clock(fps)
    held: Frame | None = None
    count, shown_sec, runs = 0, 0.0, 1
    for frame in frames:
        count += 1
        if held is None:
            clock.restart(frame.time_sec)
        elif frame.gap_sec > max_gap_sec:
            mine = clock.rest(held.time_sec)
            shown_sec, runs = shown_sec + held.time_sec - clock.origin_sec, runs + 1
            clock.restart(frame.time_sec)
            yield held, mine
        else:
            mine = clock.until((held.time_sec + frame.time_sec) / 2)
            if mine:
                yield held, mine
        held = frame
    if held is None or count < 3:
        raise Unusable("too_few_frames", f"{count} frames")
    mine = clock.rest(held.time_sec)
    shown_sec += held.time_sec - clock.origin_sec
    if count - runs < MIN_RATE * fps * shown_sec:
        raise Unusable("frame_rate", f"{(count - runs) / shown_sec:.1f} frames a second, fewer than {fps:g}")
    if mine:
        yield held, mine


class _Clock:
    """Counts ticks; ``first`` was at ``origin_sec``."""

    def __init__(self, fps: float):
        self._fps = fps
        self._next = self._first = 0
        self.origin_sec = 0.0

    def restart(self, origin_sec: float) -> None:
        """The next tick is at that time."""
        self._first, self.origin_sec = self._next, origin_sec

    def until(self, time_sec: float) -> list[int]:
        """The ticks up to a time (included) that were not given yet."""
        mine = []
        while self.origin_sec + (self._next - self._first) / self._fps <= time_sec:
            mine.append(self._next)
            self._next += 1
        return mine

    def rest(self, time_sec: float) -> list[int]:
        """The ticks up to the last frame's time: one that is late by rounding alone is due."""
        last = self._first + math.floor((time_sec - self.origin_sec) * self._fps + EPSILON)
        mine = list(range(self._next, last + 1))
        self._next = max(self._next, last + 1)
        return mine


def nearest_frames(times_sec: np.ndarray, fps: float) -> np.ndarray:
    """For each tick of a constant frame rate, the index of the frame nearest in time; int [N]. As :func:`ticks`, all at once.

    ``times_sec`` [T] increases from 0. Ticks run from the first frame to the last one.
    """
    due = np.arange(int(math.floor(times_sec[-1] * fps + EPSILON)) + 1) / fps
    middles = (times_sec[1:] + times_sec[:-1]) / 2
    return np.searchsorted(middles, due, side="left")
