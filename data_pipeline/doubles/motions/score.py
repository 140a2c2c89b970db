"""What a motion asks of any body: angles and directions that need no body, lengths in units of the leg.

A `Score` is the identity-free description: spine and head angles, arm directions in the chest's frame, footholds and
pelvis path in leg lengths. `performance.perform` turns it into one body's joint rotations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data_pipeline.doubles.motions import rotations as rot

Array = np.ndarray
SIDES = ("L", "R")
SIGN = {"L": 1.0, "R": -1.0}
FOOT_SHIFT = {"L": 0.0, "R": 0.5}  # cycles: the right foot steps half a cycle after the left

# Key poses of the LEFT arm: directions of the upper arm and the forearm in the chest's frame (x left, -y front, z up).
ARM_POSES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "rest": ((0.20, -0.02, -1.0), (0.12, -0.25, -1.0)),
    "low": ((0.58, 0.00, -0.85), (0.55, -0.20, -0.85)),
    "side": ((1.0, -0.08, 0.0), (1.0, -0.18, 0.03)),
    "up": ((0.35, -0.12, 1.0), (0.18, -0.14, 1.0)),
    "vee": ((0.75, -0.18, 0.8), (0.70, -0.24, 0.9)),
    "front": ((0.18, -1.0, -0.06), (0.10, -1.0, 0.04)),
    "wave": ((0.88, -0.22, 0.10), (0.40, -0.35, 1.0)),
    "flex": ((1.0, -0.12, 0.08), (-0.22, -0.18, 1.0)),
    "guard": ((0.34, -0.45, -0.85), (-0.10, -0.72, 0.75)),
    "punch": ((0.05, -1.0, 0.04), (-0.12, -1.0, 0.06)),
    "open": ((0.58, -0.32, -0.8), (0.70, -0.68, 0.08)),
    "carry": ((0.30, -0.36, -0.95), (0.16, -1.0, 0.05)),
    "shrug": ((0.52, -0.24, -0.85), (0.85, -0.55, 0.28)),
    "hip": ((0.85, 0.30, -0.72), (-0.62, -0.42, -0.50)),
    "chest": ((0.52, -0.62, -0.70), (-0.72, -0.60, 0.32)),
    "brow": ((0.88, -0.35, 0.42), (-0.60, -0.25, 0.75)),
    "point": ((0.50, -0.90, 0.14), (0.42, -0.92, 0.34)),
    "back": ((0.32, 0.55, -0.9), (0.22, 0.25, -1.0)),
    "cocked": ((0.90, 0.25, 0.15), (0.15, 0.35, 1.0)),
    "cross": ((0.10, -0.95, -0.15), (-0.45, -0.90, 0.10)),
}


@dataclass
class Arm:
    """One arm over time."""

    upper: Array  # [T,3] direction of the upper arm, chest frame
    fore: Array  # [T,3] direction of the forearm, chest frame
    roll: Array  # [T] turn of the hand about the forearm
    wrist: Array  # [T] flexion of the wrist
    curl: Array  # [T] 0 open hand .. 1 fist


@dataclass
class Leg:
    """One leg over time. Lengths are in leg lengths (hip to ankle); `spread` adds to the body's own hip half-width."""

    centre: Array  # [T,2] the point between the feet this foothold belongs to, in the heading frame (x left, y back)
    turn: Array  # [T] yaw of the foothold about `centre`, relative to the heading
    spread: Array  # [T] outward from the hip's width
    forward: Array  # [T] to the front of `centre`
    lift: Array  # [T] height of the sole above the floor
    toe_out: Array  # [T] yaw of the toes outward
    pitch: Array  # [T] positive: heel up, about the ball; negative: toes up, about the heel
    knee_out: Array  # [T] yaw of the knee outward
    air: Array  # [T] 0 the foot goes to its foothold .. 1 the three angles below rule
    flex: Array  # [T] thigh raised to the front
    out: Array  # [T] thigh raised to the side
    knee: Array  # [T] knee bend
    point: Array  # [T] toes pointed


