"""What is probed: representations of driving clips, from the model's tokens down to the pixels. Nothing is trained here.

Shapes: n clips, T frames, K motion tokens a frame of dimension D, N codes, J joints, H,W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from evaluation.leakage.labels import Driver, driver_of
from evaluation.metrics.joints import bone_lengths, counted, stature, to_pixels
from imanim.data.sample import JOINT_PARENTS, JOINTS, Sample, decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from imanim.inference.pipeline import AnimationPipeline

NECK = JOINTS.index("neck")
GRID = (4, 4)
"""Retargeted tokens are averaged to at most this grid (rows, columns) before their statistics are taken."""
THUMBNAIL = (16, 10)
"""Rows and columns of the mean frame that pixels are probed by."""
_BONE_STEPS = (0.25, 0.5, 0.75)


@dataclass
class Reading:
    """One driving clip as everything sees it.

    tokens float32 [T,K,D]; codes int [T,K], all 0 where tokens are not quantised; code_count N; retargeted float32 [F,gh,gw,Wb] for
    the one character of the run; joints float32 [T,J,3], the driver's true ones; frames uint8 [T,H,W,3].
    """

    tokens: np.ndarray
    codes: np.ndarray
    code_count: int
    retargeted: np.ndarray
    joints: np.ndarray
    frames: np.ndarray


def moments(x: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over the first axis, [2d]."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.concatenate([flat.mean(0), flat.std(0)])


def _histogram(r: Reading) -> np.ndarray:
    """Square roots of the codes' shares [N]: Euclidean distance is then Hellinger's, and rare codes count."""
    counts = np.bincount(r.codes.ravel(), minlength=r.code_count)
    return np.sqrt(counts / counts.sum())


def _retargeted(r: Reading) -> np.ndarray:
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    grid = tuple(min(a, b) for a, b in zip(GRID, r.retargeted.shape[1:3]))
    pooled = adaptive_avg_pool2d(torch.from_numpy(r.retargeted).movedim(-1, 1), grid)
    return moments(pooled.numpy())


def _skeleton(xy: np.ndarray, bones: np.ndarray) -> np.ndarray:
    """Moments of coordinates [T,J,2] and of bone lengths [T,J], with their longest; what nobody knows is their mean, or 0."""
    both = np.concatenate([xy.reshape(len(xy), -1), bones], 1)
    known = ~np.isnan(both)
    count = known.sum(0)
    mean = np.where(known, both, 0).sum(0) / np.maximum(count, 1)
    filled = np.where(known, both, mean)
    return np.concatenate([moments(filled), filled[:, xy[0].size :].max(0)])


def _joints(r: Reading) -> np.ndarray:
    """In frame coordinates, as a heatmap tells them: where, how large, which proportions."""
    height, width = r.frames.shape[1:3]
    return _skeleton(to_pixels(r.joints, height, width) / height, bone_lengths(r.joints, height, width) / height)


def _joints_centred(r: Reading) -> np.ndarray:
    """Around the neck and in statures: proportions and movement alone."""
    height, width = r.frames.shape[1:3]
    xy, size = to_pixels(r.joints, height, width), stature(r.joints, height, width)
    return _skeleton((xy - xy[:, NECK : NECK + 1]) / size, bone_lengths(r.joints, height, width) / size)


def _pixels(r: Reading) -> np.ndarray:
    """The mean frame, small; mean and deviation of its colours; and the colours along the true bones, where clothes are."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    frames = r.frames.astype(np.float32) / 255
    small = adaptive_avg_pool2d(torch.from_numpy(frames.mean(0)).movedim(-1, 0), THUMBNAIL).numpy()
    colours = np.concatenate([frames.mean((0, 1, 2)), frames.std((0, 1, 2))])
    return np.concatenate([small.ravel(), colours, _bone_colours(r, frames).ravel()])


