"""Training-free baselines: what anybody gets without a model. A model that does not beat them has learned nothing.

The joint baselines are given what no real method has, the *true* joints of driver and character. The first driving frame
stands for the driver's reference pose and the identity image for the character's, as pose-transfer scripts do it.
"""

from __future__ import annotations

import numpy as np

from evaluation.metrics.joints import bone_lengths, stature, to_pixels
from imanim.data.sample import JOINT_PARENTS, JOINTS

_NECK = JOINTS.index("neck")
_ANKLES = [JOINTS.index("r_ankle"), JOINTS.index("l_ankle")]
_RATIO_LIMIT = 3.0
"""Bones seen end-on have no usable length: a ratio beyond this, or below its inverse, is cut."""


def _outwards() -> list[int]:
    """Joints in an order in which every joint comes after its parent, without the root."""
    order = [_NECK]
    while len(order) < len(JOINTS):
        order += [j for j, parent in enumerate(JOINT_PARENTS) if parent in order and j not in order]
    return order[1:]


ORDER = _outwards()


def hold_pixels(identity: np.ndarray, frames: int) -> np.ndarray:
    """The character's image uint8 [H,W,3] held still: [T,H,W,3]."""
    return np.broadcast_to(identity, (frames, *identity.shape))


def hold_joints(identity_joints: np.ndarray, frames: int) -> np.ndarray:
    """The character's joints [J,3] held still: float64 [T,J,2]."""
    return np.broadcast_to(identity_joints[..., :2].astype(np.float64), (frames, len(JOINTS), 2))


def copy_joints(driving_joints: np.ndarray) -> np.ndarray:
    """The driver's joints [T,J,3] as they are: float64 [T,J,2]."""
    return driving_joints[..., :2].astype(np.float64)


def scale_shift_joints(driving: np.ndarray, identity: np.ndarray, height: int, width: int) -> np.ndarray:
    """The driver scaled to the character's height, with the ankles of the two reference poses laid on each other.

    Args:
        driving: [T,J,3]; identity: [J,3]; height, width: the frame, in pixels.

    Returns:
        float64 [T,J,2] in [0,1].
    """
    scaled = _scale_shift(driving, identity, height, width)
    return scaled / (width, height)


def bone_length_joints(driving: np.ndarray, identity: np.ndarray, height: int, width: int) -> np.ndarray:
    """2D bone length: scale and shift for the neck, then each bone in the driver's direction with its length multiplied
    by the ratio (character / driver) that this bone has in the two reference poses.

    Arguments and result as in :func:`scale_shift_joints`.
    """
    moved = to_pixels(driving, height, width)
    ratio = bone_lengths(identity, height, width) / np.maximum(bone_lengths(driving[0], height, width), 1e-6)
    ratio = np.clip(ratio, 1 / _RATIO_LIMIT, _RATIO_LIMIT)
    out = _scale_shift(driving, identity, height, width)
    for joint in ORDER:
        parent = JOINT_PARENTS[joint]
        out[:, joint] = out[:, parent] + (moved[:, joint] - moved[:, parent]) * ratio[joint]
    return out / (width, height)


def _scale_shift(driving: np.ndarray, identity: np.ndarray, height: int, width: int) -> np.ndarray:
    """As :func:`scale_shift_joints`, in pixels."""
    moved, still = to_pixels(driving, height, width), to_pixels(identity, height, width)
    scale = stature(identity, height, width) / stature(driving[0], height, width)
    return (moved - moved[0, _ANKLES].mean(0)) * scale + still[_ANKLES].mean(0)
