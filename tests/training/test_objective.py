"""The three objectives: gradients where they belong, losses that fall, randomness from the generator alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from imanim.errors import InputError
from imanim.models.animator import Animator, initialise_joint_prior
from imanim.models.autoencoder import PatchAutoencoder
from imanim.models.joints import joint_weight
from imanim.training import flow
from imanim.training.objective import Losses, ObjectiveConfig, TrainingModule

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from sizes import C, dice, mini, mini_batch

NEEDED = {
    1: ("tokenizer_encoder", "codebook", "motion_decoder"),
    2: ("tokenizer_encoder", "codebook", "joint_decoder", "retargeter"),
    3: ("tokenizer_encoder", "codebook", "joint_decoder", "retargeter", "expression", "denoiser"),
}
FROZEN = {1: (), 2: ("tokenizer_encoder", "codebook"), 3: ("codebook",)}


def _vae() -> PatchAutoencoder:
    torch.manual_seed(1)
    vae = PatchAutoencoder(z_dim=C, hidden_dim=8, num_blocks=1, pixel_dim=4)
    still, clip = (torch.linalg.qr(torch.randn(n, C))[0].T.contiguous() for n in (192, 768))
    vae.set_bases(torch.zeros(192), still, clip)
    return vae.eval().requires_grad_(False)


def _module(stage: int, **cfg: object) -> TrainingModule:
    torch.manual_seed(0)
    animator = Animator(mini(), NEEDED[stage])
    joints = mini_batch(8)["joints"].flatten(0, 1)
    initialise_joint_prior(animator, joints, joint_weight(joints))
    animator.set_modes(dict.fromkeys(FROZEN[stage], "frozen"))
    settings = ObjectiveConfig(**{"vq_start_fraction": 0.0, **cfg})  # type: ignore[arg-type]
    return TrainingModule(animator, stage, settings, total_steps=100, vae=_vae() if stage > 1 else None).train()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_reach_every_trained_part_and_no_frozen_one(stage):
    module = _module(stage)
    for step in range(2):  # zero-initialised gates pass gradients on only after their first step
        losses = module(mini_batch(), dice(step), step)
        losses.total.backward()
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad.sign()
    for name, parameters in module.animator.parameter_parts().items():
        with_gradient = [p.grad is not None for _, p in parameters]
        if name in FROZEN[stage]:
            assert not any(with_gradient), name
        else:
            # Every parameter takes part: ZeRO-3 ranks must reduce the same ones.
            assert all(with_gradient), [n for (n, _), ok in zip(parameters, with_gradient) if not ok]
            assert any(p.grad.abs().sum() > 0 for _, p in parameters if p.grad is not None) or name == "codebook", name


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_loss_falls_on_a_moving_square(stage):
    module = _module(stage)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for step in range(25):
        losses = module(mini_batch(4), dice(step % 2, 4), step)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(float(losses.total.detach()))
    assert sum(history[-4:]) < 0.95 * sum(history[:4]), history


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_same_dice_give_the_same_losses_and_another_does_not(stage):
    results = [_module(stage)(mini_batch(), dice(seed), 0) for seed in (0, 0, 1)]
    assert isinstance(results[0], Losses)
    assert torch.equal(results[0].total, results[1].total)
    assert results[0].terms.keys() == results[1].terms.keys() and all(v.ndim == 0 for v in results[0].terms.values())
    if stage != 2:
        assert not torch.equal(results[0].total, results[2].total)


def test_the_codebook_waits_for_its_fraction_of_the_steps_then_starts_from_data():
    module = _module(1, vq_start_fraction=0.5)
    early = module(mini_batch(), dice(), 49)
    assert module.animator.part("codebook").ready == 0 and early.terms["codes_used"] == 0
    late = module(mini_batch(), dice(), 50)
    assert module.animator.part("codebook").ready == 1 and late.terms["codes_used"] > 0
    assert early.terms.keys() == late.terms.keys()
    assert early.terms["codebook_alive"] == 0 and late.terms["codebook_alive"] == 100
    assert late.terms["codebook_perplexity"] > 15 and late.terms["codebook_revived"] == 0


def test_the_codebooks_health_is_told_only_while_it_trains():
    for stage in (1, 2, 3):
        names = _module(stage)(mini_batch(), dice(), 0).terms.keys()
        assert {"codes_used", "code_perplexity"} <= names
        assert ("codebook_revived" in names) is (stage == 1)


def test_validation_changes_nothing_and_does_not_augment():
    module = _module(1).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(mini_batch(), dice(), 0)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_autoencoder_is_no_part_of_the_module():
    module = _module(3)
    assert module.vae is not None
    assert not any("vae" in name or "outside" in name for name, _ in module.named_modules())
    with pytest.raises(InputError, match="autoencoder"):
        TrainingModule(module.animator, 3, ObjectiveConfig(), total_steps=1)
    with pytest.raises(InputError, match="stage: 4"):
        TrainingModule(module.animator, 4, ObjectiveConfig(), total_steps=1)


def test_unknown_joints_of_a_sample_leave_a_finite_loss():
    for stage in (1, 2, 3):
        batch = mini_batch()
        for name in ("joints", "driving_joints", "identity_joints"):
            batch[name] = torch.full_like(batch[name], -1.0)
            batch[name][..., 2] = 0
        batch["faces"] = torch.full_like(batch["faces"], float("nan"))
        losses = _module(stage)(batch, dice(), 0)
        losses.total.backward()
        assert losses.total.isfinite() and losses.terms["heatmap"] == 0


def test_shifting_keeps_the_ends_and_moves_the_middle_towards_noise():
    sigma = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(flow.shifted(sigma, 3.0), torch.tensor([0.0, 0.75, 1.0]))
    drawn = flow.draw_sigma(dice(0, 4000), mean=0.0, std=1.0, shift=1.0)
    assert drawn.min() > 0 and drawn.max() < 1 and abs(float(drawn.median()) - 0.5) < 0.03


def test_a_perfect_output_has_no_flow_loss_and_an_error_weighs_more_at_little_noise():
    x0, noise, sigma = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2), torch.tensor([0.1, 0.9])
    equal = flow.channel_weights(torch.tensor([3.0, 1.0, 1.0]), "equal")
    assert flow.LOSSES["velocity"](noise - x0, x0, noise, sigma, 0.25, equal).sum() == 0
    assert flow.LOSSES["x0"](x0, x0, noise, sigma, 0.25, equal).sum() == 0
    loss = flow.LOSSES["x0"](x0 + 1, x0, noise, sigma, 0.25, equal)
    torch.testing.assert_close(loss, torch.tensor([4.0, 1 / 0.9]))


def test_channels_weighted_by_variance_give_the_error_of_what_they_stand_for():
    std = torch.tensor([2.0, 1.0, 0.5])
    weights = flow.channel_weights(std, "pixel")
    assert float(weights.mean()) == pytest.approx(1)
    x0, wrong = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    loss = flow.LOSSES["x0"](x0 + wrong, x0, wrong, torch.ones(2), 0.25, weights)
    real = (wrong * std.view(3, 1, 1, 1)).pow(2).mean((1, 2, 3, 4)) / (std**2).mean()
    torch.testing.assert_close(loss, real)
