"""The tokenizer encoder at the paper's sizes: TiTok's ViT, laid out as the authors released it (docs/method.md, "Stage 1").

Shapes: M frames, S side of the padded square, p patch, g = S/p patches a side, K motion tokens, D their dimension, E width.

Modules carry the names of the released checkpoint, so its tensors load as they are and ours can be handed on in the same form
(imanim.models.released). What looks odd is the release's: the patch convolution is padded (the patches shift, the grid stays
g x g), RGB stays in [0,1], a class token leads, and [K,E] is *reshaped*, not transposed, to [E,K] before the last projection.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from imanim.models.config import TokenizerConfig
from imanim.models.joints import HeatmapHead


class TiTokBlock(nn.Module):
    """Pre-norm transformer block on [L,M,E]: sequence first, as the release computes it, for the same rounding."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class TiTokViT(nn.Module):
    """Frames and K latent tokens through one transformer; only the latent tokens are projected."""

    def __init__(self, cfg: TokenizerConfig):
        super().__init__()
        width, scale = cfg.width, cfg.width**-0.5
        self.checkpointing = cfg.gradient_checkpointing
        self.patch_embed = nn.Conv2d(3, width, cfg.stem_patch, cfg.stem_patch, cfg.stem_padding)
        self.class_embedding = nn.Parameter(scale * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(cfg.grid**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(scale * torch.randn(cfg.tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(TiTokBlock(width, cfg.heads) for _ in range(cfg.layers))
        self.ln_post = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, cfg.token_dim, 1)

    def forward(self, frames: Tensor, latent_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [M,3,S,S] and latent tokens [K,E] to tokens [M,D,K] of any length and patch features [M,g*g,E]."""
        frames = frames.to(self.patch_embed.weight.dtype)
        patches = self.patch_embed(frames).flatten(2).transpose(1, 2)
        count, (tokens, width) = len(frames), latent_tokens.shape
        x = torch.cat([self.class_embedding.expand(count, -1, -1), patches], 1) + self.positional_embedding
        latents = (latent_tokens + self.latent_token_positional_embedding).expand(count, -1, -1)
        x = self.ln_pre(torch.cat([x, latents], 1)).transpose(0, 1)
        for block in self.transformer:
            recompute = self.checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        x = x.transpose(0, 1)
        latents = self.ln_post(x[:, -tokens:])
        shuffled = latents.reshape(count, width, tokens, 1)  # the release's reshape, see above
        return self.conv_out(shuffled).flatten(2), x[:, 1:-tokens]


class TiTokEncoder(nn.Module):
    """The part ``tokenizer_encoder`` with ``tokenizer.encoder: titok``."""

    def __init__(self, cfg: TokenizerConfig, joints: int):
        super().__init__()
        self.encoder = TiTokViT(cfg)
        self.latent_tokens = nn.Parameter(cfg.width**-0.5 * torch.randn(cfg.tokens, cfg.width))
        self.patch_head = (
            HeatmapHead(cfg.width, joints, (cfg.grid, cfg.grid), cfg.heatmap // cfg.grid) if cfg.patch_head else None
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Square frames [M,3,S,S] in [0,1] to unit-length tokens [M,K,D] and patch features [M,g*g,E]."""
        tokens, features = self.encoder(frames, self.latent_tokens)
        return F.normalize(tokens.transpose(1, 2).float(), dim=-1), features
