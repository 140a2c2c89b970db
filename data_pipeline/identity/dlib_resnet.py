"""dlib's face recogniser: a ResNet-29 whose 128 numbers are near for one person (King, "dlib-models", 2017; CC0).

Its five points (both corners of each eye, and below the nose) turn the face upright into a 150 px chip, which is embedded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.faces.base import Face
from imanim import weights
from imanim.errors import InputError

EMBEDDING, LANDMARKS = "dlib-face-embedding", "dlib-face-landmarks-5"
SIZE = 128
CHIP_PX, CHIP_MARGIN = 150, 0.25
RAISE = 0.045  # dlib's own detector puts its boxes this part of the side higher than BlazeFace; lower ones lose turned faces
# Between tracks of five combined faces: 0.40 at most for one person, 0.44 at least for two, on thirteen people of real video
# (`measure`). dlib's usual 0.6 is for single faces; far too loose here.
THRESHOLD = 0.42


class DlibEmbedder:
    """A :class:`~data_pipeline.identity.base.FaceEmbedder`. It needs a face's box only."""

    name = "dlib"
    size = SIZE

    def __init__(self, embedding: str | Path | None = None, landmarks: str | Path | None = None):
        try:
            import dlib
        except ImportError:
            raise InputError("dlib: not installed; run `pip install imanim[data]`") from None
        registered = weights.require_all(
            [name for name, path in ((EMBEDDING, embedding), (LANDMARKS, landmarks)) if path is None]
        )
        paths = [Path(embedding or registered[EMBEDDING]), Path(landmarks or registered[LANDMARKS])]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file; give the path of a dlib network (.dat)")
        try:
            self._network, self._points = (
                dlib.face_recognition_model_v1(str(paths[0])),
                dlib.shape_predictor(str(paths[1])),
            )
        except RuntimeError as error:
            raise InputError(
                f"{paths[0]}, {paths[1]}: not readable as dlib networks ({error}); get them again"
            ) from None
        self._dlib = dlib
        self.threshold = THRESHOLD
        self.models = {path.name: weights.sha256_of(path) for path in paths}

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """float32 [128] of a face in a frame uint8 [H,W,3]; NaN when its box is hardly a pixel."""
        square = predictor_box(face.box)
        if not np.isfinite(square).all() or square[2] - square[0] < 2:
            return np.full(SIZE, np.nan, np.float32)
        image = np.ascontiguousarray(frame)
        points = self._points(image, self._dlib.rectangle(*(round(float(v)) for v in square)))
        chip = self._dlib.get_face_chip(image, points, size=CHIP_PX, padding=CHIP_MARGIN)
        return np.array(self._network.compute_face_descriptor(chip), np.float32)


def predictor_box(box: np.ndarray) -> np.ndarray:
    """A face box [4] -> the square that dlib's predictor was trained on: from the brows to the chin.

    Of a box taller than wide, which has the forehead in it, the lower part counts.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    side, middle = min(x1 - x0, y1 - y0), (x0 + x1) / 2
    bottom = y1 - RAISE * side
    return np.array([middle - side / 2, bottom - side, middle + side / 2, bottom])
