"""PySceneDetect's AdaptiveDetector and, for great changes, its ContentDetector, fed with our frames.

Of its detectors the adaptive one is that whose scores keep cuts and motion apart on real clips: a jump cut of a still camera
changes less than a dancer does from frame to frame, but stands out of the frames around it. Where many cuts follow one another
none of them stands out; those are left to the other one, on brightness alone, since the hue of dark pictures is noise.
PySceneDetect's own file reading is not used: frames and timestamps must be those that everything else here counts.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from data_pipeline.shot_finders.config import ShotsConfig
from imanim.errors import InputError

REPEAT = 0.5  # mean difference, in levels of 255, below which a frame only repeats the last one
REPEATS = 3  # repeats passed over in a row: pictures shown up to four times, and a delay that has a bound


class Adaptive:
    """See :class:`data_pipeline.shot_finders.base.ShotFinder`."""

    name = "pyscenedetect"

    def __init__(self, config: ShotsConfig):
        """Raises InputError when PySceneDetect is not installed."""
        try:
            from scenedetect import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector, ContentDetector
        except ImportError as error:
            raise InputError(f"backend: pyscenedetect is missing ({error}); pip install imanim[data]") from None
        self.models: dict[str, str] = {}
        self._window = config.window_frames
        self.delay_frames = (REPEATS + 1) * self._window
        self._detector = AdaptiveDetector(
            adaptive_threshold=config.min_ratio,
            min_content_val=config.min_change,
            window_width=config.window_frames,
            min_scene_len=0,
        )
        self._content = ContentDetector(threshold=config.sure_change, luma_only=True, min_scene_len=0)
        self._sure: set[int] = set()
        # The detector wants a time per frame and only carries it through; at one frame a second it is the frame's number.
        self._first = FrameTimecode(0, fps=1.0)
        self._fed, self._kept, self._repeats, self._closed = 0, 0, 0, False
        # The detector cannot judge frames without a whole window around them, so the video is mirrored at both of its ends.
        self._recent: deque[np.ndarray] = deque(maxlen=self._window + 1)
        self._unjudged: deque[int] = deque()
        self._cuts: list[int] = []

    def push(self, index: int, time_sec: float, gap_sec: float, small: np.ndarray) -> None:
        """The next frame. Where each picture is shown several times, every new one would stand out of its repeats."""
        self._repeats = self._repeats + 1 if self._is_repeat(small) else 0
        if self._repeats % (REPEATS + 1):
            return
        self._recent.append(small)
        self._unjudged.append(index)
        self._kept += 1
        if self._kept == self._window + 1:
            self._begin()
        elif self._kept > self._window:
            self._feed(small)

    def cuts(self) -> list[int]:
        """Decided so far."""
        return self._cuts

    def close(self) -> list[int]:
        """All of them."""
        if not self._closed and self._kept > 1:
            if self._kept <= self._window:
                self._begin()
            mirror = np.pad(np.arange(len(self._recent)), (0, self._window), mode="reflect")
            for i in mirror[len(self._recent) :]:
                self._feed(self._recent[i])
        self._closed = True
        return self._cuts

    def _is_repeat(self, small: np.ndarray) -> bool:
        return bool(self._recent) and float(np.abs(small.astype(np.int16) - self._recent[-1]).mean()) < REPEAT

    def _begin(self) -> None:
        for i in np.pad(np.arange(len(self._recent)), (self._window, 0), mode="reflect"):
            self._feed(self._recent[i])

    def _feed(self, small: np.ndarray) -> None:
        now, judged = self._fed, self._fed - self._window
        bgr = np.ascontiguousarray(small[..., ::-1])
        if self._content.process_frame(self._first + now, bgr):
            self._sure.add(now)
        found = bool(self._detector.process_frame(self._first + now, bgr)) or judged in self._sure
        self._sure.discard(judged)
        self._fed += 1
        # A window of mirrored frames came first, which are nobody's.
        if judged >= self._window:
            index = self._unjudged.popleft()
            if found and index > 0:
                self._cuts.append(index)
