"""What the motion tokens carry: joints read from them, and how much of the codebook they use. Nothing is trained here.

Shapes: B clips, T frames, K motion tokens a frame, N codes, J joints, H,W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evaluation.results import ALL
from evaluation.summary import interval
from imanim.data.sample import Sample, decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError
from imanim.models.animator import Animator
from imanim.models.joints import joint_error, joint_weight
from imanim.models.quantizer import usage

_MEMBERS = ("driving.mp4", "joints.npy", "meta.json")


@dataclass
class _Clip:
    """One driving clip read by the tokenizer.

    codes int64 [T,K]; joints float32 [T,J,3], true; error: mean over the clip's joints in % of the image height; size: H, W.
    """

    motion: str
    codes: Tensor
    joints: Tensor
    error: float
    size: tuple[int, int]


def measure(
    model: str | Path,
    data: str | Path,
    scopes: Mapping[str, Sequence[str]],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, Any]:
    """Joints that the tokenizer's own decoder reads from quantised tokens, and use of the codebook, a scope each and together.

    Args:
        model: folder of a saved model.
        data: folder of shards that know the drivers' joints (Doubles).
        scopes: {name: splits that are taken together}.

    Returns:
        ``codes`` N; ``scopes``: {scope, or ``all``: ``error`` and ``mean_pose`` in % of the image height with ``error_interval``
        (95 %, over motions), ``codes_used`` %, ``perplexity``, ``clips``, ``motions``, ``frames``}. ``mean_pose`` is the error
        of these very clips' mean joints, which nobody knows beforehand: it flatters that guess.

    Raises:
        InputError: no such model or split; a model without the stage-1 parts; samples without joints.
    """
    # Strict about what is read, not about what is not: the denoiser stays on disk.
    animator = Animator.from_pretrained(model, ["tokenizer_encoder", "codebook", "motion_decoder"]).eval()
    codes = animator.config.tokenizer.codes
    splits = dict.fromkeys(split for named in scopes.values() for split in named)
    clips = {split: list(_read(animator, ShardSet(data, split), batch_size, progress)) for split in splits}
    together = {**scopes, ALL: list(splits)}
    return {
        "codes": codes,
        "scopes": {
            name: _facts([clip for split in named for clip in clips[split]], codes) for name, named in together.items()
        },
    }


def _read(animator: Animator, shards: ShardSet, batch_size: int, progress: bool) -> Iterator[_Clip]:
    starts = tqdm(
        range(0, len(shards), batch_size), desc=f"tokens of {shards.split}", unit="batch", disable=not progress
    )
    for start in starts:
        samples = [_sample(shards, i) for i in range(start, min(start + batch_size, len(shards)))]
        by_shape: dict[tuple[int, ...], list[Sample]] = {}
        for sample in samples:
            by_shape.setdefault(sample.driving.shape, []).append(sample)
        for alike in by_shape.values():
            yield from _batch(animator, alike)


def _sample(shards: ShardSet, i: int) -> Sample:
    sample = decode(*shards.read(i))
    if sample.joints_of_driver is None:
        raise InputError(f"sample {sample.key}: has no true joints of the driver; the tokens are measured on Doubles")
    return sample


@torch.inference_mode()
def _batch(animator: Animator, samples: Sequence[Sample]) -> Iterator[_Clip]:
    frames = torch.from_numpy(np.stack([s.driving for s in samples])).movedim(-1, 2).float() / 255
    size = (frames.shape[-2], frames.shape[-1])
    motion = animator.motion_tokens(frames)
    if motion.indices is None:
        raise InputError("model: its tokens are not quantised, so it has no codebook to measure; give another model=")
    read = animator.motion_joints_in_frame(animator.read_motion_joints(motion.z), *size)
    for sample, xy, codes in zip(samples, read, motion.indices):
        joints = torch.from_numpy(np.asarray(sample.joints_of_driver)).float()
        error = float(joint_error(xy, joints[..., :2], joint_weight(joints), *size))
        yield _Clip(_motion(sample), codes, joints, error, size)


def _motion(sample: Sample) -> str:
    motion = sample.meta.get("motion")
    return str(motion.get("id") if isinstance(motion, Mapping) else motion or sample.key)


def _facts(clips: Sequence[_Clip], codes: int) -> dict[str, Any]:
    if not clips:
        raise InputError("tokens: a split has no samples; make them again")
    errors = np.array([clip.error for clip in clips])
    motions = [clip.motion for clip in clips]
    used, perplexity = usage(torch.cat([clip.codes.flatten() for clip in clips]), codes)
    return {
        "error": float(errors.mean()),
        "error_interval": list(interval(motions, errors)) if len(set(motions)) > 1 else None,
        "mean_pose": _mean_pose_error(clips),
        "codes_used": float(used),
        "perplexity": float(perplexity),
        "clips": len(clips),
        "motions": len(set(motions)),
        "frames": sum(len(clip.joints) for clip in clips),
    }


def _mean_pose_error(clips: Sequence[_Clip]) -> float:
    """Error of the mean of all clips' own joints, [J,2], said of every frame; clips weigh alike, as in ``error``."""
    joints = torch.cat([clip.joints for clip in clips])
    weight = joint_weight(joints)
    known = torch.where(weight[..., None] > 0, joints[..., :2], 0.0)
    mean = known.sum(0) / weight.sum(0).clamp(min=1.0)[:, None]
    return float(
        np.mean(
            [
                float(
                    joint_error(mean.expand(len(c.joints), -1, -1), c.joints[..., :2], joint_weight(c.joints), *c.size)
                )
                for c in clips
            ]
        )
    )
