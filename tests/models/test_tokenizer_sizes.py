"""The paper's tokenizer at TiTok's sizes: as large as TiTok's arithmetic says, and one of them run."""

from __future__ import annotations

import pytest
import torch
from sizes import generator

from imanim.models import sizes
from imanim.models.animator import Animator
from imanim.models.joints import heatmap_loss
from imanim.models.quantizer import Codebook
from imanim.models.titok import TiTokEncoder

PATCH, GRID, K, D, N = 16, 16, 32, 12, 4096


def _titok(width: int, layers: int) -> int:
    """Parameters of TiTok's encoder with K latent tokens, counted by hand."""
    block = (3 * width * width + 3 * width) + (width * width + width) + (8 * width * width + 5 * width) + 4 * width
    patches = 3 * PATCH * PATCH * width + width
    positions = (1 + GRID * GRID + 1 + 2 * K) * width  # class token, grid and class, latent tokens and their positions
    return layers * block + patches + positions + 4 * width + (D * width + D)


@pytest.mark.parametrize(
    "size, width, layers, millions", [("small", 512, 8, 25.8), ("base", 768, 12, 85.9), ("large", 1024, 24, 303.4)]
)
def test_the_encoder_is_as_large_as_titoks(size: str, width: int, layers: int, millions: float):
    cfg = sizes.load(f"tiny,tokenizer-{size}").tokenizer
    assert (cfg.width, cfg.layers, cfg.width // cfg.heads) == (width, layers, 64)
    assert (cfg.decoder_width, cfg.decoder_layers) == (width, layers) and cfg.patch_head
    cfg.patch_head = False
    with torch.device("meta"):
        encoder, codebook = TiTokEncoder(cfg, joints=20), Codebook(cfg.codes, cfg.token_dim)
    count = sum(p.numel() for p in encoder.parameters())
    assert count == _titok(width, layers) and round(count / 1e6, 1) == millions
    assert codebook.embedding.shape == (N, D)
    if (
        size == "large"
    ):  # the release: 301 tensors with the codes, 607,017,208 bytes in bfloat16, the file's header among them
        assert len(encoder.state_dict()) + 1 == 301
        header = 607_017_208 - 2 * (count + codebook.embedding.numel())
        assert 0 < header < 100 * 301 * 2


def test_the_size_small_learns_from_a_batch_of_two_frames():
    torch.manual_seed(0)
    fewer = {"tokenizer": {"layers": 2, "decoder_layers": 2}}  # of eight alike: a second instead of four
    cfg = sizes.load("tiny,tokenizer-small", fewer)
    animator = Animator(cfg, ("tokenizer_encoder", "codebook", "motion_decoder")).train()
    motion = animator.motion_tokens(torch.rand(1, 2, 3, 128, 80), generator=generator())
    assert motion.z.shape == (1, 2, K, D) and motion.patch_features.shape == (2, GRID * GRID, 512)
    xy, weight = torch.rand(1, 2, 20, 2), torch.ones(1, 2, 20)
    heat, patch_heat = animator.read_motion_joints(motion.z), animator.read_patch_joints(motion)
    assert heat.shape == patch_heat.shape == (1, 2, 20, 64, 64)
    (heatmap_loss(heat, xy, weight) + heatmap_loss(patch_heat, xy, weight) + motion.vq_loss).backward()
    for name, parameter in animator.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert animator.part("tokenizer_encoder").encoder.patch_embed.weight.grad.abs().max() > 0
