"""A stage's training module with shapes but no numbers, and a batch to match: what a forecast runs instead of a model.

Nothing is read but configuration files: where ``base`` is not on disk, Wan's encoders are built from their published sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from imanim.data.latents import MIRRORED
from imanim.data.stream import Batch
from imanim.errors import InputError
from imanim.models.animator import Animator
from imanim.models.autoencoder import BUILT_IN, CLASSES
from imanim.models.conditioning import BASE_AUTOENCODERS
from imanim.models.config import AnimatorConfig
from imanim.sequence import ALONE, Team
from imanim.training import transfer
from imanim.training.config import TrainConfig
from imanim.training.objective import TrainingModule

PUBLISHED: dict[str, dict[str, Any]] = {
    "wan2.1": {},  # diffusers' defaults are Wan 2.1's
    "wan2.2": {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    },
}
"""The autoencoders of Wan's pipelines, as arguments of ``AutoencoderKLWan``. Their latents' statistics are made up."""

CLIP_VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
"""The image encoder of Wan 2.1's image-to-video pipelines (OpenCLIP ViT-H/14)."""
IMAGE_TOKENS = (CLIP_VIT_H["image_size"] // CLIP_VIT_H["patch_size"]) ** 2 + 1
"""Tokens that it says of an image, the class token included."""


class HollowImageEncoder(nn.Module):
    """Costs what ``conditioning.ImageEncoder`` costs; its pixels are zeros, for the real one prepares them outside torch."""

    def __init__(self, cfg: AnimatorConfig):
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        folder = Path(cfg.base or "") / "image_encoder"
        try:
            found = CLIPVisionConfig.get_config_dict(folder)[0] if (folder / "config.json").is_file() else {}
            config: Any = CLIPVisionConfig(**(found or {**CLIP_VIT_H, "hidden_size": cfg.denoiser.image_dim}))
            self.model = CLIPVisionModel(config).eval().requires_grad_(False)
        except (OSError, ValueError, TypeError) as error:
            where = folder if cfg.base else f"denoiser.image_dim: {cfg.denoiser.image_dim}"
            raise InputError(f"{where}: not an image encoder's ({error}); use the configuration of that base") from None
        self.side = int(config.image_size)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] to features [B,M,image_dim]."""
        pixels = images.new_zeros(len(images), 3, self.side, self.side)
        return self.model(pixels, output_hidden_states=True).hidden_states[-2]


class HollowTeam(Team):
    """The first rank of a team without the others: tensors of the right sizes come from them, with nothing in them."""

    def exchange(self, x: Tensor, sent: list[int], got: list[int]) -> Tensor:
        return _Nothing.apply(x, sum(got))


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, got: int) -> Tensor:
        ctx.sent = len(x)
        return x.new_empty(got)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].new_empty(ctx.sent), None


def build(cfg: TrainConfig, sizes: AnimatorConfig) -> TrainingModule:
    """The module that the engine wraps, on the meta device, its parts trained and frozen as the stage says.

    Frozen encoders hang outside of it (``module.vae``, ``module.image_encoder``), as in training.
    """
    with torch.device("meta"):
        animator = Animator(sizes, cfg.parts.built())
        vae = autoencoder(sizes) if cfg.stage > 1 else None
        wanted = cfg.stage == 3 and sizes.denoiser.image_dim is not None
        encoder: Any = HollowImageEncoder(sizes) if wanted else None
    transfer.set_modes(animator, cfg)
    animator.share(HollowTeam(cfg.sequence_parallel) if cfg.sequence_parallel > 1 else ALONE)
    return TrainingModule(
        animator, cfg.stage, cfg.objective, total_steps=cfg.max_steps, vae=vae, image_encoder=encoder
    ).train()


def autoencoder(sizes: AnimatorConfig) -> Any:
    """The frozen autoencoder on the current device, with random weights: of its ``config.json`` where there is one.

    Raises:
        InputError: ``autoencoder`` names a folder that holds none.
    """
    folder = BUILT_IN.get(sizes.autoencoder, Path(sizes.autoencoder))
    if sizes.autoencoder in BASE_AUTOENCODERS:
        folder = Path(sizes.base or "") / "vae"
    file = folder / "config.json"
    if file.is_file():
        try:
            config = json.loads(file.read_text())
            vae = CLASSES[config["_class_name"]].from_config(config)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: not of an autoencoder we know ({error}); copy the folder again") from None
    elif sizes.autoencoder in PUBLISHED:
        vae = AutoencoderKLWan(**PUBLISHED[sizes.autoencoder])
    else:
        raise InputError(
            f"autoencoder: {folder}: no config.json there; give a diffusers VAE folder, wan2.1, wan2.2 or tiny"
        )
    return vae.requires_grad_(False).eval()


def brings_latents(cfg: TrainConfig) -> bool:
    """Whether a run is planned with cached latents: ``data.latents=use``. A plan has no shards to look into."""
    return cfg.stage > 1 and cfg.data.latents == "use"


def batch(
    sizes: AnimatorConfig, samples: int, device: torch.device | str = "cpu", *, cfg: TrainConfig | None = None
) -> Batch:
    """A batch of the right shapes (see imanim.data.stream.Batch): grey frames, every joint in the middle, no face.

    With ``cfg`` as this run's loader would give it: where it brings latents, these and no target.
    """

    def full(value: float, *shape: int) -> Tensor:
        return torch.full((samples, *shape), value, device=device)

    frames, picture, joints = sizes.frames, (3, sizes.height, sizes.width), sizes.joints
    pixels = {"target": full(0.5, frames, *picture)}
    if cfg is not None and brings_latents(cfg):
        pixels = {name: full(0.0, *shape) for name, shape in _latent_shapes(sizes).items()}
        if cfg.data.augment.mirror:
            pixels |= {name + MIRRORED: value for name, value in pixels.items()}
    return {
        "driving": full(0.5, frames, *picture),
        **pixels,
        "identity": full(0.5, *picture),
        "joints": full(0.5, frames, joints, 3),
        "driving_joints": full(0.5, frames, joints, 3),
        "identity_joints": full(0.5, joints, 3),
        "faces": full(float("nan"), frames, 4),
        "keys": [f"synthetic-{i}" for i in range(samples)],
    }


def _latent_shapes(sizes: AnimatorConfig) -> dict[str, tuple[int, ...]]:
    """What a cache holds of a sample of this model, mirrored aside (imanim.data.latents)."""
    c, f, grid = sizes.latent_channels, sizes.latent_frames, sizes.latent_size
    shapes: dict[str, tuple[int, ...]] = {"target_latents": (c, f, *grid), "identity_latents": (c, *grid)}
    if sizes.denoiser.image_condition:
        shapes["still_latents"] = (c, 1 + f, *grid)
    if sizes.denoiser.image_dim is not None:
        shapes["image_features"] = (IMAGE_TOKENS, sizes.denoiser.image_dim)
    return shapes
