"""The retargeter: what reaches the video through it and what cannot, and the grids and clip lengths it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from sizes import B, C, F, J, T, mini, mini_batch, unit
from torch import Tensor, nn

from imanim import clock
from imanim.errors import InputError
from imanim.models.animator import Animator, Conditions
from imanim.models.autoencoder import PatchAutoencoder, encode_image
from imanim.models.config import AnimatorConfig
from imanim.models.joints import JointDecoder, read_out
from imanim.models.layers import positions_on, sinusoids, times_on
from imanim.models.retargeter import Retargeter


def sized(height: int = 32, width: int = 16, **retargeter: object) -> AnimatorConfig:
    """A mini model of a video size; a latent is 8 pixels, a DiT token 16."""
    cfg = mini(prediction="velocity", reference_skip=False)
    cfg.height, cfg.width = height, width
    for name, value in retargeter.items():
        setattr(cfg.retargeter, name, value)
    assert cfg.problems() == []
    return cfg


def built(height: int = 32, width: int = 16, **retargeter: object) -> Retargeter:
    return Retargeter(sized(height, width, **retargeter)).eval()


# ------------------------------------------------------------------------- the bottleneck, through the whole model


@pytest.fixture
def animator() -> Animator:
    return wide_open(sized())


def wide_open(cfg: AnimatorConfig) -> Animator:
    """Every inlet wide open, so that whatever can flow does."""
    torch.manual_seed(0)
    animator = Animator(cfg).eval()
    for name, parameter in animator.named_parameters():
        if parameter.ndim > 1 or name.endswith("gate"):
            nn.init.normal_(parameter, std=0.3)
    return animator


@contextmanager
def leaving(animator: Animator, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, ``change`` is applied to what to_bottleneck emits."""
    handle = animator.part("retargeter").to_bottleneck.register_forward_hook(lambda _m, _in, out: change(out))
    try:
        yield
    finally:
        handle.remove()


def arriving(animator: Animator, change: Callable[[Tensor], Tensor]) -> Any:
    """As :func:`leaving`, for the mask positions' features just before to_bottleneck."""
    return animator.part("retargeter").to_bottleneck.register_forward_pre_hook(lambda _m, args: (change(args[0]),))


def video(animator: Animator, source: Tensor, reference: Tensor) -> tuple[Tensor, Conditions]:
    """The DiT's output for a fixed clip: ``source`` latents go to the retargeter, ``reference`` latents to the DiT."""
    batch, random = mini_batch(), torch.Generator().manual_seed(5)
    conditions = animator.conditions(batch["driving"], batch["faces"], source)
    noisy, sigma = torch.randn(B, C, F, 4, 2, generator=random), torch.full((B,), 0.7)
    conditions = conditions._replace(identity_latents=reference)
    return animator.denoise(noisy, sigma, *conditions), conditions


def poses() -> tuple[Tensor, Tensor]:
    """Latents [B,C,h,w] of a character in two poses: the same bright shape on the same ground, elsewhere in the picture."""
    torch.manual_seed(1)
    vae = PatchAutoencoder(z_dim=C, hidden_dim=8, num_blocks=1, pixel_dim=4)
    still, clip = (torch.linalg.qr(torch.randn(n, C))[0].T.contiguous() for n in (192, 768))
    vae.set_bases(torch.zeros(192), still, clip)
    image = torch.full((B, 3, 32, 16), 0.2)
    image[:, :, 4:13, 3:9] = torch.tensor([0.9, 0.6, 0.3]).view(3, 1, 1)
    moved = image.roll((11, 4), (2, 3))
    assert torch.equal(image.flatten(2).sort().values, moved.flatten(2).sort().values), "the same colours"
    with torch.no_grad():
        return encode_image(vae, image), encode_image(vae, moved)


def test_the_source_image_has_two_ways_into_the_video_the_bottleneck_and_the_reference_latent(animator: Animator):
    source, reference = (torch.randn(B, C, 4, 2, requires_grad=True) for _ in range(2))

    def felt() -> list[bool]:
        out, _ = video(animator, source, reference)
        found = torch.autograd.grad(out.pow(2).sum(), (source, reference), allow_unused=True)
        return [g is not None and bool(g.abs().amax((1, 2, 3)).gt(0).all()) for g in found]

    assert felt() == [True, True]
    with leaving(animator, lambda out: out.detach()):
        assert felt() == [False, True]
    with leaving(animator, torch.zeros_like):
        assert felt() == [False, True]


