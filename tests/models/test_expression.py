"""Expression: face crops, the tokens read from them, and the blocks that bring them into the DiT."""

from __future__ import annotations

import pytest
import torch
from sizes import B, C, F, T, mini, mini_batch
from torch import Tensor, nn

from imanim import clock
from imanim.errors import InputError
from imanim.models.animator import Animator
from imanim.models.config import ExpressionConfig
from imanim.models.expression import ExpressionBlock, ExpressionEncoder, crop_faces

MISSING = (0, 3, 8)
"""Frames without a face: the first latent frame has none at all."""


def _found() -> Tensor:
    found = torch.ones(B, T, dtype=torch.bool)
    found[:, list(MISSING)] = False
    return found


def _animator(gates: float) -> Animator:
    torch.manual_seed(0)
    animator = Animator(mini(prediction="velocity", reference_skip=False), ("expression", "denoiser")).eval()
    nn.init.normal_(animator.part("denoiser").transformer.proj_out.weight)
    for block in animator.part("expression").blocks.values():
        nn.init.constant_(block.gate, gates)
    return animator


def _inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.randn(B, C, F, 4, 2), torch.rand(B), torch.randn(B, C, 4, 2), torch.randn(B, F, 2, 1, 6)


def test_face_crops_show_the_box_enlarged_and_square():
    frames = torch.zeros(1, 3, 40, 20)
    frames[:, :, 10:14, 8:12] = 1  # 4x4 pixels
    box = torch.tensor([[8 / 20, 10 / 40, 12 / 20, 14 / 40]])
    crops, found = crop_faces(frames, box, 16, 2.0)
    assert found.tolist() == [True]
    inside = crops[0, 0] > 0.5
    assert inside[5:11, 5:11].all() and not inside[:3].any() and not inside[:, :3].any()


@pytest.mark.parametrize("box", [[float("nan")] * 4, [0.5, 0.1, 0.5, 0.2], [0.2, 0.6, 0.4, 0.5]])
def test_a_box_that_is_none_is_a_missing_face(box: list[float]):
    crops, found = crop_faces(torch.rand(1, 3, 40, 20), torch.tensor([box]), 16, 2.0)
    assert found.tolist() == [False] and crops.isfinite().all()


def test_boxes_and_the_crops_they_cut_give_the_same_tokens():
    cfg, batch = mini().expression, mini_batch()
    encoder = ExpressionEncoder(cfg).eval()
    tokens, found = encoder(batch["driving"], batch["faces"])
    crops, there = crop_faces(batch["driving"].flatten(0, 1), batch["faces"].flatten(0, 1), cfg.crop_size, cfg.enlarge)
    again, _ = encoder.encode_crops(crops.unflatten(0, (B, T)), there.unflatten(0, (B, T)))
    assert torch.equal(tokens, again) and torch.equal(found, there.unflatten(0, (B, T)))
    assert tokens.shape == (B, T, 2, 8)


@pytest.mark.parametrize("crop_size, stem_convs", [(16, 2), (32, 1), (512, 5)])
def test_crops_may_be_small_or_large(crop_size: int, stem_convs: int):
    cfg = ExpressionConfig(crop_size=crop_size, stem_convs=stem_convs, width=24, tokens=3)
    assert cfg.problems() == []
    tokens, _ = ExpressionEncoder(cfg).encode_crops(torch.rand(1, 1, 3, crop_size, crop_size), torch.ones(1, 1) > 0)
    assert tokens.shape == (1, 1, 3, 24)


def test_impossible_crop_sizes_and_crops_of_another_size_are_refused():
    assert "stem's stride (16)" in ExpressionConfig(crop_size=40).problems()[0]
    assert "stem_convs" in ExpressionConfig(stem_convs=-1).problems()[0]
    encoder = ExpressionEncoder(mini().expression)
    for crops, found in (((B, T, 3, 32, 32), (B, T)), ((B, T, 3, 16, 16), (B, T - 1)), ((B, 3, 16, 16), (B,))):
        with pytest.raises(InputError, match=r"face crops: .*expression\.crop_size"):
            encoder.encode_crops(torch.rand(crops), torch.ones(found) > 0)


