"""Video autoencoders: the tiny one this package ships, and the helpers that treat it and Wan's alike.

:class:`PatchAutoencoder` has the interface and the frame clock of diffusers' ``AutoencoderKLWan``, so the whole method
runs unchanged on a laptop. Its encoder is linear and in closed form (principal components of space-time patches, fitted
by :mod:`imanim.training.autoencoder`). Its decoder is a sum of three: the encoder's transpose; a linear prediction of
what was lost from the neighbouring latents, in closed form too; and a small learned correction, which starts at zero.

Shapes (docs/method.md): B batch, T pixel frames = 4n+1, F latent frames, H,W pixels, h,w latent grid, C latent channels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn
from torch.nn import functional as F

from imanim import clock
from imanim.errors import InputError

PATCH = 8
"""Pixels a side of a patch: the spatial scale factor."""
PATCH_VALUES = 3 * PATCH * PATCH
"""Numbers in one frame's patch: RGB of 8x8 pixels."""


@dataclass
class PointDistribution:
    """The posterior of a deterministic encoder: all mass on ``mean`` [B,C,F,h,w]."""

    mean: Tensor

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """The same as :meth:`mode`; draws nothing from ``generator``."""
        return self.mean


@dataclass
class EncoderOutput:
    """What ``encode`` returns, as diffusers' autoencoders do."""

    latent_dist: PointDistribution


class ContextPredictor(nn.Module):
    """What a patch's neighbours tell about the part of it that its own latents lost: linear, fitted by least squares.

    Reads 3x3 latents in space and, but for the first frame, the latents of the frames before and after. All weights are
    buffers: closed form, never trained by gradients. Starts as zero.
    """

    weights: Tensor
    weights_first: Tensor
    bias: Tensor
    bias_first: Tensor

    def __init__(self, latent_dim: int):
        super().__init__()
        self.register_buffer("weights_first", torch.zeros(PATCH_VALUES, latent_dim * 9))
        self.register_buffer("bias_first", torch.zeros(PATCH_VALUES))
        self.register_buffer("weights", torch.zeros(clock.STRIDE * PATCH_VALUES, latent_dim * 11))
        self.register_buffer("bias", torch.zeros(clock.STRIDE * PATCH_VALUES))

    def features_first(self, latents: Tensor) -> Tensor:
        """Normalised latents [B,C,F,h,w] -> what frame 0 is predicted from, [B,9C,h,w]."""
        return _around(latents[:, :, 0])

    def features(self, latents: Tensor) -> Tensor:
        """Normalised latents [B,C,F,h,w] -> what frames 1.. are predicted from, [B,F-1,11C,h,w]."""
        each = latents.transpose(1, 2)
        around = _around(each[:, 1:].flatten(0, 1)).unflatten(0, (len(each), -1))
        after = torch.cat([each[:, 2:], torch.zeros_like(each[:, :1])], 1)
        return torch.cat([around, each[:, :-1], after], 2)

    def forward(self, latents: Tensor) -> Tensor:
        """Normalised latents [B,C,F,h,w] -> correction of the patches [B,T,192,h,w]."""
        out = torch.einsum("pc,bchw->bphw", self.weights_first, self.features_first(latents))[:, None]
        out = out + self.bias_first[:, None, None]
        if latents.shape[2] > 1:
            rest = torch.einsum("pc,bfchw->bfphw", self.weights, self.features(latents)) + self.bias[:, None, None]
            out = torch.cat([out, rest.unflatten(2, (clock.STRIDE, -1)).flatten(1, 2)], 1)
        return out


def _around(x: Tensor) -> Tensor:
    """[N,C,h,w] -> the 3x3 neighbourhood of every place, [N,9C,h,w]; edges repeat."""
    return F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3).unflatten(2, x.shape[2:])


