"""What each stage minimises (docs/method.md, "The curriculum"), and the one module that the engine wraps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from imanim.config import opt
from imanim.data.augment import augment_driving
from imanim.data.dice import Dice
from imanim.data.stream import Batch
from imanim.errors import InputError
from imanim.models.animator import Animator, MotionTokens
from imanim.models.conditioning import ImageEncoder
from imanim.models.denoiser import PREDICTIONS
from imanim.models.joints import frame_to_square, heatmap_loss, joint_error, joint_weight, read_out
from imanim.models.quantizer import usage
from imanim.training import flow, latents


@dataclass
class ObjectiveConfig:
    """Weights of the losses."""

    frames_per_clip: int = opt(4, "stage 1: random frames taken of each driving clip, and as many of its target")
    vq_start_fraction: float = opt(
        0.35,
        "stage 1: this fraction of the steps without the codebook, which then starts from data; 0 when starting from weights",
    )
    coordinates: float = opt(
        8.0, "weight of the L1 distance of the read-out joints, beside the heatmaps' cross-entropy"
    )
    patch_joints: float = opt(
        1.0, "stage 1, and 3 when the encoder trains: heatmaps read straight from the patch tokens"
    )
    identity_joints: float = opt(0.5, "stages 2 and 3: the character image's own joints, read from its identity tokens")
    joints: float = opt(0.05, "stage 3: the heatmap term beside the flow matching loss")
    sigma_mean: float = opt(0.3, "stage 3: mean of the logit-normal noise levels")
    sigma_std: float = opt(1.0, "stage 3: their standard deviation")
    shift: float = opt(1.0, "stage 3: shift of the noise levels towards 1; larger for larger videos (Wan: 3 to 5)")
    channel_weighting: Literal["equal", "pixel"] = opt(
        "equal",
        "stage 3: latent channels' say in the loss: equal, or by variance, as their errors weigh in the pixels of a linear decoder",
    )
    sigma_floor: float = opt(0.25, "stage 3, prediction x0: the squared error is weighted 1 / max(sigma, this)")

    def noise(self, between: tuple[float, float]) -> dict[str, Any]:
        """The distribution of noise levels, as ``flow.draw_sigma`` takes it; ``between``: those the denoiser is for."""
        return {"mean": self.sigma_mean, "std": self.sigma_std, "shift": self.shift, "between": between}

    def problems(self) -> list[str]:
        names = ("coordinates", "patch_joints", "identity_joints", "joints")
        found = [f"{n}: {getattr(self, n)} must not be negative" for n in names if getattr(self, n) < 0]
        positive = ("sigma_std", "shift", "sigma_floor")
        found += [f"{n}: {getattr(self, n)} must be above 0" for n in positive if getattr(self, n) <= 0]
        if self.frames_per_clip < 1:
            found.append(f"frames_per_clip: {self.frames_per_clip} must be at least 1")
        if not 0 <= self.vq_start_fraction < 1:
            found.append(f"vq_start_fraction: {self.vq_start_fraction} must lie in [0, 1)")
        return found


class Losses(NamedTuple):
    """The scalar to minimise, and detached scalars to look at: losses, ``*_error`` in % of the image height, codebook use."""

    total: Tensor
    terms: dict[str, Tensor]


class Context(NamedTuple):
    """What an objective computes with.

    progress: fraction of the run's steps already taken, in [0,1]. noise_level: stage 3's sigma for every sample; None draws it.
    """

    animator: Animator
    vae: Any
    image_encoder: ImageEncoder | None
    cfg: ObjectiveConfig
    dice: Dice
    progress: float
    training: bool
    noise_level: float | None = None


def stage1(batch: Batch, at: Context) -> Losses:
    """Heatmaps of single frames from their motion tokens, from their patch tokens, and the commitment loss.

    Driver and target of a pair are both people whose joints are known, so both are read.
    """
    frames, joints = _some_frames(batch, at)
    weight = joint_weight(joints)
    size = _size(batch)
    square = frame_to_square(joints[..., :2], *size)
    vq = at.progress >= at.cfg.vq_start_fraction
    motion = at.animator.motion_tokens(frames, vq=vq, generator=at.dice.shared)
    heat = at.animator.read_motion_joints(motion.z)

    def error(heatmaps: Tensor) -> Tensor:
        return joint_error(at.animator.motion_joints_in_frame(heatmaps, *size), joints[..., :2], weight, *size)

    heat_loss = heatmap_loss(heat, square, weight, coordinates=at.cfg.coordinates)
    total = heat_loss + motion.vq_loss
    terms = {"heatmap": heat_loss, "vq": motion.vq_loss, "joint_error": error(heat), **_code_terms(at, motion)}
    if at.cfg.patch_joints:
        patch_heat = at.animator.read_patch_joints(motion)
        patch_loss = heatmap_loss(patch_heat, square, weight, coordinates=0.0)
        total = total + at.cfg.patch_joints * patch_loss
        terms |= {"patch_heatmap": patch_loss, "patch_joint_error": error(patch_heat)}
    return _losses(total, terms)


def stage2(batch: Batch, at: Context) -> Losses:
    """Heatmaps of the character performing the driver's motion, from the retargeted tokens."""
    identity = latents.identity(at.vae, batch)
    motion = at.animator.motion_tokens(batch["driving"], generator=at.dice.shared)
    tokens, identity_heat = at.animator.retarget_with_identity(motion.z, identity)
    total, terms = _retarget_losses(batch, at, tokens, identity_heat)
    return _losses(total, {**terms, **_code_terms(at, motion)})


