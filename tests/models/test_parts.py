"""Tokenizer, retargeter, expression: shapes, who sees whom, where gradients go."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sizes import B, C, F, J, T, mini, mini_batch, unit

from imanim import clock
from imanim.models.animator import Animator
from imanim.models.config import TokenizerConfig
from imanim.models.expression import ExpressionBlock, crop_faces
from imanim.models.retargeter import Retargeter
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


def _still(temporal: bool) -> Retargeter:
    cfg = mini()
    cfg.retargeter = dataclasses.replace(cfg.retargeter, temporal=temporal)
    return Retargeter(cfg).eval()


def test_without_attention_over_time_a_pixel_frame_moves_only_its_own_latent_frame():
    retargeter, z, identity = _still(False), unit(1, T, 3, 4), torch.randn(1, C, 4, 2)
    before = retargeter(z, identity)[0]
    for i in range(T):
        changed = z.clone()
        changed[:, i] = unit(3, 4)
        moved = (retargeter(changed, identity)[0] - before).abs().flatten(2).amax(-1)[0] > 1e-6
        assert moved.nonzero().flatten().tolist() == [clock.latent_of_pixel(i)]


def test_with_attention_over_time_a_pixel_frame_moves_every_latent_frame():
    retargeter, z, identity = _still(True), unit(1, T, 3, 4), torch.randn(1, C, 4, 2)
    changed = z.clone()
    changed[:, 6] = unit(3, 4)
    moved = (retargeter(changed, identity)[0] - retargeter(z, identity)[0]).abs().flatten(2).amax(-1)[0] > 1e-6
    assert moved.all()


def test_nothing_leaves_but_the_mask_positions():
    """With what mask tokens hear switched off, what leaves must be deaf to identity and motion: only they are read."""
    retargeter, z, identity = _still(True), unit(1, T, 3, 4), torch.randn(1, C, 4, 2)
    for layer in retargeter.layers:
        torch.nn.init.zeros_(layer.get_submodule("space.to_out").weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(layer.get_submodule("modulation").weight)  # type: ignore[arg-type]
    out = retargeter(z, identity)[0]
    assert torch.equal(out, retargeter(unit(1, T, 3, 4), torch.randn(1, C, 4, 2))[0])
    assert out.shape[-1] == 6


def test_the_retargeter_takes_clips_longer_than_it_was_trained_on():
    assert _still(True)(unit(1, 21, 3, 4), torch.randn(1, C, 4, 2))[0].shape[1] == 6


def test_face_crops_show_the_box_enlarged_and_square():
    frames = torch.zeros(1, 3, 40, 20)
    frames[:, :, 10:14, 8:12] = 1  # 4x4 pixels
    box = torch.tensor([[8 / 20, 10 / 40, 12 / 20, 14 / 40]])
    crops, found = crop_faces(frames, box, 16, 2.0)
    assert found.tolist() == [True]
    inside = crops[0, 0] > 0.5
    assert inside[5:11, 5:11].all() and not inside[:3].any() and not inside[:, :3].any()
    assert crop_faces(frames, torch.full((1, 4), float("nan")), 16, 2.0)[1].tolist() == [False]


def test_expression_reaches_only_its_own_latent_frame_and_only_through_an_open_gate():
    block = ExpressionBlock(12, mini().expression).eval()
    x, tokens, found = torch.randn(1, F, 2, 12), torch.randn(1, T, 2, 8), torch.ones(1, T, dtype=torch.bool)
    assert torch.equal(block(x, tokens, found), x)
    torch.nn.init.ones_(block.gate)
    before, changed = block(x, tokens, found), tokens.clone()
    changed[:, 5] = torch.randn(2, 8)
    moved = (block(x, changed, found) - before).abs().flatten(2).amax(-1)[0] > 1e-6
    assert moved.tolist() == [False, False, True]
    hidden = found.clone()
    hidden[:, 5] = False
    assert torch.equal(block(x, changed, hidden), block(x, tokens, hidden))
    assert block(x, tokens, torch.zeros_like(found)).isfinite().all()