def test_with_the_bottleneck_held_another_pose_changes_not_a_bit(animator: Animator):
    pose, other = poses()
    held: list[Tensor] = []
    with torch.no_grad():
        with leaving(animator, lambda out: held.append(out) or out):
            before, conditions = video(animator, pose, pose)
        free, _ = video(animator, other, pose)
        with leaving(animator, lambda _out: held[0]):
            after, after_conditions = video(animator, other, pose)
            by_reference, _ = video(animator, other, other)
    assert torch.equal(after, before)
    assert (free - before).abs().max() > 1e-3, "open, the bottleneck does carry the pose"
    assert (by_reference - before).abs().max() > 1e-3, "so does the reference latent"
    # The expression path has seen the driver alone.
    assert conditions.expression is not None and after_conditions.expression is not None
    assert all(torch.equal(a, b) for a, b in zip(conditions.expression, after_conditions.expression))


@pytest.mark.parametrize("stride", [1, 2])
def test_with_reference_tokens_the_character_images_own_pose_joins_the_reference_frame_alone(stride: int):
    """One latent frame of tokens more, ahead; the clip's tokens are what they were, and the joint decoder reads both."""
    torch.manual_seed(0)
    with_own = Animator(sized(64, 32, reference_tokens=True, grid_stride=stride)).eval()
    without = Animator(sized(64, 32, grid_stride=stride)).eval()
    for part in ("retargeter", "joint_decoder"):
        missing, unexpected = without.part(part).load_state_dict(with_own.part(part).state_dict(), strict=False)
        assert not missing and all(name.startswith("reference.") for name in unexpected)
    z, identity = unit(B, T, 3, 4), torch.randn(B, C, 8, 4)
    with torch.no_grad():
        tokens, plain = with_own.retarget(z, identity), without.retarget(z, identity)
        assert tokens.shape[1] == 1 + F == 1 + plain.shape[1]
        torch.testing.assert_close(tokens[:, 1:], plain)
        torch.testing.assert_close(with_own.read_joints(tokens, T), without.read_joints(plain, T))
        own = with_own.read_reference_joints(tokens)
        assert own is not None and own.shape == (B, J, *with_own.read_joints(tokens, T).shape[-2:])
        assert without.read_reference_joints(plain) is None
        other = with_own.read_reference_joints(with_own.retarget(z, torch.randn(B, C, 8, 4)))
        assert (other - own).abs().max() > 1e-3, "it is the image's pose"
        moved = with_own.read_reference_joints(with_own.retarget(unit(B, T, 3, 4), identity))
        assert torch.equal(moved, own), "and not the driver's"


def test_reference_tokens_change_the_video_through_the_reference_frame():
    animator = wide_open(sized(reference_tokens=True))
    noisy, sigma, reference = torch.randn(B, C, F, 4, 2), torch.full((B,), 0.7), torch.randn(B, C, 4, 2)
    tokens = animator.retarget(unit(B, T, 3, 4), reference)
    without_own = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, 1:]], 1)
    with torch.no_grad():
        out, changed = (animator.denoise(noisy, sigma, reference, x) for x in (tokens, without_own))
    assert (out - changed).abs().max() > 1e-4


def test_what_the_bottleneck_cannot_express_does_not_get_out(animator: Animator):
    """Features along the null space of to_bottleneck are wiped out, all others come through."""
    weight = animator.part("retargeter").to_bottleneck.weight
    reference = torch.randn(B, C, 4, 2)
    _, _, rows = torch.linalg.svd(weight.detach().double())
    silent, random = rows[len(weight) :].sum(0).float(), torch.randn(weight.shape[1])
    silent *= random.norm() / silent.norm()
    with torch.no_grad():
        before, _ = video(animator, reference, reference)
        changes = []
        for vector in (silent, random):
            handle = arriving(animator, lambda x, v=vector: x + v)
            changes.append(float((video(animator, reference, reference)[0] - before).abs().max()))
            handle.remove()
    assert changes[0] < 1e-4 < 1e-2 < changes[1], changes


def test_with_the_bottleneck_and_the_expression_held_another_driver_changes_not_a_bit(animator: Animator):
    reference, z = torch.randn(B, C, 4, 2), unit(B, T, 3, 4).requires_grad_()
    noisy, sigma = torch.randn(B, C, F, 4, 2), torch.full((B,), 0.7)

    def out() -> Tensor:
        return animator.denoise(noisy, sigma, reference, animator.retarget(z, reference))

    (open_gradient,) = torch.autograd.grad(out().pow(2).sum(), z)
    assert open_gradient.abs().amax((2, 3)).gt(0).all(), "every frame's motion reaches the video"
    with leaving(animator, lambda out: out.detach()):
        assert torch.autograd.grad(out().pow(2).sum(), z, allow_unused=True) == (None,)


