"""The model's ablations: each changes what it says, keeps the interfaces, is trained and saved like everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sizes import B, C, F, J, T, dice, mini, mini_batch, unit

from imanim import clock
from imanim.models.animator import Animator, initialise_joint_prior
from imanim.models.autoencoder import PatchAutoencoder
from imanim.models.config import AnimatorConfig
from imanim.models.joints import read_out, target_heatmap
from imanim.models.retargeter import IdentityRetargeter
from imanim.models.skeleton import SkeletonReader, SkeletonRetargeter
from imanim.models.tokenizer import GridEncoder
from imanim.training.objective import ObjectiveConfig, TrainingModule

SUB = 4
WB = clock.STRIDE * J * SUB**2
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "grid": {"tokenizer": {"encoder": "grid", "tokens": 4}},
    "continuous": {"tokenizer": {"quantise": False}},
    "identity_tokens": {"retargeter": {"kind": "identity_tokens", "bottleneck": 16}},
    "skeleton": {"retargeter": {"kind": "skeleton", "sub": SUB, "bottleneck": WB}},
}


def variant(name: str) -> AnimatorConfig:
    cfg = mini()
    for section, values in VARIANTS[name].items():
        for key, value in values.items():
            setattr(getattr(cfg, section), key, value)
    assert cfg.problems() == cfg.tokenizer.problems() == cfg.retargeter.problems() == []
    return cfg


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_in_every_stage_and_comes_back_from_disk(name: str, tmp_path: Path):
    torch.manual_seed(0)
    animator, batch, cfg = Animator(variant(name)), mini_batch(), ObjectiveConfig(vq_start_fraction=0.0)
    initialise_joint_prior(animator, batch["joints"].flatten(0, 1), torch.ones(B * T, J))
    modes = {"tokenizer_encoder": "train", "codebook": "frozen", "motion_decoder": "frozen"}
    for stage in (1, 2, 3):
        animator.set_modes({**modes, "motion_decoder": "train"} if stage == 1 else modes)
        vae = PatchAutoencoder(z_dim=C) if stage > 1 else None
        losses = TrainingModule(animator, stage, cfg, total_steps=10, vae=vae).train()(batch, dice(), 5)
        assert torch.isfinite(losses.total) and set(losses.terms) >= {"joint_error", "codes_used"}
        if losses.total.requires_grad:
            losses.total.backward()
    animator.eval().save_pretrained(tmp_path / "model")
    again = Animator.from_pretrained(tmp_path / "model")
    latents = torch.randn(B, C, 4, 2)
    with torch.inference_mode():
        given = [a.conditions(batch["driving"], batch["faces"], latents) for a in (animator, again)]
    assert again.parts == animator.parts
    assert torch.equal(given[0].tokens, given[1].tokens)


def test_a_grids_tokens_are_its_patches_each_at_its_place():
    encoder = GridEncoder(variant("grid").tokenizer, J).eval()
    z, features = encoder(torch.rand(3, 3, 32, 32))
    assert z.shape == (3, 4, 4) and features.shape == (3, 4, 16)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, 4))
    assert "latent_tokens" not in encoder.state_dict()
    wrong = variant("grid").tokenizer
    wrong.tokens = 3
    assert wrong.problems() == ["tokens: 3, but the encoder grid has a token a patch; set 4"]


def test_unquantised_tokens_stay_as_the_encoder_made_them():
    animator = Animator(variant("continuous")).eval()
    frames = torch.rand(B, T, 3, 32, 16)
    motion = animator.motion_tokens(frames)
    assert motion.indices is None and float(motion.vq_loss) == 0
    torch.testing.assert_close(motion.z, animator.motion_tokens(frames, vq=False).z)
    animator.config.tokenizer.quantise = True
    assert not torch.equal(motion.z, animator.motion_tokens(frames).z)


def test_identity_tokens_leave_and_take_the_image_s_content_with_them():
    torch.manual_seed(0)
    retargeter = IdentityRetargeter(variant("identity_tokens")).eval()
    latents = torch.randn(B, C, 4, 2)
    tokens, _ = retargeter(unit(B, T, 3, 4), latents)
    assert tokens.shape == (B, F, 2, 1, 16)
    assert not {"mask_token", "mask_position"} & retargeter.state_dict().keys()
    # Without any layer, a mask token knows nothing of the image; an identity token is the image.
    retargeter.layers = torch.nn.ModuleList()
    other = latents.clone()
    other[:, :, :2] += 1  # the upper DiT token
    moved = (retargeter(unit(B, T, 3, 4), other)[0] - retargeter(unit(B, T, 3, 4), latents)[0]).abs().amax(-1)
    assert (moved[:, :, 0] > 0.01).all()


def drawn(xy: torch.Tensor, height: int = 64, width: int = 32) -> torch.Tensor:
    """Logits [B,T,J,24,24] on the padded square of joints ``xy`` [B,T,J,2] in a frame."""
    square = (xy * xy.new_tensor([width, height]) + xy.new_tensor([(height - width) / 2, 0])) / height
    return (target_heatmap(square, 24, 24) + 1e-9).log().unflatten(-1, (24, 24))


def test_a_skeleton_is_the_drivers_joints_where_the_driver_has_them():
    cfg = variant("skeleton")
    xy = 0.3 + 0.4 * torch.rand(B, T, J, 2, generator=torch.Generator().manual_seed(0))
    tokens, nothing = SkeletonRetargeter(cfg)(drawn(xy), torch.randn(B, C, 8, 4))
    assert tokens.shape == (B, F, 4, 2, WB) and nothing.shape == (B, J, 16, 8) and not nothing.any()
    assert (
        not tokens[:, 0].unflatten(-1, (clock.STRIDE, J, -1))[:, :, :, :3].any()
    )  # the first latent frame holds one frame
    read = read_out(SkeletonReader(J, SUB)(tokens, T))
    torch.testing.assert_close(read, xy, atol=0.012, rtol=0)


@pytest.mark.parametrize("frame", [0, 1, 4, 5])
def test_a_skeletons_frame_lies_in_its_own_latent_frame(frame: int):
    cfg, still = variant("skeleton"), torch.full((1, T, J, 2), 0.5)
    moved = still.clone()
    moved[:, frame] = 0.7
    latents = torch.randn(1, C, 8, 4)
    a, b = (SkeletonRetargeter(cfg)(drawn(xy), latents)[0] for xy in (still, moved))
    assert [f for f in range(F) if not torch.equal(a[:, f], b[:, f])] == [clock.latent_of_pixel(frame)]


def test_no_gradient_makes_a_skeleton_into_something_else():
    heat = drawn(torch.full((1, T, J, 2), 0.5)).requires_grad_()
    tokens, nothing = SkeletonRetargeter(variant("skeleton"))(heat, torch.randn(1, C, 8, 4))
    assert not tokens.requires_grad and not nothing.requires_grad


def test_settings_that_do_not_go_together_are_named():
    cfg = variant("skeleton")
    cfg.retargeter.bottleneck = 64
    assert f"set {WB}" in cfg.problems()[0]
    cfg = variant("skeleton")
    cfg.retargeter.reference_tokens = True
    assert "retargeter.reference_tokens" in cfg.problems()[0]
    cfg = variant("identity_tokens")
    cfg.height, cfg.width, cfg.retargeter.grid_stride = 64, 32, 2
    assert "retargeter.grid_stride" in cfg.problems()[0]
