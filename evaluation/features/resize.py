"""Pictures to the 299x299 input of the FID Inception, the way each of four published codes does it.

The resizing alone moves FID by more than methods differ (Parmar et al. 2022, "On Aliased Resizing"), so each way has a name and the
name is part of a result. All four give what the network was trained on, -1 to about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from imanim.errors import InputError

SIDE_PX = 299


@dataclass(frozen=True)
class Resizer:
    """One way: ``resize`` takes uint8 [n,H,W,3] and gives float32 [n,3,299,299] on the same device.

    ``like`` names the code that it agrees with, pixel by pixel; ``does`` says in a protocol what happens.
    """

    like: str
    does: str
    resize: Callable[[Tensor], Tensor]


def resize(frames: np.ndarray, name: str, device: str = "cpu") -> Tensor:
    """Pictures as the network takes them.

    Args:
        frames: uint8 [n,H,W,3].
        name: a key of :data:`RESIZERS`.
        device: where the result is wanted.

    Returns:
        float32 [n,3,299,299], from -1 to 127/128 (``pytorch``: to 1).

    Raises:
        InputError: an unknown name; frames that are not uint8 colour pictures.
    """
    check(frames)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
    return lookup(name).resize(pixels)


def lookup(name: str) -> Resizer:
    """The way of that name. Raises InputError with the known names."""
    if name not in RESIZERS:
        raise InputError(f"resizer `{name}`: unknown; known: {', '.join(RESIZERS)}")
    return RESIZERS[name]


def check(frames: np.ndarray) -> None:
    """Raises InputError unless frames are uint8 [n,H,W,3] with at least one picture and one pixel."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(f"frames: {frames.dtype} {list(frames.shape)}; give uint8 [n,H,W,3] in RGB, at least one")


def _clean(frames: Tensor) -> Tensor:
    """Bicubic in float, without rounding; Pillow's filter grows with the scale, so a smaller picture has no aliases."""
    planes = frames.permute(0, 3, 1, 2).contiguous().cpu().numpy().astype(np.float32)
    out = np.empty((*planes.shape[:2], SIDE_PX, SIDE_PX), np.float32)
    for i, j in np.ndindex(*planes.shape[:2]):
        out[i, j] = Image.fromarray(planes[i, j]).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    return _centred(torch.from_numpy(out.clip(0, 255)).to(frames.device))


def _tf1(frames: Tensor) -> Tensor:
    """Bilinear as in TensorFlow 1: output pixel i is taken at i * scale, not at the centres of pixels; aliases when shrinking."""
    x = frames.permute(0, 3, 1, 2).float()
    (top, bottom, dy), (left, right, dx) = (_neighbours(size, x.device) for size in x.shape[2:])
    # Columns first, over the rows that are used: the same sums as from four neighbours, and so bit-equal to them.
    used, place = torch.unique(torch.cat([top, bottom]), return_inverse=True)
    x = x[:, :, used]
    x = _between(x[..., left], x[..., right], dx)
    return _centred(_between(x[:, :, place[:SIDE_PX]], x[:, :, place[SIDE_PX:]], dy[:, None]))


def _pytorch(frames: Tensor) -> Tensor:
    """Bilinear from 0 to 1 without a filter: aliases when shrinking."""
    x = frames.permute(0, 3, 1, 2).contiguous().float().div(255)
    return 2 * F.interpolate(x, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False) - 1


def _torchmetrics(frames: Tensor) -> Tensor:
    """Bilinear whose filter grows with the scale."""
    x = frames.permute(0, 3, 1, 2).contiguous().float()
    return _centred(F.interpolate(x, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False, antialias=True))


def _centred(pixels: Tensor) -> Tensor:
    return (pixels - 128) / 128


def _neighbours(size_px: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For every output pixel: the pixel before its place, the one after, and how far between them it lies, in float32."""
    at = torch.arange(SIDE_PX, dtype=torch.float32, device=device) * torch.tensor(
        size_px / SIDE_PX, dtype=torch.float32
    )
    before = at.long()
    return before, (before + 1).clamp_max(size_px - 1), at - before.float()


def _between(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return a + (b - a) * share


RESIZERS = {
    "clean": Resizer("clean-fid 0.1.35, mode clean", "float bicubic, antialiased (Pillow); (x-128)/128", _clean),
    "tf1": Resizer("torch-fidelity 0.4.0", "bilinear of TensorFlow 1, no half-pixel centres; (x-128)/128", _tf1),
    "pytorch": Resizer("pytorch-fid 0.3.0", "bilinear, half-pixel centres, no antialias; 2x/255-1", _pytorch),
    "torchmetrics": Resizer(
        "torchmetrics 1.9.0", "bilinear, half-pixel centres, antialiased; (x-128)/128", _torchmetrics
    ),
}
