"""Hands keep clear of trunk, head and thighs: one published rule that every body shares.

A body's trunk is a stack of ellipsoids, measured on that body's own skin in the reference pose and carried by its
bones. Where a point of the arm lies inside one, the whole arm turns about the shoulder, along the shortest way out. The
turns are smoothed over time, so that an arm swerves round a belly instead of bouncing off it. The motion's directions
are otherwise untouched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.rig import NECK, SPINE, Rig, Turns, place_arm, place_fingers
from data_pipeline.doubles.motions.score import SIDES, Score

Array = np.ndarray
_ROUNDS = 5
_STEPS = 4
_MAX_STEP_RAD = 0.35
_ALONG = (0.1, 0.4, 0.7, 1.0)  # points of the forearm, from the elbow
_RADII_M = (0.042, 0.040, 0.034, 0.030) + (0.014,) * 10 + (0.011,) * 5  # forearm, knuckles, tips; for a leg of 0.85 m


@dataclass(frozen=True)
class Volumes:
    """Ellipsoids in the reference pose: carrier bone, centre [K,3] and half axes [K,3], metres."""

    bones: list[str]
    centres: Array
    axes: Array


def measure_volumes(rig: Rig, vertices: Array, dominant: Array) -> Volumes:
    """Slices the skin of trunk, head and thighs.

    vertices [V,3] in the reference pose; dominant [V] the index of the bone that moves each vertex most.
    """
    trunk = ["root", "pelvis.L", "pelvis.R", *SPINE, "clavicle.L", "clavicle.R", "shoulder01.L", "shoulder01.R"]
    groups = [(trunk, ("root", *SPINE), 12), (list(NECK), NECK, 6)]
    groups += [([f"upperleg01.{s}", f"upperleg02.{s}"], (f"upperleg01.{s}",), 6) for s in SIDES]
    bones: list[str] = []
    centres: list[Array] = []
    axes: list[Array] = []
    for members, carriers, count in groups:
        points = vertices[np.isin(dominant, [rig.index[b] for b in members])]
        low, high = np.quantile(points[:, 2], [0.005, 0.995])
        step = (high - low) / count
        for k in range(count):
            z = low + (k + 0.5) * step
            ring = points[np.abs(points[:, 2] - z) < 0.6 * step]
            if len(ring) < 8:
                continue
            near, far = np.quantile(ring[:, :2], 0.02, axis=0), np.quantile(ring[:, :2], 0.98, axis=0)
            carrier = min(carriers, key=lambda b: abs(rig.at(b)[2] - z) + (10 if rig.at(b)[2] > z + step else 0))
            bones.append(carrier)
            centres.append(np.array([*(near + far) / 2, z]))
            axes.append(np.array([*(far - near) / 2, 1.25 * step]))
    return Volumes(bones, np.stack(centres), np.stack(axes))


def clear_arms(turns: Turns, score: Score, root: Array, volumes: Volumes) -> None:
    """Places both arms and turns them out of the volumes. root [T,3]; trunk and legs must be placed already."""
    carriers = sorted(set(volumes.bones))
    pick = [carriers.index(b) for b in volumes.bones]
    frames = np.stack([turns.turn(b) for b in carriers], 1)[:, pick]  # [T,K,3,3]
    heads = turns.positions(root, carriers)[:, pick]
    reference = np.stack([turns.rig.at(b) for b in volumes.bones])
    centres = heads + rot.apply(frames, volumes.centres - reference)
    radii = np.array(_RADII_M) * (turns.rig.leg / 0.85)
    obstacles = _Obstacles(frames, centres, volumes.axes[:, None] + radii[None, :, None])
    for side in SIDES:
        _clear_arm(turns, score, side, root, obstacles)


def _arm_points(turns: Turns, side: str, root: Array, hand: Array) -> tuple[Array, Array]:
    """Points along forearm and hand [T,P,3], and the shoulder [T,3]; hand [T,P-4,3] in the wrist's frame."""
    p = turns.positions(root, [f"{b}.{side}" for b in ("upperarm01", "lowerarm01", "wrist")])
    elbow, wrist = p[:, 1], p[:, 2]
    along = np.stack([elbow + (wrist - elbow) * x for x in _ALONG], 1)
    fingers = wrist[:, None] + hand @ rot.transpose(turns.turn(f"wrist.{side}"))
    return np.concatenate([along, fingers], 1), p[:, 0]


