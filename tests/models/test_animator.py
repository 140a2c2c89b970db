"""The whole model: parts, freezing, saving and every way loading can go wrong."""

from __future__ import annotations

import json

import pytest
import torch
from sizes import C, F, mini, mini_batch

from imanim.errors import InputError
from imanim.models.animator import PARTS, Animator, initialise_joint_prior
from imanim.models.config import AnimatorConfig
from imanim.models.files import INDEX, WEIGHTS
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


def test_saving_and_loading_gives_the_same_model(tmp_path):
    animator = Animator(mini()).eval()
    animator.save_pretrained(tmp_path / "model", record={"stage": 3})
    loaded = Animator.from_pretrained(tmp_path / "model")
    assert loaded.config == animator.config and loaded.parts == animator.parts
    for name, value in animator.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    assert index["record"] == {"stage": 3}
    assert not (tmp_path / "model.partial").exists()
    some = Animator.from_pretrained(tmp_path / "model", ("codebook", "retargeter"))
    assert some.parts == ("codebook", "retargeter")
    animator.save_pretrained(tmp_path / "model")  # over an old one
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_stage_takes_what_the_last_one_has_and_keeps_the_rest(tmp_path):
    Animator(mini(), ("tokenizer_encoder", "codebook")).save_pretrained(tmp_path / "one")
    animator = Animator(mini(), ("tokenizer_encoder", "codebook", "retargeter"))
    start = animator.part("retargeter").mask_token.clone()
    assert animator.load_parts(tmp_path / "one", strict=False) == ["tokenizer_encoder", "codebook"]
    assert torch.equal(animator.part("retargeter").mask_token, start)
    with pytest.raises(InputError, match="has no part retargeter"):
        animator.load_parts(tmp_path / "one")


def _saved(tmp_path):
    Animator(mini(), ("codebook", "retargeter")).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_weights_of_another_size_are_refused_by_tensor_and_both_shapes(tmp_path):
    folder, cfg = _saved(tmp_path), mini()
    cfg.retargeter.bottleneck = 5
    animator = Animator(cfg, ("codebook", "retargeter"))
    before = animator.part("codebook").embedding.clone()
    with pytest.raises(
        InputError, match=r"part retargeter: tensor to_bottleneck\.\w+ is \[6(, 16)?\] in the file, \[5(, 16)?\]"
    ):
        animator.load_parts(folder)
    assert torch.equal(animator.part("codebook").embedding, before), "a refused load changes nothing"


@pytest.mark.parametrize(
    "damage", ["cut", "missing weights", "no index", "broken index", "no folder", "another format", "typo"]
)
def test_damaged_models_are_refused_in_one_line(tmp_path, damage):
    folder = _saved(tmp_path)
    weights, index = folder / "retargeter" / WEIGHTS, folder / INDEX
    tree = json.loads(index.read_text())
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing weights":
        weights.unlink()
    elif damage == "no index":
        index.unlink()
    elif damage == "broken index":
        index.write_text(index.read_text()[:50])
    elif damage == "no folder":
        folder = tmp_path / "elsewhere"
    elif damage == "another format":
        index.write_text(json.dumps(tree | {"_format": 99}))
    else:
        tree["config"]["hieght"] = 3
        index.write_text(json.dumps(tree))
    with pytest.raises(InputError) as refusal:
        Animator.from_pretrained(folder)
    assert str(folder) in str(refusal.value) and "\n" not in str(refusal.value) and ";" in str(refusal.value)


def test_a_write_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    folder = _saved(tmp_path)
    old = (folder / INDEX).read_text()

    def full_disk(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imanim.models.files.save_file", full_disk)
    with pytest.raises(InputError, match="disk is full"):
        Animator(mini(), ("codebook",)).save_pretrained(folder)
    assert (folder / INDEX).read_text() == old and not (tmp_path / "m.partial").exists()


def test_heads_start_at_the_mean_pose():
    animator = Animator(mini()).eval()
    joints = torch.tensor([0.3, 0.6, 1.0]).expand(40, 20, 3)
    initialise_joint_prior(animator, joints, joint_weight(joints))
    clip, wanted = mini_batch()["driving"], torch.tensor([0.3, 0.6]).expand(2, 9, 20, 2)
    motion = animator.motion_tokens(clip)
    for heat in (animator.read_motion_joints(motion.z), animator.read_patch_joints(motion)):
        torch.testing.assert_close(animator.motion_joints_in_frame(heat), wanted, atol=0.1, rtol=0)
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
