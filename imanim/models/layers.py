"""Transformer layers that the tokenizer, the retargeter and the expression blocks share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_STD = 0.2
"""Strength of position and token embeddings at the start."""


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
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


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


def sinusoids(positions: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Fixed embeddings of the positions 0, 1, 2, ...: [positions, width]. Any length, so a clip may be longer than trained."""
    half = (width + 1) // 2  # a sine's RMS is 0.7
    rates = torch.exp(-math.log(1000.0) * torch.arange(half, device=device) / half)
    angles = torch.arange(positions, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width] * EMBEDDING_STD * 2**0.5


def table(*shape: int) -> nn.Parameter:
    """A learned embedding. It starts about as strong as what it is added to; whether that beats 0.02 is not settled (LOG.md)."""
    return nn.Parameter(torch.randn(*shape) * EMBEDDING_STD)
