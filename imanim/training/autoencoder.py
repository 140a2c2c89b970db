"""Fits and trains the tiny autoencoder: the encoder in closed form, then the decoder's learned part by gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from torch.nn import functional as F

from imanim import clock
from imanim.data.files import sha256, write_atomic, write_json
from imanim.errors import InputError
from imanim.models.autoencoder import PATCH, PATCH_VALUES, PatchAutoencoder, normalise

Part = Literal["linear", "context", "whole"]

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"

FIT_PATCHES = 400_000
"""More patches than this do not change the principal components by what a picture could show."""


@dataclass
class Schedule:
    """How long and how fast the decoder trains: ``minutes`` of the wall clock or ``steps``, whichever ends first."""

    minutes: float
    steps: int | None = None
    batch_clips: int = 2
    window_frames: int = 9
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 50
    report_minutes: float = 1.0
    seed: int = 0


def to_video(clips: np.ndarray) -> Tensor:
    """uint8 clips [B,T,H,W,3] -> float [B,3,T,H,W] in [-1,1]."""
    return torch.tensor(clips).movedim(-1, 1).float().div_(127.5).sub_(1)


# ---------------------------------------------------------------------------------------------------- closed form


def temporal_basis() -> Tensor:
    """[4,4] orthonormal cosine basis over the four frames of a latent frame; row 0 is their sum over two."""
    frame = torch.arange(clock.STRIDE, dtype=torch.float64) + 0.5
    rows = torch.arange(clock.STRIDE, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / clock.STRIDE * rows * frame) * math.sqrt(2 / clock.STRIDE)
    basis[0] *= math.sqrt(0.5)
    return basis


def fit_linear(model: PatchAutoencoder, clips: np.ndarray, *, seed: int = 0) -> None:
    """Fits bases and latent statistics to uint8 clips [n,T,H,W,3] (principal components; seconds).

    Shared channels: components of the mean patch over four frames. The rest: components of the frames' differences, in
    the cosine basis over time. The two subspaces are orthogonal, and on rendered people together lose nothing against
    unconstrained components of the whole 4x8x8 patch (measured on prototype renders: 27.39 dB each).
    """
    groups = _groups(clips, seed)
    over_time = torch.einsum("kt,ntp->nkp", temporal_basis().float(), groups)
    # Divided by 2, row 0 of the cosine basis is the mean; the others follow so that all channels count alike.
    still, change = over_time[:, 0] / 2, over_time[:, 1:].flatten(1) / 2
    mean = still.mean(0)
    shared, rest = model.config.shared_dim, model.config.z_dim - model.config.shared_dim
    still_rows = _components(still - mean, shared)
    change_rows = _components(change, rest)
    still_basis = torch.zeros(model.config.z_dim, PATCH_VALUES)
    still_basis[:shared] = still_rows
    clip_basis = torch.zeros(model.config.z_dim, clock.STRIDE, PATCH_VALUES)
    clip_basis[:shared] = still_rows[:, None] / clock.STRIDE
    spread = change_rows.view(rest, clock.STRIDE - 1, PATCH_VALUES)
    clip_basis[shared:] = torch.einsum("kt,ckp->ctp", temporal_basis().float()[1:], spread) / 2
    model.set_bases(mean, still_basis, clip_basis.flatten(1))
    _fit_statistics(model, clips)


def _groups(clips: np.ndarray, seed: int) -> Tensor:
    """Random 4-frame patches [n,4,192] of uint8 clips, in the encoder's order of values."""
    per_clip = max(1, FIT_PATCHES // len(clips))
    rng = np.random.default_rng(seed)
    chosen = []
    for clip in clips:
        patches = F.pixel_unshuffle(to_video(clip[None])[0].transpose(0, 1)[1:], PATCH)
        grouped = patches.unflatten(0, (-1, clock.STRIDE)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        pick = rng.permutation(len(grouped))[:per_clip]
        chosen.append(grouped[torch.from_numpy(pick)])
    return torch.cat(chosen)


def _components(x: Tensor, count: int) -> Tensor:
    """The ``count`` strongest principal directions [count,d] of rows x [n,d] about zero, strongest first."""
    covariance = (x.T @ x).double() / len(x)
    directions = torch.linalg.eigh(covariance)[1].flip(1)[:, :count].T
    # An eigenvector's sign is arbitrary: fixed here, so that fitting again gives the same latents.
    return torch.where(directions.sum(1, keepdim=True) < 0, -directions, directions).float()


def fit_context(model: PatchAutoencoder, clips: np.ndarray, *, ridge: float = 10.0) -> None:
    """Fits the decoder's linear prediction from neighbouring latents, by ridge regression on uint8 clips [n,T,H,W,3].

    Needs the bases and statistics of :func:`fit_linear`. Every clip also gives its later frames as first frames.
    """
    first, rest = _NormalEquations(), _NormalEquations()
    with torch.no_grad():
        for clip in clips:
            _add_clip(model, clip, first, rest)
        for equations, weights, bias in (
            (first, model.context.weights_first, model.context.bias_first),
            (rest, model.context.weights, model.context.bias),
        ):
            solution = equations.solve(ridge)
            weights.copy_(solution[:-1].T)
            bias.copy_(solution[-1])


class _NormalEquations:
    """Sums of x x^T and x y^T over rows that come in pieces."""

    def __init__(self) -> None:
        self.xx: Tensor | None = None
        self.xy: Tensor | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Features [n,d,h,w] and targets [n,p,h,w]."""
        rows = x.movedim(1, -1).flatten(0, -2)
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        targets = y.movedim(1, -1).flatten(0, -2)
        xx, xy = (rows.T @ rows).double(), (rows.T @ targets).double()
        self.xx = xx if self.xx is None else self.xx + xx
        self.xy = xy if self.xy is None else self.xy + xy

    def solve(self, ridge: float) -> Tensor:
        """[d+1,p], the last row the bias."""
        assert self.xx is not None and self.xy is not None
        return torch.linalg.solve(self.xx + ridge * torch.eye(len(self.xx), dtype=torch.float64), self.xy).float()


def _add_clip(model: PatchAutoencoder, clip: np.ndarray, first: _NormalEquations, rest: _NormalEquations) -> None:
    x = to_video(clip[None])
    z = model.encode(x).latent_dist.mode()
    lost = F.pixel_unshuffle((x - model.decode_linear(z)).transpose(1, 2), PATCH)[0]
    features = model.context.features(normalise(model, z))[0]
    rest.add(features, lost[1:].unflatten(0, (-1, clock.STRIDE)).flatten(1, 2))
    stills = to_video(clip[:: clock.STRIDE, None])
    z = model.encode(stills).latent_dist.mode()
    lost = F.pixel_unshuffle((stills - model.decode_linear(z))[:, :, 0], PATCH)
    first.add(model.context.features_first(normalise(model, z)), lost)


def _fit_statistics(model: PatchAutoencoder, clips: np.ndarray) -> None:
    """Latent mean and sqrt(s_k * rms) over all latent frames (PatchAutoencoder's docstring says why not s_k)."""
    total = torch.zeros(2, model.config.z_dim, dtype=torch.float64)
    count = 0
    with torch.no_grad():
        for clip in clips:
            z = model.encode(to_video(clip[None])).latent_dist.mode()[0].flatten(1).double()
            total += torch.stack([z.sum(1), z.square().sum(1)])
            count += z.shape[1]
    mean = total[0] / count
    spread = (total[1] / count - mean.square()).clamp_min(1e-12).sqrt()
    model.set_statistics(mean, (spread * spread.mean()).sqrt())


# ------------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def psnr(model: PatchAutoencoder, clips: np.ndarray, *, part: Part = "whole", masks: np.ndarray | None = None) -> float:
    """Mean over clips of each clip's PSNR in dB, of uint8 clips [n,T,H,W,3]; reconstructions clamped to [0,1].

    Args:
        part: of the decoder: ``linear`` (the encoder's transpose), ``context`` (all in closed form) or ``whole``.
        masks: bool [n,T,H,W]; only these pixels count.
    """
    decoders = {
        "linear": model.decode_linear,
        "context": model.decode_context,
        "whole": lambda z: model.decode(z).sample,
    }
    values = []
    for i, clip in enumerate(clips):
        x = to_video(clip[None])
        out = decoders[part](model.encode(x).latent_dist.mode())
        error = (out.clamp(-1, 1) - x)[0].div(2).square().mean(0)
        kept = error if masks is None else error[torch.from_numpy(masks[i])]
        values.append(-10 * math.log10(max(float(kept.mean()), 1e-12)))
    return sum(values) / len(values)


# -------------------------------------------------------------------------------------------------------- training


def train_refiner(
    model: PatchAutoencoder,
    clips: np.ndarray,
    schedule: Schedule,
    report: Callable[[int, float, float], None],
) -> int:
    """Trains the decoder's learned part on uint8 clips [n,T,H,W,3]; the linear part stays as it is.

    Args:
        report: called as report(step, minutes, mean loss since the last call) every ``report_minutes`` and at the end.

    Returns:
        the number of steps taken.
    """
    optimizer = torch.optim.AdamW(
        model.refiner.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.98)
    )
    model.refiner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = _batches(clips, schedule)
    start, last_report, losses, step = time.monotonic(), 0.0, [], 0
    while True:
        elapsed = (time.monotonic() - start) / 60
        fraction = max(elapsed / schedule.minutes, step / schedule.steps if schedule.steps else 0.0)
        if fraction >= 1:
            break
        warm = min(1.0, (step + 1) / schedule.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))
        loss = reconstruction_loss(model, next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.refiner.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise InputError(f"autoencoder: the loss is {losses[-1]} at step {step}; lower learning_rate")
        step += 1
        if elapsed - last_report >= schedule.report_minutes:
            report(step, elapsed, sum(losses) / len(losses))
            last_report, losses = elapsed, []
    report(step, (time.monotonic() - start) / 60, sum(losses) / max(1, len(losses)))
    return step


def reconstruction_loss(model: PatchAutoencoder, x: Tensor) -> Tensor:
    """Mean over video [B,3,T,H,W] in [-1,1] of log mean squared error: minus PSNR, in other units, so that a calm clip
    counts as much as one whose error is a hundred times larger."""
    with torch.no_grad():
        z = model.encode(x).latent_dist.mode()
    error = model.decode(z).sample - x
    return error.square().mean((1, 2, 3, 4)).log().mean()


def _batches(clips: np.ndarray, schedule: Schedule) -> Iterator[Tensor]:
    """Random windows of random clips, half of them mirrored, half reversed in time: float [B,3,T,H,W] in [-1,1]."""
    rng = np.random.default_rng(schedule.seed)
    n, frames = clips.shape[:2]
    length = min(schedule.window_frames, frames)
    while True:
        batch = []
        for _ in range(schedule.batch_clips):
            start = int(rng.integers(frames - length + 1))
            clip = clips[int(rng.integers(n)), start : start + length]
            clip = clip[:, :, ::-1] if rng.random() < 0.5 else clip
            batch.append(clip[::-1] if rng.random() < 0.5 else clip)
        yield to_video(np.stack(batch))


# ----------------------------------------------------------------------------------------------------------- files


def export(model: PatchAutoencoder, folder: str | Path, record: Mapping[str, Any]) -> None:
    """Writes config.json, the weights and training_record.json, each whole or not at all.

    Everything but the encoder is stored in half precision: it is the decoder's correction, where rounding is far below
    what is corrected. The encoder keeps all its bits, so that latents stay the same whatever becomes of the decoder.
    """
    folder = Path(folder)
    tensors = {
        name: value.half() if name.startswith(("context.", "refiner.")) else value
        for name, value in model.state_dict().items()
    }
    tensors = {name: value.contiguous(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    write_atomic(folder / WEIGHTS_NAME, safetensors_bytes(tensors, metadata={"format": "pt"}))
    # Private entries are diffusers' own notes about this process (where it was loaded from, what was left at defaults).
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    config |= {"_class_name": type(model).__name__, "_diffusers_version": diffusers.__version__}
    write_json(folder / "config.json", config)
    write_json(folder / "training_record.json", record)


def encoder_fingerprint(model: PatchAutoencoder) -> str:
    """SHA-256 of all that decides a normalised latent: bases, mean and latent statistics."""
    parts = [t.detach().float().numpy().tobytes() for t in (model.patch_mean, model.still_basis, model.clip_basis)]
    numbers = np.asarray([model.config.latents_mean, model.config.latents_std], np.float64)
    return sha256(b"".join([*parts, numbers.tobytes()]))
