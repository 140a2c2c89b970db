"""Wan's families from folders in diffusers' format: loaded, equal to the plain DiT at first, trained, saved, loaded again."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from base_pipeline import FAMILIES, IMAGE_DIM, TEXT_DIM, family, write_base
from diffusers import WanTransformer3DModel

from imanim import clock
from imanim.errors import InputError
from imanim.models import conditioning, sizes, wan
from imanim.models.animator import Animator
from imanim.models.autoencoder import encode_image, load_autoencoder
from imanim.models.conditioning import ImageCondition
from imanim.models.config import AnimatorConfig
from imanim.models.denoiser import TIMESTEPS

B, F = 2, 3
PARTS = ("tokenizer_encoder", "codebook", "retargeter", "expression", "denoiser")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(conditioning.CACHE_VARIABLE, str(tmp_path / "cache"))


def clip(cfg: AnimatorConfig) -> dict[str, torch.Tensor]:
    """Random latents and conditions of a clip of nine frames."""
    h, w = cfg.latent_size
    return {
        "noisy": torch.randn(B, cfg.latent_channels, F, h, w),
        "sigma": torch.tensor([0.3, 0.8]),
        "reference": torch.randn(B, cfg.latent_channels, h, w),
        "driving": torch.rand(B, cfg.frames, 3, cfg.height, cfg.width),
        "faces": torch.tensor([0.2, 0.2, 0.8, 0.5]).expand(B, cfg.frames, 4),
        "images": torch.rand(B, 3, cfg.height, cfg.width),
    }


def conditions(animator: Animator, given: dict[str, torch.Tensor]):
    cfg = animator.config
    vae = load_autoencoder(conditioning.autoencoder_folder(cfg))
    image = conditioning.image_condition(cfg, vae, conditioning.image_encoder(cfg), given["images"], F)
    return animator.conditions(given["driving"], given["faces"], given["reference"], image)


@pytest.mark.parametrize("name", FAMILIES)
def test_with_all_inlets_closed_the_composite_equals_the_plain_wan_bit_for_bit(name, tmp_path):
    cfg = family(name)
    plain = write_base(cfg, tmp_path / "base")
    animator = Animator(cfg, PARTS, from_base=True).eval()
    given = clip(cfg)
    told = conditions(animator, given)
    latents = torch.cat([given["reference"][:, :, None], given["noisy"]], 2)
    timestep = given["sigma"] * TIMESTEPS
    if cfg.denoiser.expand_timesteps:
        per_frame = cfg.token_grid[0] * cfg.token_grid[1]
        timestep = timestep[:, None].repeat(1, (1 + F) * per_frame)
        timestep[:, :per_frame] = 0
    embedding = None
    if told.image is not None:
        mask = torch.zeros(B, 4, *latents.shape[2:])
        mask[:, :, 0] = 1
        latents, embedding = torch.cat([latents, mask, told.image.still], 1), told.image.embedding
    text = conditioning.prompt_embedding(cfg, "").expand(B, -1, -1)
    with torch.no_grad():
        wanted = plain(latents, timestep, text, embedding).sample[:, :, 1:]
        found = animator.denoise(given["noisy"], given["sigma"], *told)
    assert wanted.abs().max() > 0.1  # the plain model does say something
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_family_trains_and_comes_back_from_disk_as_it_was(name, lora_rank, tmp_path):
    cfg = family(name, lora_rank=lora_rank)
    write_base(cfg, tmp_path / "base")
    animator = Animator(cfg, PARTS, from_base=True)
    animator.set_modes(dict.fromkeys(PARTS, "train") | {"codebook": "frozen"})
    before = {n: p.detach().clone() for n, p in animator.denoiser.named_parameters()}
    given = clip(cfg)
    trained = [p for p in animator.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(2):  # the inlets are closed in the first step: what lies before them moves in the second
        loss = (animator.denoise(given["noisy"], given["sigma"], *conditions(animator, given)) - given["noisy"]).pow(2)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    moved = {n for n, p in animator.denoiser.named_parameters() if not torch.equal(p, before[n])}
    own = {n for n in before if n in animator.denoiser.unsaved}
    assert own if lora_rank else not own
    assert not moved & own and {n for n in before if "lora_B" in n} <= moved
    assert "token_inlet.weight" in moved and (lora_rank or "transformer.blocks.0.attn1.to_q.weight" in moved)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in animator.retargeter.to_bottleneck.parameters())

    animator.eval().save_pretrained(tmp_path / "saved")
    again = Animator.from_pretrained(tmp_path / "saved")
    told = conditions(animator, given)
    assert torch.equal(
        again.denoise(given["noisy"], given["sigma"], *told), animator.denoise(given["noisy"], given["sigma"], *told)
    )
    again.save_pretrained(tmp_path / "again")
    weights = "denoiser/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "saved" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()


def test_adapters_are_saved_without_their_base_and_refuse_another_one(tmp_path):
    cfg = family("wan2.1-1.3b", lora_rank=1, lora_targets=["to_q"], prompt=None)
    write_base(cfg, tmp_path / "base")
    animator = Animator(cfg, ("denoiser",), from_base=True)
    animator.save_pretrained(tmp_path / "saved")
    size = (tmp_path / "saved" / "denoiser" / "diffusion_pytorch_model.safetensors").stat().st_size
    whole = sum(p.numel() * 4 for p in animator.parameters())
    assert size < whole / 2
    write_base(family("wan2.1-1.3b"), tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="other weights than the ones these adapters were trained on"):
        Animator.from_pretrained(tmp_path / "saved", base=str(tmp_path / "other"))
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="no such folder"):
        Animator.from_pretrained(tmp_path / "saved")
    assert Animator.from_pretrained(tmp_path / "saved", base=str(tmp_path / "moved")).parts == ("denoiser",)


def test_lora_alpha_scales_the_adapters_and_unknown_layers_are_refused():
    cfg = family("wan2.1-1.3b", lora_rank=2, lora_alpha=8.0)
    torch.manual_seed(0)
    model = wan.build(cfg, from_base=False)
    assert model.blocks[0].attn1.to_q.scaling["default"] == 4
    with pytest.raises(InputError, match="lora_targets: nowhere"):
        wan.build(family("wan2.1-1.3b", lora_rank=2, lora_targets=["nowhere"]), from_base=False)


def test_a_base_of_another_size_a_missing_or_a_damaged_one_is_refused(tmp_path):
    cfg = family("wan2.1-1.3b")
    write_base(cfg, tmp_path / "base")
    other = dataclasses.replace(cfg, denoiser=dataclasses.replace(cfg.denoiser, layers=3))
    with pytest.raises(InputError, match="num_layers = 2, the model configuration 3"):
        Animator(other, ("denoiser",), from_base=True)
    with pytest.raises(InputError, match="base: not set"):
        Animator(dataclasses.replace(cfg, base=None), ("denoiser",), from_base=True)
    with pytest.raises(InputError, match="no such folder"):
        Animator(dataclasses.replace(cfg, base=str(tmp_path / "nowhere")), ("denoiser",), from_base=True)
    with pytest.raises(InputError, match="has no folder transformer_2"):
        low = dataclasses.replace(cfg.denoiser, subfolder="transformer_2")
        Animator(dataclasses.replace(cfg, denoiser=low), ("denoiser",), from_base=True)
    weights = tmp_path / "base" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="not readable as a Wan DiT"):
        Animator(cfg, ("denoiser",), from_base=True)


# ------------------------------------------------------------------------------------------------------------ text


def test_the_empty_prompt_is_embedded_once_as_wans_own_pipeline_does(tmp_path, monkeypatch):
    from diffusers import WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    cfg = family("wan2.1-1.3b")
    write_base(cfg, tmp_path / "base")
    encoder = UMT5EncoderModel.from_pretrained(tmp_path / "base" / "text_encoder", dtype=torch.bfloat16)
    theirs = WanPipeline(AutoTokenizer.from_pretrained(tmp_path / "base" / "tokenizer"), encoder, None, None, None)
    for prompt in ("", "a person dances"):
        with torch.no_grad():
            wanted = theirs._get_t5_prompt_embeds(prompt, max_sequence_length=512, dtype=torch.float32)[0]
        found = conditioning.prompt_embedding(cfg, prompt)
        assert found.shape == (512, TEXT_DIM) and torch.equal(found, wanted)
    monkeypatch.setattr(conditioning, "_embed", None)  # from here on only what was kept
    assert torch.equal(conditioning.prompt_embedding(cfg, "a person dances"), found)
    assert not torch.equal(conditioning.prompt_embedding(cfg, ""), found)


def test_a_saved_model_brings_its_prompt_and_needs_no_text_encoder(tmp_path):
    cfg = family("wan2.1-1.3b", prompt="a person dances")
    write_base(cfg, tmp_path / "base")
    animator = Animator(cfg, ("denoiser",), from_base=True)
    animator.save_pretrained(tmp_path / "saved")
    (tmp_path / "base").rename(tmp_path / "gone")
    again = Animator.from_pretrained(tmp_path / "saved")
    assert again.denoiser.text.abs().sum() > 0 and torch.equal(again.denoiser.text, animator.denoiser.text)


def test_too_much_text_is_refused_and_little_text_is_filled_up_with_zeros():
    cfg = family("wan2.1-1.3b", prompt=None)
    model, given = Animator(cfg, ("denoiser",)), clip(cfg)
    torch.nn.init.normal_(model.denoiser.transformer.proj_out.weight)
    short = torch.randn(B, 3, TEXT_DIM)
    args = (given["noisy"], given["sigma"], given["reference"])
    filled = torch.nn.functional.pad(short, (0, 0, 0, 509))
    assert torch.equal(model.denoiser(*args, text=short), model.denoiser(*args, text=filled))
    with pytest.raises(InputError, match="513 tokens: the DiT takes 512"):
        model.denoiser(*args, text=torch.randn(B, 513, TEXT_DIM))


# ----------------------------------------------------------------------------------------------------------- image


def test_the_image_condition_is_what_wans_own_pipeline_makes(tmp_path):
    from diffusers import WanImageToVideoPipeline

    cfg = family("wan2.1-i2v-14b")
    write_base(cfg, tmp_path / "base")
    vae, encoder = load_autoencoder(conditioning.autoencoder_folder(cfg)), conditioning.image_encoder(cfg)
    images = torch.rand(1, 3, cfg.height, cfg.width)
    ours = conditioning.image_condition(cfg, vae, encoder, images, F)
    assert ours is not None and encoder is not None
    theirs = WanImageToVideoPipeline(None, None, vae, None, encoder.processor, encoder.model)
    frames = clock.pixel_frames(1 + F)
    _, condition = theirs.prepare_latents(
        images * 2 - 1, 1, cfg.latent_channels, cfg.height, cfg.width, frames, torch.float32, torch.device("cpu")
    )
    torch.testing.assert_close(ours.still, condition[:, 4:])
    mask = torch.zeros_like(condition[:, :4])
    mask[:, :, 0] = 1
    assert torch.equal(condition[:, :4], mask)
    torch.testing.assert_close(ours.still[:, :, 0], encode_image(vae, images))
    picture = (images[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    assert ours.embedding is not None and ours.embedding.shape == (1, 5, IMAGE_DIM)
    assert torch.equal(ours.embedding, theirs.encode_image(picture))


def test_a_missing_and_an_unwanted_image_condition_are_refused():
    for name, given_image, message in (
        ("wan2.1-i2v-14b", None, "needs an image condition"),
        ("wan2.1-1.3b", ImageCondition(torch.zeros(B, 16, 1 + F, 8, 4), None), "takes no image condition"),
        ("wan2.1-i2v-14b", ImageCondition(torch.zeros(B, 16, 1 + F, 8, 4), None), "needs an image embedding"),
    ):
        cfg = family(name, prompt=None)
        model, given = Animator(cfg, ("denoiser",)), clip(cfg)
        with pytest.raises(InputError, match=message):
            model.denoise(given["noisy"], given["sigma"], given["reference"], None, image=given_image)


# ------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("name", ["native", "_native_math", "_native_flash"])
def test_attention_kernels_that_run_here_agree(name):
    given = {}
    for kernel in ("native", name):
        torch.manual_seed(0)
        cfg = family("wan2.1-1.3b", prompt=None, attention=kernel)
        model = Animator(cfg, ("denoiser",)).eval()
        torch.nn.init.normal_(model.denoiser.transformer.proj_out.weight)
        torch.manual_seed(1)
        inputs = clip(cfg)
        given[kernel] = model.denoiser(inputs["noisy"], inputs["sigma"], inputs["reference"])
    torch.testing.assert_close(given[name], given["native"], atol=1e-4, rtol=1e-4)


def test_attention_kernels_that_are_not_there_are_refused_and_leave_diffusers_default_alone():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry.get_active_backend()[0]
    for name, message in (("flash", "flash-attn"), ("sage", "sageattention"), ("nothing", "must be one of")):
        with pytest.raises(InputError, match=f"denoiser.attention: {name}.*{message}.*or use native"):
            wan.build(family("wan2.1-1.3b", attention=name), from_base=False)
    wan.build(family("wan2.1-1.3b", attention="_native_math"), from_base=False)
    assert registry.get_active_backend()[0] == before


def test_a_kernel_without_a_gradient_is_refused_in_training_alone(monkeypatch):
    def no_gradient(q, k, v, **_):
        return v.detach().clone()

    monkeypatch.setattr(wan.attention_dispatch, "dispatch_attention_fn", no_gradient)
    wan.check_attention.cache_clear()
    wan.check_attention("_native_math", torch.device("cpu"), torch.float32, False)
    with pytest.raises(InputError, match="does not do training with float32 on cpu"):
        wan.check_attention("_native_math", torch.device("cpu"), torch.float32, True)
    wan.check_attention.cache_clear()


# ----------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("name", "billions"),
    [("wan2.1-1.3b", 1.42), ("wan2.1-14b", 14.3), ("wan2.1-i2v-14b", 16.4), ("wan2.2-5b", 5.00), ("wan2.2-t2v-a14b-low", 14.3)],
)  # fmt: skip
def test_every_familys_dit_has_as_many_parameters_as_the_release(name, billions):
    with torch.device("meta"):
        model = wan.build(sizes.load(name), from_base=False)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_plain_wan_reads_the_dit_of_a_fully_trained_model(tmp_path):
    """What others need of a saved model is an ordinary Wan DiT: its tensors keep diffusers' names behind `transformer.`."""
    cfg = family("wan2.1-1.3b", prompt=None)
    animator = Animator(cfg, ("denoiser",))
    plain = WanTransformer3DModel(**wan.settings(cfg))
    state = animator.denoiser.state_dict()
    plain.load_state_dict({n.removeprefix("transformer."): v for n, v in state.items() if n.startswith("transformer.")})
