"""The whole model: parts, freezing, what flows between them. (Saving and loading: test_model_files.py)"""

from __future__ import annotations

import pytest
import torch
from sizes import C, F, mini, mini_batch

from imanim.errors import InputError
from imanim.models.animator import PARTS, Animator, initialise_joint_prior
from imanim.models.config import AnimatorConfig
from imanim.models.joints import joint_weight, read_out


def test_every_parameter_belongs_to_exactly_one_part():
    animator = Animator(mini())
    parts = animator.parameter_parts()
    assert tuple(parts) == PARTS and parts["codebook"] == []
    names = [name for part in parts.values() for name, _ in part]
    assert sorted(names) == sorted(name for name, _ in animator.named_parameters())


def test_absent_parts_are_not_built_and_say_so_when_asked_for():
    animator = Animator(mini(), ("tokenizer_encoder", "codebook"))
    assert animator.denoiser is None and not any(n.startswith("denoiser") for n, _ in animator.named_parameters())
    with pytest.raises(InputError, match="retargeter"):
        animator.retarget(torch.zeros(1, 9, 3, 4), torch.zeros(1, C, 4, 2))
    with pytest.raises(InputError, match="denoizer"):
        Animator(mini(), ("denoizer",))


def test_frozen_parts_ask_for_no_gradient_and_the_codebook_stands_still():
    animator = Animator(mini()).train()
    animator.set_modes({"tokenizer_encoder": "frozen", "codebook": "frozen"})
    before = animator.part("codebook").embedding.clone()
    motion = animator.motion_tokens(mini_batch()["driving"])
    assert not motion.z.requires_grad and torch.equal(animator.part("codebook").embedding, before)
    assert not any(p.requires_grad for _, p in animator.parameter_parts()["tokenizer_encoder"])
    with pytest.raises(InputError, match="freeze"):
        animator.set_modes({"denoiser": "freeze"})


def test_heads_start_at_the_mean_pose():
    animator = Animator(mini()).eval()
    joints = torch.tensor([0.3, 0.6, 1.0]).expand(40, 20, 3)
    initialise_joint_prior(animator, joints, joint_weight(joints))
    clip, wanted = mini_batch()["driving"], torch.tensor([0.3, 0.6]).expand(2, 9, 20, 2)
    motion = animator.motion_tokens(clip)
    for heat in (animator.read_motion_joints(motion.z), animator.read_patch_joints(motion)):
        torch.testing.assert_close(animator.motion_joints_in_frame(heat, *clip.shape[-2:]), wanted, atol=0.1, rtol=0)
    heat = animator.read_joints(torch.randn(2, F, 2, 1, 6), 9)
    torch.testing.assert_close(read_out(heat), wanted, atol=0.35, rtol=0)  # cells of half a frame


def test_sampling_with_the_velocity_of_a_perfect_model_ends_at_its_latents():
    """Euler on dx/dsigma of a model that always answers x0 lands on x0, whatever the steps."""
    from imanim.training.flow import euler

    animator = Animator(mini()).eval()
    x0 = torch.randn(2, C, F, 4, 2)
    animator.denoise = lambda *_args: x0  # type: ignore[method-assign]
    conditions = animator.conditions(mini_batch()["driving"], mini_batch()["faces"], torch.randn(2, C, 4, 2))
    out = euler(lambda x, s: animator.velocity(x, s, conditions), torch.randn_like(x0), 3, shift=3.0)
    torch.testing.assert_close(out, x0, atol=1e-5, rtol=1e-4)


def test_the_configuration_names_every_impossible_size():
    cfg = AnimatorConfig(height=130, frames=16)
    cfg.tokenizer.heatmap = 23
    cfg.retargeter.heads = 5
    assert [p.split(":")[0] for p in cfg.problems()] == ["height", "frames"]
    assert cfg.tokenizer.problems()[0].startswith("heatmap") and cfg.retargeter.problems()[0].startswith("width")
    assert AnimatorConfig().problems() == []
