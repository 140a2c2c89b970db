"""The quality of a video tick by tick, and of a stretch of it."""

from __future__ import annotations

import numpy as np

from data_pipeline.config import VideosConfig
from data_pipeline.decode import Probe
from data_pipeline.quality.clip import clip_quality, judge
from data_pipeline.quality.config import QualityConfig
from data_pipeline.quality.meter import NAMES, QualityMeter
from data_pipeline.quality.text import TextFinder
from data_pipeline.video.artefacts import Artefact
from data_pipeline.video.framing import Crop
from data_pipeline.video.pairing import Judge, Numbers
from data_pipeline.video.tracks import Track


class QualityTrack:
    """Measures every tick."""

    name = "quality"

    def __init__(self, config: QualityConfig, text: TextFinder | None, fps: float):
        self._meter = QualityMeter(config, text, fps=fps)
        self._columns: dict[str, list[float]] = {name: [] for name in NAMES}

    def new_shot(self) -> None:
        """The next picture shows something else."""
        self._meter.new_shot()

    def step(self, image: np.ndarray, tick: int, boxes: list[np.ndarray]) -> None:
        """One tick: a frame uint8 [H,W,3] and the boxes [4] of the people in it."""
        people = np.stack(boxes) if boxes else np.empty((0, 4), np.float32)
        measures = self._meter.step(image, tick, people)
        for name, column in self._columns.items():
            column.append(getattr(measures, name))

    def artefact(self) -> Artefact:
        """float32 [N] for each of `data_pipeline.quality.meter.Measures`."""
        return Artefact({}, {name: np.array(column, np.float32) for name, column in self._columns.items()})


def judge_of(found: dict[str, Artefact], config: VideosConfig, probe: Probe) -> Judge:
    """What measures a stretch of a track and says what is wrong with it."""
    times = found["shots"]["times_sec"]
    turned = probe.rotation_deg % 180 == 90
    stored = (probe.source_height, probe.source_width)
    source_size = stored[::-1] if turned else stored
    rate_fps = (len(times) - 1) / float(times[-1])

    def measured(track: Track, start: int, stop: int, crop: Crop) -> tuple[Numbers, str | None]:
        span = slice(start, stop)
        numbers = clip_quality(
            found["quality"].arrays,
            track.joints[span],
            track.hands[span],
            track.faces[span],
            fps=config.clip.fps,
            span=(start, stop),
            size=(probe.height, probe.width),
            source_size=source_size,
            rate_fps=rate_fps,
        )
        return numbers, judge(numbers, config.rules)

    return measured
