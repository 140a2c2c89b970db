"""Frames to the square input of a video network, the way each of the published FVD codes does it.

All give float32 pixels in [0,255] (bicubic overshoots that a little), made on the CPU: every device sees the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from imanim.errors import InputError


@dataclass(frozen=True)
class Resizer:
    """One way: ``resize`` takes uint8 [T,H,W,3] and a side in pixels and gives float32 [T,3,side,side].

    ``does`` says in a protocol what happens.
    """

    does: str
    resize: Callable[[np.ndarray, int], Tensor]


def check(frames: np.ndarray) -> None:
    """Raises InputError unless frames are uint8 [T,H,W,3] with at least one frame and one pixel."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"frames: {frames.dtype} {list(frames.shape)}; give uint8 [T,H,W,3] in RGB, at least one frame"
        )


def tf1(frames: np.ndarray, side_px: int) -> Tensor:
    """Bilinear as in TensorFlow 1: output pixel i is taken at i * scale, not at the centres of pixels; aliases when shrinking."""
    x = _planes(frames)
    (top, bottom, dy), (left, right, dx) = (_neighbours(size, side_px) for size in x.shape[2:])
    x = _between(x[..., left], x[..., right], dx)
    return _between(x[:, :, top], x[:, :, bottom], dy[:, None])


def bilinear(frames: np.ndarray, side_px: int) -> Tensor:
    """Bilinear at the centres of pixels, straight to the square; aliases when shrinking."""
    return F.interpolate(_planes(frames), (side_px, side_px), mode="bilinear", align_corners=False)


def short_side(frames: np.ndarray, side_px: int) -> Tensor:
    """Bilinear at the centres of pixels until the shorter side fits, then the square in the middle; aliases when shrinking."""
    height, width = frames.shape[1:3]
    scale = side_px / min(height, width)
    # The long side is rounded up as the reference does it, where rounding turns some squares into 224 x 225 first.
    rows = side_px if height < width else math.ceil(height * scale)
    columns = math.ceil(width * scale) if height < width else side_px
    x = F.interpolate(_planes(frames), (rows, columns), mode="bilinear", align_corners=False)
    y0, x0 = (rows - side_px) // 2, (columns - side_px) // 2
    return x[:, :, y0 : y0 + side_px, x0 : x0 + side_px]


def pil_bicubic(frames: np.ndarray, side_px: int) -> Tensor:
    """Bicubic in float, neither rounded nor clipped; Pillow's filter grows with the scale, so a smaller picture has no aliases."""
    planes = _planes(frames).numpy()
    out = np.empty((*planes.shape[:2], side_px, side_px), np.float32)
    for i, j in np.ndindex(*planes.shape[:2]):
        out[i, j] = Image.fromarray(planes[i, j]).resize((side_px, side_px), Image.Resampling.BICUBIC)
    return torch.from_numpy(out)


RESIZERS = {
    "tf1": Resizer("bilinear of TensorFlow 1, no half-pixel centres, straight to the square", tf1),
    "bilinear": Resizer("bilinear, half-pixel centres, no antialias, straight to the square", bilinear),
    "short-side": Resizer("bilinear, half-pixel centres, no antialias, of the shorter side; centre crop", short_side),
    "pil-bicubic": Resizer("float bicubic, antialiased (Pillow), straight to the square", pil_bicubic),
}


def _planes(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2), dtype=np.float32))


def _neighbours(size_px: int, side_px: int) -> tuple[Tensor, Tensor, Tensor]:
    """For every output pixel: the pixel before its place, the one after, and how far between them it lies, in float32."""
    at = torch.arange(side_px, dtype=torch.float32) * torch.tensor(size_px / side_px, dtype=torch.float32)
    before = at.long()
    return before, (before + 1).clamp_max(size_px - 1), at - before.float()


def _between(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return a + (b - a) * share
