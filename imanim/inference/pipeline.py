"""The animation pipeline: a character's image and a driving video in, the character performing that motion out.

A diffusers ``DiffusionPipeline``: components ``animator``, ``vae`` and ``scheduler``, ``.to(device)``, ``progress_bar``. The
folder it reads is the one training writes (:meth:`imanim.models.animator.Animator.save_pretrained`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from torch import Tensor

from imanim import clock
from imanim.errors import InputError
from imanim.inference import canvas, find_model
from imanim.inference.faces import face_boxes
from imanim.inference.frames import MIN_FRAMES
from imanim.inference.windows import padded, stitch
from imanim.models.animator import Animator, Conditions
from imanim.models.autoencoder import decode_video, encode_image, load_autoencoder
from imanim.models.conditioning import (
    ImageCondition,
    ImageEncoder,
    autoencoder_folder,
    image_condition,
    image_encoder,
)
from imanim.models.config import AnimatorConfig
from imanim.models.joints import read_out

OVERLAP_FRAMES = 5
"""Pixel frames that neighbouring windows share: one latent frame and the first, long enough for a soft change."""
NEEDED_PARTS = ("tokenizer_encoder", "codebook", "retargeter", "denoiser")


class FrameSource(Protocol):
    """What driving frames come from: a uint8 array [T,H,W,3] or a :class:`imanim.inference.frames.FrameStore`."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> np.ndarray: ...


@dataclass
class AnimationOutput(BaseOutput):
    """``frames`` uint8 [T,h,w,3]: one for every driving frame, at the size the character's image has on the canvas."""

    frames: np.ndarray


@dataclass
class Motion:
    """What the model read from a batch of driving clips for a character.

    conditions: for the denoiser. driving_joints [B,T,J,2]: the motion tokens' joints in the driving frame (None without a
    motion decoder). joints [B,T,J,2]: the retargeted joints in the target frame (None without a joint decoder). faces
    [B,T,4]: the boxes the expression was read from. low_noise: for the low-noise half's denoiser, if there is one.
    """

    conditions: Conditions
    driving_joints: Tensor | None
    joints: Tensor | None
    faces: Tensor
    low_noise: Conditions | None = None


