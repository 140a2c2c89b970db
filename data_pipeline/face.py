"""The face box of a frame: BlazeFace looks at the head that the pose network found.

On a whole full-body frame the face is a few pixels of the detector's 128 x 128 input and is missed (PEERS: none found);
around the head it is as large as in a selfie, which is what the network was trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.pose import ssd
from data_pipeline.pose.base import Region
from data_pipeline.pose.crop import cut
from data_pipeline.pose.tflite import TfliteNetwork
from imanim import weights

HEAD_SCALE = 3.0  # side of the head region in units of the face points' extent: hair, chin and some air around them
MIN_SCORE = 0.5


class FaceFinder:
    """Face boxes by BlazeFace (short range)."""

    def __init__(self, detector: str | Path | None = None):
        self._detector = TfliteNetwork(detector or weights.ensure("blazeface-short-range"))

    def box(self, frame: np.ndarray, head: np.ndarray) -> np.ndarray:
        """The face near the head points.

        Args:
            frame: uint8 [H,W,3].
            head: [P,2] points of the head in pixels, NaN = unknown.

        Returns:
            float32 [4] x0,y0,x1,y1 in pixels, from the brows to the chin; NaN when no face shows (turned away, covered).
        """
        region = head_region(head)
        if region is None:
            return np.full(4, np.nan, np.float32)
        layout = ssd.FACE_DETECTOR
        raw, logits = self._detector(cut(frame, region, layout.input_side, layout.input_side) / 127.5 - 1.0)
        found = ssd.suppress(ssd.decode(raw[0], logits[0], layout, min_score=MIN_SCORE))
        # Of several faces near this head, the one in the middle of the region is this head's.
        near = [d for d in found if np.abs((d.box[:2] + d.box[2:]) / 2 - 0.5).max() < 0.25]
        if not near:
            return np.full(4, np.nan, np.float32)
        return region.to_frame(near[0].box.reshape(2, 2)).reshape(4).astype(np.float32)


def head_region(head: np.ndarray) -> Region | None:
    """The upright square around the known head points [P,2]; None when fewer than three are known."""
    known = head[~np.isnan(head).any(axis=1)]
    if len(known) < 3:
        return None
    low, high = known.min(axis=0), known.max(axis=0)
    side = HEAD_SCALE * max(float((high - low).max()), 4.0)
    centre = (low + high) / 2
    return Region(float(centre[0]), float(centre[1]), side, side)