def test_nothing_leaves_but_the_mask_positions():
    """With what mask tokens hear switched off, what leaves must be deaf to identity and motion: only they are read."""
    retargeter, z, identity = built(), unit(1, T, 3, 4), torch.randn(1, C, 4, 2)
    for layer in retargeter.layers:
        nn.init.zeros_(layer.get_submodule("space.to_out").weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.get_submodule("modulation").weight)  # type: ignore[arg-type]
    out = retargeter(z, identity)[0]
    assert torch.equal(out, retargeter(unit(1, T, 3, 4), torch.randn(1, C, 4, 2))[0])


@pytest.mark.parametrize("width", [1, 6, 40])
def test_the_bottlenecks_width_is_a_setting(width: int):
    assert built(bottleneck=width)(unit(1, T, 3, 4), torch.randn(1, C, 4, 2))[0].shape == (1, F, 2, 1, width)


# ---------------------------------------------------------------------------------------------------- the frame clock


def test_without_attention_over_time_the_jacobian_is_the_clock():
    retargeter, identity = built(temporal=False), torch.randn(1, C, 4, 2)
    jacobian = torch.autograd.functional.jacobian(lambda z: retargeter(z, identity)[0], unit(1, T, 3, 4))
    felt = jacobian.abs().amax((0, 2, 3, 4, 5, 7, 8))  # [F,T]
    own = torch.tensor([[clock.latent_of_pixel(i) == f for i in range(T)] for f in range(F)])
    assert torch.equal(felt > 0, own)


@pytest.mark.parametrize("i", range(T))
def test_without_attention_over_time_a_pixel_frame_moves_only_its_own_latent_frame(i: int):
    retargeter, z, identity = built(temporal=False), unit(1, T, 3, 4), torch.randn(1, C, 4, 2)
    changed = z.clone()
    changed[:, i] = unit(3, 4)
    moved = (retargeter(changed, identity)[0] - retargeter(z, identity)[0]).abs().amax((0, 2, 3, 4))
    assert moved[clock.latent_of_pixel(i)] > 1e-4
    moved[clock.latent_of_pixel(i)] = 0
    assert not moved.any(), "the other frames stay bit for bit"


def test_with_attention_over_time_a_pixel_frame_moves_every_latent_frame():
    retargeter, z, identity = built(), unit(1, T, 3, 4), torch.randn(1, C, 4, 2)
    changed = z.clone()
    changed[:, 6] = unit(3, 4)
    moved = (retargeter(changed, identity)[0] - retargeter(z, identity)[0]).abs().amax((0, 2, 3, 4)) > 1e-6
    assert moved.all()


# ------------------------------------------------------------------------------------------- grids and clip lengths


@pytest.mark.parametrize("size", [(64, 32), (64, 16), (48, 32), (16, 16)])
def test_a_smaller_grid_is_the_top_left_of_the_configured_one(size: tuple[int, int]):
    """A model of the smaller size whose position tables were cut by hand gives the same tokens."""
    large, small = built(64, 32), Retargeter(sized(*size)).eval()
    rows, columns = size[0] // 16, size[1] // 16
    kept = [r * 2 + c for r in range(rows) for c in range(columns)]  # the configured grid is 4x2
    state = large.state_dict()
    for name in ("identity.position", "mask_position"):
        state[name] = state[name][kept]
    state["identity.head.prior"] = small.identity.head.prior.detach()
    small.load_state_dict(state)
    z, identity = unit(1, T, 3, 4), torch.randn(1, C, 2 * rows, 2 * columns)
    (tokens, heat), (wanted, _) = large(z, identity), small(z, identity)
    assert tokens.shape == (1, F, rows, columns, 6) and torch.equal(tokens, wanted)
    assert heat.shape == (1, J, 2 * rows, 2 * columns)


