"""Joint error against the truth, in % of the person's own height, and PCK.

Joints are [...,20,3] (x, y in [0,1] of the frame, visibility) as in :mod:`imanim.data.sample`. Distances are taken in
pixels, because x and y are normalised by different sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.clip import Clip
from evaluation.metrics.base import MetricSpec, NoSettings, Value
from imanim.data.sample import JOINT_PARENTS, JOINTS
from imanim.errors import InputError

PCK_PERCENT = 5.0
"""A joint within this part of the person's height, in %, is right: a hand's breadth."""


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


def moving_error(candidate: np.ndarray, truth: np.ndarray, height: int, width: int) -> float:
    """As :func:`joint_error`, after taking away each joint's mean offset over the clip: what is left is wrong motion.

    Another view of the body, or another body, puts joints off in every frame alike; that is in ``joint_error`` alone.
    """
    counts = counted(truth)
    off = np.where(counts[..., None], to_pixels(candidate, height, width) - to_pixels(truth, height, width), 0.0)
    mean = off.sum(0) / np.maximum(counts.sum(0), 1)[:, None]
    left = np.linalg.norm(off - mean, axis=-1)[counts]
    return float(100 * left.mean() / stature(truth, height, width)) if len(left) else float("nan")


def pck(candidate: np.ndarray, truth: np.ndarray, height: int, width: int, threshold: float = PCK_PERCENT) -> float:
    """Percentage of correct keypoints: counted joints within ``threshold`` % of the person's height (a hand's breadth)."""
    off = distances(candidate, truth, height, width)
    off = off[np.isfinite(off)]
    return float(100 * (off <= threshold).mean()) if len(off) else float("nan")


def bone_lengths(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """Length in pixels of the bone from each joint to its parent, [...,J]; the root's (the neck) is 0."""
    xy = to_pixels(joints, height, width)
    parents = [p if p >= 0 else j for j, p in enumerate(JOINT_PARENTS)]
    return np.linalg.norm(xy - xy[..., parents, :], axis=-1)


def check_joints(clip: Clip, name: str, frames: int) -> np.ndarray | None:
    """A clip's joints by their attribute's name, so many frames of them; None where it has none.

    Raises:
        InputError: another shape, or infinite coordinates.
    """
    joints = getattr(clip, name)
    if joints is None:
        return None
    wanted = [frames, len(JOINTS), 2 if name == "made_joints" else 3]
    if list(joints.shape) != wanted:
        raise InputError(f"clip {clip.key}: {name} is {list(joints.shape)}; give {wanted}")
    if np.isinf(joints).any():
        raise InputError(f"clip {clip.key}: {name} has infinite coordinates; unknown joints are NaN")
    return joints


class JointMetric:
    """Where the method itself says that the joints are, against the truth's: no network reads the picture."""

    values: tuple[Value, ...] = (
        Value("joint_error", "joint error", "lower", 2, "% of the person's height"),
        Value("moving_error", "joint error of the motion alone", "lower", 2, "% of the person's height"),
        Value("pck", "PCK", "higher", 1, "%"),
    )

    def protocol(self) -> dict[str, Any]:
        """As in :class:`~evaluation.metrics.base.ClipMetric`."""
        return {
            "joints": "20, the method's own",
            "counted": "true joints inside the frame, hidden ones too",
            "unit": "% of nose-neck-hip-knee-ankle, each segment's longest in the clip",
            "moving": "each joint's mean offset over the clip taken away",
            "pck_percent": PCK_PERCENT,
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        """``joint_error``, ``moving_error`` and ``pck`` of a clip; NaN where it lacks either joints, or none counts.

        Raises:
            InputError: joints of another shape; a method that knows some of the counted joints and not others.
        """
        made, truth = check_joints(clip, "made_joints", len(clip.made)), check_joints(clip, "joints", len(clip.made))
        if made is None or truth is None:
            return {value.name: float("nan") for value in self.values}
        lacking = int((np.isnan(made).any(axis=-1) & counted(truth)).sum())
        if lacking:
            # Leaving them out would make a method better for not saying what it does not know.
            raise InputError(
                f"clip {clip.key}: made_joints is NaN at {lacking} of the {int(counted(truth).sum())} joints that count;"
                " give all of them, or None"
            )
        size = clip.made.shape[1:3]
        return errors(made, truth, *size)


def errors(made: np.ndarray, truth: np.ndarray, height: int, width: int) -> dict[str, float]:
    """The metric's values of joints [T,J,2 or 3] against the true ones [T,J,3]."""
    size = (height, width)
    return {
        "joint_error": joint_error(made, truth, *size),
        "moving_error": moving_error(made, truth, *size),
        "pck": pck(made, truth, *size),
    }


METRICS = {"joints": MetricSpec(NoSettings, lambda settings, machine: JointMetric())}
