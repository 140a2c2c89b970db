"""The rival that the retargeter is measured against: the driver's skeleton, handed to the DiT as it is (docs/ablation.md).

Nothing here is learned. The retargeted tokens *are* heatmaps: what the motion decoder of stage 1 reads from the driver, drawn in
the driver's frame on the DiT's token grid, four pixel frames a latent frame by the clock; the DiT's inlet is the one linear layer
behind them. Whoever is shorter than the driver, or stands elsewhere, gets the driver's joints all the same.

Shapes: B batch, T pixel frames = 4n+1, F latent frames = n+1, J joints, R heatmap cells a side of the padded square, gh,gw tokens
of a latent frame, u heatmap cells a side in a token, Wb = 4*J*u*u.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imanim import clock
from imanim.errors import InputError
from imanim.models.config import AnimatorConfig
from imanim.models.joints import SIGMA_CELLS, cell_centres, read_out, square_to_frame, taken_slots
from imanim.sequence import Team

FAINTEST = 1e-6
"""The least of a Gaussian that is read back: its logarithm is taken."""


class SkeletonRetargeter(nn.Module):
    """Heatmap logits [B,T,J,R,R] of the driver on the padded square to tokens [B,F,gh,gw,Wb]; ``retargeter.kind: skeleton``."""

    reads_heatmaps = True

    def __init__(self, cfg: AnimatorConfig):
        super().__init__()
        rt = cfg.retargeter
        self.stride, self.cell = cfg.latent_stride, cfg.denoiser.patch * rt.grid_stride
        self.sub, self.joints = rt.sub * rt.grid_stride, cfg.joints

    def forward(self, heat: Tensor, identity_latents: Tensor) -> tuple[Tensor, Tensor]:
        """Draws the driver's joints.

        Args:
            heat: the motion decoder's logits. No gradient passes: this is a skeleton, and must not become something else.
            identity_latents: [B,C,h,w]; only their size counts.

        Returns:
            Gaussians of height 1, as tokens, and for the character image's own joints logits that say nothing: 0.
        """
        (h, w), frames = identity_latents.shape[-2:], heat.shape[1]
        xy = square_to_frame(read_out(heat.detach()), h * self.stride, w * self.stride)
        grid = (h // self.cell, w // self.cell)
        rows, cols = grid[0] * self.sub, grid[1] * self.sub
        x, y = cell_centres(rows, cols, xy)
        off = ((x - xy[..., :1]) * cols) ** 2 + ((y - xy[..., 1:]) * rows) ** 2
        drawn = torch.exp(-off / (2 * SIGMA_CELLS**2)).unflatten(-1, (rows, cols))
        slots = drawn.new_zeros(len(heat), clock.latent_frames(frames) * clock.STRIDE, *drawn.shape[2:])
        slots[:, torch.tensor(taken_slots(frames), device=heat.device)] = drawn
        nothing = heat.new_zeros(len(heat), self.joints, rows, cols)
        return self._as_tokens(slots, grid).to(identity_latents.dtype), nothing

    def _as_tokens(self, slots: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B,F*4,J,gh*u,gw*u] to [B,F,gh,gw,4*J*u*u]."""
        cut = slots.unflatten(1, (-1, clock.STRIDE)).unflatten(-2, (grid[0], -1)).unflatten(-1, (grid[1], -1))
        return cut.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4)

    def set_prior(self, xy: Tensor, weight: Tensor) -> None:
        """Nothing here has a start."""

    def share(self, team: Team) -> None:
        """Every rank of a team draws all frames: it costs next to nothing."""


class SkeletonReader(nn.Module):
    """The joint decoder of these tokens: reads back what was drawn, so its joint error is that of copying the driver."""

    def __init__(self, joints: int, sub: int):
        super().__init__()
        self.joints, self.sub = joints, sub

    def forward(self, tokens: Tensor, frames: int) -> Tensor:
        """Tokens [B,F,gh,gw,4*J*u*u] to logits [B,T,J,gh*u,gw*u]. Raises InputError when F is not that of T = ``frames``."""
        if clock.latent_frames(frames) != tokens.shape[1]:
            raise InputError(
                f"retargeted tokens: {tokens.shape[1]} latent frames, but {frames} frames have {clock.latent_frames(frames)}"
            )
        cut = tokens.unflatten(-1, (clock.STRIDE, self.joints, self.sub, self.sub))
        maps = cut.permute(0, 1, 4, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)
        return maps[:, torch.tensor(taken_slots(frames), device=tokens.device)].float().clamp(min=FAINTEST).log()

    def set_prior(self, xy: Tensor, weight: Tensor) -> None:
        """Nothing here has a start."""
