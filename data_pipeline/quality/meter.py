"""What one frame of a video tells about its quality, measured while the video streams by."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from data_pipeline.quality.config import QualityConfig
from data_pipeline.quality.ocr import load_module
from data_pipeline.quality.text import TextFinder

EDGES_PERCENTILE = 90  # sharpness is measured where the picture has edges: grain in flat parts is no detail
LEAST_CONTRAST = 1e-5  # energy of an edge of about one gray level: weaker ones are rounding, not detail
CHANGE_PX = 64  # longer side of the thumbnails whose difference is `change`
MAX_POINTS, POINT_QUALITY, POINT_DISTANCE_PX = 150, 0.01, 7
WINDOW_PX, LEVELS = 15, 3  # Lucas-Kanade: follows a point over about a fifth of the picture
MIN_POINTS = 12
MIN_AGREE, AGREE_PX = 0.4, 1.0  # part of the points that one motion of the camera must explain, and how closely
AROUND_PERSON = 0.08  # of the box's longer side: a person's hair, shadow and motion blur are no background


@dataclass(frozen=True)
class Measures:
    """One tick. NaN = not measured.

    Attributes:
        sharpness: energy of the finest detail over that of the next coarser octave, on the edges of the largest person at a
            fixed height (the whole picture when nobody is there). 0.15 (blurred by 1 % of the height) to 1 (crisp).
        brightness: mean gray of that region, 0 (black) to 1.
        camera: speed of the background, in diagonals of the frame a second; NaN at the first tick of a shot, and when too
            little background shows or too little of it has structure.
        change: mean change of the gray picture since the last tick, 0 to 1; NaN at the first tick of a shot.
        text: part of the frame under text; NaN where it was not checked.
    """

    sharpness: float
    brightness: float
    camera: float
    change: float
    text: float


NAMES = tuple(field.name for field in fields(Measures))


class QualityMeter:
    """Measures the ticks of a video, one after another, shot by shot. Holds the last picture and nothing else.

    Args:
        config: how to measure.
        text: finds text; None measures none.
        fps: ticks a second.

    Raises:
        InputError: OpenCV is missing.
    """

    def __init__(self, config: QualityConfig, text: TextFinder | None, *, fps: float):
        self._cv2 = load_module("cv2", "opencv-python-headless")
        self._cv2.setNumThreads(1)  # the job's workers are the parallelism
        self._config, self._text, self._fps = config, text, fps
        self.new_shot()

    def new_shot(self) -> None:
        """Forgets the last picture: the next one shows something else."""
        self._gray: np.ndarray | None = None
        self._small: np.ndarray | None = None
        self._mask: np.ndarray | None = None
        self._tick = 0
        self._text_tick: int | None = None

    def step(self, image: np.ndarray, tick: int, boxes: np.ndarray) -> Measures:
        """Measures one frame.

        Args:
            image: uint8 [H,W,3] RGB.
            tick: its number at the constant frame rate; larger than the last one's inside a shot.
            boxes: [P,4] x0,y0,x1,y1 of the people in it, in pixels; [0,4] when there is nobody. NaN boxes count as nobody.
        """
        cv2 = self._cv2
        full = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, self._config.side_px / max(full.shape))
        gray = cv2.resize(full, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else full
        small = self._thumbnail(gray)
        people = np.asarray(boxes, np.float64).reshape(-1, 4)
        people = people[~np.isnan(people).any(axis=1)]
        mask = self._background(gray.shape, people, scale)
        seconds = (tick - self._tick) / self._fps
        sharpness, brightness = self._look(full, people)
        measures = Measures(
            sharpness=sharpness,
            brightness=brightness,
            camera=self._camera(gray, mask, seconds),
            change=float(np.abs(small - self._small).mean()) if self._small is not None else float("nan"),
            text=self._cover(image, tick),
        )
        self._gray, self._small, self._mask, self._tick = gray, small, mask, tick
        return measures

    def _thumbnail(self, gray: np.ndarray) -> np.ndarray:
        scale = min(1.0, CHANGE_PX / max(gray.shape))
        small = self._cv2.resize(gray, None, fx=scale, fy=scale, interpolation=self._cv2.INTER_AREA)
        return small.astype(np.float32) / 255.0

    def _background(self, shape: tuple[int, ...], people: np.ndarray, scale: float) -> np.ndarray:
        """uint8 [h,w]: 255 where the measuring picture shows nobody."""
        mask = np.full(shape, 255, np.uint8)
        for box in people * scale:
            around = AROUND_PERSON * float((box[2:] - box[:2]).max())
            low = np.clip(np.floor(box[:2] - around), 0, None).astype(int)
            high = np.clip(np.ceil(box[2:] + around), 0, None).astype(int)
            mask[low[1] : high[1], low[0] : high[0]] = 0
        return mask

    def _camera(self, gray: np.ndarray, mask: np.ndarray, seconds: float) -> float:
        """Speed of the background since the last tick: corners of it, followed by Lucas-Kanade, that agree on one motion."""
        cv2, before, mask_before = self._cv2, self._gray, self._mask
        if before is None or mask_before is None:
            return float("nan")
        if min(mask.mean(), mask_before.mean()) < 255 * self._config.min_background:
            return float("nan")
        points = cv2.goodFeaturesToTrack(before, MAX_POINTS, POINT_QUALITY, POINT_DISTANCE_PX, mask=mask_before)
        if points is None or len(points) < MIN_POINTS:
            return float("nan")
        window = (WINDOW_PX, WINDOW_PX)
        moved, found, _ = cv2.calcOpticalFlowPyrLK(before, gray, points, None, winSize=window, maxLevel=LEVELS)
        points, moved = points.reshape(-1, 2), moved.reshape(-1, 2)
        at = np.clip(moved.round().astype(int), 0, (gray.shape[1] - 1, gray.shape[0] - 1))
        # A point that somebody has walked in front of is not background any more.
        good = (found.reshape(-1) > 0) & (mask[at[:, 1], at[:, 0]] > 0)
        if good.sum() < MIN_POINTS:
            return float("nan")
        start, end = points[good], moved[good]
        # OpenCV draws its samples from a fixed seed: the same frames give the same motion.
        motion, agree = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=AGREE_PX)
        if motion is None or agree.mean() < MIN_AGREE:
            return float("nan")
        # The fitted motion at these points, not their own: the noise of single points would count as speed.
        where = start[agree.reshape(-1) > 0]
        shift = float(np.median(np.linalg.norm(where @ motion[:, :2].T + motion[:, 2] - where, axis=1)))
        return shift / float(np.hypot(*gray.shape)) / seconds

    def _look(self, full: np.ndarray, people: np.ndarray) -> tuple[float, float]:
        """Sharpness and brightness of the largest person in a gray frame uint8 [H,W], or of the whole of it."""
        cv2, region = self._cv2, full
        if len(people):
            box = people[np.argmax(np.prod(people[:, 2:] - people[:, :2], axis=1))]
            low = np.clip(np.floor(box[:2]), 0, None).astype(int)
            high = np.clip(np.ceil(box[2:]), 0, None).astype(int)
            region = full[low[1] : high[1], low[0] : high[0]]
        if min(region.shape) < 2:
            return float("nan"), float("nan")
        # At one height for all, the same person has the same detail, whatever the file's resolution; a person smaller than that
        # is enlarged and rightly counts as less sharp: the detail is not there.
        scale = self._config.person_height_px / region.shape[0]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        size = (max(8, round(region.shape[1] * scale)), self._config.person_height_px)
        person = cv2.resize(region, size, interpolation=how).astype(np.float32) / 255.0
        return sharpness(person, cv2), float(person.mean())

    def _cover(self, image: np.ndarray, tick: int) -> float:
        due = self._text_tick is None or tick - self._text_tick >= self._config.check_text_every_sec * self._fps
        if self._text is None or not due:
            return float("nan")
        self._text_tick = tick
        return self._text.coverage(image)


def sharpness(gray: np.ndarray, cv2: Any) -> float:
    """Energy of the finest octave of a picture float32 [h,w] over that of the next one, where the latter is strongest.

    A ratio of neighbouring octaves hardly depends on what the picture shows (1/f statistics), and blur takes the finest first.
    0 when the picture has no edge at all. ``cv2`` is OpenCV.
    """
    fine = cv2.GaussianBlur(gray, (0, 0), 1.0)
    coarse = cv2.GaussianBlur(gray, (0, 0), 2.0)
    detail, edges = (gray - fine) ** 2, (fine - coarse) ** 2
    strongest = edges >= np.percentile(edges, EDGES_PERCENTILE)
    energy = float(edges[strongest].mean())
    return float(detail[strongest].mean()) / energy if energy > LEAST_CONTRAST else 0.0
