"""The whole model: seven parts, what flows between them, and how they are saved (docs/method.md, "The curriculum").

Shapes: B batch, T pixel frames = 4n+1, F latent frames = n+1, H,W pixels, h,w latent grid, C latent channels, gh,gw tokens of a
latent frame, K motion tokens a frame of dimension D, J joints, Ke expression tokens a frame, Wb width of the bottleneck, E width.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from imanim.errors import InputError
from imanim.models import files
from imanim.models.conditioning import ImageCondition
from imanim.models.config import AnimatorConfig
from imanim.models.denoiser import PREDICTIONS, Denoiser
from imanim.models.expression import Expression
from imanim.models.joints import JointDecoder, frame_to_square, pad_to_square, read_out, square_to_frame
from imanim.models.quantizer import Codebook
from imanim.models.retargeter import RETARGETERS
from imanim.models.skeleton import SkeletonReader
from imanim.models.tokenizer import ENCODERS, MotionDecoder
from imanim.sequence import Team

PARTS = ("tokenizer_encoder", "codebook", "motion_decoder", "joint_decoder", "retargeter", "expression", "denoiser")
"""Every parameter and buffer belongs to exactly one part. ``joint_decoder`` reads the retargeted tokens; the light joint head of
stage 1 belongs to ``motion_decoder``."""

MODES = ("train", "frozen")


class MotionTokens(NamedTuple):
    """z [B,T,K,D] (quantised, straight through), indices [B,T,K] (None without VQ), vq_loss (weighted), patch_features
    [B*T,g*g,E]."""

    z: Tensor
    indices: Tensor | None
    vq_loss: Tensor
    patch_features: Tensor


class Conditions(NamedTuple):
    """What the denoiser is told about a clip: the character's latents [B,C,h,w], retargeted tokens [B,F,gh,gw,Wb], expression
    tokens [B,T,Ke,E] and where a face was found [B,T], and what an image-to-video base wants."""

    identity_latents: Tensor
    tokens: Tensor
    expression: tuple[Tensor, Tensor] | None
    image: ImageCondition | None = None


class Animator(nn.Module):
    """Holds the parts that a run needs; a part that is not built is None.

    Args:
        from_base: the denoiser starts from the weights of ``config.base``; otherwise all weights are random.
    """

    def __init__(self, config: AnimatorConfig, parts: Collection[str] = PARTS, *, from_base: bool = False):
        super().__init__()
        unknown = sorted(set(parts) - set(PARTS))
        if unknown:
            raise InputError(f"parts: {', '.join(unknown)}: no such part; known parts: {', '.join(PARTS)}")
        cfg, tk, rt = config, config.tokenizer, config.retargeter
        self.config = config
        self.parts = tuple(p for p in PARTS if p in parts)
        self.modes: dict[str, str] = dict.fromkeys(self.parts, "train")
        have = set(self.parts)
        self.tokenizer_encoder = ENCODERS[tk.encoder](tk, cfg.joints) if "tokenizer_encoder" in have else None
        self.codebook = _codebook(config) if "codebook" in have else None
        self.motion_decoder = MotionDecoder(tk, cfg.joints) if "motion_decoder" in have else None
        self.joint_decoder = _joint_decoder(config) if "joint_decoder" in have else None
        self.retargeter = RETARGETERS[rt.kind](cfg) if "retargeter" in have else None
        self.expression = (
            Expression(cfg.expression, cfg.denoiser.width, cfg.denoiser.layers) if "expression" in have else None
        )
        self.denoiser = Denoiser(cfg, from_base=from_base) if "denoiser" in have else None

    # ---------------------------------------------------------------------------------------------------- parts

    def part(self, name: str) -> Any:
        """The part's module. Raises InputError when this animator was built without it."""
        module = getattr(self, name) if name in PARTS else None
        if module is None:
            raise InputError(
                f"parts.{name}: this model has no such part (it has {', '.join(self.parts)}); add it to `parts`"
            )
        return module

    def parameter_parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Part to its named parameters (names as in ``self.named_parameters()``). The codebook has none: it is a buffer."""
        return {p: [(f"{p}.{n}", v) for n, v in self.part(p).named_parameters()] for p in self.parts}

    @property
    def unsaved(self) -> frozenset[str]:
        """Names of weights that are not saved with the model, because they come from ``base``."""
        return frozenset(f"{name}.{inner}" for name in self.parts for inner in files.unsaved(self.part(name)))

    def set_modes(self, modes: Mapping[str, str]) -> None:
        """Part to ``train`` or ``frozen``: sets requires_grad, and whether the codebook moves. Call before the engine is built."""
        for name, mode in modes.items():
            if mode not in MODES:
                raise InputError(f"parts.{name}: mode {mode!r} is unknown; use one of {', '.join(MODES)}")
            self.part(name).requires_grad_(mode == "train")
            self.modes[name] = mode
        if self.codebook is not None:
            self.codebook.updates = self.modes["codebook"] == "train"

    def share(self, team: Team) -> None:
        """Retargeter and denoiser cut a clip's tokens over the ranks of ``team`` from now on (imanim.sequence).

        Every rank of the team must be given the same samples. Raises InputError when there are not enough frames or heads.
        """
        self.config.check_team(team.size)
        for name in ("retargeter", "denoiser"):
            if name in self.parts:
                self.part(name).share(team)

    # ----------------------------------------------------------------------------------------------------- flow

    def motion_tokens(
        self, driving: Tensor, *, vq: bool = True, generator: torch.Generator | None = None
    ) -> MotionTokens:
        """The motion tokens of frames [B,T,3,H,W] in [0,1]. Without ``vq`` they stay continuous (the start of stage 1).

        ``generator`` (CPU) picks vectors that start and revive codes; needed while the codebook trains.
        """
        tk, batch = self.config.tokenizer, driving.shape[:2]
        frames = pad_to_square(driving.flatten(0, 1), tk.image_size, antialias=tk.antialias)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.modes["tokenizer_encoder"] == "train"):
            z, features = self.part("tokenizer_encoder")(frames)
        if not (vq and tk.quantise):
            return MotionTokens(z.unflatten(0, batch), None, z.new_zeros(()), features)
        z, indices, commitment = self.part("codebook")(z, generator)
        return MotionTokens(z.unflatten(0, batch), indices.unflatten(0, batch), tk.commitment * commitment, features)

    def read_motion_joints(self, z: Tensor) -> Tensor:
        """Heatmap logits [B,T,J,R,R] on the padded square, from tokens [B,T,K,D]."""
        return self.part("motion_decoder")(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    def read_patch_joints(self, motion: MotionTokens) -> Tensor:
        """The same straight from the patch tokens: stage 1's second teacher. Raises InputError without ``tokenizer.patch_head``."""
        head = self.part("tokenizer_encoder").patch_head
        if head is None:
            raise InputError(
                "tokenizer.patch_head: false, so there are no joints to read from patches; set objective.patch_joints=0"
            )
        heat = head(motion.patch_features)[:, 0]
        return heat.unflatten(0, motion.z.shape[:2])

    def motion_joints_in_frame(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Coordinates [B,T,J,2] in the driving frames of HxW pixels, from ``read_motion_joints``' logits."""
        return square_to_frame(read_out(logits), height, width)

    def retarget(self, z: Tensor, identity_latents: Tensor) -> Tensor:
        """Retargeted tokens [B,F,gh,gw,Wb] from motion tokens [B,T,K,D] and the character's latents [B,C,h,w].

        With ``retargeter.reference_tokens`` one more latent frame stands ahead: the character image's own pose.
        """
        return self.retarget_with_identity(z, identity_latents)[0]

    def retarget_with_identity(self, z: Tensor, identity_latents: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`retarget`, and the logits [B,J,rows,cols] of the character image's own joints (auxiliary)."""
        part = self.part("retargeter")
        return part(self.read_motion_joints(z) if part.reads_heatmaps else z, identity_latents)

    def read_joints(self, tokens: Tensor, frames: int) -> Tensor:
        """Heatmap logits [B,T,J,gh*sub,gw*sub] on the target frame; ``joints.read_out`` gives frame coordinates."""
        return self.part("joint_decoder")(tokens[:, self.config.retargeter.ahead :], frames)

    def read_reference_joints(self, tokens: Tensor) -> Tensor | None:
        """The same [B,J,gh*sub,gw*sub] of the character image, from its own tokens; None without ``reference_tokens``."""
        ahead = self.config.retargeter.ahead
        return self.part("joint_decoder")(tokens[:, :ahead], 1)[:, 0] if ahead else None

    def express(self, driving: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Expression tokens [B,T,Ke,E] and found bool [B,T] of driving frames [B,T,3,H,W] and face boxes [B,T,4]."""
        return self.part("expression")(driving, faces)

    def denoise(
        self,
        noisy: Tensor,
        sigma: Tensor,
        identity_latents: Tensor,
        tokens: Tensor,
        expression: tuple[Tensor, Tensor] | None = None,
        image: ImageCondition | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """The network's output [B,C,F,h,w] for noisy latents at noise level sigma [B]; what it means is ``prediction``'s.

        The other arguments are :class:`Conditions`' and :meth:`Denoiser.forward`'s.
        """
        blocks = dict(self.expression.blocks) if self.expression is not None and expression is not None else {}

        def after_block(i: int, x: Tensor, frames: range) -> Tensor:
            assert expression is not None
            return blocks[str(i)](x, *expression, frames) if str(i) in blocks else x

        between = after_block if blocks else None
        return self.part("denoiser")(noisy, sigma, identity_latents, tokens, between, text, image)

    # ------------------------------------------------------------------------------------------------- sampling

    def conditions(
        self, driving: Tensor, faces: Tensor, identity_latents: Tensor, image: ImageCondition | None = None
    ) -> Conditions:
        """Everything the denoiser needs, from driving frames [B,T,3,H,W], boxes [B,T,4] and latents [B,C,h,w]."""
        z = self.motion_tokens(driving).z
        expression = self.express(driving, faces) if self.expression is not None else None
        return Conditions(identity_latents, self.retarget(z, identity_latents), expression, image)

    def velocity(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """dx/dsigma = eps - x0 [B,C,F,h,w] at noise level sigma [B] > 0, whatever the network predicts."""
        to_velocity, _ = PREDICTIONS[self.config.denoiser.prediction]
        out = self.denoise(noisy, sigma, *conditions)
        return to_velocity(out, noisy, sigma.view(-1, 1, 1, 1, 1))

    # -------------------------------------------------------------------------------------------------- storing

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        record: Mapping[str, Any] | None = None,
        max_shard_bytes: int = files.MAX_SHARD_BYTES,
    ) -> None:
        """Writes ``model_index.json`` and one folder a part (config.json, safetensors), whole or not at all.

        Args:
            folder: new, empty or holding a model, which is replaced.
            record: what made these weights (stage, step, data, losses), kept in the index. JSON values.
            max_shard_bytes: larger parts are split into several files, as diffusers does.

        Raises:
            InputError: the disk is full, or ``folder`` holds something else.
        """
        state = {p: files.own_state(self.part(p)) for p in self.parts}
        files.save(Path(folder), self.config, state, dict(record or {}), max_shard_bytes=max_shard_bytes)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        parts: Collection[str] | None = None,
        *,
        base: str | None = None,
        attention: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Animator:
        """Builds the animator a folder describes, with all of its parts or those named, in eval mode.

        Memory is what the weights take as ``dtype``: nothing is initialised that is going to be overwritten.

        Args:
            base, attention: (the denoiser's) replace what the config says: weights may move, kernels differ by machine.
            dtype: of floating-point weights. The codebook stays float32, and so do tables that are computed, not saved.

        Raises:
            InputError: the folder is missing, half-written, mixed from two models or of another size (naming the part, tensor
                and both shapes), or has none of a part in ``parts``.
        """
        if not dtype.is_floating_point:
            raise InputError(f"dtype: {dtype} is no floating-point type; use float32, bfloat16 or float16")
        index = files.read_index(Path(folder))
        config = relocated(index.config, base=base, attention=attention)
        animator = empty(config, tuple(parts) if parts is not None else index.parts)
        for stored in animator._find(index, animator.parts):
            # What is not in the folder comes from where it always does: from the part's own constructor.
            if files.unsaved(animator.part(stored.name)):
                whole = cls(config, (stored.name,), from_base=True).part(stored.name)
                setattr(animator, stored.name, whole)
                _cast(whole, files.unsaved(whole), dtype)
            part = animator.part(stored.name)
            part.load_state_dict(stored.copies(dtype), strict=not files.unsaved(part), assign=True)
        animator._check_weights()
        return animator.eval()

    def load_parts(self, folder: str | Path, parts: Collection[str] | None = None, *, strict: bool = True) -> list[str]:
        """Copies weights into parts already built (a stage starts from the last one's weights). Before the engine is built.

        Args:
            folder: what ``save_pretrained`` wrote.
            parts: which; None is every part this animator has.
            strict: refuse when the folder lacks one of them; otherwise such parts keep their start.

        Returns:
            the parts loaded. Raises InputError as :meth:`from_pretrained`; nothing is changed then.
        """
        index = files.read_index(Path(folder))
        wanted = [p for p in PARTS if p in (self.parts if parts is None else parts)]
        found = self._find(index, wanted if strict else [p for p in wanted if p in index.parts])
        # Adapters first: they may refuse the base they are put on, and nothing shall have changed by then.
        for stored in sorted(found, key=lambda stored: not files.unsaved(self.part(stored.name))):
            part = self.part(stored.name)
            part.load_state_dict(dict(stored.mapped()), strict=not files.unsaved(part))
        return [stored.name for stored in found]

    def _find(self, index: files.Index, parts: Collection[str]) -> list[files.StoredPart]:
        """The saved parts, checked against these. Raises InputError."""
        missing = [p for p in parts if p not in index.parts]
        if missing:
            has = ", ".join(index.parts)
            raise InputError(
                f"{index.folder}: has no part {', '.join(missing)} (it has {has}); give a later stage's model"
            )
        return [files.check_part(index, p, self.part(p)) for p in parts]

    def _check_weights(self) -> None:
        """A tensor on the meta device has no values: what computes with it fails later and elsewhere."""
        for name, value in itertools.chain(self.named_parameters(), self.named_buffers()):
            if value.is_meta:
                raise RuntimeError(
                    f"{name}: without values after loading; a part must not compute its buffers from its parameters"
                )


def empty(config: AnimatorConfig, parts: Collection[str]) -> Animator:
    """An animator to be filled: parameters on the meta device (no memory, no random start), buffers real."""
    with init_empty_weights(include_buffers=False):
        return Animator(config, parts)


def relocated(config: AnimatorConfig, *, base: str | None = None, attention: str | None = None) -> AnimatorConfig:
    """The configuration with another ``base`` or ``denoiser.attention`` where they are given."""
    denoiser = replace(config.denoiser, attention=attention or config.denoiser.attention)
    return replace(config, base=base or config.base, denoiser=denoiser)


def _cast(part: nn.Module, names: Collection[str], dtype: torch.dtype) -> None:
    for name, value in part.state_dict(keep_vars=True).items():
        if name in names and value.is_floating_point():
            value.data = value.data.to(dtype)


def _codebook(config: AnimatorConfig) -> Codebook:
    tk = config.tokenizer
    return Codebook(tk.codes, tk.token_dim, decay=tk.code_decay, revive_below=tk.code_revive_below)


def _joint_decoder(config: AnimatorConfig) -> nn.Module:
    rt = config.retargeter
    sub = rt.sub * rt.grid_stride
    if rt.kind == "skeleton":
        return SkeletonReader(config.joints, sub)
    interpolate = rt.interpolate_positions
    return JointDecoder(rt.bottleneck, rt.joint_hidden, config.joints, config.mask_grid, sub, interpolate=interpolate)


@torch.no_grad()
def initialise_joint_prior(animator: Animator, joints: Tensor, weight: Tensor) -> None:
    """Starts every heatmap head at the mean heatmap of some joints. Before the engine is built; the same on every rank.

    Args:
        joints: [M,J,2 or 3] frame coordinates, a few hundred to a few thousand frames of the training set.
        weight: [M,J], see ``joints.joint_weight``.
    """
    xy = joints[..., :2]
    square = frame_to_square(xy, animator.config.height, animator.config.width)
    patch_head = animator.part("tokenizer_encoder").patch_head if animator.tokenizer_encoder is not None else None
    if patch_head is not None:
        patch_head.set_prior(square, weight)
    if animator.motion_decoder is not None:
        animator.part("motion_decoder").head.set_prior(square, weight)
    if animator.joint_decoder is not None:
        animator.part("joint_decoder").set_prior(xy, weight)
    if animator.retargeter is not None:
        animator.part("retargeter").set_prior(xy, weight)
