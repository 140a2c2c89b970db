"""MediaPipe's face mesh: 468 points of a face in a frame.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs" (2019). The steps and constants are
those of the published graphs: the square around the face, half as large again and turned until the eyes are level, is
resampled to 192 px; a second look takes the square around the points of the first, as the graphs do for the next frame.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from data_pipeline.faces.base import Face
from data_pipeline.pose.base import Region
from data_pipeline.pose.crop import cut
from data_pipeline.pose.tflite import TfliteNetwork
from imanim import weights
from imanim.errors import InputError

WEIGHTS = "face-mesh"
SIDE_PX = 192
POINTS = 468
MARGIN = 1.5
MIN_PRESENCE = 0.5
OUTER_EYES = (33, 263)
"""The outer corners of the person's right and left eye."""


class FaceMesh:
    """The mesh of a known face. ``looks``: 1, or 2 for a result that hardly depends on the face detector's box.

    Raises:
        InputError: the network is not here, or is another.
    """

    def __init__(self, path: str | Path | None = None, looks: int = 2):
        file = Path(path) if path is not None else weights.require(WEIGHTS)
        self._network, self._looks = TfliteNetwork(file), looks
        try:
            shapes = [a.size for a in self._network(np.zeros((SIDE_PX, SIDE_PX, 3), np.float32))]
        except ValueError as error:
            raise InputError(f"{file}: takes no {SIDE_PX} px picture ({error}); give MediaPipe's face mesh") from None
        if shapes != [3 * POINTS, 1]:
            raise InputError(
                f"{file}: its outputs have {shapes} numbers; give MediaPipe's face mesh, {3 * POINTS} and 1"
            )
        self.models = {file.name: weights.sha256_of(file)}

    def __call__(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """float64 [468,3] of a face in a frame uint8 [H,W,3]: x, y in pixels, z (away from the camera) in the same unit, 0 at
        the head's middle. NaN when the network sees no face there, or the detector gave no eyes.
        """
        nothing = np.full((POINTS, 3), np.nan)
        region = region_of_face(face)
        mesh = nothing
        for _ in range(self._looks):
            if region is None:
                return nothing
            mesh, presence = self._look(frame, region)
            if presence < MIN_PRESENCE:
                return nothing
            region = region_of_mesh(mesh)
        return mesh

    def _look(self, frame: np.ndarray, region: Region) -> tuple[np.ndarray, float]:
        flat, logit = self._network(cut(frame, region, SIDE_PX, SIDE_PX) / 255.0)
        marks = flat.reshape(POINTS, 3).astype(np.float64) / SIDE_PX
        turned = marks[:, 2:] * region.width
        presence = 1.0 / (1.0 + math.exp(-float(np.clip(logit.reshape(-1)[0], -100.0, 100.0))))
        return np.concatenate([region.to_frame(marks[:, :2]), turned], axis=1), presence


def region_of_face(face: Face) -> Region | None:
    """Where the first look goes; None without both eyes."""
    return _region(face.box.astype(np.float64), *face.points[:2].astype(np.float64))


def region_of_mesh(mesh: np.ndarray) -> Region | None:
    """Where the next look goes, from points [468,3]."""
    box = np.concatenate([mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)])
    return _region(box, *mesh[list(OUTER_EYES), :2])


def _region(box: np.ndarray, right_eye: np.ndarray, left_eye: np.ndarray) -> Region | None:
    across, (x, y) = left_eye - right_eye, (box[:2] + box[2:]) / 2
    side = MARGIN * float((box[2:] - box[:2]).max())
    if not np.isfinite([*across, x, y, side]).all() or side <= 0 or not across.any():
        return None
    return Region(float(x), float(y), side, side, math.atan2(across[1], across[0]))
