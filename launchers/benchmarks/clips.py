"""Clips that benchmarks make for themselves: soft patterns that drift, nobody in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SPLIT = "train"


def write(
    folder: Path, count: int, *, frames: int, height: int, width: int, fps: float, cross: bool, shards: int = 1
) -> Path:
    """Shards of ``count`` samples of T frames [H,W]; with ``cross`` each has a driver and a target, else the driver is both."""
    from imanim.data.sample import JOINTS, Sample, encode
    from imanim.data.shards import write_manifest, write_shard

    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]

    def clip() -> np.ndarray:
        at, speed, phase = random.uniform(10, 30, 3), random.uniform(-2, 2, 3), random.uniform(0, 6, 3)
        time = np.arange(frames)[:, None, None, None]
        wave = np.sin((x[..., None] + speed * time) / at + phase) + np.cos((y[..., None] - speed * time) / at)
        return (127 + 60 * wave).astype(np.uint8)

    def sample(i: int) -> Sample:
        joints = random.random((frames, len(JOINTS), 3)).astype(np.float32)
        faces = np.tile(np.array([0.4, 0.1, 0.6, 0.3], np.float32), (frames, 1))
        target, driving = clip(), clip()
        pair: dict[str, Any] = {"target": target, "driving_joints": joints} if cross else {}
        return Sample(f"clip{i:05d}", driving, fps, target[0], joints, faces, {}, **pair)

    for number, keys in enumerate(np.array_split(np.arange(count), shards)):
        write_shard(folder, SPLIT, number, [(s.key, encode(s)) for s in map(sample, keys.tolist())])
    write_manifest(folder, {})
    return folder


def write_tiny(folder: Path, count: int) -> Path:
    """Cross pairs of the packaged model's size."""
    from imanim.models import sizes

    tiny = sizes.load("tiny")
    return write(folder, count, frames=tiny.frames, height=tiny.height, width=tiny.width, fps=tiny.fps, cross=True)
