"""The latent cache: what a frozen autoencoder says of a sample, kept in the sample's own shard as ``KEY.latents.safetensors``.

Shapes: C latent channels, F latent frames of the clip, h,w latent grid, M tokens of the image encoder.

    target_latents    [C,F,h,w]     the truth to generate, normalised as a denoiser sees it
    identity_latents  [C,h,w]       the character
    still_latents     [C,1+F,h,w]   image-to-video: the video that shows the character and then grey (conditioning.image_condition)
    image_features    [M,image_dim] image-to-video with an image encoder: its output

Each once more with ``_mirrored`` behind the name, when training mirrors: the pictures are mirrored first and encoded then, since an
autoencoder's latents do not mirror. ``manifest.json`` says under ``latents`` what made them; so does every sample, so that shards
of two caches cannot be mixed unseen. Text needs no cache here: there is one prompt, embedded once and kept with the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save
from torch import Tensor

from imanim.errors import InputError

MEMBER = "latents.safetensors"
"""The extension of the member in a shard."""
SCHEMA_VERSION = 1
NAMES = ("target_latents", "identity_latents", "still_latents", "image_features")
"""The tensors, by the names that they have in the file and in a batch."""
MIRRORED = "_mirrored"
"""Behind a name: of the mirrored pictures."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_STORED = {"fp32": "F32", "bf16": "BF16"}
_STAMP = "imanim"
_AGAIN = "make the cache again (launchers/cache.py)"


@dataclass(frozen=True)
class Cache:
    """What a folder's cached latents are; ``latents`` in its manifest.

    Attributes:
        autoencoder, image_encoder: fingerprints (imanim.models.fingerprint); None without an image encoder.
        channels: C. stride: pixels a side in one latent.
        still: whether still_latents are there (image-to-video).
        mirrored: whether everything is there mirrored too.
        dtype: of the stored numbers, a key of ``DTYPES``.
        targets_dropped: whether ``target.mp4`` was left out of the shards.
    """

    autoencoder: str
    image_encoder: str | None
    channels: int
    stride: int
    still: bool
    mirrored: bool
    dtype: str
    targets_dropped: bool
    schema: int = SCHEMA_VERSION

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The tensors of a sample, those of the mirrored pictures left out."""
        there = (True, True, self.still, self.image_encoder is not None)
        return tuple(name for name, held in zip(NAMES, there) if held)

    @functools.cached_property
    def stamp(self) -> str:
        """What each sample's file says of where it comes from, as JSON."""
        told = ("schema", "autoencoder", "image_encoder", "dtype")
        return json.dumps({name: getattr(self, name) for name in told}, sort_keys=True)

    @functools.cached_property
    def mark(self) -> bytes:
        """The stamp as it stands in a file's header."""
        return json.dumps({_STAMP: self.stamp}, separators=(",", ":"))[1:-1].encode()


@dataclass(frozen=True)
class Use:
    """What a loader takes of a cache.

    mirrored: also the latents of the mirrored pictures (training that mirrors). truth: also the target's pixels (to look at).
    """

    cache: Cache
    mirrored: bool
    truth: bool


def of(manifest: Mapping[str, Any], where: object) -> Cache | None:
    """The cache that a folder's manifest tells of, or None. Raises InputError naming ``where`` when it is of another version."""
    entry = manifest.get("latents")
    if entry is None:
        return None
    try:
        if entry["schema"] != SCHEMA_VERSION:
            raise InputError(
                f"{where}: latents of schema {entry['schema']}, this version reads {SCHEMA_VERSION}; {_AGAIN}"
            )
        return Cache(**entry)
    except (TypeError, KeyError):
        raise InputError(f"{where}: `latents` in its manifest is damaged; {_AGAIN}, or data.latents=encode") from None


def describe(cache: Cache) -> dict[str, Any]:
    """A cache as the manifest's JSON."""
    return dataclasses.asdict(cache)


def pack(tensors: Mapping[str, Tensor], cache: Cache) -> bytes:
    """One sample's tensors (``cache.names``, mirrored too where the cache has that) as the member's bytes, in the cache's dtype."""
    wanted = [*cache.names, *(name + MIRRORED for name in cache.names if cache.mirrored)]
    stored = {name: tensors[name].detach().cpu().to(DTYPES[cache.dtype]).contiguous() for name in wanted}
    # One entry: safetensors writes several in another order every time, and equal samples are to be equal bytes.
    return save(stored, metadata={_STAMP: cache.stamp})


def unpack(
    key: str, data: bytes | None, cache: Cache, video: tuple[int, int, int], *, mirrored: bool
) -> dict[str, Tensor]:
    """The tensors in one member, as they are stored.

    Args:
        key: the sample's.
        data: the member's bytes; None when the sample has none.
        video: latent frames F, and the pixels H,W of the clip that they must belong to.
        mirrored: also those of the mirrored pictures.

    Raises:
        InputError: missing, damaged, made by another autoencoder than the manifest says, or of another clip.
    """
    if data is None:
        raise InputError(f"sample {key}: member {MEMBER} is missing; {_AGAIN}")
    try:
        found = dict(deserialize(data))
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        # As a rule the stamp stands there byte for byte, and the header need not be parsed a second time.
        stamp = cache.stamp if cache.mark in header else json.loads(header)["__metadata__"][_STAMP]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"sample {key}: {MEMBER} is damaged ({error}); {_AGAIN}") from None
    if stamp != cache.stamp:
        raise InputError(f"sample {key}: {MEMBER} is of {stamp}, its manifest says {cache.stamp}; {_AGAIN}")
    grid = (video[1] // cache.stride, video[2] // cache.stride)
    frames = {"target_latents": (video[0],), "identity_latents": (), "still_latents": (1 + video[0],)}
    out = {}
    for name in cache.names:
        for whole in (name, name + MIRRORED) if mirrored else (name,):
            entry = found.get(whole)
            if entry is None:
                raise InputError(f"sample {key}: {whole} is missing; {_AGAIN}")
            shape = [cache.channels, *frames[name], *grid] if name in frames else entry["shape"]
            if entry["shape"] != shape or entry["dtype"] != _STORED[cache.dtype]:
                raise InputError(
                    f"sample {key}: {whole} is {entry['dtype']} {entry['shape']}, not of this clip and cache; {_AGAIN}"
                )
            out[whole] = torch.frombuffer(entry["data"], dtype=DTYPES[cache.dtype]).view(shape)
    return out
