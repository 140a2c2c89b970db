"""Motion tokenizer: one frame in, K motion tokens out; and the decoder whose heatmaps are its only teacher.

See docs/method.md, "Stage 1". Shapes: M frames, S side of the padded square, g patches a side, K motion tokens, D their dimension,
E width, J joints, R heatmap cells a side.

The tokens never have to reproduce a pixel, which is why they need not carry who is moving.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imanim.models.config import TokenizerConfig
from imanim.models.joints import HeatmapHead
from imanim.models.layers import Block, ConvBlock, table
from imanim.models.titok import TiTokEncoder


def stem(patch: int, convs: int, width: int, blocks: int = 0) -> nn.Sequential:
    """Pixels to patch tokens: a patch convolution, then ``convs`` 3x3 stride-2 ones, each but the last followed by ``blocks``
    residual ones, so that an edge is found before it is halved away. [M,3,S,S] to [M,width,g,g]."""
    widths = [max(24, width >> (convs - i)) for i in range(convs)] + [width]
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], patch, patch)]
    for before, after in zip(widths, widths[1:]):
        layers += [*(ConvBlock(before) for _ in range(blocks)), nn.GELU(), nn.Conv2d(before, after, 3, 2, 1)]
    return nn.Sequential(*layers)


class ConvEncoder(nn.Module):
    """TiTok-like ViT: patch tokens and K learned latent tokens go in, only the latent tokens are kept."""

    def __init__(self, cfg: TokenizerConfig, joints: int):
        super().__init__()
        self.tokens = cfg.tokens
        self.stem = stem(cfg.stem_patch, cfg.stem_convs, cfg.width, cfg.stem_blocks)
        self.position = table(cfg.grid**2, cfg.width)
        self.latent_tokens = table(cfg.tokens, cfg.width)
        self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.width)
        self.to_token = nn.Linear(cfg.width, cfg.token_dim)
        # Heatmaps read straight from the patch tokens: without this second teacher the path through K tokens never starts.
        self.patch_head = (
            HeatmapHead(cfg.width, joints, (cfg.grid, cfg.grid), cfg.heatmap // cfg.grid) if cfg.patch_head else None
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Square frames [M,3,S,S] in [0,1] to unit-length tokens [M,K,D] and patch features [M,g*g,E]."""
        patches = self.stem((frames * 2 - 1).to(self.position.dtype)).flatten(2).transpose(1, 2) + self.position
        x = torch.cat([self.latent_tokens.expand(len(frames), -1, -1), patches], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return F.normalize(self.to_token(x[:, : self.tokens]).float(), dim=-1), x[:, self.tokens :]


class GridEncoder(ConvEncoder):
    """Without latent tokens: every patch is a motion token, K = g*g, each at its place in the picture."""

    def __init__(self, cfg: TokenizerConfig, joints: int):
        super().__init__(cfg, joints)
        del self.latent_tokens

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`ConvEncoder`'s."""
        x = self.stem((frames * 2 - 1).to(self.position.dtype)).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return F.normalize(self.to_token(x).float(), dim=-1), x


class MotionDecoder(nn.Module):
    """Motion tokens and mask tokens through a ViT; the mask tokens become joint tokens, a light head draws their heatmaps."""

    def __init__(self, cfg: TokenizerConfig, joints: int):
        super().__init__()
        self.scale = cfg.token_dim**0.5
        self.from_token = nn.Linear(cfg.token_dim, cfg.decoder_width)
        self.token_position = table(cfg.tokens, cfg.decoder_width)
        self.mask_tokens = table(cfg.decoder_grid**2, cfg.decoder_width)
        self.blocks = nn.ModuleList(Block(cfg.decoder_width, cfg.heads) for _ in range(cfg.decoder_layers))
        grid = (cfg.decoder_grid, cfg.decoder_grid)
        self.head = HeatmapHead(cfg.decoder_width, joints, grid, cfg.heatmap // cfg.decoder_grid)

    def forward(self, z: Tensor) -> Tensor:
        """Tokens [M,K,D] to heatmap logits [M,J,R,R] on the padded square."""
        x = self.from_token((z * self.scale).to(self.mask_tokens.dtype)) + self.token_position
        x = torch.cat([x, self.mask_tokens.expand(len(z), -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, z.shape[1] :])[:, 0]


ENCODERS: dict[str, Callable[[TokenizerConfig, int], nn.Module]] = {
    "conv": ConvEncoder,
    "titok": TiTokEncoder,
    "grid": GridEncoder,
}
"""By ``tokenizer.encoder``. Each maps square frames [M,3,S,S] to (unit tokens [M,K,D], patch features [M,g*g,E]) and has a
``patch_head`` (or None)."""