class Refiner(nn.Module):
    """The learned part of the decoder: the closed-form reconstruction -> its correction (seams, ghosts of fast limbs).

    A small convolutional network, which sees a frame and how its two neighbours differ from it: ``width`` channels at
    half resolution, then ``pixel_width`` at full resolution before the last convolution. It works
    on pixels because a correction learned at one place then holds at every other; the same budget spent on the latent
    grid has to learn it once for each of the 64 places in a patch, and learned nothing in the same time
    (RECORD.md beside the weights). Starts as exactly zero.
    """

    def __init__(self, width: int, blocks: int, pixel_width: int):
        super().__init__()
        self.stem = nn.Conv2d(36, width, 3, padding=1)
        # What is lost depends on where in its patch, and in which of its latent frame's frames, a pixel is.
        self.place = nn.Parameter(torch.zeros(1 + clock.STRIDE, width, PATCH // 2, PATCH // 2))
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=2**i, dilation=2**i) for i in range(blocks))
        self.spread = nn.Conv2d(width, 4 * pixel_width, 1)
        self.head = nn.Conv2d(pixel_width, 3, 3, padding=1)
        for start in self.head.parameters():
            nn.init.zeros_(start)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B,T,3,H,W] in [-1,1] -> correction [B,T,3,H,W]."""
        batch, count, _, height, width = frames.shape
        half = F.pixel_unshuffle(frames, 2)
        before = torch.cat([half[:, :1], half[:, :-1]], 1) - half
        after = torch.cat([half[:, 1:], half[:, -1:]], 1) - half
        x = torch.cat([half, before, after], 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        slots = [0, *(1 + t % clock.STRIDE for t in range(count - 1))]
        x = F.silu(self.stem(x) + self.place[slots].repeat(batch, 1, height // PATCH, width // PATCH))
        for block in self.blocks:
            x = x + F.silu(block(x))
        return self.head(F.silu(F.pixel_shuffle(self.spread(x), 2))).unflatten(0, (batch, count))


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """The tiny video autoencoder: 8x8 pixels of 4 frames (of the first frame: alone) to C numbers and back.

    The first ``shared_dim`` channels are principal components of an 8x8 patch: of the frame itself in latent frame 0,
    of the mean over the four frames in every other, so that a still clip has the same latents in all its latent frames
    and a reference image lives in the space of the clip. The other channels are principal components of how the four frames
    differ; they are zero in latent frame 0. Channels are scaled alike: an error of e in any channel of any latent frame
    is a squared error of e^2 a frame and patch in the reconstruction.

    ``latents_std`` is sqrt(s_k * mean(s)) for channels of standard deviation s_k, not s_k: a normalised channel keeps a
    variance in proportion to s_k and the latents as a whole have RMS 1. A denoiser trained on them meets the channels
    that carry the picture at a better signal-to-noise ratio and spends its loss there; with unit variance everywhere,
    half of its loss goes to channels that hardly change a pixel.

    The decoder looks at neighbouring latent frames on both sides; the encoder never looks outside its own patch.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        shared_dim: int = 32,
        hidden_dim: int = 48,
        num_blocks: int = 2,
        pixel_dim: int = 8,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        scale_factor_spatial: int = PATCH,
        scale_factor_temporal: int = clock.STRIDE,
        temperal_downsample: Sequence[bool] = (False, True, True),
    ):
        super().__init__()
        if (scale_factor_spatial, scale_factor_temporal) != (PATCH, clock.STRIDE):
            found = f"{scale_factor_temporal}x{scale_factor_spatial}"
            raise InputError(f"PatchAutoencoder: patches of {found} (frames x pixels); only 4x8 is built")
        for name, values in (("latents_mean", latents_mean), ("latents_std", latents_std)):
            if values is not None and len(values) != z_dim:
                raise InputError(f"PatchAutoencoder: {name} has {len(values)} values for z_dim {z_dim}; fit it again")
        # An unfitted autoencoder still has statistics, so that every reader of the config finds numbers.
        self.register_to_config(
            latents_mean=list(latents_mean) if latents_mean is not None else [0.0] * z_dim,
            latents_std=list(latents_std) if latents_std is not None else [1.0] * z_dim,
        )
        self.register_buffer("patch_mean", torch.zeros(PATCH_VALUES))
        self.register_buffer("still_basis", torch.zeros(z_dim, PATCH_VALUES))
        self.register_buffer("clip_basis", torch.zeros(z_dim, clock.STRIDE * PATCH_VALUES))
        self.context = ContextPredictor(z_dim)
        self.refiner = Refiner(hidden_dim, num_blocks, pixel_dim)

    @property
    def config(self) -> Any:
        """The arguments of ``__init__`` by name (``config.z_dim``), as in every diffusers model."""
        return super().config

    def set_bases(self, patch_mean: Tensor, still_basis: Tensor, clip_basis: Tensor) -> None:
        """Installs the closed-form part: patch mean [192], rows of analysis bases [C,192] and [C,768].

        Rows of ``still_basis`` have norm 1 (or 0); rows of ``clip_basis`` norm 1/2, so that a mean over the four frames
        is a mean and not twice that. Values of a patch are ordered (colour, row, column), of a clip's (frame, patch).
        """
        self.patch_mean.copy_(patch_mean)
        self.still_basis.copy_(still_basis)
        self.clip_basis.copy_(clip_basis)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Stores the latents' mean [C] and scale [C] in the config, where diffusers' pipelines look for them."""
        self.register_to_config(latents_mean=[float(v) for v in mean], latents_std=[float(v) for v in std])

    def encode(self, x: Tensor) -> EncoderOutput:
        """Video [B,3,T,H,W] in [-1,1] -> ``.latent_dist`` over latents [B,C,F,h,w] (not normalised).

        Raises:
            InputError: T is not 4n+1, or H or W is no multiple of 8.
        """
        if x.ndim != 5 or x.shape[1] != 3:
            raise InputError(f"video of shape {list(x.shape)}: expected [B,3,T,H,W]; reorder the axes")
        _check_size(x, PATCH)
        patches = F.pixel_unshuffle(x.transpose(1, 2), PATCH) - self.patch_mean[:, None, None]
        latents = [torch.einsum("cp,bphw->bchw", self.still_basis, patches[:, 0])[:, :, None]]
        if x.shape[2] > 1:
            groups = patches[:, 1:].unflatten(1, (-1, clock.STRIDE)).flatten(2, 3)
            latents.append(torch.einsum("cp,bfphw->bcfhw", self.clip_basis, groups))
        return EncoderOutput(PointDistribution(torch.cat(latents, 2)))

    def decode_linear(self, z: Tensor) -> Tensor:
        """Latents [B,C,F,h,w] -> patches from their own latents alone (encoder's inverse): [B,3,T,H,W], unclamped."""
        if z.ndim != 5 or z.shape[1] != self.config.z_dim:
            raise InputError(f"latents of shape {list(z.shape)}: expected [B,{self.config.z_dim},F,h,w]")
        patches = torch.einsum("cp,bchw->bphw", self.still_basis, z[:, :, 0])[:, None]
        if z.shape[2] > 1:
            # Rows of norm 1/2: the transpose times 4 is the inverse on their span.
            rest = torch.einsum("cp,bcfhw->bfphw", self.clip_basis * clock.STRIDE, z[:, :, 1:])
            patches = torch.cat([patches, rest.unflatten(2, (clock.STRIDE, -1)).flatten(1, 2)], 1)
        return F.pixel_shuffle(patches + self.patch_mean[:, None, None], PATCH).transpose(1, 2)

    def decode_context(self, z: Tensor) -> Tensor:
        """Latents [B,C,F,h,w] -> all that is in closed form: patches plus what their neighbours tell, [B,3,T,H,W]."""
        linear = self.decode_linear(z)
        return linear + F.pixel_shuffle(self.context(normalise(self, z)), PATCH).transpose(1, 2)

    def decode(self, z: Tensor) -> DecoderOutput:
        """Latents [B,C,F,h,w] (not normalised) -> ``.sample`` [B,3,T,H,W], about [-1,1], not clamped."""
        frames = self.decode_context(z).transpose(1, 2)
        return DecoderOutput(sample=(frames + self.refiner(frames)).transpose(1, 2))


def _check_size(x: Tensor, multiple: int) -> None:
    clock.latent_frames(x.shape[2])
    for name, pixels in zip(("height", "width"), x.shape[3:]):
        if pixels < multiple or pixels % multiple:
            raise InputError(f"video of {name} {pixels}: must be a multiple of {multiple}; resize or pad it")


# ------------------------------------------------------------------------------------------- any autoencoder, alike

BUILT_IN = {"tiny": Path(__file__).parent.parent / "assets" / "tiny_autoencoder"}
"""Names that stand for autoencoders inside this package."""
CLASSES: dict[str, Any] = {"PatchAutoencoder": PatchAutoencoder, "AutoencoderKLWan": AutoencoderKLWan}
"""config.json's ``_class_name`` -> what reads the folder."""


VideoAutoencoder = Any
"""A PatchAutoencoder or an AutoencoderKLWan; ``Any``, because diffusers' own annotations are incomplete."""


def load_autoencoder(path: str | Path = "tiny", *, dtype: torch.dtype = torch.float32) -> VideoAutoencoder:
    """Loads a frozen autoencoder in evaluation mode.

    Args:
        path: ``"tiny"`` (the one in this package) or a diffusers folder (config.json and safetensors) of
            ``PatchAutoencoder`` or ``AutoencoderKLWan``.
        dtype: of the weights in memory.

    Raises:
        InputError: the folder or a file is missing, of an unknown class, damaged, or does not fit its config.
    """
    folder = BUILT_IN.get(str(path), Path(path))
    config_file = folder / "config.json"
    if not config_file.is_file():
        names = ", ".join(BUILT_IN)
        raise InputError(
            f"{folder}: no autoencoder there (no config.json); give a diffusers VAE folder or one of: {names}"
        )
    try:
        class_name = json.loads(config_file.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{config_file}: damaged, or not of a diffusers model; copy the folder again") from None
    if class_name not in CLASSES:
        raise InputError(f"{config_file}: class {class_name} is not supported; use one of: {', '.join(CLASSES)}")
    try:
        vae = CLASSES[class_name].from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{folder}: weights missing, damaged or not of this config ({error}); copy it again") from None
    _refuse_partial(vae, folder)
    return vae.requires_grad_(False).eval()


def _refuse_partial(vae: VideoAutoencoder, folder: Path) -> None:
    """diffusers only warns when a file lacks tensors and leaves them as they were initialised (or without storage)."""
    from safetensors import safe_open

    stored: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            stored.update(tensors.keys())
    missing, unknown = sorted(set(vae.state_dict()) - stored), sorted(stored - set(vae.state_dict()))
    if missing or unknown:
        name, what = (missing[0], "lacks") if missing else (unknown[0], "has an unknown")
        raise InputError(f"{folder}: the weights file {what} tensor {name}; config and weights are not of one model")


def _statistics(vae: VideoAutoencoder, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, dtype=like.dtype, device=like.device).view(shape)
    std = torch.tensor(vae.config.latents_std, dtype=like.dtype, device=like.device).view(shape)
    return mean, std


def normalise(vae: VideoAutoencoder, z: Tensor) -> Tensor:
    """Latents [B,C,F,h,w] as the autoencoder gives them -> as a denoiser sees them: (z - mean) / std."""
    mean, std = _statistics(vae, z)
    return (z - mean) / std


def unnormalise(vae: VideoAutoencoder, latents: Tensor) -> Tensor:
    """The inverse of :func:`normalise`."""
    mean, std = _statistics(vae, latents)
    return latents * std + mean


@torch.no_grad()
def encode_video(vae: VideoAutoencoder, video: Tensor) -> Tensor:
    """Video [B,T,3,H,W] in [0,1] -> normalised latents [B,C,F,h,w], float32. No gradient flows.

    Raises:
        InputError: T is not 4n+1, or H or W is no multiple of the autoencoder's spatial factor.
    """
    if video.ndim != 5 or video.shape[2] != 3:
        raise InputError(f"video of shape {list(video.shape)}: expected [B,T,3,H,W]; reorder the axes")
    x = video.transpose(1, 2)
    # Wan's autoencoder would drop trailing frames without a word.
    _check_size(x, vae.config.scale_factor_spatial)
    z = vae.encode((x * 2 - 1).to(vae.dtype)).latent_dist.mode()
    return normalise(vae, z.float())


def encode_image(vae: VideoAutoencoder, image: Tensor) -> Tensor:
    """Images [B,3,H,W] in [0,1] -> normalised latents [B,C,h,w]: those of a clip of one frame."""
    return encode_video(vae, image[:, None])[:, :, 0]


def decode_video(vae: VideoAutoencoder, latents: Tensor) -> Tensor:
    """Normalised latents [B,C,F,h,w] -> video [B,T,3,H,W] in [0,1], clamped, float32. Gradients flow to the latents."""
    z = unnormalise(vae, latents.float())
    sample = vae.decode(z.to(vae.dtype)).sample.float()
    return (sample.transpose(1, 2) * 0.5 + 0.5).clamp(0, 1)
