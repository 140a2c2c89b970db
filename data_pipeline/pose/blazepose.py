"""BlazePose: a detector of people and a network of 33 landmarks, tracked from frame to frame.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking" (2020). The steps and constants are those of the
published MediaPipe graphs; the networks come from `imanim.weights`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from data_pipeline.pose import ssd
from data_pipeline.pose.base import Pose, Region
from data_pipeline.pose.crop import cut, letterbox
from data_pipeline.pose.tflite import TfliteNetwork
from imanim import weights

DETECTOR, LANDMARKS_FULL = "blazepose-detector", "blazepose-landmarks-full"
LANDMARK_SIDE = 256
LANDMARKS = 39  # 33 of the body, then 2 that give the next region, then 4 unused ones
REGION_SCALE = 1.25  # the region is this much larger than the circle through the second alignment point
HEATMAP_KERNEL = 7
HEATMAP_MIN_CONFIDENCE = 0.5
MIN_PERSON_SCORE = 0.5

# Our joints in the order of imanim.data.sample.JOINTS; left and right are the person's own. None = the neck, which
# BlazePose lacks: the middle of the shoulders.
SHOULDERS = (12, 11)
TO_JOINTS: tuple[int | None, ...] = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7, 31, 32)
HANDS = ((18, 20, 22), (17, 19, 21))  # little finger, index finger and thumb of the right hand, of the left
HEAD = tuple(range(11))  # nose, eyes (3 points each), ears, mouth corners


class BlazePose:
    """A :class:`~data_pipeline.pose.base.PoseNetwork`. It follows one person; the detector may report several."""

    name = "blazepose"

    def __init__(self, detector: str | Path | None = None, landmarks: str | Path | None = None, min_score: float = 0.5):
        given = (
            detector or weights.require(DETECTOR),
            landmarks or weights.require(LANDMARKS_FULL),
        )
        self._detector, self._landmarks = (TfliteNetwork(path) for path in given)
        self.models = {Path(path).name: weights.sha256_of(path) for path in given}
        self._min_score = min_score

    def find(self, frame: np.ndarray) -> list[Region]:
        """People in a frame uint8 [H,W,3], the most certain first."""
        layout = ssd.POSE_DETECTOR
        square, whole = letterbox(frame, layout.input_side)
        raw, logits = self._detector(square.astype(np.float32) / 127.5 - 1.0)
        found = ssd.suppress(ssd.decode(raw[0], logits[0], layout, min_score=self._min_score))
        # Keypoints 0 and 1: the middle of the hips, and a point on the circle around the whole body.
        return [aligned_region(*whole.to_frame(d.points[:2]), score=d.score) for d in found]

    def pose(self, frame: np.ndarray, region: Region) -> Pose | None:
        """The joints of the person in the region, None when the network sees nobody there."""
        image = cut(frame, region, LANDMARK_SIDE, LANDMARK_SIDE) / 255.0
        flat, score, _, heatmaps, _ = self._landmarks(image)
        if float(score.reshape(-1)[0]) < MIN_PERSON_SCORE:
            return None
        marks = flat.reshape(LANDMARKS, 5).astype(np.float64)
        unit = refine(marks[:, :2] / LANDMARK_SIDE, heatmaps[0])
        points = region.to_frame(unit)
        # A landmark counts when it is inside the picture (presence) and not covered (visibility).
        seen = _sigmoid(marks[:, 3]) * (_sigmoid(marks[:, 4]) >= 0.5)
        following = aligned_region(points[33], points[34], score=float(score.reshape(-1)[0]))
        hands = np.array([seen[list(side)].mean() for side in HANDS], np.float32)
        head = points[list(HEAD)].astype(np.float32)
        return Pose(to_joints(points[:33], seen[:33]), head, following.score, following, hands)


def aligned_region(centre: np.ndarray, rim: np.ndarray, *, score: float) -> Region:
    """The square around ``centre`` (pixels) that ``rim`` gives size and tilt; ``rim`` straight above means upright."""
    dx, dy = float(rim[0] - centre[0]), float(rim[1] - centre[1])
    side = max(2.0 * math.hypot(dx, dy) * REGION_SCALE, 2.0)
    return Region(float(centre[0]), float(centre[1]), side, side, math.atan2(dx, -dy), score)


def refine(unit: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Moves each landmark to the centre of mass of its heatmap around it, where the heatmap is sure.

    Args:
        unit: [N,2] landmarks in [0,1] of the region.
        heatmaps: [h,w,N] before the sigmoid.

    Returns:
        [N,2] landmarks.
    """
    high, wide = heatmaps.shape[:2]
    out = unit.copy()
    reach = HEATMAP_KERNEL // 2
    for n, (x, y) in enumerate(unit):
        column, row = int(x * wide), int(y * high)
        if not (0 <= column < wide and 0 <= row < high):
            continue
        r0, r1 = max(row - reach, 0), min(row + reach + 1, high)
        c0, c1 = max(column - reach, 0), min(column + reach + 1, wide)
        mass = _sigmoid(heatmaps[r0:r1, c0:c1, n].astype(np.float64))
        if mass.max() < HEATMAP_MIN_CONFIDENCE:
            continue
        out[n, 0] = (mass.sum(axis=0) @ np.arange(c0, c1)) / mass.sum() / wide
        out[n, 1] = (mass.sum(axis=1) @ np.arange(r0, r1)) / mass.sum() / high
    return out


def to_joints(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Landmarks [33,2] in pixels with visibility [33] -> joints float32 [20,3]."""
    joints = np.empty((len(TO_JOINTS), 3), np.float32)
    for j, source in enumerate(TO_JOINTS):
        if source is None:
            joints[j, :2] = points[list(SHOULDERS)].mean(axis=0)
            joints[j, 2] = seen[list(SHOULDERS)].min()
        else:
            joints[j] = *points[source], seen[source]
    return joints


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -100.0, 100.0)))
