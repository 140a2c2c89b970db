"""Bringing pictures to a protocol's size: Pillow's antialiased bicubic, as most of the field's evaluation scripts have it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from imanim.errors import InputError

ASPECT_TOLERANCE = 0.02
"""Resizing may change a picture's aspect by this much: video sizes are multiples of 8 or 16, so a little is everybody's."""
ROUNDING_PX = 2
"""What rounding a side to an even number of pixels may take, which of small pictures is more than that."""


def resized(frames: np.ndarray, size: Sequence[int] | None) -> np.ndarray:
    """uint8 [T,H,W,3] at ``size`` (height, width); as they are for None."""
    if size is None or tuple(frames.shape[1:3]) == tuple(size):
        return frames
    height, width = size
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames])


def made_at(name: str, frames: np.ndarray, size: tuple[int, int], rule: str) -> np.ndarray:
    """Made frames at the size they are measured at. Raises InputError when ``rule`` refuses that, or the aspect differs."""
    if frames.shape[1:3] == size:
        return frames
    found, wanted = f"{frames.shape[2]}x{frames.shape[1]}", f"{size[1]}x{size[0]}"
    if rule == "refuse":
        raise InputError(
            f"{name}: {found} pixels, measured at {wanted}; this protocol resizes nothing, make it at that size"
        )
    aspect = (frames.shape[2] / frames.shape[1]) / (size[1] / size[0])
    if abs(aspect - 1) > max(ASPECT_TOLERANCE, ROUNDING_PX / min(frames.shape[1:3])):
        raise InputError(
            f"{name}: {found} pixels has another aspect than {wanted}; crop or pad it as the protocol's clips are"
        )
    return resized(frames, size)