def _hand_points(turns: Turns, side: str, root: Array) -> Array:
    """Knuckles, middle joints and tips of the fingers in the wrist's frame [T,15,3]; the arm must be placed."""
    names = [f"finger{i}-{j}.{side}" for i in range(1, 6) for j in (1, 2, 3)]
    p = turns.positions(root, [f"wrist.{side}", *names])
    wrist, fingers = p[:, 0], p[:, 1:].reshape(len(p), 5, 3, 3)
    tips = fingers[:, :, 2] + 0.9 * (fingers[:, :, 2] - fingers[:, :, 1])
    points = np.concatenate([fingers[:, :, 0], fingers[:, :, 1], tips], 1) - wrist[:, None]
    return points @ turns.turn(f"wrist.{side}")


@dataclass(frozen=True)
class _Obstacles:
    """Volumes in the world over time: frames [T,K,3,3], centres [T,K,3], half axes grown by the point radii [K,P,3]."""

    frames: Array
    centres: Array
    axes: Array

    def near(self, points: Array, reach: float) -> _Obstacles:
        """Only the volumes that some point comes within `reach` (1 = touches) of."""
        s, _ = self._depths(points)
        keep = s.min((0, 2)) < reach
        return _Obstacles(self.frames[:, keep], self.centres[:, keep], self.axes[keep])

    def _depths(self, points: Array) -> tuple[Array, Array]:
        """Normalised distance from each centre [T,K,P] (below 1: inside) and local points over half axes [T,K,P,3]."""
        q = ((points[:, None] - self.centres[:, :, None]) @ self.frames) / self.axes
        return np.sqrt((q * q).sum(-1)) + 1e-6, q

    def push(self, points: Array) -> tuple[Array, Array]:
        """The deepest point's way out: displacement [T,3] (0 where all is clear) and that point [T,3]."""
        if not len(self.axes):
            return np.zeros((len(points), 3)), points[:, 0]
        s, q = self._depths(points)
        gradient = q / (s[..., None] * self.axes)
        gradient[..., 2] *= 0.15  # out to the front or the side, not up along the trunk
        depth = np.where(s < 1, (1 - s) / (np.sqrt((gradient**2).sum(-1)) + 1e-6), 0.0)
        rows = np.arange(len(points))
        k, i = np.divmod(depth.reshape(len(points), -1).argmax(1), points.shape[1])
        out = rot.apply(self.frames[rows, k], rot.unit(gradient[rows, k, i]))
        return out * depth[rows, k, i][:, None], points[rows, i]


def _smooth(w: Array, width: int) -> Array:
    """Moving average over time of [T,3] with a triangular kernel, ends held."""
    kernel = np.concatenate([np.arange(1, width + 2), np.arange(width, 0, -1)]).astype(float)
    kernel /= kernel.sum()
    padded = np.pad(w, ((width, width), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, i], kernel, mode="valid") for i in range(3)], -1)


def _clear_arm(turns: Turns, score: Score, side: str, root: Array, obstacles: _Obstacles) -> None:
    arm = score.arms[side]
    upper, fore = arm.upper, arm.fore
    to_chest = rot.transpose(turns.turn("spine01"))
    place_arm(turns, arm, side)
    place_fingers(turns, arm, side)
    hand = _hand_points(turns, side, root)
    points, shoulder = _arm_points(turns, side, root, hand)
    obstacles = obstacles.near(points, 1.5)
    total = np.zeros((score.frames, 3))
    for round_ in range(_ROUNDS):
        turned = _steps_out(obstacles, points, shoulder)
        if not turned.any():
            return
        extra = rot.from_vector(rot.apply(to_chest, turned))
        total = rot.to_vector(extra @ rot.from_vector(total))
        if round_ < _ROUNDS - 1:
            total = _smooth(total, 2)
        whole = rot.from_vector(total)
        arm.upper, arm.fore = rot.apply(whole, upper), rot.apply(whole, fore)
        place_arm(turns, arm, side)
        points, shoulder = _arm_points(turns, side, root, hand)


def _steps_out(obstacles: _Obstacles, points: Array, shoulder: Array) -> Array:
    """Rotation vectors [T,3] about the shoulder, in the world, that bring the points out, in a few small steps."""
    turned = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    arm = points - shoulder[:, None]
    for _ in range(_STEPS):
        out, point = obstacles.push(shoulder[:, None] + arm @ rot.transpose(turned))
        if not out.any():
            break
        lever = point - shoulder
        w = np.cross(lever, out) / ((lever**2).sum(-1, keepdims=True) + 1e-4)
        size = np.sqrt((w * w).sum(-1, keepdims=True))
        turned = rot.from_vector(w * np.minimum(1, _MAX_STEP_RAD / (size + 1e-9))) @ turned
    return rot.to_vector(turned)
