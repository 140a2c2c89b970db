"""The tiny autoencoder keeps Wan's interface and clock, its closed form is exact, and a broken folder is refused."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from imanim import clock
from imanim.errors import InputError
from imanim.models import autoencoder as ae
from imanim.training import autoencoder as fitting

HEIGHT, WIDTH = 48, 32
WEIGHTS = fitting.WEIGHTS_NAME


def moving_bars(clips: int, frames: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [n,T,H,W,3]: a coloured bar that glides over a coloured gradient; enough structure to be learned from."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(width) / width, np.arange(height) / height
    out = np.zeros((clips, frames, height, width, 3))
    for clip in out:
        colours = rng.random((3, 3))
        place, speed, slope = rng.random(), rng.normal() * 0.03, rng.normal() * 0.5
        for t, frame in enumerate(clip):
            edge = (x[None] - place - t * speed + slope * (y[:, None] - 0.5)) * 12
            inside = np.clip(1.2 - np.abs(edge), 0, 1)[..., None]
            back = colours[1] * y[:, None, None] + colours[2] * (1 - y[:, None, None])
            frame[:] = inside * colours[0] + (1 - inside) * back
    return (out * 255 + 0.5).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted() -> ae.PatchAutoencoder:
    torch.manual_seed(0)
    model = ae.PatchAutoencoder(z_dim=24, shared_dim=16, hidden_dim=16, num_blocks=1, pixel_dim=4)
    clips = moving_bars(24, 9, seed=1)
    fitting.fit_linear(model, clips)
    fitting.fit_context(model, clips)
    return model


@pytest.fixture(scope="module")
def tiny() -> ae.PatchAutoencoder:
    model = ae.load_autoencoder("tiny")
    assert isinstance(model, ae.PatchAutoencoder)
    return model


@pytest.fixture(scope="module")
def wan() -> AutoencoderKLWan:
    torch.manual_seed(0)
    sizes = {"base_dim": 3, "z_dim": 16, "dim_mult": [1] * 4, "num_res_blocks": 1}
    model: Any = AutoencoderKLWan(**sizes, temperal_downsample=[False, True, True])
    return model.eval()


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_shapes_and_clock_are_those_of_wans_autoencoder(fitted, wan, frames) -> None:
    video = torch.rand(2, frames, 3, HEIGHT, WIDTH)
    ours, theirs = ae.encode_video(fitted, video), ae.encode_video(wan, video)
    assert ours.shape[1] == fitted.config.z_dim
    assert ours.shape[2:] == theirs.shape[2:] == (clock.latent_frames(frames), HEIGHT // 8, WIDTH // 8)
    with torch.no_grad():
        assert ae.decode_video(fitted, ours).shape == ae.decode_video(wan, theirs).shape == video.shape


def test_config_has_the_names_that_diffusers_pipelines_read(fitted, wan) -> None:
    for name in ("z_dim", "latents_mean", "latents_std", "scale_factor_spatial", "scale_factor_temporal"):
        assert type(getattr(fitted.config, name)) is type(getattr(wan.config, name))
    assert list(fitted.config.temperal_downsample) == list(wan.config.temperal_downsample)
    assert len(fitted.config.latents_std) == fitted.config.z_dim


@pytest.mark.parametrize("which", ["fitted", "wan"])
def test_frame_counts_off_the_clock_and_odd_sizes_are_refused(which, request) -> None:
    vae = request.getfixturevalue(which)
    with pytest.raises(InputError, match=r"6 frames.*use 5 or 9"):
        ae.encode_video(vae, torch.rand(1, 6, 3, 16, 16))
    with pytest.raises(InputError, match=r"height 20: must be a multiple of 8"):
        ae.encode_video(vae, torch.rand(1, 5, 3, 20, 16))
    with pytest.raises(InputError, match=r"expected \[B,T,3,H,W\]"):
        ae.encode_video(vae, torch.rand(1, 3, 5, 16, 16))


def test_refusals_hold_for_direct_calls_too(fitted) -> None:
    with pytest.raises(InputError, match=r"4 frames"):
        fitted.encode(torch.rand(1, 3, 4, 16, 16))
    with pytest.raises(InputError, match=r"expected \[B,24,F,h,w\]"):
        fitted.decode(torch.rand(1, 25, 2, 2, 2))


def test_a_latent_depends_on_its_own_frames_and_patch_alone(fitted) -> None:
    video = torch.rand(1, 13, 3, HEIGHT, WIDTH)
    before = ae.encode_video(fitted, video)
    for pixel in (0, 1, 4, 5, 12):
        changed = video.clone()
        changed[:, pixel, :, 8:16, 16:24] += 0.1
        differs = (ae.encode_video(fitted, changed) - before).abs().amax((0, 1)) > 1e-6
        expected = torch.zeros_like(differs)
        expected[clock.latent_of_pixel(pixel), 1, 2] = True
        assert torch.equal(differs, expected), pixel


def test_a_still_clip_has_the_same_latents_in_every_frame(fitted) -> None:
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    latents = ae.encode_video(fitted, image[:, None].expand(-1, 9, -1, -1, -1))
    torch.testing.assert_close(latents, latents[:, :, :1].expand_as(latents), atol=1e-4, rtol=0)
    torch.testing.assert_close(ae.encode_image(fitted, image), latents[:, :, 0])


def test_encoding_a_linear_reconstruction_gives_the_same_latents(fitted) -> None:
    latents = torch.randn(1, 24, 3, 4, 4)
    latents[:, 16:, 0] = 0  # a first frame has no motion channels
    again = fitted.encode(fitted.decode_linear(latents)).latent_dist.mode()
    torch.testing.assert_close(again, latents, atol=1e-4, rtol=0)


def test_an_error_in_any_channel_costs_the_same_in_pixels(fitted) -> None:
    clip = fitted.clip_basis.square().sum(1) * clock.STRIDE
    torch.testing.assert_close(clip, torch.ones(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted.still_basis[:16].square().sum(1), torch.ones(16), atol=1e-4, rtol=0)


def test_normalised_latents_have_unit_rms_and_keep_the_strong_channels_strong(fitted) -> None:
    video = torch.from_numpy(moving_bars(24, 9, seed=1)).movedim(-1, 2).float() / 255
    latents = ae.encode_video(fitted, video)
    spread = latents.std((0, 2, 3, 4))
    assert latents.square().mean().sqrt() == pytest.approx(1, abs=0.02)
    raw = spread * torch.tensor(fitted.config.latents_std)
    torch.testing.assert_close(spread.square() / raw, (1 / raw.mean()).expand(24), rtol=0.02, atol=0)


def test_the_posterior_is_a_point(fitted) -> None:
    posterior = fitted.encode(torch.rand(1, 3, 5, 16, 16)).latent_dist
    state = torch.get_rng_state()
    assert torch.equal(posterior.sample(), posterior.mode())
    assert torch.equal(torch.get_rng_state(), state)


def test_training_improves_on_the_closed_form_and_leaves_the_encoder_alone(fitted) -> None:
    clips, held_out = moving_bars(24, 9, seed=1), moving_bars(6, 9, seed=2)
    assert fitting.psnr(fitted, clips, part="context") > fitting.psnr(fitted, clips, part="linear")
    context = fitting.psnr(fitted, held_out, part="context")
    assert fitting.psnr(fitted, held_out) == pytest.approx(context, abs=1e-3), "an untrained refiner adds nothing"
    before = fitting.encoder_fingerprint(fitted)
    model = ae.PatchAutoencoder(**{k: v for k, v in fitted.config.items() if not k.startswith("_")})
    model.load_state_dict(fitted.state_dict())
    reports: list[tuple[int, float, float]] = []
    schedule = fitting.Schedule(minutes=5, steps=60, warmup_steps=5)
    steps = fitting.train_refiner(model, clips, schedule, lambda *seen: reports.append(seen))
    assert steps == reports[-1][0] == 60
    assert fitting.psnr(model, held_out) > context
    assert fitting.encoder_fingerprint(model) == before


def test_psnr_is_exact_for_a_known_error(fitted, monkeypatch) -> None:
    clips = np.full((2, 5, 16, 16, 3), 100, np.uint8)
    masks = np.zeros((2, 5, 16, 16), bool)
    masks[:, :, :8] = True
    shifted = fitting.to_video(clips[:1])
    shifted[..., :8, :] += 0.2  # a tenth of the range, in the upper half alone
    monkeypatch.setattr(fitted, "decode_linear", lambda z: shifted)
    assert fitting.psnr(fitted, clips, part="linear", masks=masks) == pytest.approx(20, abs=1e-3)
    assert fitting.psnr(fitted, clips, part="linear") == pytest.approx(20 + 10 * math.log10(2), abs=1e-3)


def test_an_exported_model_comes_back_the_same(fitted, tmp_path) -> None:
    fitting.export(fitted, tmp_path, {"note": 1})
    again = ae.load_autoencoder(tmp_path)
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert fitting.encoder_fingerprint(again) == fitting.encoder_fingerprint(fitted)
    video = torch.rand(1, 5, 3, HEIGHT, WIDTH)
    assert torch.equal(ae.encode_video(again, video), ae.encode_video(fitted, video))
    latents = ae.encode_video(fitted, video)
    torch.testing.assert_close(
        ae.decode_video(again, latents), ae.decode_video(fitted, latents).detach(), atol=2e-3, rtol=0
    )


def test_wans_autoencoder_loads_by_its_class_name(wan, tmp_path) -> None:
    wan.save_pretrained(tmp_path)
    again = ae.load_autoencoder(tmp_path)
    assert isinstance(again, AutoencoderKLWan)
    video = torch.rand(1, 5, 3, 16, 16)
    assert torch.equal(ae.encode_video(again, video), ae.encode_video(wan, video))


def _break_class(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderTiny"}))


def _break_size(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dim": 32}))


def _drop_tensor(folder) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("still_basis")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: damaged"),
        (_break_class, r"class AutoencoderTiny is not supported; use one of"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"weights missing"),
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000]), r"damaged"),
        (_break_size, r"not of this config"),
        (_drop_tensor, r"still_basis"),
    ],
    ids=["no config", "config cut", "unknown class", "no weights", "weights cut", "other size", "tensor missing"],
)
def test_a_broken_folder_is_refused_in_one_line(fitted, tmp_path, damage, message) -> None:
    fitting.export(fitted, tmp_path, {})
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        ae.load_autoencoder(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_the_packaged_autoencoder_is_what_its_record_says(tiny) -> None:
    folder = ae.BUILT_IN["tiny"]
    record = json.loads((folder / "training_record.json").read_text())
    assert record["encoder_sha256"] == fitting.encoder_fingerprint(tiny)
    assert record["held_out_psnr_db"]["whole"] >= 31
    assert record["held_out_psnr_db"]["whole"] > record["held_out_psnr_db"]["linear"]
    assert (tiny.config.z_dim, tiny.config.scale_factor_spatial, tiny.config.scale_factor_temporal) == (48, 8, 4)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8_000_000


def test_the_packaged_autoencoder_reconstructs_what_it_never_saw(tiny) -> None:
    clips = moving_bars(2, 9, seed=7, height=128, width=80)
    assert fitting.psnr(tiny, clips, part="linear") > 30
    assert fitting.psnr(tiny, clips) > 30


def test_gradients_reach_latents_through_the_decoder_but_no_weights(tiny) -> None:
    latents = torch.randn(1, 48, 2, 2, 2, requires_grad=True)
    ae.decode_video(tiny, latents).mean().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0
    assert all(p.grad is None for p in tiny.parameters())