class AnimationPipeline(DiffusionPipeline):
    """Animates a character by a driving video; see :meth:`__call__`.

    Args:
        image_encoder: of an image-to-video base (``conditioning.image_encoder``).
        low_noise: the low-noise half of a model trained in two (Wan 2.2 A14B); ``animator`` is then the high-noise half.
    """

    animator: Animator
    vae: Any
    scheduler: Any
    image_encoder: ImageEncoder | None
    low_noise: Animator | None

    _optional_components = ["image_encoder", "low_noise"]

    def __init__(
        self,
        animator: Animator,
        vae: Any,
        scheduler: Any,
        image_encoder: ImageEncoder | None = None,
        low_noise: Animator | None = None,
    ):
        super().__init__()
        halves = {"low_noise": low_noise.eval() if low_noise is not None else None}
        self.register_modules(
            animator=animator.eval(), vae=vae, scheduler=scheduler, image_encoder=image_encoder, **halves
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | Path,
        *,
        low_noise: str | Path | None = None,
        shift: float | None = None,
        base: str | None = None,
        attention: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> AnimationPipeline:
        """Loads a model that training wrote.

        Args:
            folder: a saved model or a training run's folder; its config names the autoencoder.
            low_noise: the same of the low-noise half, when the model was trained in two.
            shift: of the sampling noise levels, sigma' = s*sigma / (1 + (s-1)*sigma); larger spends more steps on noise. None
                is what suits the model.
            base, attention: instead of what the config says (see AnimatorConfig): weights may move, kernels differ by machine.
            dtype: of the model's weights in memory; the autoencoder stays float32.

        Raises:
            InputError: missing, damaged, of another size, trained only up to a stage that makes no video, or half of a model.
        """
        animator = _load(folder, base, attention, dtype)
        low = _load(low_noise, base, attention, dtype) if low_noise is not None else None
        _check_halves(folder, animator.config, low.config if low is not None else None)
        cfg = animator.config
        vae = load_autoencoder(autoencoder_folder(cfg))
        shift = cfg.denoiser.sampling_shift if shift is None else shift
        return cls(animator, vae, FlowMatchEulerDiscreteScheduler(shift=shift), image_encoder(cfg), low)

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.animator.config.height, self.animator.config.width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.animator.parameters()).device

    def to(self, *args: Any, **kwargs: Any) -> AnimationPipeline:
        """Moves the weights; arguments as in ``torch.nn.Module.to``. (diffusers' own asks its components for a dtype.)"""
        for module in (self.animator, self.vae, self.image_encoder, self.low_noise):
            if module is not None:
                module.to(*args, **kwargs)
        return self

    # ------------------------------------------------------------------------------------------------ the way in

    def encode_character(self, images: Tensor) -> Tensor:
        """Canvas images [B,3,H,W] in [0,1] to identity latents [B,C,h,w]."""
        return encode_image(self.vae, images.to(self.device))

    @torch.inference_mode()
    def encode_condition(self, images: Tensor, frames: int) -> ImageCondition | None:
        """What an image-to-video base is told of canvas images [B,3,H,W] for clips of T = ``frames``; None for other bases."""
        cfg, latents = self.animator.config, clock.latent_frames(frames)
        return image_condition(cfg, self.vae, self.image_encoder, images.to(self.device), latents)

    @torch.inference_mode()
    def read_motion(
        self,
        driving: Tensor,
        identity_latents: Tensor,
        faces: Tensor | None = None,
        image: ImageCondition | None = None,
    ) -> Motion:
        """Everything the denoiser needs to know about a batch of clips.

        Args:
            driving: [B,T,3,H,W] in [0,1], T = 4n+1.
            identity_latents: [B,C,h,w] from :meth:`encode_character`.
            faces: [B,T,4] boxes in the driving frame (NaN = none); None finds them by the motion tokens' own joints.
            image: from :meth:`encode_condition`.
        """
        driving, animator = driving.to(self.device), self.animator
        z = animator.motion_tokens(driving).z
        joints = None
        if animator.motion_decoder is not None:
            joints = animator.motion_joints_in_frame(animator.read_motion_joints(z), *driving.shape[-2:])
        if faces is None:
            faces = self._find_faces(driving, joints)
        faces = faces.to(self.device)
        tokens = animator.retarget(z, identity_latents)
        expression = animator.express(driving, faces) if animator.expression is not None else None
        target = None
        if animator.joint_decoder is not None:
            target = read_out(animator.read_joints(tokens, driving.shape[1]))
        low = None
        if self.low_noise is not None:
            low = self.low_noise.conditions(driving, faces, identity_latents, image)
        return Motion(Conditions(identity_latents, tokens, expression, image), joints, target, faces, low)

    def _find_faces(self, driving: Tensor, joints: Tensor | None) -> Tensor:
        if joints is None:
            if self.animator.expression is None:
                return driving.new_full((*driving.shape[:2], 4), float("nan"))
            raise InputError("this model has no motion decoder to find faces with; give the boxes (--faces FILE.npy)")
        boxes = [face_boxes(clip.float().cpu().numpy(), *self.canvas_size) for clip in joints]
        return torch.from_numpy(np.stack(boxes))

    # ----------------------------------------------------------------------------------------------- the way out

    @property
    def default_steps(self) -> int:
        """Sampling steps that suit the model's weights."""
        return self.animator.config.denoiser.sampling_steps

    @torch.inference_mode()
    def sample(
        self, conditions: Conditions, noise: Tensor, steps: int, *, low_noise: Conditions | None = None, bar: Any = None
    ) -> Tensor:
        """Integrates the probability flow from noise [B,C,F,h,w] to normalised latents of the same shape.

        Euler steps on the scheduler's noise levels, 1 down to 0; ``bar.update()`` is called after each. Levels below the range
        of a model in two halves go to the low-noise one, with its own conditions.
        """
        if steps < 1:
            raise InputError(f"{steps} sampling steps: at least 1 is needed")
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=self.device)
        x = noise.to(self.device)
        for sigma, timestep in zip(self.scheduler.sigmas[:-1], self.scheduler.timesteps):
            half, told = self.animator, conditions
            if float(sigma) < half.config.denoiser.sigma_range[0]:
                if self.low_noise is None or low_noise is None:
                    raise InputError(f"noise level {float(sigma):.3f} is the low-noise half's; give its conditions too")
                half, told = self.low_noise, low_noise
            velocity = half.velocity(x, sigma.to(x).expand(len(x)), told)
            x = self.scheduler.step(velocity.float(), timestep, x, return_dict=False)[0]
            if bar is not None:
                bar.update()
        return x

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B,C,F,h,w] to video [B,T,3,H,W] in [0,1]."""
        return decode_video(self.vae, latents)

    def noise(self, frames: int, seed: int, batch: int = 1) -> Tensor:
        """Noise [B,C,F,h,w] for clips of T = ``frames``. Made on the CPU: one seed is one noise on every device."""
        cfg = self.animator.config
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, cfg.latent_channels, clock.latent_frames(frames), *cfg.latent_size)
        return torch.randn(shape, generator=generator)

    # --------------------------------------------------------------------------------------------------- the whole

    def stream(
        self,
        character: np.ndarray,
        driving: FrameSource,
        *,
        faces: np.ndarray | None = None,
        steps: int | None = None,
        seed: int = 0,
        overlap_frames: int = OVERLAP_FRAMES,
    ) -> Iterator[np.ndarray]:
        """Like :meth:`__call__`, frame by frame: one window of the model's length is in memory, however long the video.

        Args:
            driving: on the canvas already, [T,H,W,3] (:func:`imanim.inference.frames.load_driving` gives that).
            faces: [T,4] in [0,1] of the canvas.

        Yields:
            uint8 [h,w,3], one for every driving frame.
        """
        length, total = self.animator.config.frames, len(driving)
        steps = self.default_steps if steps is None else steps
        if total < MIN_FRAMES:
            raise InputError(f"driving video: {total} frames; at least {MIN_FRAMES} are needed")
        where = canvas.fit(character, self.canvas_size)
        placed = _to_tensor(canvas.place(character, where)[None])
        identity, image = self.encode_character(placed), self.encode_condition(placed, length)
        # The same noise in every window: what the model leaves to chance (folds, texture) then comes out alike.
        noise = self.noise(length, seed)
        plan = clock.windows(total, length, overlap_frames)

        with self.progress_bar(total=len(plan) * steps) as bar:

            def render(window: clock.Window) -> np.ndarray:
                clip = padded(driving[window.start : min(window.stop, total)], length)
                boxes = (
                    None if faces is None else torch.from_numpy(padded(faces[window.start : window.stop], length))[None]
                )
                motion = self.read_motion(_to_tensor(clip)[None], identity, boxes, image)
                latents = self.sample(motion.conditions, noise, steps, low_noise=motion.low_noise, bar=bar)
                video = self.decode(latents)[0]
                return where.crop(video.permute(0, 2, 3, 1).mul(255).cpu().numpy())

            yield from stitch(plan, render, total)

    def __call__(
        self,
        character: np.ndarray,
        driving: np.ndarray,
        *,
        faces: np.ndarray | None = None,
        steps: int | None = None,
        seed: int = 0,
        overlap_frames: int = OVERLAP_FRAMES,
    ) -> AnimationOutput:
        """Animates a character.

        Args:
            character: uint8 [h,w,3] of any size; fitted onto the canvas with its aspect kept.
            driving: uint8 [T,h',w',3] of any size, T >= 5; longer than the model's clip goes window by window.
            faces: float32 [T,4] boxes x0,y0,x1,y1 in [0,1] of the driving frame (NaN = none); None finds them.
            steps: Euler steps; None: as many as suit the model (``denoiser.sampling_steps``).
            seed: the same seed gives the same frames on one machine.
            overlap_frames: shared by neighbouring windows and cross-faded.

        Returns:
            as many frames as the driver has, at the character's size on the canvas (even sides).

        Raises:
            InputError: fewer than 5 frames, or an unusable overlap or number of steps.
        """
        where = canvas.fit(driving[0], self.canvas_size)
        fitted = np.stack([canvas.place(frame, where) for frame in driving])
        frames = self.stream(
            character,
            fitted,
            faces=None if faces is None else where.boxes(faces),
            steps=steps,
            seed=seed,
            overlap_frames=overlap_frames,
        )
        return AnimationOutput(frames=np.stack(list(frames)))


def _load(folder: str | Path, base: str | None, attention: str | None, dtype: torch.dtype) -> Animator:
    animator = Animator.from_pretrained(find_model(folder), base=base, attention=attention, dtype=dtype)
    missing = [p for p in NEEDED_PARTS if p not in animator.parts]
    if missing:
        raise InputError(f"{folder}: has no {', '.join(missing)}, so it makes no video; give a model of stage 3")
    return animator


def _check_halves(folder: str | Path, high: AnimatorConfig, low: AnimatorConfig | None) -> None:
    """The noise levels of one model, or of two halves, must be all there are."""
    ranges = [cfg.denoiser.sigma_range for cfg in (low, high) if cfg is not None]
    ends = [0.0, *(high for _, high in ranges)]
    if ends[:-1] != [low for low, _ in ranges] or ends[-1] != 1.0:
        said = " and ".join(f"{low:g} to {high:g}" for low, high in ranges)
        raise InputError(
            f"{folder}: made for noise levels {said}; give the high-noise half as the model and the other as its low-noise half"
        )


def _to_tensor(frames: np.ndarray) -> Tensor:
    """uint8 [...,H,W,3] to float32 [...,3,H,W] in [0,1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 255
