"""Latents in training: taken from the shards' cache where there is one that fits the model, else encoded (docs/data.md, "Latent
cache").

Shapes: B batch, C latent channels, F latent frames, h,w latent grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from imanim.data.latents import Cache, Use, of
from imanim.data.shards import ShardSet
from imanim.data.stream import Batch
from imanim.errors import InputError
from imanim.models import fingerprint
from imanim.models.autoencoder import VideoAutoencoder, encode_image, encode_video
from imanim.models.conditioning import ImageCondition, ImageEncoder, image_condition
from imanim.models.config import AnimatorConfig

if TYPE_CHECKING:
    from imanim.training.config import TrainConfig


def cache_of(cfg: TrainConfig, shards: ShardSet) -> Cache | None:
    """The cache that a run takes these samples' latents from; None: they are encoded, or not needed (stage 1)."""
    return of(shards.manifest, shards.folder) if cfg.stage > 1 and cfg.data.latents != "encode" else None


def for_training(cfg: TrainConfig, shards: ShardSet) -> Use | None:
    """What training batches hold of the cache: the mirrored latents too when it mirrors, and no pixels of the target."""
    cache = cache_of(cfg, shards)
    return None if cache is None else Use(cache, mirrored=cfg.data.augment.mirror, truth=False)


def for_validation(cfg: TrainConfig, shards: ShardSet) -> Use | None:
    """What validation batches hold of the cache: never mirrored; the target's pixels, if there are any, for the pictures."""
    cache = cache_of(cfg, shards)
    return None if cache is None else Use(cache, mirrored=False, truth=not cache.targets_dropped)


def check(cfg: TrainConfig, sizes: AnimatorConfig, shards: ShardSet, *, mirrored: bool) -> None:
    """Raises InputError unless the cache, if it is to be used, was made for this model and this stage.

    Args:
        mirrored: whether these samples are going to be mirrored.
    """
    cache = cache_of(cfg, shards)
    if cache is None:
        if cfg.data.latents == "use":
            raise InputError(
                f"data.latents: use, but {shards.folder} has none; run launchers/cache.py, or data.latents=auto"
            )
        _check_pixels(cfg, shards)
        return
    remedy = "make the cache with this model (launchers/cache.py), or data.latents=encode"
    mine = fingerprint.autoencoder(sizes)
    if cache.autoencoder != mine:
        raise InputError(
            f"{shards.folder}: latents made by autoencoder {cache.autoencoder}, the model's is {mine}; {remedy}"
        )
    if (cache.channels, cache.stride) != (sizes.latent_channels, sizes.latent_stride):
        raise InputError(
            f"{shards.folder}: latents of {cache.channels} channels, stride {cache.stride}; the model's have "
            f"{sizes.latent_channels} and {sizes.latent_stride}; {remedy}"
        )
    if cfg.stage == 3 and sizes.denoiser.image_condition:
        if not cache.still:
            raise InputError(f"{shards.folder}: no still_latents, which an image-to-video base needs; {remedy}")
        encoder = fingerprint.image_encoder(sizes)
        if encoder is not None and cache.image_encoder != encoder:
            there = cache.image_encoder or "none"
            raise InputError(f"{shards.folder}: made by image encoder {there}, the model's is {encoder}; {remedy}")
    if mirrored and not cache.mirrored:
        raise InputError(
            f"{shards.folder}: no mirrored latents, but data.augment.mirror is true; make the cache with mirror=true, or "
            "data.augment.mirror=false"
        )


def _check_pixels(cfg: TrainConfig, shards: ShardSet) -> None:
    there = of(shards.manifest, shards.folder)
    if there is not None and there.targets_dropped:
        why = "stage 1 learns from them" if cfg.stage == 1 else "data.latents is encode"
        raise InputError(
            f"{shards.folder}: made with drop_targets=true, so it has no target pixels, but {why}; use the shards it was made from"
        )


# ------------------------------------------------------------------------------------------- from the batch, or encoded


def cached(batch: Batch) -> bool:
    """Whether a batch brings its latents, so that no encoder is needed."""
    return "identity_latents" in batch


def identity(vae: VideoAutoencoder, batch: Batch) -> Tensor:
    """The character's latents, float32 [B,C,h,w]."""
    return batch["identity_latents"].float() if cached(batch) else encode_image(vae, batch["identity"])


def target(vae: VideoAutoencoder, batch: Batch) -> Tensor:
    """The latents of the truth to generate, float32 [B,C,F,h,w]."""
    return batch["target_latents"].float() if cached(batch) else encode_video(vae, batch["target"])


def image(
    cfg: AnimatorConfig, vae: VideoAutoencoder, encoder: ImageEncoder | None, batch: Batch, latent_frames: int
) -> ImageCondition | None:
    """What an image-to-video base is told of the character (see ``image_condition``); None for any other base."""
    if not (cfg.denoiser.image_condition and cached(batch)):
        return image_condition(cfg, vae, encoder, batch["identity"], latent_frames)
    features = batch["image_features"].float() if cfg.denoiser.image_dim is not None else None
    return ImageCondition(batch["still_latents"].float(), features)