def test_a_strided_mask_grid_takes_smaller_latents_too():
    retargeter = built(96, 64, grid_stride=2)  # 6x4 DiT tokens, 3x2 mask tokens
    for h, w in ((12, 8), (8, 8), (4, 4)):
        assert retargeter(unit(1, T, 3, 4), torch.randn(1, C, h, w))[0].shape == (1, F, h // 4, w // 4, 6)
    with pytest.raises(InputError, match=r"identity latents: 6x8 .* \(4\)"):
        retargeter(unit(1, T, 3, 4), torch.randn(1, C, 6, 8))


@pytest.mark.parametrize("size", [(5, 2), (4, 3)])
def test_latents_that_do_not_divide_into_tokens_are_refused(size: tuple[int, int]):
    with pytest.raises(InputError, match=rf"identity latents: {size[0]}x{size[1]} .*denoiser.patch"):
        built(64, 64)(unit(1, T, 3, 4), torch.randn(1, C, *size))


def test_a_larger_grid_is_refused_until_asked_for():
    z, identity = unit(1, T, 3, 4), torch.randn(1, C, 6, 2)
    wanted = r"a grid of 3x1 .* configured for 2x1; .*retargeter\.interpolate_positions=true"
    with pytest.raises(InputError, match=wanted):
        built()(z, identity)
    tokens, heat = built(interpolate_positions=True)(z, identity)
    assert tokens.shape == (1, F, 3, 1, 6) and heat.shape == (1, J, 6, 2) and tokens.isfinite().all()
    decoder = JointDecoder(6, 8, J, (2, 1), 2)
    with pytest.raises(InputError, match=r"retargeted tokens: a grid of 3x1"):
        decoder(tokens, T)
    decoder.interpolate = True
    assert decoder(tokens, T).shape == (1, T, J, 6, 2)


def test_stretched_positions_keep_their_order_and_a_direction_that_fits_is_cropped():
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    table = torch.stack([rows, columns], -1).flatten(0, 1)  # 3x4, each position's embedding is its place
    same = positions_on(table, (3, 4), (3, 4), interpolate=True, what="")
    assert same is table, "at the configured size the table itself, bit for bit"
    stretched = positions_on(table, (3, 4), (6, 2), interpolate=True, what="").unflatten(0, (6, 2))
    torch.testing.assert_close(stretched[:, :, 1], torch.arange(2.0).expand(6, -1))
    assert (stretched[1:, :, 0] > stretched[:-1, :, 0]).all()
    assert stretched[0, 0, 0].abs() < 0.5 and (stretched[-1, 0, 0] - 2).abs() < 0.5


def test_a_joints_prior_stays_at_its_place_in_the_frame_on_every_grid():
    """Cropped, it would move: it is a distribution over the frame, not over cells."""
    decoder = JointDecoder(6, 8, J, (8, 6), 2, interpolate=True)
    xy = torch.rand(J, 2) * 0.6 + 0.2
    decoder.head.set_prior(xy.expand(40, -1, -1), torch.ones(40, J))
    nn.init.zeros_(decoder.head.to_cells.weight)
    for grid in ((8, 6), (4, 3), (5, 6), (12, 9)):
        found = read_out(decoder(torch.randn(1, 1, *grid, 6), 1))[0, 0]
        torch.testing.assert_close(found, xy, atol=0.06, rtol=0)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_clips_up_to_the_configured_length_are_taken(frames: int):
    cfg = sized()
    tokens, _ = Retargeter(cfg).eval()(unit(2, frames, 3, 4), torch.randn(2, C, 4, 2))
    latents = clock.latent_frames(frames)
    assert tokens.shape == (2, latents, 2, 1, 6)
    heat = Animator(cfg, ("joint_decoder",)).read_joints(tokens, frames)
    assert heat.shape == (2, frames, J, 4, 2)
    with pytest.raises(InputError, match=f"{latents} latent frames, but {frames + 4} frames have {latents + 1}"):
        Animator(cfg, ("joint_decoder",)).read_joints(tokens, frames + 4)


def test_a_longer_clip_is_refused_until_asked_for():
    z, identity = unit(1, 21, 3, 4), torch.randn(1, C, 4, 2)
    with pytest.raises(InputError, match=r"6 latent frames, .* configured for 3; .*interpolate_positions=true"):
        built()(z, identity)
    assert built(interpolate_positions=True)(z, identity)[0].shape[1] == 6
    with pytest.raises(InputError, match="4n\\+1"):
        built()(z[:, :8], identity)


def test_the_times_of_a_longer_clip_stay_in_the_trained_range():
    torch.testing.assert_close(times_on(6, 3, interpolate=True), torch.tensor([0.0, 0.4, 0.8, 1.2, 1.6, 2.0]))
    assert times_on(3, 3, interpolate=True).tolist() == times_on(3, 5, interpolate=False).tolist() == [0, 1, 2]
    assert torch.equal(sinusoids(torch.arange(3), 8), sinusoids(torch.arange(3.0), 8))


def test_a_whole_model_makes_a_smaller_shorter_video_than_it_is_configured_for():
    animator = Animator(sized(64, 32)).eval()
    driving, faces = mini_batch()["driving"][:, :5], mini_batch()["faces"][:, :5]  # 32x16 pixels
    conditions = animator.conditions(driving, faces, torch.randn(B, C, 4, 2))
    noisy = torch.randn(B, C, 2, 4, 2)
    assert animator.velocity(noisy, torch.full((B,), 0.5), conditions).shape == noisy.shape


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for on in (False, True):
        cfg = mini()
        cfg.retargeter.gradient_checkpointing = on
        torch.manual_seed(0)
        retargeter = Retargeter(cfg)
        torch.manual_seed(1)
        retargeter(unit(1, T, 3, 4), torch.randn(1, C, 4, 2))[0].square().sum().backward()
        gradients.append([p.grad for p in retargeter.layers.parameters()])
    assert all(g is not None for g in gradients[1])
    for whole, recomputed in zip(*gradients):
        torch.testing.assert_close(whole, recomputed)
