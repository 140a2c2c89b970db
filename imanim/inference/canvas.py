"""Fitting pictures of any size onto the model's canvas, and cutting the result free again.

The aspect is kept, the picture is centred, and what is left of the canvas repeats the picture's edge: an edge the model can
continue, where a black bar would be an object of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Fit:
    """Where a picture lies on the canvas, in canvas pixels. ``height`` and ``width`` are even: H.264 asks for that."""

    top: int
    left: int
    height: int
    width: int
    canvas_height: int
    canvas_width: int

    def crop(self, frames: np.ndarray) -> np.ndarray:
        """Canvas frames [...,H,W,3] to the picture's part of them [...,height,width,3]."""
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width, :]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [...,4] (x0,y0,x1,y1 in [0,1] of the picture) in [0,1] of the canvas."""
        size = np.array([self.width, self.height] * 2) / ([self.canvas_width, self.canvas_height] * 2)
        corner = np.array([self.left, self.top] * 2) / ([self.canvas_width, self.canvas_height] * 2)
        return (boxes * size + corner).astype(np.float32)


def fit(image: np.ndarray, canvas_size: tuple[int, int]) -> Fit:
    """The largest even-sized place on a canvas (H, W) for a picture [h,w,...]."""
    (height, width), (canvas_height, canvas_width) = image.shape[:2], canvas_size
    scale = min(canvas_height / height, canvas_width / width)
    inside_height, inside_width = (max(2, 2 * round(size * scale / 2)) for size in (height, width))
    top, left = (canvas_height - inside_height) // 2, (canvas_width - inside_width) // 2
    return Fit(top, left, inside_height, inside_width, canvas_height, canvas_width)


def place(image: np.ndarray, where: Fit) -> np.ndarray:
    """A picture uint8 [h,w,3] resized (antialiased) into its place on the canvas, uint8 [H,W,3], its edges repeated."""
    if image.shape[:2] != (where.height, where.width):
        # reducing_gap lets Pillow shrink by whole factors first: several times faster for large frames, not visible.
        small = Image.fromarray(image).resize((where.width, where.height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        image = np.asarray(small)
    bottom = where.canvas_height - where.height - where.top
    right = where.canvas_width - where.width - where.left
    return np.pad(image, ((where.top, bottom), (where.left, right), (0, 0)), mode="edge")
