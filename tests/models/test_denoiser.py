"""The DiT: equal to diffusers' own with closed inlets, and what the inlets do when open."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from sizes import B, C, F, mini

from imanim.models.config import AnimatorConfig
from imanim.models.denoiser import PREDICTIONS, TIMESTEPS, Denoiser


def _denoiser(cfg: AnimatorConfig) -> tuple[Denoiser, WanTransformer3DModel]:
    """A denoiser whose transformer has random weights everywhere, and a plain one with the same."""
    model = Denoiser(cfg).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight)
    plain = WanTransformer3DModel(**{k: v for k, v in model.transformer.config.items() if not k.startswith("_")})
    plain.load_state_dict(model.transformer.state_dict())
    return model, plain.eval()


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(B, C, F, 4, 2), torch.rand(B), torch.randn(B, C, 4, 2), torch.randn(B, F, 2, 1, 6)


def test_with_closed_inlets_it_equals_the_plain_wan_transformer_bit_for_bit():
    model, plain = _denoiser(mini(prediction="velocity", reference_skip=False, text_tokens=5))
    noisy, sigma, reference, tokens = _inputs()
    timestep = torch.cat([torch.zeros(B, 2), (sigma * TIMESTEPS)[:, None].expand(-1, F * 2)], 1)
    whole = torch.cat([reference[:, :, None], noisy], 2)
    with torch.no_grad():
        wanted = plain(whole, timestep, torch.zeros(B, 5, 8)).sample[:, :, 1:]
        assert torch.equal(model(noisy, sigma, reference, tokens), wanted)
        text = torch.randn(B, 5, 8)
        wanted = plain(whole, timestep, text).sample[:, :, 1:]
        assert torch.equal(model(noisy, sigma, reference, tokens, text=text), wanted)


def test_open_inlets_let_tokens_and_reference_in():
    model, _ = _denoiser(mini(prediction="velocity", reference_skip=False))
    noisy, sigma, reference, tokens = _inputs()
    closed = model(noisy, sigma, reference, tokens)
    torch.nn.init.normal_(model.token_inlet.weight)
    opened = model(noisy, sigma, reference, tokens)
    assert not torch.allclose(opened, closed)
    assert not torch.allclose(opened, model(noisy, sigma, reference, tokens + 1))


def test_from_scratch_it_starts_at_the_still_character():
    noisy, sigma, reference, tokens = _inputs()
    model = Denoiser(mini())
    torch.testing.assert_close(model(noisy, sigma, reference, tokens), reference[:, :, None].expand_as(noisy))


def test_a_coarse_mask_grid_is_spread_over_the_dit_tokens():
    cfg = mini()
    cfg.retargeter.grid_stride, cfg.height, cfg.width = 2, 64, 32
    assert cfg.problems() == [] and cfg.mask_grid == (2, 1)
    model = Denoiser(cfg)
    torch.nn.init.normal_(model.token_inlet.weight)
    inlet = model._inlet(torch.zeros(1, C, 8, 4), torch.randn(1, F, 2, 1, 6), range(F), True)
    assert inlet is not None
    clip = inlet.unflatten(1, (1 + F, 4, 2))
    assert clip[:, 0].abs().sum() == 0
    assert torch.equal(clip[:, 1, 0, 0], clip[:, 1, 1, 1]) and not torch.equal(clip[:, 1, 1, 0], clip[:, 1, 2, 0])


@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_a_perfect_output_gives_the_true_velocity_and_the_true_latents(prediction):
    x0, noise = torch.randn(B, C, F, 4, 2), torch.randn(B, C, F, 4, 2)
    sigma = torch.tensor([0.2, 0.9]).view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma) * x0 + sigma * noise
    out = {"velocity": noise - x0, "x0": x0}[prediction]
    to_velocity, to_x0 = PREDICTIONS[prediction]
    torch.testing.assert_close(to_velocity(out, noisy, sigma), noise - x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(to_x0(out, noisy, sigma), x0, atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        model, _ = _denoiser(mini(gradient_checkpointing=on))
        noisy, sigma, reference, tokens = torch.ones(B, C, F, 4, 2), torch.rand(B), torch.ones(B, C, 4, 2), None
        model.train()(noisy, sigma, reference, tokens).pow(2).mean().backward()
        gradients.append(model.transformer.patch_embedding.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_it_runs_in_bfloat16_and_under_autocast():
    noisy, sigma, reference, tokens = _inputs()
    for kind in ("weights", "autocast"):
        model, _ = _denoiser(mini(reference_skip=True, outlet_blocks=1, outlet_width=8))
        torch.nn.init.normal_(model.token_inlet.weight)
        exact = model(noisy, sigma, reference, tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            out = (model.bfloat16() if kind == "weights" else model)(noisy, sigma, reference, tokens)
        assert torch.nn.functional.cosine_similarity(out.float().flatten(), exact.flatten(), 0) > 0.99


def test_the_outlet_is_closed_at_first_and_sees_across_the_borders_of_tokens_within_a_latent_frame():
    torch.manual_seed(0)
    cfg = mini(prediction="velocity", reference_skip=False, outlet_blocks=1, outlet_width=8)
    noisy, sigma, reference, tokens = _inputs()
    with torch.no_grad():
        model, _ = _denoiser(cfg)
        closed = model(noisy, sigma, reference, tokens)
        without = Denoiser(mini(prediction="velocity", reference_skip=False)).eval()
        missing, unexpected = without.load_state_dict(model.state_dict(), strict=False)
        assert not missing and all(name.startswith("outlet.") for name in unexpected)
        assert torch.equal(closed, without(noisy, sigma, reference, tokens))
        torch.nn.init.normal_(model.outlet.leave.weight)
        assert not torch.allclose(model(noisy, sigma, reference, tokens), closed)
        out = torch.zeros(1, C, F, 4, 2)
        spot = out.clone()
        spot[0, :, 1, 1, 0] = 1.0  # the last row of the upper token, in one latent frame
        args = (torch.zeros_like(out), torch.zeros(1, C, 4, 2), torch.zeros(1))
        changed = (model.outlet(spot, *args) - model.outlet(out, *args)).abs().amax((0, 1))
    assert changed[1, 2].gt(0).all(), "the token below hears of it"
    assert changed[[0, 2]].eq(0).all(), "other latent frames do not"
