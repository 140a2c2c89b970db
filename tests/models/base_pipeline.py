"""Wan pipelines so small that a test writes one in a moment: the real classes in diffusers' folders, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from imanim.models import sizes, wan
from imanim.models.config import AnimatorConfig

FAMILIES = (
    "wan2.1-1.3b", "wan2.1-14b", "wan2.1-i2v-14b", "wan2.2-5b", "wan2.2-t2v-a14b-high", "wan2.2-t2v-a14b-low",
    "wan2.2-i2v-a14b-high", "wan2.2-i2v-a14b-low",
)  # fmt: skip

TEXT_DIM, IMAGE_DIM = 16, 24


def family(name: str, **denoiser: Any) -> AnimatorConfig:
    """A family as its configuration file has it, but for the sizes."""
    return sizes.load(name, small(name, **denoiser))


def small(name: str, **denoiser: Any) -> dict[str, Any]:
    """What makes a family small: 64x32 pixels (128x64 for the 5B), 9 frames, two blocks."""
    whole = sizes.load(name)
    side = whole.latent_stride // 8
    return {
        "height": 64 * side,
        "width": 32 * side,
        "frames": 9,
        "tokenizer": {
            "image_size": 32, "stem_patch": 16, "stem_padding": [4, 2], "width": 32, "layers": 1, "heads": 2, "tokens": 3,
            "token_dim": 4, "codes": 16, "decoder_width": 16, "decoder_layers": 1, "decoder_grid": 2, "heatmap": 8,
        },
        "retargeter": {"width": 16, "identity_layers": 1, "layers": 2, "heads": 2, "bottleneck": 6, "joint_hidden": 8},
        "expression": {"crop_size": 16, "width": 8, "tokens": 2, "every": 2, "heads": 2},
        "denoiser": {
            "heads": 2, "head_dim": 12, "layers": 2, "ffn_dim": 32, "text_dim": TEXT_DIM, "freq_dim": 16,
            "image_dim": None if whole.denoiser.image_dim is None else IMAGE_DIM, **denoiser,
        },
    }  # fmt: skip


def write_base(cfg: AnimatorConfig, folder: Path, seed: int = 0) -> WanTransformer3DModel:
    """Writes the pipeline ``cfg`` describes: DiT, VAE, text encoder and tokenizer, image encoder. Returns the plain DiT."""
    torch.manual_seed(seed)
    plain = WanTransformer3DModel(**wan.settings(cfg)).eval()
    plain.save_pretrained(folder / cfg.denoiser.subfolder)
    write_vae(cfg, folder / "vae")
    write_text_encoder(folder)
    if cfg.denoiser.image_dim is not None:
        write_image_encoder(folder)
    cfg.base = str(folder)
    return plain


def write_vae(cfg: AnimatorConfig, folder: Path) -> None:
    """Wan 2.1's, or with ``latent_stride`` 16 Wan 2.2's, at the smallest widths."""
    extra: dict[str, Any] = {}
    if cfg.latent_stride == 16:
        extra = {
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
        }
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=cfg.latent_channels, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * cfg.latent_channels, latents_std=[1.0] * cfg.latent_channels, **extra,
    )  # fmt: skip
    vae.save_pretrained(folder)


def write_text_encoder(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁person", -2.0), ("▁dances", -3.0)]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder / "tokenizer")
    config = UMT5Config(vocab_size=6, d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")


def write_image_encoder(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    CLIPVisionModel(config).save_pretrained(folder / "image_encoder")
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder / "image_processor")
