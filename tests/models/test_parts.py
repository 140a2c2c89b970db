"""The parts together: shapes; the tokenizer's encoder. Retargeter, expression and denoiser have files of their own."""

from __future__ import annotations

import pytest
import torch
from sizes import B, C, F, J, T, mini, mini_batch

from imanim.models.animator import Animator
from imanim.models.config import TokenizerConfig
from imanim.models.tokenizer import ConvEncoder, stem


def test_shapes_follow_the_contract():
    cfg, batch = mini(), mini_batch()
    animator = Animator(cfg).eval()
    (h, w), (gh, gw) = cfg.latent_size, cfg.token_grid
    motion = animator.motion_tokens(batch["driving"])
    assert motion.z.shape == (B, T, 3, 4) and motion.indices is not None and motion.indices.shape == (B, T, 3)
    torch.testing.assert_close(motion.z.norm(dim=-1), torch.ones(B, T, 3))
    assert animator.read_motion_joints(motion.z).shape == (B, T, J, 8, 8)
    assert animator.read_patch_joints(motion).shape == (B, T, J, 8, 8)
    tokens = animator.retarget(motion.z, torch.randn(B, C, h, w))
    assert tokens.shape == (B, F, gh, gw, 6)
    assert animator.read_joints(tokens, T).shape == (B, T, J, gh * 2, gw * 2)
    expression, found = animator.express(batch["driving"], batch["faces"])
    assert expression.shape == (B, T, 2, 8) and found.shape == (B, T) and not found[0, 1] and found.sum() == B * T - 1
    noisy = torch.randn(B, C, F, h, w)
    assert animator.denoise(noisy, torch.rand(B), noisy[:, :, 0], tokens, (expression, found)).shape == noisy.shape


@pytest.mark.parametrize("setting", [{"stem_patch": 4, "stem_convs": 2}, {"stem_patch": 16, "stem_convs": 0}])
def test_the_stem_can_be_convolutions_or_a_plain_patch_embedding(setting):
    cfg = TokenizerConfig(image_size=64, width=32, layers=1, **setting)
    assert cfg.problems() == [] and cfg.grid == 4
    assert sum(isinstance(m, torch.nn.Conv2d) for m in stem(cfg.stem_patch, cfg.stem_convs, 32)) == 1 + cfg.stem_convs
    z, features = ConvEncoder(cfg, J)(torch.rand(3, 3, 64, 64))
    assert z.shape == (3, 16, 12) and features.shape == (3, 16, 32)


def test_frames_are_encoded_one_by_one():
    animator, clip = Animator(mini(), ("tokenizer_encoder",)).eval(), mini_batch()["driving"]
    whole = animator.motion_tokens(clip, vq=False).z
    torch.testing.assert_close(animator.motion_tokens(clip[:, 3:4], vq=False).z, whole[:, 3:4])