def stage3(batch: Batch, at: Context) -> Losses:
    """Flow matching of the target's latents, with the heatmap terms as intermediate supervision."""
    animator, cfg = at.animator, at.cfg
    identity = latents.identity(at.vae, batch)
    x0 = latents.target(at.vae, batch)
    motion = animator.motion_tokens(batch["driving"], generator=at.dice.shared)
    tokens, identity_heat = animator.retarget_with_identity(motion.z, identity)
    expression = animator.express(batch["driving"], batch["faces"]) if animator.expression is not None else None

    image = latents.image(animator.config, at.vae, at.image_encoder, batch, x0.shape[2])

    if at.noise_level is None:
        sigma = flow.draw_sigma(at.dice, **cfg.noise(animator.config.denoiser.sigma_range)).to(x0)
    else:
        sigma = x0.new_full((len(x0),), at.noise_level)
    noise = at.dice.randn(*x0.shape[1:]).to(x0)
    noisy = flow.add_noise(x0, noise, sigma)
    out = animator.denoise(noisy, sigma, identity, tokens, expression, image)
    prediction = animator.config.denoiser.prediction
    weights = flow.channel_weights(x0.new_tensor(at.vae.config.latents_std), cfg.channel_weighting)
    flow_loss = flow.LOSSES[prediction](out, x0, noise, sigma, cfg.sigma_floor, weights).mean()

    joint_loss, terms = _retarget_losses(batch, at, tokens, identity_heat)
    total = flow_loss + cfg.joints * joint_loss
    if animator.modes["tokenizer_encoder"] == "train":
        total = total + motion.vq_loss
        if cfg.patch_joints:
            total = total + cfg.joints * cfg.patch_joints * _driver_loss(batch, at, motion)
    _, to_x0 = PREDICTIONS[prediction]
    latent_error = (to_x0(out.detach().float(), noisy, sigma.view(-1, 1, 1, 1, 1)) - x0).pow(2).mean()
    return _losses(total, {"flow": flow_loss, "latent_mse": latent_error, **terms, **_code_terms(at, motion)})


STAGES: dict[int, Callable[[Batch, Context], Losses]] = {1: stage1, 2: stage2, 3: stage3}


class TrainingModule(nn.Module):
    """The one module the engine wraps: the animator under a stage's objective.

    Args:
        animator: with the parts the stage needs; its modes already set.
        stage: 1, 2 or 3.
        cfg: weights of the losses.
        total_steps: steps of the whole run (the codebook starts at a fraction of them).
        vae: the frozen autoencoder, needed by stages 2 and 3. Held outside the parameters: the engine must not see it. Batches
            that bring their latents leave it where it is; only its config is read.
        image_encoder: the frozen one of an image-to-video base (``conditioning.image_encoder``), held outside too.
    """

    def __init__(
        self,
        animator: Animator,
        stage: int,
        cfg: ObjectiveConfig,
        *,
        total_steps: int,
        vae: nn.Module | None = None,
        image_encoder: ImageEncoder | None = None,
    ):
        super().__init__()
        if stage not in STAGES:
            raise InputError(f"stage: {stage} is unknown; use one of {', '.join(map(str, STAGES))}")
        if stage > 1 and vae is None:
            raise InputError(
                f"stage {stage} needs the autoencoder; load it with load_autoencoder(animator.config.autoencoder)"
            )
        self.animator, self.stage, self.cfg, self.total_steps = animator, stage, cfg, total_steps
        self._outside: tuple[nn.Module | None, ImageEncoder | None] = (vae, image_encoder)

    @property
    def vae(self) -> nn.Module | None:
        """The autoencoder, or None in stage 1."""
        return self._outside[0]

    @property
    def image_encoder(self) -> ImageEncoder | None:
        """The image encoder, or None for a base without one."""
        return self._outside[1]

    def place_encoders(self, device: torch.device) -> None:
        """Moves the frozen encoders to where they are going to work."""
        for frozen in self._outside:
            if frozen is not None:
                frozen.to(device)

    def forward(self, batch: Batch, dice: Dice, step: int, noise_level: float | None = None) -> Losses:
        """A batch's losses (see imanim.data.stream.Batch) at a step (0 = the first), with the dice of its samples.

        ``noise_level``: stage 3's, instead of one drawn for each sample.

        The driving side comes augmented already; stage 1 augments the target's frames itself while training.
        """
        if not latents.cached(batch):
            self.place_encoders(batch["driving"].device)
        progress = min(1.0, step / max(1, self.total_steps))
        at = Context(self.animator, self.vae, self.image_encoder, self.cfg, dice, progress, self.training, noise_level)
        return STAGES[self.stage](batch, at)


