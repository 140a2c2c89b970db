"""Transformer layers and position embeddings that the tokenizer, the retargeter and the expression blocks share.

Shapes: M sequences in a batch, L their length, N the context's, E width (docs/method.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imanim.errors import InputError

EMBEDDING_STD = 0.2
"""Strength of position and token embeddings at the start."""

Grid = tuple[int, int]
"""(rows, columns)."""


class Attention(nn.Module):
    """Multi-head attention of ``query`` [M,L,E] to ``context`` [M,N,Ec] (itself when None). Returns [M,L,E]."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(context_width or width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, query: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``mask`` bool, broadcastable to [M,heads,L,N]: True where attention is allowed."""
        context = query if context is None else context
        q = self.to_q(query).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(_attend(q, k, v, mask).transpose(1, 2).flatten(2))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """``scaled_dot_product_attention``; on a CPU in float32, because the kernel for bfloat16 takes four times as long (LOG.md).

    Not so for the hollow tensors of a forecast (imanim.training.trace), a subclass: they stand for a GPU's.
    """
    if type(q) is Tensor and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class FeedForward(nn.Sequential):
    """Two linear layers with GELU: [...,E] to [...,E]."""

    def __init__(self, width: int, expansion: int = 4):
        super().__init__(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))


class Block(nn.Module):
    """Pre-norm transformer block on [M,L,E]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.ffn(self.norm_ffn(x))


class ConvBlock(nn.Module):
    """Residual 3x3 convolution, [M,E,rows,columns] to the same."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.gelu(self.norm(x)))


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Fixed embeddings of positions [n], which need not be whole numbers: [n,width]."""
    half = (width + 1) // 2  # a sine's RMS is 0.7
    rates = torch.exp(-math.log(1000.0) * torch.arange(half, device=positions.device) / half)
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width] * EMBEDDING_STD * 2**0.5


def table(*shape: int) -> nn.Parameter:
    """A learned embedding. It starts about as strong as what it is added to; whether that beats 0.02 is not settled (LOG.md)."""
    return nn.Parameter(torch.randn(*shape) * EMBEDDING_STD)


def crop_positions(embedding: Tensor, learned: Grid, grid: Grid) -> Tensor:
    """The top left of position embeddings [rows*columns,E] of the grid ``learned``: [grid[0]*grid[1],E].

    Positions count from 0, as the DiT's rotary embedding does. On the learned grid the table itself is returned.
    """
    if grid == learned:
        return embedding
    return embedding.unflatten(0, learned)[: grid[0], : grid[1]].flatten(0, 1)


def resample(maps: Tensor, size: Grid, mode: str = "bilinear") -> Tensor:
    """Maps [N,rows,columns] over the same area in other cells, [N,*size]; the same tensor where the size is the same."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[None].float(), size, mode=mode, align_corners=False)[0].to(maps.dtype)


def positions_on(embedding: Tensor, learned: Grid, grid: Grid, *, interpolate: bool, what: str) -> Tensor:
    """Position embeddings [rows*columns,E] of the grid ``learned`` for another: [grid[0]*grid[1],E].

    A direction that is no longer than it was is cropped. One that is longer is stretched (bicubic), but only on request: the
    model has not seen the positions in between.

    Args:
        interpolate: ``retargeter.interpolate_positions``.
        what: whose grid it is, for the message.

    Raises:
        InputError: the grid is larger in a direction and ``interpolate`` is off.
    """
    reach = (max(learned[0], grid[0]), max(learned[1], grid[1]))
    if reach == learned:
        return crop_positions(embedding, learned, grid)
    if not interpolate:
        raise InputError(
            f"{what}: a grid of {grid[0]}x{grid[1]} (rows x columns), but the model is configured for {learned[0]}x{learned[1]}; "
            "use a smaller video, or stretch its positions with retargeter.interpolate_positions=true"
        )
    maps = embedding.unflatten(0, learned).movedim(-1, 0)
    return crop_positions(resample(maps, reach, "bicubic").flatten(1).T, reach, grid)


def times_on(frames: int, learned: int, *, interpolate: bool, device: torch.device | None = None) -> Tensor:
    """Time positions [frames] of latent frames: 0, 1, 2, ...; a clip longer than ``learned`` is squeezed into its range.

    Raises:
        InputError: the clip is longer and ``interpolate`` (``retargeter.interpolate_positions``) is off.
    """
    times = torch.arange(frames, device=device)
    if frames <= learned:
        return times
    if not interpolate:
        raise InputError(
            f"motion: {frames} latent frames, but the model is configured for {learned}; cut the video into windows "
            "(imanim.clock.windows), or squeeze its times with retargeter.interpolate_positions=true"
        )
    return times * ((learned - 1) / (frames - 1))
