"""Measured and shown on held-out samples while a run trains: the same samples and the same noise every time."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from imanim import clock, distributed
from imanim.data.dice import Dice
from imanim.data.stream import Batch
from imanim.models.autoencoder import decode_video
from imanim.training import batches, flow, latents, pictures
from imanim.training.config import TrainConfig
from imanim.training.engine import arithmetic
from imanim.training.flow import add_noise, euler
from imanim.training.objective import TrainingModule

if TYPE_CHECKING:
    from imanim.training.loop import Run


@torch.no_grad()
def measure(run: Run, step: int) -> dict[str, float] | None:
    """The mean of each loss and metric over the held-out batches of all ranks. ``step`` sets the phase, not the noise.

    In stage 3 each batch is measured at ``monitor.noise_levels`` fixed levels: means over these, and ``flow_at_SIGMA`` of each.
    Every rank runs the model equally often.

    None when the run is preempted meanwhile: it has seconds to save, and half a validation is none.
    """
    levels, sums = _levels(run), defaultdict[str, float](float)
    share = 1 / (len(run.validation) * len(levels))
    with evaluating(run.engine):
        for i, level in itertools.product(range(len(run.validation)), levels):
            run.watch.mark("validates")
            if run.stopper.poll(run.device):
                return None
            batch = batches.to_device(run.validation[i], run.device)
            losses = run.engine(batch, batches.validation_dice(run.cfg, i), step, level)
            for name, value in {"loss": losses.total, **losses.terms}.items():
                sums[name] += float(value) * share
            if level is not None:
                sums[f"flow_at_{level:.2f}"] += float(losses.terms["flow"]) / len(run.validation)
    return distributed.mean_over_ranks(sums, run.device)


def _levels(run: Run) -> list[float] | list[None]:
    if run.cfg.stage < 3:
        return [None]
    noise = run.cfg.objective.noise(run.sizes.denoiser.sigma_range)
    return flow.quantile_levels(run.cfg.monitor.noise_levels, **noise)


class Sheet(NamedTuple):
    """A validation sample to look at: a filmstrip uint8 [height,width,3], and its rows side by side as a clip [T,H,W,3]."""

    strip: np.ndarray
    clip: np.ndarray


@torch.no_grad()
def filmstrips(run: Run) -> list[Sheet]:
    """One of each sample (up to ``picture_samples``): what the model was shown, what it says, the truth.

    Every rank runs the model (ZeRO-3 gathers weights from all of them); only the first rank's pictures are used.
    """
    few = {name: value[: run.cfg.monitor.picture_samples] for name, value in run.validation[0].items()}
    few = batches.to_device(few, run.device)
    with evaluating(run.engine), arithmetic(run.cfg, run.device):
        run.module.place_encoders(run.device)
        rows = ROWS[run.cfg.stage](run.module, few, run.cfg)
        if latents.cached(few):
            run.module.place_encoders(torch.device("cpu"))  # training does without them
    sheets = []
    for i in range(len(few["keys"])):
        mine = {name: row[i] for name, row in rows.items()}
        strip = pictures.filmstrip(mine, None if run.cfg.stage == 1 else few["identity"][i])
        sheets.append(Sheet(strip, pictures.side_by_side(list(mine.values()))))
    return sheets


def motion_rows(module: TrainingModule, batch: Batch, cfg: TrainConfig) -> dict[str, Tensor]:
    """Stage 1: the driver and the joints that its motion tokens carry. Rows of clips [B,T,3,H,W]."""
    animator = module.animator
    # Before the codebook has started, tokens are continuous; codes would be noise.
    started = bool(animator.part("codebook").ready)
    logits = animator.read_motion_joints(animator.motion_tokens(batch["driving"], vq=started).z)
    height, width = batch["driving"].shape[-2:]
    heat = pictures.square_to_frame_area(as_heat(logits).flatten(0, 1), height, width)
    driving = batch["driving"]
    return {
        "driver": driving,
        "read from the motion tokens": _over(driving, heat),
        "truth": _over(driving, pictures.true_heat(batch["driving_joints"].flatten(0, 1), *_cells(height, width))),
    }


def retargeted_rows(module: TrainingModule, batch: Batch, cfg: TrainConfig) -> dict[str, Tensor]:
    """Stage 2: the driver and the character's joints that the retargeted tokens carry, over the true video."""
    animator, vae = module.animator, cast(Any, module.vae)
    target = truth(vae, batch)
    identity = latents.identity(vae, batch)
    tokens = animator.retarget(animator.motion_tokens(batch["driving"]).z, identity)
    heat = as_heat(animator.read_joints(tokens, target.shape[1])).flatten(0, 1)
    return {
        "driver": batch["driving"],
        "retargeted to the character": _over(target, heat),
        "truth": _over(target, pictures.true_heat(batch["joints"].flatten(0, 1), *heat.shape[-2:])),
    }


def video_rows(module: TrainingModule, batch: Batch, cfg: TrainConfig) -> dict[str, Tensor]:
    """Stage 3: the driver, the generated video, the true one."""
    animator, vae = module.animator, cast(Any, module.vae)
    sizes, target = animator.config, truth(vae, batch)
    identity = latents.identity(vae, batch)
    latent_frames = clock.latent_frames(target.shape[1])
    image = latents.image(sizes, vae, module.image_encoder, batch, latent_frames)
    conditions = animator.conditions(batch["driving"], batch["faces"], identity, image)
    dice = Dice(cfg.seed, 0, range(batches.VALIDATION, batches.VALIDATION + len(target)))
    noise = dice.randn(sizes.latent_channels, latent_frames, *identity.shape[-2:]).to(target.device)
    steps = cfg.monitor.sampling_steps or sizes.denoiser.sampling_steps
    low, high = sizes.denoiser.sigma_range
    # Half of a model cannot start from noise alone, or not end: it starts from the noised truth and ends with its own guess.
    start = noise if high == 1 else add_noise(latents.target(vae, batch), noise, noise.new_full((len(noise),), high))
    how: Any = {"shift": sizes.denoiser.sampling_shift, "between": (low, high)}
    found = euler(lambda x, sigma: animator.velocity(x, sigma, conditions), start, steps, **how)
    return {"driver": batch["driving"], "generated": decode_video(vae, found), "truth": target}


def truth(vae: Any, batch: Batch) -> Tensor:
    """The true clips [B,T,3,H,W]; decoded from their latents where the shards have no other."""
    return batch["target"] if "target" in batch else decode_video(vae, latents.target(vae, batch))


ROWS = {1: motion_rows, 2: retargeted_rows, 3: video_rows}
"""What each stage has to show."""


@contextmanager
def evaluating(engine: Any) -> Iterator[None]:
    """Evaluation mode: the codebook must not move."""
    engine.eval()
    try:
        yield
    finally:
        engine.train()


def as_heat(logits: Tensor) -> Tensor:
    """Logits [...,rows,cols] as distributions over the cells."""
    return logits.float().flatten(-2).softmax(-1).view(logits.shape)


def _over(frames: Tensor, heat: Tensor) -> Tensor:
    return pictures.heat_over(frames.flatten(0, 1), heat).view(frames.shape)


def _cells(height: int, width: int) -> tuple[int, int]:
    """A grid of about 4-pixel cells for the truth."""
    return max(8, height // 4), max(8, width // 4)