def _bone_colours(r: Reading, frames: np.ndarray) -> np.ndarray:
    """Median colour [J,3] along each bone over the clip; of joints never seen inside the frame, the frame's mean."""
    height, width = frames.shape[1:3]
    ends = to_pixels(r.joints, height, width)
    starts = ends[:, [p if p >= 0 else j for j, p in enumerate(JOINT_PARENTS)]]
    out = np.broadcast_to(frames.mean((0, 1, 2)), (len(JOINTS), 3)).copy()
    times = np.arange(len(frames))[:, None]
    for j in range(len(JOINTS)):
        points = np.stack([starts[:, j] * (1 - s) + ends[:, j] * s for s in _BONE_STEPS], 1)  # [T,steps,2]
        inside = (points >= 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
        x, y = np.where(inside[..., None], points, 0).astype(int).transpose(2, 0, 1)
        if inside.any():
            out[j] = np.median(frames[times, y, x][inside], axis=0)
    return out


REPRESENTATIONS: dict[str, Callable[[Reading], np.ndarray]] = {
    "tokens": lambda r: moments(r.tokens),
    "tokens_flat": lambda r: r.tokens.reshape(-1).astype(np.float64),
    "codes": _histogram,
    "retargeted": _retargeted,
    "joints": _joints,
    "joints_centred": _joints_centred,
    "pixels": _pixels,
    "constant": lambda r: np.ones(1),
}
"""By name, each one vector a clip. ``tokens`` and ``retargeted`` are means and deviations over time, ``tokens_flat`` every
frame's. ``joints`` is what motion itself betrays, ``pixels`` what there was to see, ``constant`` what chance gives."""
WORDS = {
    "tokens": "motion tokens",
    "tokens_flat": "motion tokens frame by frame",
    "codes": "code counts",
    "retargeted": "retargeted tokens",
    "joints": "true joints",
    "joints_centred": "centred true joints",
    "pixels": "pixels",
    "constant": "nothing",
}


@dataclass
class Features:
    """What all clips gave. n clips, m frames of each kept for the joint probe.

    vectors: {representation: float64 [n,D]}. codes int32 [n,T,K]; tokens float32 [n,T,K,D]. frame_joints float64 [n,m,J,2]
    around the neck and in statures (NaN: not in the frame, or unknown) at frames ``frame_numbers`` [m].
    codebook float32 [N,D], None for tokens that are not quantised. character: the sample whose person all tokens were retargeted
    to.
    """

    drivers: list[Driver]
    vectors: dict[str, np.ndarray]
    codes: np.ndarray
    tokens: np.ndarray
    frame_numbers: np.ndarray
    frame_joints: np.ndarray
    codebook: np.ndarray | None
    character: str


def choose(shards: ShardSet, limit: int | None) -> tuple[list[int], list[Driver]]:
    """Samples to read, one a driver and motion, and who drives them.

    A limit keeps whole motions, evenly spread: that several people perform the same one is what makes them comparable.

    Raises:
        InputError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} clips; at least 1 is needed")
    motions: dict[str, dict[str, tuple[int, Driver]]] = {}
    for i in range(len(shards)):
        key, members = shards.read(i, ["meta.json"])
        driver = driver_of(key, json.loads(members["meta.json"]))
        motions.setdefault(driver.motion, {}).setdefault(driver.person or key, (i, driver))
    groups = [list(people.values()) for people in motions.values()]
    total = sum(map(len, groups))
    if limit is not None and limit < total:
        wanted = max(1, round(len(groups) * limit / total))
        groups = [groups[int(i)] for i in (np.arange(wanted) + 0.5) * len(groups) / wanted]
    found = [pair for group in groups for pair in group]
    return [i for i, _ in found], [driver for _, driver in found]


def extract(
    pipeline: AnimationPipeline,
    shards: ShardSet,
    limit: int | None = None,
    *,
    batch_size: int = 8,
    names: Sequence[str] = tuple(REPRESENTATIONS),
    joint_frames: int = 4,
    progress: bool = True,
) -> Features:
    """Reads driving clips through the model. Frames are dropped at once; tokens and one vector a representation stay.

    Args:
        limit: about so many clips; None: all.
        joint_frames: frames a clip kept for the joint probe, evenly spread.

    Raises:
        InputError: an unknown representation, or clips that the model does not take.
    """
    unknown = sorted(set(names) - set(REPRESENTATIONS))
    if unknown:
        raise InputError(f"representations: {', '.join(unknown)}: unknown; known: {', '.join(REPRESENTATIONS)}")
    numbers, drivers = choose(shards, limit)
    total = pipeline.animator.config.frames
    kept = np.unique(((np.arange(joint_frames) + 0.5) * total / joint_frames).astype(int))
    character = read(shards, numbers[0], pipeline)
    identity = pipeline.encode_character(to_tensor(character.identity[None]))
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in names}
    codes, tokens, joints = [], [], []
    with tqdm(total=len(numbers), desc="read motion", unit="clip", disable=not progress) as bar:
        for start in range(0, len(numbers), batch_size):
            samples = [read(shards, i, pipeline) for i in numbers[start : start + batch_size]]
            for reading in _readings(pipeline, samples, identity):
                for name in names:
                    vectors[name].append(REPRESENTATIONS[name](reading))
                codes.append(reading.codes)
                tokens.append(reading.tokens)
                joints.append(centred_joints(reading.joints, *reading.frames.shape[1:3])[kept])
            bar.update(len(samples))
    stacked = {name: np.stack(rows) for name, rows in vectors.items()}
    quantises = pipeline.animator.config.tokenizer.quantise
    codebook = pipeline.animator.part("codebook").embedding.float().cpu().numpy() if quantises else None
    arrays = np.stack(codes), np.stack(tokens), kept, np.stack(joints), codebook
    return Features(drivers, stacked, *arrays, character.key)


def centred_joints(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """A clip's joints [T,J,3] around the neck and in its statures: float64 [T,J,2], NaN outside the frame or unknown."""
    xy = to_pixels(joints, height, width)
    centred = (xy - xy[..., NECK : NECK + 1, :]) / stature(joints, height, width)
    known = counted(joints) & counted(joints)[..., NECK : NECK + 1]
    return np.where(known[..., None], centred, np.nan)


def read(shards: ShardSet, i: int, pipeline: AnimationPipeline) -> Sample:
    """A sample without its target. Raises InputError when it is not of the size that the model makes."""
    key, members = shards.read(
        i, ["driving.mp4", "identity.png", "joints.npy", "driving_joints.npy", "faces.npy", "meta.json"]
    )
    sample = decode(key, members, skip=("target.mp4",))
    wanted, found = (pipeline.animator.config.frames, *pipeline.canvas_size), sample.driving.shape[:3]
    if found != wanted:
        raise InputError(
            f"sample {key}: {'x'.join(map(str, found))} (frames x height x width), the model makes "
            f"{'x'.join(map(str, wanted))}; preprocess with the model's size"
        )
    return sample


def _readings(pipeline: AnimationPipeline, samples: Sequence[Sample], identity: Tensor) -> list[Reading]:
    import torch

    animator = pipeline.animator
    driving = to_tensor(np.stack([s.driving for s in samples])).to(pipeline.device)
    with torch.inference_mode():
        motion = animator.motion_tokens(driving)
        tokens = animator.retarget(motion.z, identity.expand(len(samples), -1, -1, -1))
    indices = motion.z.new_zeros(motion.z.shape[:-1]) if motion.indices is None else motion.indices
    z, codes, made = (x.cpu().numpy() for x in (motion.z.float(), indices.int(), tokens.float()))
    count = len(animator.part("codebook").embedding)
    return [Reading(z[i], codes[i], count, made[i], s.joints_of_driver, s.driving) for i, s in enumerate(samples)]


def to_tensor(frames: np.ndarray) -> Tensor:
    """uint8 [...,H,W,3] to float32 [...,3,H,W] in [0,1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 255
