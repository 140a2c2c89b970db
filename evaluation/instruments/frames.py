"""Frames with their truth out of shards of Doubles, to train the reader on and to measure it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from evaluation.choosing import spread
from evaluation.instruments.truth import ACTIONS, HEIGHT_PX, WIDTH_PX, facial_actions
from imanim.data.sample import Sample, decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError


@dataclass(frozen=True)
class FrameSet:
    """K frames each of n clips.

    frames uint8 [n,K,H,W,3]; parts uint8 [n,K,H,W]; joints float32 [n,K,20,3]; actions float32 [n,K,A], NaN where not known.
    """

    frames: np.ndarray
    parts: np.ndarray
    joints: np.ndarray
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


def load(
    folder: str, split: str, samples: int, frames: int, *, framing: str | None = None, progress: bool = True
) -> FrameSet:
    """The different takes in up to ``samples`` evenly spread samples of a split, ``frames`` evenly spread frames of each.

    ``framing`` ``portrait``: of portraits alone. Samples of one motion share their takes: every second sample has five sixths of
    them (three bodies a motion).

    Raises:
        InputError: no such split, no part labels, or frames of another size than the reader's.
    """
    shards = ShardSet(folder, split)
    found: dict[tuple[str, str, str], tuple[np.ndarray, ...]] = {}
    every = [i for i in range(len(shards)) if framing is None or _framing(shards, i) == framing]
    chosen = [every[k] for k in spread(len(every), samples)]
    for i in tqdm(chosen, desc=f"reading {split}", unit="sample", disable=not progress):
        for name, take in _takes(decode(*shards.read(i))):
            if name not in found:
                found[name] = tuple(values[spread(len(values), frames)] for values in take)
    if not found:
        raise InputError(
            f"{folder}: split {split} has no {framing or 'clips'} with part labels; make it with source=doubles"
        )
    return FrameSet(*(np.stack(values) for values in zip(*found.values())))


def _framing(shards: ShardSet, i: int) -> str | None:
    return json.loads(shards.read(i, ["meta.json"])[1]["meta.json"]).get("framing")


def _takes(sample: Sample) -> Iterator[tuple[tuple[str, str, str], tuple[np.ndarray, ...]]]:
    """Both clips of a sample: (motion, person, role), and frames, parts, joints, actions over all T frames."""
    if sample.driving.shape[1:3] != (HEIGHT_PX, WIDTH_PX):
        raise InputError(
            f"sample {sample.key}: {sample.driving.shape[1]}x{sample.driving.shape[2]} pixels; the reader is trained at "
            f"{HEIGHT_PX}x{WIDTH_PX}"
        )
    actions = facial_actions(sample)
    if actions is None:
        actions = np.full((len(sample.driving), len(ACTIONS)), np.nan, np.float32)
    motion = str(sample.meta.get("motion", {}).get("id", sample.key))
    if sample.parts is not None:
        name = (motion, str(sample.meta.get("person")), "target")
        yield name, (sample.truth, sample.parts, sample.joints, actions)
    if sample.target is not None and sample.driving_parts is not None and sample.driving_joints is not None:
        name = (motion, str(sample.meta.get("driver_person")), "driver")
        yield name, (sample.driving, sample.driving_parts, sample.driving_joints, actions)
