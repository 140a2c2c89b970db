"""Retargeter: the driver's motion tokens and the character's latents in, retargeted tokens on the DiT's grid out.

See docs/method.md, "Stage 2". Shapes: B batch, T pixel frames = 4n+1, F latent frames = n+1, K motion tokens a frame of dimension
D, C latent channels, h,w latent grid, gh,gw mask tokens of a latent frame, P identity tokens, Wb width of the bottleneck, E width.

Identity, motion and learned mask tokens meet in attention; only the mask positions leave, through a narrow linear layer. That is
the bottleneck: neither the character image's pose nor the driver's looks have another way into the video.

The grid is the latents', the number of frames the motion tokens': up to those configured, whose positions were learned. Smaller
ones take the first of them; larger ones are refused unless ``retargeter.interpolate_positions`` asks for more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imanim import clock
from imanim.errors import InputError
from imanim.models.config import AnimatorConfig
from imanim.models.joints import HeatmapHead
from imanim.models.layers import Attention, Block, FeedForward, Grid, positions_on, sinusoids, table, times_on
from imanim.models.skeleton import SkeletonRetargeter
from imanim.sequence import ALONE, Team


class IdentityEncoder(nn.Module):
    """The character's latents as identity tokens: patches, positions and a few layers that run once a clip, not once a frame."""

    def __init__(self, cfg: AnimatorConfig):
        super().__init__()
        rt, patch, self.grid = cfg.retargeter, cfg.denoiser.patch, cfg.token_grid
        self.interpolate = rt.interpolate_positions
        self.patches = nn.Conv2d(cfg.latent_channels, rt.width, patch, patch)
        self.position = table(self.grid[0] * self.grid[1], rt.width)
        self.blocks = nn.ModuleList(Block(rt.width, rt.heads) for _ in range(rt.identity_layers))
        # The character's own joints, read from its identity tokens: the second teacher, as in the tokenizer.
        self.head = HeatmapHead(rt.width, cfg.joints, self.grid, rt.sub)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B,C,h,w] to identity tokens [B,P,E] and logits [B,J,rows,cols] of the character image's own joints."""
        patches = self.patches(latents.to(self.position.dtype))
        grid = (patches.shape[-2], patches.shape[-1])
        position = positions_on(
            self.position, self.grid, grid, interpolate=self.interpolate, what="identity latents, in DiT tokens"
        )
        x = patches.flatten(2).transpose(1, 2) + position
        for block in self.blocks:
            x = block(x)
        return x, self.head(x, grid)[:, 0]


class FactorisedLayer(nn.Module):
    """Full attention within a latent frame, attention over latent frames per position, modulated feed-forward.

    With ``modulation``, before the feed-forward layer the mask tokens are scaled and shifted by their latent frame's motion, as
    a DiT's tokens are by the timestep: "is this joint here" is a product of motion and place. It helped a narrow module on 260
    clips; at full size one run each showed no difference to speak of (LOG.md).
    """

    def __init__(self, width: int, heads: int, temporal: bool, modulation: bool):
        super().__init__()
        self.norm_space = nn.LayerNorm(width)
        self.space = Attention(width, heads)
        self.temporal = temporal
        if temporal:
            self.norm_time = nn.LayerNorm(width)
            self.time = Attention(width, heads)
        self.modulation = nn.Linear(clock.STRIDE * width, 2 * width) if modulation else None
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = FeedForward(width)

    def forward(self, x: Tensor, identity: int, team: Team = ALONE, total: int = 0) -> Tensor:
        """[B,F,P,E]: ``identity`` positions, four of motion, then mask tokens. Identity stays out of the attention over time.

        A team cuts F, the ``total`` latent frames; for the attention over time, positions instead.
        """
        batch, frames = x.shape[:2]
        x = x + self.space(self.norm_space(x).flatten(0, 1)).unflatten(0, (batch, frames))
        if self.temporal:
            still, moving = x.tensor_split([identity], 2)
            by_frame, by_position = (1, team.lengths(total)), (2, team.lengths(moving.shape[2]))
            whole = team.swap(moving, cut=by_position, join=by_frame).transpose(1, 2)
            over_time = self.time(self.norm_time(whole).flatten(0, 1)).unflatten(0, whole.shape[:2]).transpose(1, 2)
            x = torch.cat([still, moving + team.swap(over_time, cut=by_frame, join=by_position)], 2)
        normed = self.norm_ffn(x)
        if self.modulation is not None:
            mask = identity + clock.STRIDE
            scale, shift = self.modulation(x[:, :, identity:mask].flatten(2)).unsqueeze(2).chunk(2, -1)
            normed = torch.cat([normed[:, :, :mask], normed[:, :, mask:] * (1 + scale) + shift], 2)
        return x + self.ffn(normed)


