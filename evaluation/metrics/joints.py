"""Joint error against the truth, in % of the person's own height, and PCK.

Joints are [...,20,3] (x, y in [0,1] of the frame, visibility) as in :mod:`imanim.data.sample`. Distances are taken in
pixels, because x and y are normalised by different sides.
"""

from __future__ import annotations

import numpy as np

from imanim.data.sample import JOINT_PARENTS, JOINTS


def to_pixels(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """[...,J,2 or 3] in [0,1] to float64 pixels [...,J,2]."""
    return joints[..., :2].astype(np.float64) * (width, height)


def counted(joints: np.ndarray) -> np.ndarray:
    """Which true joints count, bool [...,J]: known and inside the frame, seen or hidden (Doubles knows hidden joints)."""
    x, y = joints[..., 0], joints[..., 1]
    with np.errstate(invalid="ignore"):
        return (x >= 0) & (x < 1) & (y >= 0) & (y < 1)


def stature(joints: np.ndarray, height: int, width: int) -> float:
    """A person's height in pixels, nose to ankle, from a clip's joints [T,J,3] (or one frame's [J,3]).

    The sum of the lengths nose-neck, neck-hip, hip-knee and knee-ankle (the longer leg), each taken where it is longest in
    the clip: a squat, a bow or a raised arm does not change it. Joints outside the frame are used too, so a portrait's
    scale is still the whole body's. NaN when a segment is never known.
    """
    xy = to_pixels(joints.reshape(-1, *joints.shape[-2:]), height, width)
    at = {name: xy[:, i] for i, name in enumerate(JOINTS)}

    def longest(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a - b, axis=-1)
        known = lengths[~np.isnan(lengths)]
        return float(known.max()) if len(known) else float("nan")

    hip = (at["r_hip"] + at["l_hip"]) / 2
    torso = longest(at["nose"], at["neck"]) + longest(at["neck"], hip)
    legs = [longest(at[f"{s}_hip"], at[f"{s}_knee"]) + longest(at[f"{s}_knee"], at[f"{s}_ankle"]) for s in ("r", "l")]
    return torso + float(np.fmax(legs[0], legs[1]))


def distances(candidate: np.ndarray, truth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Distance of every joint from the truth in % of the true person's height, float64 [T,J]; NaN where none counts.

    Args:
        candidate: [T,J,2 or 3] in the target frame.
        truth: [T,J,3] in the target frame.
        height, width: the frame, in pixels.
    """
    if candidate.shape[:-1] != truth.shape[:-1]:
        raise ValueError(f"candidate {list(candidate.shape)} and truth {list(truth.shape)} differ in frames or joints")
    off = np.linalg.norm(to_pixels(candidate, height, width) - to_pixels(truth, height, width), axis=-1)
    return np.where(counted(truth), 100 * off / stature(truth, height, width), np.nan)


def joint_error(candidate: np.ndarray, truth: np.ndarray, height: int, width: int) -> float:
    """Mean of :func:`distances` over a clip's counted joints; NaN when none counts."""
    off = distances(candidate, truth, height, width)
    return float(np.nanmean(off)) if np.isfinite(off).any() else float("nan")


def pck(candidate: np.ndarray, truth: np.ndarray, height: int, width: int, threshold: float = 5.0) -> float:
    """Percentage of correct keypoints: counted joints within ``threshold`` % of the person's height (a hand's breadth)."""
    off = distances(candidate, truth, height, width)
    off = off[np.isfinite(off)]
    return float(100 * (off <= threshold).mean()) if len(off) else float("nan")


def bone_lengths(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """Length in pixels of the bone from each joint to its parent, [...,J]; the root's (the neck) is 0."""
    xy = to_pixels(joints, height, width)
    parents = [p if p >= 0 else j for j, p in enumerate(JOINT_PARENTS)]
    return np.linalg.norm(xy - xy[..., parents, :], axis=-1)
