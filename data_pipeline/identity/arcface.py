"""ArcFace recognisers (ONNX files of yours): Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (2019).

InsightFace's weights (w600k_r50.onnx and the like) are for NON-COMMERCIAL research only, whatever the licence of its code; they
are neither fetched nor shipped here. The layout: RGB 112 x 112 in [-1,1], the face moved onto the template by its five points.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from data_pipeline.faces.base import Face
from data_pipeline.faces.onnx_network import OnnxNetwork
from data_pipeline.pose.base import Region
from data_pipeline.pose.crop import cut
from imanim.errors import InputError
from imanim.weights import sha256_of

SIDE_PX = 112
# InsightFace's arcface_dst, where pixel i has its centre at i; here it lies at i + 0.5.
TEMPLATE = 0.5 + np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
MIN_POINTS = 3
# A cosine of 0.4. Chosen from how such networks are used, not measured here: measure it on your own people.
THRESHOLD = math.sqrt(2 - 2 * 0.4)


class ArcFace:
    """A :class:`~data_pipeline.identity.base.FaceEmbedder`. It needs a face's points: both eyes and the nose at least."""

    name = "arcface_onnx"

    def __init__(self, embedding: str | Path):
        self._network = OnnxNetwork(embedding)
        if any(s not in (SIDE_PX, None) for s in self._network.shape[2:]):
            raise InputError(
                f"{embedding}: its input is {self._network.shape}, not of {SIDE_PX} px; give an ArcFace network"
            )
        answer = self._network(np.zeros((SIDE_PX, SIDE_PX, 3), np.float32))[0]
        if answer.ndim != 2 or len(answer) != 1:
            raise InputError(f"{embedding}: its output is {list(answer.shape)}, not [1,D]; give an ArcFace network")
        self.size = int(answer.shape[1])
        self.threshold = THRESHOLD
        self.models = {Path(embedding).name: sha256_of(embedding)}

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """float32 [D] of length one; NaN when fewer than three of the face's points are known, or they coincide."""
        region = aligned_region(face.points)
        if region is None:
            return np.full(self.size, np.nan, np.float32)
        chip = cut(frame, region, SIDE_PX, SIDE_PX, black_outside=True)
        vector = self._network(chip / 127.5 - 1.0)[0][0].astype(np.float64)
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)


def aligned_region(points: np.ndarray) -> Region | None:
    """The square of the frame that lies on the 112 px template once the face's points do: the best similarity transform.

    Args:
        points: [5,2] in pixels, NaN = unknown (:data:`data_pipeline.faces.base.POINTS`).
    """
    known = np.isfinite(points).all(axis=1)
    if known.sum() < MIN_POINTS:
        return None
    # In complex numbers a similarity is z -> a z + b, and the least-squares a is a regression's slope (Umeyama 1991, in 2-D).
    source = points[known].astype(np.float64) @ [1, 1j]
    target = TEMPLATE[known] @ [1, 1j]
    spread = target - target.mean()
    from_mean = source - source.mean()
    power = float((from_mean.conj() @ from_mean).real)
    turn = complex(from_mean.conj() @ spread) / power if power > 0 else 0j
    if abs(turn) < 1e-9:
        return None
    centre = (SIDE_PX / 2 * (1 + 1j) - target.mean()) / turn + source.mean()
    side = SIDE_PX / abs(turn)
    return Region(centre.real, centre.imag, side, side, -math.atan2(turn.imag, turn.real))