def _some_frames(batch: Batch, at: Context) -> tuple[Tensor, Tensor]:
    """A few frames of every driving and target clip [2B,n,3,H,W] and their joints [2B,n,J,3]."""
    clips, frames = batch["driving"].shape[:2]
    picks = torch.cat([at.dice.rand(frames), at.dice.rand(frames)]).argsort(-1)[:, : at.cfg.frames_per_clip]
    rows, picks = torch.arange(clips)[:, None], picks.to(batch["driving"].device)
    driving, joints = batch["driving"][rows, picks[:clips]], batch["driving_joints"][rows, picks[:clips]]
    target, target_joints = batch["target"][rows, picks[clips:]], batch["joints"][rows, picks[clips:]]
    if at.training:
        boxes = target.new_zeros(*target.shape[:2], 4)
        target, target_joints, _ = augment_driving(target, target_joints, boxes, at.dice)
    return torch.cat([driving, target]), torch.cat([joints, target_joints])


def _retarget_losses(
    batch: Batch, at: Context, tokens: Tensor, identity_heat: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The character's joints in every frame, and in its own image."""
    truth, size = batch["joints"], _size(batch)
    weight, own_weight = joint_weight(truth), joint_weight(batch["identity_joints"])
    heat = at.animator.read_joints(tokens, truth.shape[1])
    joint_loss = heatmap_loss(heat, truth[..., :2], weight, coordinates=at.cfg.coordinates)
    own = batch["identity_joints"][..., :2]
    own_loss = heatmap_loss(identity_heat, own, own_weight, coordinates=at.cfg.coordinates)
    reference = at.animator.read_reference_joints(tokens)
    if reference is not None:
        own_loss = own_loss + heatmap_loss(reference, own, own_weight, coordinates=at.cfg.coordinates)
    terms = {
        "heatmap": joint_loss,
        "identity_heatmap": own_loss,
        "joint_error": joint_error(read_out(heat), truth[..., :2], weight, *size),
        "identity_joint_error": joint_error(read_out(identity_heat), own, own_weight, *size),
    }
    return joint_loss + at.cfg.identity_joints * own_loss, terms


def _driver_loss(batch: Batch, at: Context, motion: MotionTokens) -> Tensor:
    """The driver's own joints from the patch tokens: they hold the encoder to the pose while the video loss moves it."""
    joints = batch["driving_joints"]
    square = frame_to_square(joints[..., :2], *_size(batch))
    return heatmap_loss(at.animator.read_patch_joints(motion), square, joint_weight(joints), coordinates=0.0)


def _code_terms(at: Context, motion: MotionTokens) -> dict[str, Tensor]:
    """Codebook use of this rank's batch, in % of the codes, and its perplexity. While the codebook trains, its health too (see
    ``quantizer.Health``), the same on every rank. All 0 while tokens are continuous."""
    names = ["codes_used", "code_perplexity"]
    trains = at.animator.modes["codebook"] == "train"
    if trains:
        names += ["codebook_alive", "codebook_perplexity", "codebook_revived"]
    if motion.indices is None:
        return dict.fromkeys(names, motion.z.new_zeros(()))
    batch = usage(motion.indices, at.animator.config.tokenizer.codes)
    return dict(zip(names, [*batch, *(at.animator.part("codebook").health() if trains else ())]))


def _size(batch: Batch) -> tuple[int, int]:
    """The pixels H,W of a batch's frames: not always the model's own (``data.buckets``)."""
    return batch["driving"].shape[-2], batch["driving"].shape[-1]


def _losses(total: Tensor, terms: dict[str, Tensor]) -> Losses:
    return Losses(total, {name: value.detach() for name, value in terms.items()})
