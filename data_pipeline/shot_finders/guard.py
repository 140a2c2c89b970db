"""What holds for the cuts of every backend: holes in time, flashes, and transitions that last some frames."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import NamedTuple

import numpy as np

from data_pipeline.shot_finders.base import ShotFinder
from data_pipeline.shot_finders.config import ShotsConfig

FLASH_FRAMES = 12  # the longest flash that can be recognised; 0.2 s at 60 frames a second
RETURN = 0.3  # of the jump: a picture nearer than this to one before it is that one again


class _Seen(NamedTuple):
    number: int
    time_sec: float
    hole: bool
    small: np.ndarray


class Guarded:
    """A shot finder whose cuts were looked through.

    - A hole longer than ``max_gap_sec`` is a cut.
    - A flash is none: when the same picture is there before and after within ``flash_sec``, nothing in between is a cut.
    - Of cuts less than ``min_shot_sec`` apart the first is kept: the old shot must not go on into a transition (a black
      picture, a blend), and a few frames of it at the beginning of the new one are the smaller harm. The distance counts from
      the last cut that was kept, so that a flicker of different pictures does not pass for one long shot.
    """

    def __init__(self, found_by: ShotFinder, config: ShotsConfig):
        self.name, self.models = found_by.name, found_by.models
        self.delay_frames = max(found_by.delay_frames, FLASH_FRAMES)
        self._raw, self._config = found_by, config
        self._seen: deque[_Seen] = deque(maxlen=self.delay_frames + FLASH_FRAMES + 1)
        self._decided = 0
        self._last_sec = -np.inf
        self._cuts: list[int] = []

    def push(self, index: int, time_sec: float, gap_sec: float, small: np.ndarray) -> None:
        """The next frame."""
        self._raw.push(index, time_sec, gap_sec, small)
        self._seen.append(_Seen(index, time_sec, gap_sec > self._config.max_gap_sec, small))
        self._decide(self._raw.cuts(), index - self.delay_frames)

    def cuts(self) -> list[int]:
        """Decided so far."""
        return self._cuts

    def close(self) -> list[int]:
        """All of them."""
        raw = self._raw.close()
        if self._seen:
            self._decide(raw, self._seen[-1].number)
        return self._cuts

    def _decide(self, raw: list[int], upto: int) -> None:
        while self._decided < upto:
            self._decided += 1
            at = self._decided - self._seen[0].number
            frame = self._seen[at]
            place = bisect_right(raw, frame.number)
            found = place > 0 and raw[place - 1] == frame.number
            near = frame.time_sec - self._last_sec < self._config.min_shot_sec
            if frame.hole or (found and not near and not self._is_flash(at)):
                self._cuts.append(frame.number)
                self._last_sec = frame.time_sec

    def _is_flash(self, at: int) -> bool:
        """Whether some picture before ``self._seen[at]`` is there again, at it or behind it, soon enough."""
        seen = self._seen
        jump = _distance(seen[at - 1], seen[at])
        for before in range(at - 1, max(at - 1 - FLASH_FRAMES, -1), -1):
            if seen[before + 1].hole:
                break
            for after in range(at, min(before + 2 + FLASH_FRAMES, len(seen))):
                lasts_sec = seen[after].time_sec - seen[before + 1].time_sec
                if seen[after].hole or lasts_sec > self._config.flash_sec + 1e-6:
                    break
                if _distance(seen[before], seen[after]) < RETURN * jump:
                    return True
        return False


def _distance(a: _Seen, b: _Seen) -> float:
    """Mean absolute difference of two pictures, in levels of 255."""
    return float(np.abs(a.small.astype(np.int16) - b.small).mean())
