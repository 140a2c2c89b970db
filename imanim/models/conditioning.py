"""What a Wan base wants to be told beside our own inlets: a prompt's embedding, and the character's image (docs/method.md, "Ours").

Shapes: B batch, F latent frames of the clip, H,W pixels, h,w latent grid, C latent channels.

The encoders stay outside the model and frozen. A prompt is embedded once and kept on disk and with the weights, so no rank holds
the 11 GB text encoder while training and nobody needs it to animate.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from imanim import clock
from imanim.errors import InputError
from imanim.models import files, wan
from imanim.models.autoencoder import VideoAutoencoder, encode_video
from imanim.models.config import AnimatorConfig

CACHE_VARIABLE = "IMANIM_CACHE"


class ImageCondition(NamedTuple):
    """What an image-to-video base is told of the character's image.

    still: latents [B,C,1+F,h,w] of a video that shows it and then grey, as Wan's image-to-video models were trained.
    embedding: the image encoder's output [B,M,image_dim]; None for a base without one.
    """

    still: Tensor
    embedding: Tensor | None


BASE_AUTOENCODERS = ("wan2.1", "wan2.2")
"""Values of ``autoencoder`` that mean the VAE of ``base``."""


def autoencoder_folder(cfg: AnimatorConfig) -> str:
    """What to give ``load_autoencoder``: ``cfg.autoencoder``, or base's VAE. Raises InputError when ``base`` has none."""
    return str(wan.base_folder(cfg, "vae")) if cfg.autoencoder in BASE_AUTOENCODERS else cfg.autoencoder


def prompt_embedding(cfg: AnimatorConfig, prompt: str) -> Tensor:
    """The embedding [text_tokens,text_dim] of a prompt by ``base``'s text encoder, filled up with zeros as Wan was trained.

    Computed once: it is kept in ``$IMANIM_CACHE`` (default ``~/.cache/imanim``) under the encoder's fingerprint and the prompt.

    Raises:
        InputError: ``base`` has no text encoder or tokenizer, they are damaged, or the width is not ``text_dim``.
    """
    encoder = wan.base_folder(cfg, "text_encoder")
    what = {"encoder": wan.fingerprint(encoder).hex(), "prompt": prompt, "tokens": cfg.denoiser.text_tokens}
    name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / "text" / f"{name}.safetensors"
    if not path.is_file():
        embedding = _embed(encoder, wan.base_folder(cfg, "tokenizer"), prompt, cfg.denoiser.text_tokens)
        files.write_tensors({"embedding": embedding}, path, torch.float32)
    try:
        with safe_open(path, framework="pt") as file:
            embedding = file.get_tensor("embedding")
    except SafetensorError as error:
        raise InputError(f"{path}: not readable ({error}); delete it, it is computed again") from None
    if embedding.shape != (cfg.denoiser.text_tokens, cfg.denoiser.text_dim):
        raise InputError(
            f"denoiser.text_dim: {cfg.denoiser.text_dim}, but {encoder} gives {embedding.shape[-1]}; use the configuration of "
            "that base"
        )
    return embedding


def cache_folder() -> Path:
    """Where what is computed once is kept: ``$IMANIM_CACHE``, else ``~/.cache/imanim``."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "imanim"


@torch.no_grad()
def _embed(encoder: Path, tokenizer: Path, prompt: str, tokens: int) -> Tensor:
    from transformers import AutoTokenizer, UMT5EncoderModel

    try:
        to_ids = AutoTokenizer.from_pretrained(tokenizer)
        model = UMT5EncoderModel.from_pretrained(encoder, dtype=torch.bfloat16).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"base: {encoder.parent}: text encoder not readable ({error}); fetch it again") from None
    ids = to_ids([prompt], padding="max_length", max_length=tokens, truncation=True, return_tensors="pt")
    found = model(ids.input_ids, ids.attention_mask).last_hidden_state[0].float()
    # Wan's pipelines replace what the encoder says about padding by zeros.
    return found * ids.attention_mask[0, :, None]


# ----------------------------------------------------------------------------------------------------------- image


class ImageEncoder(nn.Module):
    """``base``'s CLIP vision encoder with its own preprocessing. Frozen. Raises InputError when it is missing or damaged."""

    def __init__(self, cfg: AnimatorConfig):
        super().__init__()
        from transformers import CLIPImageProcessorPil, CLIPVisionModel

        folder = wan.base_folder(cfg, "image_encoder")
        try:
            self.processor = CLIPImageProcessorPil.from_pretrained(wan.base_folder(cfg, "image_processor"))
            self.model = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"base: {folder}: not readable as an image encoder ({error}); fetch it again") from None
        if self.model.config.hidden_size != cfg.denoiser.image_dim:
            raise InputError(
                f"denoiser.image_dim: {cfg.denoiser.image_dim}, but {folder} gives {self.model.config.hidden_size}; use the "
                "configuration of that base"
            )

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] in [0,1] to the features [B,M,image_dim] of the last layer but one, which Wan was trained on."""
        whole = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pixels: Any = self.processor(images=list(whole), return_tensors="pt")
        device = next(self.model.parameters()).device
        return self.model(pixels.pixel_values.to(device), output_hidden_states=True).hidden_states[-2]


def image_encoder(cfg: AnimatorConfig) -> ImageEncoder | None:
    """The image encoder that this model's base wants, or None."""
    return ImageEncoder(cfg) if cfg.denoiser.image_dim is not None else None


def image_condition(
    cfg: AnimatorConfig, vae: VideoAutoencoder, encoder: ImageEncoder | None, images: Tensor, latent_frames: int
) -> ImageCondition | None:
    """What an image-to-video base is told of the character's images [B,3,H,W] in [0,1]; None for any other base.

    Args:
        latent_frames: F of the clip; with the reference frame ahead the video has one more.
    """
    if not cfg.denoiser.image_condition:
        return None
    grey = torch.full_like(images, 0.5)[:, None].expand(-1, clock.STRIDE * latent_frames, -1, -1, -1)
    still = encode_video(vae, torch.cat([images[:, None], grey], 1))
    return ImageCondition(still, None if encoder is None else encoder(images))
