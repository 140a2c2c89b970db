"""Cutting a rotated region out of a frame, as the pose networks were trained to see it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from data_pipeline.pose.base import Region


def cut(frame: np.ndarray, region: Region, width: int, height: int, *, black_outside: bool = False) -> np.ndarray:
    """The region resampled to float32 ``[height,width,3]`` in 0..255 (bilinear).

    Outside the frame the edge pixels go on, or it is black, as the network was trained.

    Continuous coordinates: pixel i covers [i, i+1), so region corners land on the corners of the result. The cost does
    not depend on the region's size, unlike first copying the patch around it: heads fill the frame in portraits, and
    their body regions reach far outside it.
    """
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    points = region.to_frame(np.stack([u, v], axis=-1)).astype(np.float32) - 0.5
    high, wide = frame.shape[:2]
    x = np.clip(points[..., 0], 0, wide - 1)
    y = np.clip(points[..., 1], 0, high - 1)
    x0, y0 = x.astype(np.int32), y.astype(np.int32)
    x1, y1 = np.minimum(x0 + 1, wide - 1), np.minimum(y0 + 1, high - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    flat = frame.reshape(-1, 3)
    above = _mix(flat.take(y0 * wide + x0, axis=0), flat.take(y0 * wide + x1, axis=0), fx)
    below = _mix(flat.take(y1 * wide + x0, axis=0), flat.take(y1 * wide + x1, axis=0), fx)
    image = _mix(above, below, fy)
    if black_outside:
        image[((points < -0.5) | (points > (wide - 0.5, high - 0.5))).any(axis=-1)] = 0.0
    return image


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    a = a.astype(np.float32)
    return a + share * (b.astype(np.float32) - a)


def letterbox(frame: np.ndarray, side: int) -> tuple[np.ndarray, Region]:
    """The whole frame, aspect kept, centred in a black square ``[side,side,3]`` uint8, and that square as a region."""
    high, wide = frame.shape[:2]
    scale = side / max(high, wide)
    size = (max(1, round(wide * scale)), max(1, round(high * scale)))
    # Pillow's bilinear widens its kernel when it shrinks, so a large frame does not alias.
    small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
    square = np.zeros((side, side, 3), np.uint8)
    x, y = (side - size[0]) // 2, (side - size[1]) // 2
    square[y : y + size[1], x : x + size[0]] = small
    across, down = wide / size[0], high / size[1]  # frame pixels a letterbox pixel
    return square, Region((side / 2 - x) * across, (side / 2 - y) * down, side * across, side * down)
