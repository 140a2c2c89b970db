"""Heatmaps: read-out, losses, coordinates, the joint decoder's clock."""

from __future__ import annotations

import pytest
import torch

from imanim.models.joints import (
    HeatmapHead,
    JointDecoder,
    frame_to_square,
    heatmap_loss,
    joint_error,
    joint_weight,
    pad_to_square,
    prior_logits,
    read_out,
    square_to_frame,
    target_heatmap,
)


@pytest.mark.parametrize("size", [(128, 80), (80, 128), (64, 64)])
def test_square_coordinates_point_at_the_same_pixel_as_the_padded_frame(size):
    height, width = size
    frame = torch.zeros(1, 3, height, width)
    frame[:, :, height // 4 : height // 4 + 2, width // 2 : width // 2 + 2] = 1
    xy = torch.tensor([(width // 2 + 1) / width, (height // 4 + 1) / height])
    square = pad_to_square(frame, 96)[0, 0]
    ys, xs = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    found = torch.stack([(square * xs).sum(), (square * ys).sum()]) / square.sum() / 96
    torch.testing.assert_close(frame_to_square(xy, height, width), found, atol=2e-3, rtol=0)
    torch.testing.assert_close(square_to_frame(frame_to_square(xy, height, width), height, width), xy)


def test_read_out_recovers_coordinates_between_cells_on_an_oblong_grid():
    xy = torch.tensor([[0.31, 0.52], [0.6, 0.4]])
    heat = target_heatmap(xy, 32, 20).log().unflatten(-1, (32, 20))
    torch.testing.assert_close(read_out(heat), xy, atol=2e-3, rtol=0)


def test_joints_outside_the_frame_or_unknown_do_not_count():
    joints = torch.tensor(
        [[0.5, 0.5, 1.0], [0.5, 0.5, 0.0], [1.2, 0.5, 1.0], [-1, -1, 0], [0.0, 0.0, 0.0], [float("nan")] * 2 + [0.0]]
    )
    assert joint_weight(joints).tolist() == [1, 1, 0, 0, 0, 0]


def test_masked_joints_change_neither_loss_nor_gradient_even_as_nan():
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    xy, weight = torch.rand(2, 3, 2), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    spoiled = torch.where(weight[..., None] > 0, xy, float("nan"))
    loss = heatmap_loss(logits, spoiled, weight)
    assert loss == heatmap_loss(logits, xy, weight)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 2].abs().sum() == 0
    assert heatmap_loss(logits, xy, torch.zeros(2, 3)) == 0


def test_heatmap_loss_is_least_at_the_true_heatmap():
    xy, weight = torch.rand(1, 4, 2), torch.ones(1, 4)
    right = target_heatmap(xy, 12, 12).clamp(min=1e-9).log().unflatten(-1, (12, 12))
    assert heatmap_loss(right, xy, weight) < heatmap_loss(right.roll(1, -1), xy, weight)
    assert heatmap_loss(right, xy, weight) < heatmap_loss(torch.zeros_like(right), xy, weight)


def test_joint_error_is_in_percent_of_the_image_height():
    truth, weight = torch.full((1, 1, 2), 0.5), torch.ones(1, 1)
    assert float(joint_error(truth + torch.tensor([0.0, 0.1]), truth, weight, 128, 80)) == pytest.approx(10, abs=1e-4)
    assert float(joint_error(truth + torch.tensor([0.1, 0.0]), truth, weight, 128, 80)) == pytest.approx(6.25, abs=1e-4)


def test_a_head_starts_at_the_prior_and_lays_cells_out_by_place():
    head = HeatmapHead(8, 2, (3, 2), 4)
    xy = torch.tensor([[[0.3, 0.7], [0.7, 0.4]]]).expand(50, -1, -1)
    head.set_prior(xy, torch.ones(50, 2))
    start = head(torch.randn(5, 6, 8))
    assert start.shape == (5, 1, 2, 12, 8)
    torch.testing.assert_close(read_out(start)[0, 0], xy[0], atol=0.04, rtol=0)
    torch.nn.init.normal_(head.to_cells.weight)
    tokens = torch.zeros(1, 6, 8)
    changed = tokens.clone()
    changed[0, 3] = torch.randn(8)  # row 1, column 1
    moved = (head(changed) - head(tokens))[0, 0].abs().sum(0) > 0
    assert moved[4:8, 4:8].all() and moved.sum() == 16


def test_the_joint_decoder_gives_pixel_frames_to_the_latent_frame_of_the_clock():
    decoder = JointDecoder(6, 8, 4, (2, 1), 2)
    torch.nn.init.normal_(decoder.head.to_cells.weight)
    tokens = torch.randn(1, 3, 2, 1, 6)
    before = decoder(tokens, 9)
    assert before.shape == (1, 9, 4, 4, 2)
    changed = tokens.clone()
    changed[:, 1] += 1
    moved = (decoder(changed, 9) - before).abs().flatten(2).sum(-1)[0] > 0
    assert moved.tolist() == [False] + [True] * 4 + [False] * 4


def test_a_prior_is_the_log_of_a_distribution():
    heat = prior_logits(torch.rand(300, 3, 2), torch.ones(300, 3), 6, 5).exp().sum((-2, -1))
    torch.testing.assert_close(heat, torch.ones(3), atol=1e-3, rtol=0)
