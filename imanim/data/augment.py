"""Augmentation of the driving side, so that copying the driver's coordinates cannot win (docs/method.md, "Where pairs come from").

Scale, shift and stretch move the driver in its frame, colour changes its look; the target is left alone. Mirroring swaps
left and right and so must happen to driver, target and identity together: :func:`mirror`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imanim.data import latents
from imanim.data.dice import Dice
from imanim.data.sample import JOINTS
from imanim.data.stream import OUTSIDE, Batch
from imanim.errors import InputError

MIRRORED = [
    JOINTS.index(n.replace("l_", "?_").replace("r_", "l_").replace("?_", "r_") if n[1] == "_" else n) for n in JOINTS
]
"""For every joint, the joint that stands in its place in the mirror."""


def augment_driving(
    frames: Tensor,
    joints: Tensor,
    faces: Tensor,
    dice: Dice,
    *,
    scale: float = 0.2,
    shift: float = 0.08,
    stretch: float = 0.08,
    colour: float = 0.2,
) -> tuple[Tensor, Tensor, Tensor]:
    """One random view and colouring per clip, the same for all its frames.

    Args:
        frames: [B,T,3,H,W] in [0,1].
        joints: [B,T,J,3], x and y in [0,1], visibility.
        faces: [B,T,4], NaN = none.
        scale: log-uniform zoom of +-this; shift: uniform, in frame sizes; stretch: log-uniform aspect change.
        colour: strength of the change of gain (a channel), offset and contrast.

    Returns:
        the same three, moved together; unknown joints stay unknown.
    """

    def uniform(*shape: int) -> Tensor:
        return dice.rand(*shape).mul_(2).sub_(1).to(frames)

    zoom = torch.exp(math.log1p(scale) * uniform(1) + math.log1p(stretch) * uniform(2) * 0.5)
    moved = uniform(2) * shift
    frames = _warp(frames, zoom, moved)
    gain = 1 + colour * uniform(1, 3, 1, 1)
    offset = 0.5 * colour * uniform(1, 3, 1, 1)
    contrast = 1 + colour * uniform(1, 1, 1, 1)
    frames = (((frames - 0.5) * contrast + 0.5) * gain + offset).clamp(0, 1)

    unknown = (joints[..., :2] == OUTSIDE).all(-1, keepdim=True)
    xy = (joints[..., :2] - 0.5) * zoom[:, None, None] + 0.5 + moved[:, None, None]
    joints = torch.cat([torch.where(unknown, joints[..., :2], xy), joints[..., 2:]], -1)
    corners = (faces.unflatten(-1, (2, 2)) - 0.5) * zoom[:, None, None] + 0.5 + moved[:, None, None]
    return frames, joints, corners.flatten(-2)


def _warp(frames: Tensor, zoom: Tensor, moved: Tensor) -> Tensor:
    """Zooms [B,2] (x,y) about the centre, then moves [B,2] in frame sizes; the border is repeated."""
    b, t = frames.shape[:2]
    # grid_sample asks for the inverse map in [-1,1] coordinates: source = (target - 2*moved) / zoom.
    theta = frames.new_zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 1 / zoom[:, 0], 1 / zoom[:, 1]
    theta[:, :, 2] = -2 * moved / zoom
    grid = F.affine_grid(theta, [b, 1, *frames.shape[-2:]], align_corners=False)
    # All frames of a clip move alike, so they ride along as channels: one grid a clip instead of one a frame.
    warped = F.grid_sample(frames.flatten(1, 2), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.unflatten(1, (t, 3))


def mirror(batch: Batch, dice: Dice) -> Batch:
    """Mirrors each sample of a batch with probability 1/2: every picture, joint (left and right swap), box and mask of it.

    Cached latents give way to those of the mirrored pictures. Raises InputError when the batch has none.
    """
    flip = dice.rand() < 0.5
    if not bool(flip.any()):
        return batch
    out = dict(batch)
    for name in ("driving", "target", "identity", "parts"):
        if name in batch:
            out[name] = _where(flip, batch[name].flip(-1), batch[name])
    for name in latents.NAMES:
        if name in batch:
            out[name] = _where(flip, _mirrored(batch, name), batch[name])
    for name in ("joints", "driving_joints", "identity_joints"):
        swapped = batch[name][..., MIRRORED, :]
        unknown = (swapped[..., :2] == OUTSIDE).all(-1)
        x = torch.where(unknown, swapped[..., 0], 1 - swapped[..., 0])
        out[name] = _where(flip, torch.cat([x[..., None], swapped[..., 1:]], -1), batch[name])
    x0, y0, x1, y1 = batch["faces"].unbind(-1)
    out["faces"] = _where(flip, torch.stack([1 - x1, y0, 1 - x0, y1], -1), batch["faces"])
    return out


def _mirrored(batch: Batch, name: str) -> Tensor:
    if name + latents.MIRRORED not in batch:
        raise InputError(
            f"latents: no mirrored {name} in the cache; make it with mirror=true, or data.augment.mirror=false"
        )
    return batch[name + latents.MIRRORED]


def _where(flip: Tensor, changed: Tensor, same: Tensor) -> Tensor:
    return torch.where(flip.view(-1, *[1] * (same.ndim - 1)).to(same.device), changed, same)
