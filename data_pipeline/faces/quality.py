"""How good a look at a face a frame gives: numbers for choosing frames, none of which needs a network."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE_PX = 112


def sharpness(frame: np.ndarray, box: np.ndarray) -> float:
    """Variance of the Laplacian of the grey face, in grey levels squared; 0 when the box holds hardly a pixel.

    The face is resampled to 112 px first: detail counts by the size of the face, not of the picture, so near and far faces
    compare, and a small face blown up reads as blurred, which for a face network it is.

    Args:
        frame: uint8 [H,W,3].
        box: [4] x0,y0,x1,y1 in pixels; what lies outside the frame is left out; NaN = no face.
    """
    from scipy.ndimage import laplace

    if not np.isfinite(box).all():
        return 0.0
    high, wide = frame.shape[:2]
    x0, x1 = np.clip(np.round(box[[0, 2]]), 0, wide).astype(int)
    y0, y1 = np.clip(np.round(box[[1, 3]]), 0, high).astype(int)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return 0.0
    # Pillow's bilinear widens its kernel when it shrinks: plain bilinear would alias and call large faces sharp.
    grey = Image.fromarray(np.ascontiguousarray(frame[y0:y1, x0:x1])).convert("L")
    small = np.asarray(grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR), np.float64)
    return float(laplace(small, mode="mirror").var())


def frontality(points: np.ndarray) -> float:
    """How squarely a face looks at the camera from the side to side, in [0,1]: 1 = the nose in the middle between the eyes.

    A nose that has reached an eye, or gone past it, is a profile: 0. So are eyes or a nose that nobody knows. Tilting the
    head does not count.

    Args:
        points: [5,2] in pixels (:data:`data_pipeline.faces.base.POINTS`), NaN = unknown.
    """
    right, left, nose = np.asarray(points, np.float64)[:3]
    across = left - right
    length = float(across @ across)
    if not np.isfinite(length) or not np.isfinite(nose).all() or length == 0.0:
        return 0.0
    along = float((nose - right) @ across) / length
    return float(np.clip(1.0 - abs(2.0 * along - 1.0), 0.0, 1.0))