def test_a_missing_face_contributes_exactly_nothing():
    """Whatever stands where no face was found, the video is the same bit for bit and its gradient is zero there."""
    animator, found, inputs = _animator(gates=1.0), _found(), _inputs()
    encoder = animator.part("expression").encoder
    crops = torch.rand(B, T, 3, 16, 16, requires_grad=True)

    def out(crops: Tensor) -> Tensor:
        return animator.denoise(*inputs, encoder.encode_crops(crops, found))

    before = out(crops)
    (gradient,) = torch.autograd.grad(before.pow(2).sum(), crops)
    reached = gradient.abs().amax((2, 3, 4)) > 0
    assert torch.equal(reached, found)
    for other in (torch.rand(()), torch.tensor(float("nan"))):
        assert torch.equal(out(torch.where(found[..., None, None, None], crops, other)), before)
    assert not torch.allclose(out(torch.where(found[..., None, None, None], torch.rand(()), crops)), before)


def test_no_face_at_all_has_a_defined_answer():
    animator, inputs = _animator(gates=1.0), _inputs()
    nobody = torch.zeros(B, T, dtype=torch.bool)
    outs = [
        animator.denoise(*inputs, animator.part("expression").encoder.encode_crops(torch.rand(B, T, 3, 16, 16), nobody))
        for _ in range(2)
    ]
    assert outs[0].isfinite().all() and torch.equal(*outs)


def test_expression_reaches_only_its_own_latent_frame_and_only_through_an_open_gate():
    block = ExpressionBlock(12, mini().expression).eval()
    x, tokens, found = torch.randn(1, F, 2, 12), torch.randn(1, T, 2, 8), torch.ones(1, T, dtype=torch.bool)
    assert torch.equal(block(x, tokens, found), x)
    nn.init.ones_(block.gate)
    before = block(x, tokens, found)
    for i in range(T):
        changed, hidden = tokens.clone(), found.clone()
        changed[:, i], hidden[:, i] = torch.randn(2, 8), False
        moved = (block(x, changed, found) - before).abs().amax((0, 2, 3)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [clock.latent_of_pixel(i)]
        assert torch.equal(block(x, changed, hidden), block(x, tokens, hidden))


def test_the_four_frames_of_a_latent_frame_are_told_apart():
    block = ExpressionBlock(12, mini().expression).eval()
    nn.init.ones_(block.gate)
    x, tokens, found = torch.randn(1, F, 2, 12), torch.randn(1, T, 2, 8), torch.ones(1, T, dtype=torch.bool)
    swapped = tokens[:, [0, 4, 2, 3, 1, 5, 6, 7, 8]]  # frames 1 and 4, both of latent frame 1
    moved = (block(x, swapped, found) - block(x, tokens, found)).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False, True, False]


def test_with_closed_gates_the_dit_is_untouched_bit_for_bit():
    inputs, batch = _inputs(), mini_batch()
    for gates, same in ((0.0, True), (1.0, False)):
        animator = _animator(gates)
        expression = animator.express(batch["driving"], batch["faces"])
        assert torch.equal(animator.denoise(*inputs, expression), animator.denoise(*inputs)) is same


@pytest.mark.parametrize("every, follow", [(1, [0, 1, 2, 3, 4]), (2, [1, 3]), (3, [2]), (6, [])])
def test_a_block_follows_every_nth_block_of_the_dit(every: int, follow: list[int]):
    cfg = mini()
    cfg.expression.every, cfg.denoiser.layers = every, 5
    animator, order = Animator(cfg, ("expression", "denoiser")).eval(), list[str]()
    for name, block in animator.part("expression").blocks.items():
        block.register_forward_hook(lambda *_, name=name: order.append(f"expression {name}"))
    for i, layer in enumerate(animator.part("denoiser").transformer.blocks):
        layer.register_forward_hook(lambda *_, i=i: order.append(f"dit {i}"))
    batch = mini_batch()
    animator.denoise(*_inputs(), animator.express(batch["driving"], batch["faces"]))
    wanted = [[f"dit {i}"] + [f"expression {i}"] * (i in follow) for i in range(5)]
    assert order == [name for names in wanted for name in names]
