"""A model so small that every test of it takes milliseconds: 32x16 pixels, 9 frames, 3 latent frames, 2x1 tokens a frame."""

from __future__ import annotations

import torch

from imanim.data.dice import Dice
from imanim.models.config import (
    AnimatorConfig,
    DenoiserConfig,
    ExpressionConfig,
    RetargeterConfig,
    TokenizerConfig,
)

B, T, F, J, C = 2, 9, 3, 20, 8


def mini(**denoiser: object) -> AnimatorConfig:
    return AnimatorConfig(
        height=32,
        width=16,
        frames=T,
        latent_channels=C,
        tokenizer=TokenizerConfig(
            image_size=32, width=16, layers=1, heads=2, tokens=3, token_dim=4, codes=16, decoder_width=16,
            decoder_layers=1, decoder_grid=2, heatmap=8,
        ),
        retargeter=RetargeterConfig(width=16, identity_layers=1, layers=2, heads=2, bottleneck=6, sub=2, joint_hidden=8),
        expression=ExpressionConfig(crop_size=16, width=8, tokens=2, every=2, heads=2),
        denoiser=DenoiserConfig(heads=2, head_dim=12, layers=2, ffn_dim=32, text_dim=8, freq_dim=16, **denoiser),  # type: ignore[arg-type]
    )  # fmt: skip


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dice(seed: int = 0, samples: int = B) -> Dice:
    return Dice(seed, 0, range(samples))


def mini_batch(samples: int = B, seed: int = 0) -> dict:
    """Clips of one bright square that moves, every joint at its centre: something a small model can learn at once."""
    random = generator(seed)
    centre = 0.2 + 0.6 * torch.rand(samples, T, 2, generator=random)
    x, y = (torch.arange(16) + 0.5) / 16, (torch.arange(32) + 0.5) / 32
    near = (x[None, :] - centre[..., :1, None]).abs().lt(0.15) & (y[:, None] - centre[..., 1:, None]).abs().lt(0.08)
    clip = near[:, :, None].float().expand(-1, -1, 3, -1, -1).contiguous()
    joints = torch.cat([centre[:, :, None].expand(-1, -1, J, -1), torch.ones(samples, T, J, 1)], -1)
    faces = torch.cat([centre - 0.1, centre + 0.1], -1)
    faces[0, 1] = float("nan")
    return {
        "driving": clip,
        "target": clip,
        "identity": clip[:, 0],
        "joints": joints,
        "driving_joints": joints,
        "identity_joints": joints[:, 0],
        "faces": faces,
        "keys": [str(i) for i in range(samples)],
    }