@dataclass
class Score:
    """All degrees of freedom over T frames; see the fields of Arm and Leg for the limbs."""

    t: Array  # [T] seconds
    heading: float = 0.0
    yaw: Array = field(default_factory=lambda: np.zeros(0))  # [T] pelvis, relative to the heading
    pitch: Array = field(default_factory=lambda: np.zeros(0))
    roll: Array = field(default_factory=lambda: np.zeros(0))
    twist: Array = field(default_factory=lambda: np.zeros(0))  # spread over the spine
    bend: Array = field(default_factory=lambda: np.zeros(0))
    side: Array = field(default_factory=lambda: np.zeros(0))
    head_yaw: Array = field(default_factory=lambda: np.zeros(0))
    head_pitch: Array = field(default_factory=lambda: np.zeros(0))
    head_roll: Array = field(default_factory=lambda: np.zeros(0))
    pelvis: Array = field(default_factory=lambda: np.zeros((0, 2)))  # [T,2] in the heading frame, leg lengths
    drop: Array = field(default_factory=lambda: np.zeros(0))  # [T] pelvis below standing, leg lengths; negative: a leap
    arms: dict[str, Arm] = field(default_factory=dict)
    legs: dict[str, Leg] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        return len(self.t)


SPINE_CHANNELS = ("yaw", "pitch", "roll", "twist", "bend", "side", "head_yaw", "head_pitch", "head_roll", "drop")


def standing(t: Array) -> Score:
    """A body standing still, arms at rest: the Score every family starts from. t [T] seconds."""
    n = len(t)

    def zeros() -> Array:
        return np.zeros(n)

    score = Score(t=np.asarray(t, float), pelvis=np.zeros((n, 2)))
    for name in SPINE_CHANNELS:
        setattr(score, name, zeros())
    score.drop = score.drop + 0.015
    for side in SIDES:
        upper, fore = arm_pose(side, "rest")
        score.arms[side] = Arm(np.tile(upper, (n, 1)), np.tile(fore, (n, 1)), zeros(), zeros(), zeros() + 0.35)
        score.legs[side] = Leg(
            np.zeros((n, 2)),
            zeros(),
            zeros() + 0.03,
            zeros(),
            zeros(),
            zeros(),
            zeros(),
            zeros(),
            *(zeros() for _ in range(5)),
        )
    return score


def arm_pose(side: str, name: str) -> tuple[Array, Array]:
    """Unit directions (upper arm [3], forearm [3]) of a key pose for one side."""
    mirror = np.array([SIGN[side], 1.0, 1.0])
    upper, fore = ARM_POSES[name]
    return rot.unit(np.array(upper)) * mirror, rot.unit(np.array(fore)) * mirror


def set_arm(score: Score, side: str, start: str, stop: str | None = None, amount: Array | float = 1.0) -> None:
    """Put an arm at key pose `start`, or `amount` [T] (0..1) of the way from `start` to `stop`."""
    a = arm_pose(side, start)
    b = arm_pose(side, stop or start)
    e = np.broadcast_to(np.asarray(amount, float), (score.frames,))
    score.arms[side].upper = rot.between(a[0], b[0], e)
    score.arms[side].fore = rot.between(a[1], b[1], e)


def ease(x: Array) -> Array:
    """Smooth step with zero speed and acceleration at both ends; x is clipped to 0..1."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * x * (x * (x * 6 - 15) + 10)


def cycle(phase: Array) -> Array:
    """0 -> 1 -> 0 once per unit of phase."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * phase)


def swings(phase: Array, swing: float = 0.4) -> tuple[Array, Array, Array]:
    """The steps of one foot: cycle index n [T], progress 0..1 towards foothold n [T], bump 0..1..0 while it swings [T].

    The foot swings during the first `swing` of every cycle and stands on foothold n for the rest of it.
    """
    n = np.floor(phase)
    x = (phase - n) / swing
    return n, ease(x), np.where(x < 1.0, np.sin(np.pi * np.clip(x, 0, 1)) ** 2, 0.0)
