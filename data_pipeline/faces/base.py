"""What every face network here gives, and where it looks: around the head that the pose network found.

On a whole full-body frame the face is a few pixels of a detector's input and is missed; around the head it is as large as in
a selfie, which is what such networks were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from data_pipeline.pose.base import Region

POINTS = ("r_eye", "l_eye", "nose", "r_mouth", "l_mouth")
"""The rows of ``Face.points``; r_ and l_ are the person's own, so r_eye is on the left of a picture from the front."""

HEAD_SCALE = 3.0  # side of the head region in units of the face points' extent: hair, chin and some air around them
MIDDLE = 0.25  # a face further than this from the middle of the region (of its side) is another head's


@dataclass(frozen=True)
class Face:
    """One face in one frame.

    Attributes:
        box: float32 [4] x0,y0,x1,y1 in pixels, finite; it may reach outside the frame.
        points: float32 [5,2] in pixels, in the order of :data:`POINTS`; NaN where the network has no such point.
        score: that this is a face, in [0,1].
    """

    box: np.ndarray
    points: np.ndarray
    score: float


@runtime_checkable
class FaceDetector(Protocol):
    """Finds the face of one head. ``models`` has the sha256 of every network file by the file's name."""

    name: str
    models: dict[str, str]

    def find(self, frame: np.ndarray, region: Region) -> Face | None:
        """The face in the middle of the region (see :func:`head_region`) of a frame uint8 [H,W,3]; None when none shows."""


def head_region(head: np.ndarray) -> Region | None:
    """The upright square around the known head points [P,2] (NaN = unknown); None when fewer than three are known."""
    known = head[~np.isnan(head).any(axis=1)]
    if len(known) < 3:
        return None
    low, high = known.min(axis=0), known.max(axis=0)
    side = HEAD_SCALE * max(float((high - low).max()), 4.0)
    centre = (low + high) / 2
    return Region(float(centre[0]), float(centre[1]), side, side)


def in_middle(region: Region, found: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> Face | None:
    """Of several faces near a head the one in the middle of its region is this head's; of those the first.

    Args:
        found: (box [4], points [5,2], score) in [0,1] of the region, the best first.
    """
    for box, points, score in found:
        if np.abs((box[:2] + box[2:]) / 2 - 0.5).max() < MIDDLE:
            box_px = region.to_frame(box.reshape(2, 2)).reshape(4).astype(np.float32)
            return Face(box_px, region.to_frame(points).astype(np.float32), min(max(float(score), 0.0), 1.0))
    return None
