"""Joints as heatmaps: coordinates, targets, losses, read-out and the heads that draw them.

Shapes: B batch, T pixel frames, F latent frames, M frames or images, J joints, gh,gw tokens of a latent frame, E width. See
docs/method.md, "Stage 1" and "Stage 2".

Coordinates are x (right) and y (down) in [0,1] of a frame or, for the tokenizer, of that frame padded to a square. A heatmap
is a [rows, cols] grid of logits over the same area, cell (r, c) centred on ((c+.5)/cols, (r+.5)/rows).

Why cross-entropy and not docs/method.md's mean squared error: a heatmap is mostly empty, so a small network's cheapest answer to
MSE is an empty map, and it stays there. Cross-entropy against a normalised Gaussian plus an L1 term on the soft-argmax
coordinates moved from the first steps in the prototype (2.4 % of the image height after eight CPU-minutes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imanim import clock
from imanim.errors import InputError
from imanim.models.layers import Grid, positions_on, resample, table

SIGMA_CELLS = 0.9
"""Standard deviation of the target Gaussian, in heatmap cells."""


def pad_to_square(frames: Tensor, size: int, *, antialias: bool = True) -> Tensor:
    """Pads the short side with black, equally on both ends, and resizes: [M,3,H,W] to [M,3,size,size].

    Bilinear. With ``antialias`` a frame that shrinks is smoothed first; the released encoder was trained without.
    """
    height, width = frames.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    frames = F.pad(frames, (left, side - width - left, top, side - height - top))
    if side == size:
        return frames
    return F.interpolate(
        frames, (size, size), mode="bilinear", align_corners=False, antialias=antialias and side > size
    )


def frame_to_square(xy: Tensor, height: int, width: int) -> Tensor:
    """Coordinates [...,2] of an HxW frame as coordinates of :func:`pad_to_square`'s square."""
    side, scale, shift = _square(xy, height, width)
    return (xy * scale + shift) / side


