"""One sample of a protocol: light until loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imanim.errors import InputError

MIN_FRAMES = 2


@dataclass
class Material:
    """A sample's pictures at the protocol's size and rate, and what is known exactly. T frames of H x W pixels.

    driving uint8 [T,h,w,3]; character uint8 [h,w,3]; truth uint8 [T,H,W,3] or None; mask bool [T,H,W] or None; joints, parts and
    actions as in :class:`evaluation.clip.Clip`.
    """

    driving: np.ndarray
    character: np.ndarray
    fps: float
    truth: np.ndarray | None = None
    mask: np.ndarray | None = None
    joints: np.ndarray | None = None
    parts: np.ndarray | None = None
    actions: np.ndarray | None = None
    driving_joints: np.ndarray | None = None
    identity_joints: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) at which made videos are measured."""
        return (self.character if self.truth is None else self.truth[0]).shape[:2]


@dataclass
class Item:
    """A sample: what it is called, what its clip shares with others, and how to get at its pictures.

    unit: what a bootstrap draws (a motion; else the key). number: its place in its split, which with the seed makes the noise.
    content: sha256 of each input that the numbers depend on.
    """

    key: str
    load: Callable[[], Material]
    content: dict[str, str]
    number: int = 0
    unit: str = ""
    split: str = "all"
    labels: dict[str, Any] = field(default_factory=dict)
    filmed: bool = True
    """False: only its joints are measured, no video is made."""

    def __post_init__(self) -> None:
        self.unit = self.unit or self.key


def at_rate(count: int, fps: float, wanted: float | None) -> list[int]:
    """Which of ``count`` frames at ``fps`` are on screen at the times of a video at ``wanted`` frames a second."""
    if wanted is None or wanted == fps:
        return list(range(count))
    total = max(1, int(np.floor(count * wanted / fps + 1e-9)))
    return [min(count - 1, int(np.floor(k * fps / wanted + 1e-9))) for k in range(total)]


def first_frames(name: str, frames: np.ndarray, wanted: int | None) -> np.ndarray:
    """The first ``wanted`` of frames [T,...]; all for None. Raises InputError when there are fewer, or only one."""
    if wanted is not None and len(frames) < wanted:
        raise InputError(
            f"{name}: {len(frames)} frames, the protocol wants {wanted}; leave it out or lower protocol.frames"
        )
    if len(frames) < MIN_FRAMES:
        raise InputError(f"{name}: {len(frames)} frame; a video has at least {MIN_FRAMES}")
    return frames if wanted is None else frames[:wanted]


def fingerprint(items: list[Item]) -> str:
    """One sha256 for all samples: keys, contents, which of them are filmed."""
    import json

    from imanim.data.files import sha256

    return sha256(json.dumps([[i.key, i.split, i.unit, i.content, i.filmed] for i in items], sort_keys=True).encode())
