"""Which part of a body is always covered: the one place that the asset, the wardrobe and the renderer agree on.

Coordinates are the template's (ATTRIBUTES of asset.py), so the same numbers hold for every body. Skin triangles exist
only where ``skin_may_exist``; the garment layer always covers more than the complement, whatever is worn.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles.asset import FloatArray

SKIN_ARM_FROM = 0.23  # way down the arm (0 shoulder joint, 0.5 elbow)
SHORTEST_SLEEVE = 0.27
SKIN_LEG_BELOW_Z = -0.29  # the knee is at -0.40, the crotch at -0.08
SHORTEST_HEM_Z = -0.33
SKIN_LEG_ABOVE_Z = -0.825  # feet are always in shoes
LOWEST_SHOE_Z = -0.785
SKIN_NECK = 0.452  # lowest neckline with skin behind it, see neckline()
LOWEST_NECK = 0.485
HIGHEST_NECK = 0.53
DEEPEST_NECK = 0.02
ARM = -0.5  # the arm field is above this on arms and -1 elsewhere


def neckline(x: FloatArray, y: FloatArray, height: float, depth: float = 0.0) -> FloatArray:
    """Height z of the collar at (x, y): higher at the nape and the sides, ``depth`` lower at the front's middle."""
    z = height + 0.45 * y + 0.55 * np.maximum(np.abs(x) - 0.045, 0.0)
    z = z - np.where(y < 0, depth * np.maximum(0.0, 1.0 - np.abs(x) / 0.07), 0.0)
    return z.astype(np.float32)


def skin_may_exist(x: FloatArray, y: FloatArray, z: FloatArray, arm: FloatArray) -> np.ndarray:
    """Mask of template points that some outfit may show bare: head, neck, arms below the cap sleeve, lower legs."""
    head = z > neckline(x, y, SKIN_NECK)
    leg = (z < SKIN_LEG_BELOW_Z) & (z > SKIN_LEG_ABOVE_Z)
    return np.where(arm > ARM, arm > SKIN_ARM_FROM, head | leg)