def square_to_frame(xy: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`frame_to_square`."""
    side, scale, shift = _square(xy, height, width)
    return (xy * side - shift) / scale


def _square(like: Tensor, height: int, width: int) -> tuple[int, Tensor, Tensor]:
    side = max(height, width)
    return side, like.new_tensor([width, height]), like.new_tensor([(side - width) // 2, (side - height) // 2])


def joint_weight(joints: Tensor) -> Tensor:
    """Which joints are supervised: [...,J,3] to float 0/1 [...,J].

    A joint counts when its coordinates are known and inside the frame, seen or not: synthetic data knows hidden joints. Unknown
    ones are NaN, or (0, 0) with visibility 0 where a batch had to be filled.
    """
    x, y, visible = joints.unbind(-1)
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    unknown = (x == 0) & (y == 0) & ~(visible > 0)
    return (inside & ~unknown).to(joints.dtype)


def cell_centres(rows: int, cols: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x [rows*cols] and y [rows*cols] of the cells, row by row."""
    x = (torch.arange(cols, device=like.device) + 0.5) / cols
    y = (torch.arange(rows, device=like.device) + 0.5) / rows
    return x.repeat(rows), y.repeat_interleave(cols)


def target_heatmap(xy: Tensor, rows: int, cols: int, sigma_cells: float = SIGMA_CELLS) -> Tensor:
    """Normalised Gaussians [...,rows*cols] around coordinates [...,2]."""
    x, y = cell_centres(rows, cols, xy)
    dx, dy = (x - xy[..., :1]) * cols, (y - xy[..., 1:]) * rows
    return (-(dx**2 + dy**2) / (2 * sigma_cells**2)).softmax(-1)


def read_out(logits: Tensor) -> Tensor:
    """Sub-pixel coordinates [...,2] of heatmap logits [...,rows,cols]: the mean of the heatmap as a distribution."""
    rows, cols = logits.shape[-2:]
    heat = logits.flatten(-2).float().softmax(-1)
    x, y = cell_centres(rows, cols, heat)
    return torch.stack([(heat * x).sum(-1), (heat * y).sum(-1)], -1)


def heatmap_loss(logits: Tensor, xy: Tensor, weight: Tensor, *, coordinates: float = 8.0) -> Tensor:
    """Cross-entropy with the Gaussian target plus ``coordinates`` times the L1 distance of the read-out.

    Args:
        logits: [...,J,rows,cols].
        xy: [...,J,2] in the heatmap's area; anything where ``weight`` is 0.
        weight: [...,J].
    """
    rows, cols = logits.shape[-2:]
    xy = torch.where(weight[..., None] > 0, xy, 0.5).float()
    target = target_heatmap(xy, rows, cols)
    per_joint = -(target * logits.flatten(-2).float().log_softmax(-1)).sum(-1)
    if coordinates:
        per_joint = per_joint + coordinates * (read_out(logits) - xy).abs().sum(-1)
    return weighted_mean(per_joint, weight)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """The mean of ``values`` where ``weight`` is not 0; 0 when it is 0 everywhere."""
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def joint_error(xy: Tensor, truth: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """Mean distance of frame coordinates [...,J,2], in % of the image height."""
    aspect = xy.new_tensor([width / height, 1.0])
    truth = torch.where(weight[..., None] > 0, truth, xy)
    return 100 * weighted_mean(((xy - truth) * aspect).norm(dim=-1), weight)


def prior_logits(xy: Tensor, weight: Tensor, rows: int, cols: int) -> Tensor:
    """Log of the mean heatmap [J,rows,cols] of coordinates [M,J,2]: where a joint is before anything is seen."""
    xy = torch.where(weight[..., None] > 0, xy, 0.5)
    mean = torch.zeros(xy.shape[1], rows * cols, device=xy.device)
    for part, ok in zip(xy.split(256), weight.split(256)):
        mean += (target_heatmap(part, rows, cols, 1.2) * ok[..., None]).sum(0)
    mean = mean / mean.sum(-1, keepdim=True).clamp(min=1e-6) + 1e-5
    return mean.log().unflatten(-1, (rows, cols))


class HeatmapHead(nn.Module):
    """Tokens on a grid to heatmaps: [M,gh*gw,E] to [M,slots,J,gh*sub,gw*sub].

    Starts near the prior (see :func:`prior_logits`): the projection is small, the bias is the joints' log mean heatmap. Without
    that start a small network spends most of its training on finding the average person. Small, not zero: a zero projection
    passes no gradient to what is before it.
    """

    GAIN = 3.0  # A zero-initialised projection of heatmap logits learns faster when its output is scaled up.

    def __init__(self, width: int, joints: int, grid: Grid, sub: int, slots: int = 1):
        super().__init__()
        self.grid, self.sub, self.joints, self.slots = grid, sub, joints, slots
        self.norm = nn.LayerNorm(width)
        self.to_cells = nn.Linear(width, slots * joints * sub * sub)
        nn.init.normal_(self.to_cells.weight, std=0.1 / width**0.5)
        nn.init.zeros_(self.to_cells.bias)
        self.prior = nn.Parameter(torch.zeros(joints, grid[0] * sub, grid[1] * sub))

    def forward(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """``grid``: the tokens', when it is not the configured one. The prior is over the frame, so it is resampled, never cut."""
        (gh, gw), u = grid or self.grid, self.sub
        cells = self.to_cells(self.norm(tokens)).unflatten(-1, (self.slots, self.joints, u, u)).unflatten(1, (gh, gw))
        heat = cells.permute(0, 3, 4, 1, 5, 2, 6).flatten(5, 6).flatten(3, 4)
        return heat * self.GAIN + resample(self.prior, (gh * u, gw * u))

    @torch.no_grad()
    def set_prior(self, xy: Tensor, weight: Tensor) -> None:
        """Sets the bias from coordinates [M,J,2] in this head's area. Before training starts (ZeRO-3 partitions parameters)."""
        self.prior.copy_(prior_logits(xy, weight, *self.prior.shape[-2:]))


class JointDecoder(nn.Module):
    """Reads the character's joints from the retargeted tokens (docs/method.md: the supervision of stage 2).

    Every latent frame draws four heatmaps a joint, one for each pixel frame it holds; the first uses one of them.
    """

    def __init__(self, width: int, hidden: int, joints: int, grid: Grid, sub: int, *, interpolate: bool = False):
        """``grid``: the configured one; ``interpolate``: ``retargeter.interpolate_positions``."""
        super().__init__()
        self.grid, self.interpolate = grid, interpolate
        self.to_hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.position = table(grid[0] * grid[1], hidden)
        self.head = HeatmapHead(hidden, joints, grid, sub, slots=clock.STRIDE)

    def set_prior(self, xy: Tensor, weight: Tensor) -> None:
        """As :meth:`HeatmapHead.set_prior`, frame coordinates."""
        self.head.set_prior(xy, weight)

    def forward(self, tokens: Tensor, frames: int) -> Tensor:
        """Tokens [B,F,gh,gw,Wb] to logits [B,T,J,gh*sub,gw*sub] for T = ``frames``.

        Raises InputError when F is not T's, and for a grid larger than the configured one (see ``layers.positions_on``).
        """
        batch, latents, gh, gw = tokens.shape[:4]
        if clock.latent_frames(frames) != latents:
            raise InputError(
                f"retargeted tokens: {latents} latent frames, but {frames} frames have {clock.latent_frames(frames)}"
            )
        position = positions_on(
            self.position, self.grid, (gh, gw), interpolate=self.interpolate, what="retargeted tokens"
        )
        heat = self.head(self.to_hidden(tokens.flatten(0, 1).flatten(1, 2)) + position, (gh, gw))
        heat = heat.unflatten(0, (batch, latents)).flatten(1, 2)
        return heat[:, torch.tensor(taken_slots(frames), device=heat.device)]


def taken_slots(frames: int) -> list[int]:
    """Where T = ``frames`` pixel frames lie among the four slots of each latent frame, one after another: [3, 4, 5, ...]."""
    slots = enumerate(clock.slots(frames))
    return [f * clock.STRIDE + s for f, row in slots for s, t in enumerate(row) if t >= 0]
