"""Contact sheets: what a split looks like, read back from its shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imanim.data.sample import JOINT_PARENTS, Sample, decode
from imanim.data.shards import ShardSet, read_manifest
from imanim.data.video import write_png

COLUMNS, ROWS = 9, 8
_GAP = 2


def write(folder: Path, split: str, path: Path, *, joints: bool = False) -> None:
    """Writes a PNG of some samples of a split: driver's frames above identity image and target's frames.

    joints draws the joints over the frames: the driver's on the driver, the target's on the target.
    """
    if not read_manifest(folder)["splits"].get(split, {}).get("samples"):
        return
    shards = ShardSet(folder, split)
    chosen = np.unique(np.linspace(0, len(shards) - 1, min(ROWS, len(shards))).astype(int))
    blocks = [_block(decode(*shards.read(int(i))), joints) for i in chosen]
    write_png(path, np.concatenate(blocks, 0))


def _block(sample: Sample, joints: bool) -> np.ndarray:
    """Two rows of frames, uint8."""
    times = np.unique(np.linspace(0, len(sample.driving) - 1, COLUMNS).astype(int))
    driver, target = sample.driving[times].copy(), sample.truth[times].copy()
    identity = sample.identity.copy()
    if joints:
        for i, t in enumerate(times):
            _draw(driver[i], sample.joints_of_driver[t])
            _draw(target[i], sample.joints[t])
        if sample.identity_joints is not None:
            _draw(identity, sample.identity_joints)
    blank = np.full_like(identity, 255)
    rows = [
        np.concatenate([_framed(f) for f in (first, *frames)], 1)
        for first, frames in ((blank, driver), (identity, target))
    ]
    return np.pad(np.concatenate(rows, 0), ((0, 3 * _GAP), (0, 0), (0, 0)), constant_values=255)


def _framed(frame: np.ndarray) -> np.ndarray:
    return np.pad(frame, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=255)


def _draw(frame: np.ndarray, joints: np.ndarray) -> None:
    """Bones as dotted lines and joints as dots, green where seen and red where hidden."""
    height, width = frame.shape[:2]
    points = joints[:, :2] * [width, height]

    def dot(x: float, y: float, colour: tuple[int, int, int]) -> None:
        if 0 <= x < width and 0 <= y < height:
            frame[int(y), int(x)] = colour

    for j, parent in enumerate(JOINT_PARENTS):
        if parent >= 0 and np.isfinite(points[[j, parent]]).all():
            for x, y in np.linspace(points[parent], points[j], 12):
                dot(x, y, (255, 255, 0))
    for (x, y), seen in zip(points, joints[:, 2], strict=True):
        if np.isfinite([x, y]).all():
            dot(x, y, (0, 220, 0) if seen else (255, 0, 0))
