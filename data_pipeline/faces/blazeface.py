"""BlazeFace, short range: Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (2019).

Its six keypoints are the person's right eye, left eye, nose, the middle of the mouth and both ears: mouth corners it has none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.faces.base import Face, in_middle
from data_pipeline.pose import ssd
from data_pipeline.pose.base import Region
from data_pipeline.pose.crop import cut
from data_pipeline.pose.tflite import TfliteNetwork
from imanim import weights

WEIGHTS = "blazeface-short-range"
EYES_AND_NOSE = 3


class BlazeFace:
    """A :class:`~data_pipeline.faces.base.FaceDetector`; boxes reach from the brows to the chin."""

    name = "blazeface"

    def __init__(self, detector: str | Path | None = None, min_score: float = 0.5):
        path = Path(detector) if detector is not None else weights.require(WEIGHTS)
        self._network = TfliteNetwork(path)
        self._min_score = min_score
        self.models = {path.name: weights.sha256_of(path)}

    def find(self, frame: np.ndarray, region: Region) -> Face | None:
        """The face in the middle of the region; points float32 [5,2] without mouth corners (NaN)."""
        layout = ssd.FACE_DETECTOR
        raw, logits = self._network(cut(frame, region, layout.input_side, layout.input_side) / 127.5 - 1.0)
        found = ssd.suppress(ssd.decode(raw[0], logits[0], layout, min_score=self._min_score))
        return in_middle(region, [(d.box, _five(d.points), d.score) for d in found])


def _five(points: np.ndarray) -> np.ndarray:
    five = np.full((5, 2), np.nan)
    five[:EYES_AND_NOSE] = points[:EYES_AND_NOSE]
    return five