class Retargeter(nn.Module):
    """Motion tokens [B,T,K,D] and identity latents [B,C,h,w] to retargeted tokens [B,F,gh,gw,Wb]."""

    team: Team = ALONE
    reads_heatmaps = False
    """Whether it takes the motion decoder's heatmaps in place of motion tokens."""

    def __init__(self, cfg: AnimatorConfig):
        super().__init__()
        rt, tk = cfg.retargeter, cfg.tokenizer
        self.grid, self.latent_frames, self.interpolate = cfg.mask_grid, cfg.latent_frames, rt.interpolate_positions
        self.checkpointing = rt.gradient_checkpointing
        self.cell, self.scale = cfg.denoiser.patch * rt.grid_stride, tk.token_dim**0.5
        self.identity = IdentityEncoder(cfg)
        self.from_motion = nn.Sequential(
            nn.Linear(tk.tokens * tk.token_dim, 2 * rt.width), nn.GELU(), nn.Linear(2 * rt.width, rt.width)
        )
        self.no_frame = table(rt.width)
        self.slot = table(clock.STRIDE, rt.width)
        self.mask_token = table(rt.width)
        self.mask_position = table(self.grid[0] * self.grid[1], rt.width)
        self.layers = nn.ModuleList(
            FactorisedLayer(rt.width, rt.heads, rt.temporal, rt.modulation) for _ in range(rt.layers)
        )
        self.norm = nn.LayerNorm(rt.width)
        self.to_bottleneck = nn.Linear(rt.width, rt.bottleneck)
        self.stride = rt.grid_stride
        self.reference = nn.Linear(rt.width, rt.width) if rt.reference_tokens else None

    def forward(self, z: Tensor, identity_latents: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the retargeter.

        Args:
            z: motion tokens [B,T,K,D], T = 4n+1.
            identity_latents: [B,C,h,w]; gh = h / (patch * grid_stride), gw alike.

        Returns:
            retargeted tokens [B,F,gh,gw,Wb], with ``reference_tokens`` one latent frame more ahead of them, the character image's
            own pose; and the logits [B,J,rows,cols] of the character image's own joints.

        Raises:
            InputError: h or w do not divide, the grid or the clip is larger than configured (see ``layers.positions_on``), or T is
                not 4n+1.
        """
        grid = self._mask_grid(identity_latents)
        identity, identity_heat = self.identity(identity_latents)
        motion = self._motion(z)
        frames = motion.shape[1]
        times = times_on(frames, self.latent_frames, interpolate=self.interpolate, device=z.device)
        when = sinusoids(times, motion.shape[-1]).to(motion.dtype)[None, :, None]
        mine = self.team.span(frames)
        motion, when = motion[:, mine.start : mine.stop], when[:, mine.start : mine.stop]
        still, leaving = self._still_and_leaving(identity, when, grid)
        x = torch.cat([still, motion + when, leaving], 2)
        for layer in self.layers:
            recompute = self.checkpointing and torch.is_grad_enabled()
            given = (x, still.shape[2], self.team, frames)
            x = checkpoint(layer, *given, use_reentrant=False) if recompute else layer(*given)
        out = self.to_bottleneck(self.norm(x[:, :, -leaving.shape[2] :]))
        tokens = self.team.join(out, 1, frames).unflatten(2, grid)
        if self.reference is not None:
            tokens = torch.cat([self._reference(identity, grid), tokens], 1)
        return tokens, identity_heat

    def _still_and_leaving(self, identity: Tensor, when: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Tokens that stay inside and those that leave, [B,f,P,E] and [B,f,gh*gw,E], of the latent frames at ``when`` [1,f,1,E]."""
        position = positions_on(self.mask_position, self.grid, grid, interpolate=self.interpolate, what="mask tokens")
        mask = (self.mask_token + position + when).expand(len(identity), -1, -1, -1)
        return identity[:, None].expand(-1, when.shape[1], -1, -1), mask

    def set_prior(self, xy: Tensor, weight: Tensor) -> None:
        """As ``HeatmapHead.set_prior``, frame coordinates."""
        self.identity.head.set_prior(xy, weight)

    def share(self, team: Team) -> None:
        """From now on the ranks of ``team`` share a clip's latent frames. They must all be given the same."""
        self.team = team

    def _reference(self, identity: Tensor, grid: Grid) -> Tensor:
        """The character image's pose in the retargeted tokens' language: identity tokens [B,P,E] to [B,1,gh,gw,Wb]."""
        assert self.reference is not None
        s = self.stride
        x = self.reference(identity).unflatten(1, (grid[0], s, grid[1], s)).mean((2, 4))
        return self.to_bottleneck(self.norm(x)).unsqueeze(1)

    def _mask_grid(self, latents: Tensor) -> Grid:
        height, width = latents.shape[-2:]
        if height % self.cell or width % self.cell:
            raise InputError(
                f"identity latents: {height}x{width} (rows x columns) do not divide by denoiser.patch * retargeter.grid_stride "
                f"({self.cell}); use a video size that is a multiple of latent_stride times that"
            )
        return height // self.cell, width // self.cell

    def _motion(self, z: Tensor) -> Tensor:
        """One vector a pixel frame, in the four slots of its latent frame: [B,T,K,D] to [B,F,4,E].

        The first latent frame holds one pixel frame; a learned vector stands in its three empty slots. It says nothing about any
        frame, as masking them would, and leaves attention without a mask, which is what fused kernels want.
        """
        vectors = self.from_motion((z * self.scale).flatten(2).to(self.slot.dtype))
        vectors = torch.cat([vectors, self.no_frame.expand(len(z), 1, -1)], 1)
        index = torch.tensor(clock.slots(z.shape[1]), device=z.device)  # -1 is the last: the vector for no frame
        return vectors[:, index] + self.slot


class IdentityRetargeter(Retargeter):
    """No mask tokens: the identity tokens go through the layers in their place, and leave. An ablation: whatever the character's
    image shows, its pose too, has a way into the video."""

    def __init__(self, cfg: AnimatorConfig):
        super().__init__(cfg)
        del self.mask_token, self.mask_position

    def _still_and_leaving(self, identity: Tensor, when: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        leaving = identity[:, None] + when
        return leaving[:, :, :0], leaving


RETARGETERS: dict[str, Callable[[AnimatorConfig], nn.Module]] = {
    "mask_tokens": Retargeter,
    "identity_tokens": IdentityRetargeter,
    "skeleton": SkeletonRetargeter,
}
"""By ``retargeter.kind``. Each maps motion and identity latents to (retargeted tokens, the character image's joint logits), says
what it reads (``reads_heatmaps``), and has ``share`` and ``set_prior``."""
