"""One body's rig: its bone lengths and the reference A-pose, and analytic placement of spine, legs and arms.

Rotations here are *turns*: the world rotation G of a bone since the reference A-pose that all bodies share. Deltas
(what a body model is posed by) are the turns seen from the parent: D = G_parent^T G.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.score import SIDES, SIGN, Arm, Leg, Score

Array = np.ndarray
SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
NECK = ("neck01", "neck02", "neck03", "head")
_DOWN, _FRONT = np.array([0.0, 0.0, -1.0]), np.array([0.0, -1.0, 0.0])
_MAX_TWIST = 2.0  # radians an upper arm turns about its own axis before skin and anatomy object
_REACH = 0.995  # of the leg: a straighter knee would snap


class HasSkeleton(Protocol):
    """What the rig needs of a body (data_pipeline.doubles.reference.Reference)."""

    @property
    def bone_names(self) -> tuple[str, ...]: ...
    @property
    def parents(self) -> Array: ...
    @property
    def reference_heads(self) -> Array: ...


@dataclass(frozen=True)
class LegMeasures:
    """One leg in the reference pose, metres."""

    hip: Array  # [3] from the root's head
    thigh: Array  # [3] hip to knee
    shank: Array  # [3] knee to ankle
    toes: Array  # [3] ankle to the middle of the toe joints
    heel: Array  # [3] ankle to the heel's contact with the floor

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.thigh) + np.linalg.norm(self.shank))


@dataclass(frozen=True)
class ArmMeasures:
    """One arm in the reference pose: unit directions, and the elbow's hinge."""

    upper: Array  # [3]
    fore: Array  # [3]
    hinge: Array  # [3] unit normal of the plane of the arm


class Rig:
    """Bone lengths of a body. `ankle_height` is the ankle above the sole, `leg` the mean leg length (metres)."""

    def __init__(self, body: HasSkeleton, soles: Array):
        """soles [8,3]: heel, inner ball, outer ball, toe of the left then the right foot in the reference pose."""
        self.names = list(body.bone_names)
        self.index = {name: i for i, name in enumerate(self.names)}
        self.parents = np.asarray(body.parents)
        self.heads = np.asarray(body.reference_heads, float)
        self.legs = {side: self._leg(side, np.asarray(soles, float)[4 * i : 4 * i + 4]) for i, side in enumerate(SIDES)}
        self.arms = {side: self._arm(side) for side in SIDES}
        self.leg = float(np.mean([m.length for m in self.legs.values()]))
        self.ankle_height = float(np.mean([self.at(f"foot.{s}")[2] for s in SIDES]) - np.asarray(soles)[:, 2].min())
        self.hip_half_width = float(abs(self.legs["L"].hip[0]))
        self.mid_hip = np.mean([m.hip for m in self.legs.values()], axis=0)
        self.fingers = {s: [n for n in self.names if n.startswith("finger") and n.endswith("." + s)] for s in SIDES}
        self.toes = {s: [n for n in self.names if n.startswith("toe") and n.endswith("-1." + s)] for s in SIDES}

    def at(self, bone: str) -> Array:
        """Head of a bone in the reference pose [3]."""
        return self.heads[self.index[bone]]

    def _leg(self, side: str, soles: Array) -> LegMeasures:
        hip, knee, ankle = (self.at(f"{b}.{side}") for b in ("upperleg01", "lowerleg01", "foot"))
        toes = np.mean([self.at(f"toe{i}-1.{side}") for i in range(1, 6)], axis=0)
        return LegMeasures(hip - self.at("root"), knee - hip, ankle - knee, toes - ankle, soles[0] - ankle)

    def _arm(self, side: str) -> ArmMeasures:
        shoulder, elbow, wrist = (self.at(f"{b}.{side}") for b in ("upperarm01", "lowerarm01", "wrist"))
        upper, fore = rot.unit(elbow - shoulder), rot.unit(wrist - elbow)
        return ArmMeasures(upper, fore, rot.unit(np.cross(upper, fore)))


class Turns:
    """Deltas [T,104,3,3] being assembled, with the turns of the bones set so far."""

    def __init__(self, rig: Rig, frames: int):
        self.rig = rig
        self.deltas = np.tile(np.eye(3), (frames, len(rig.names), 1, 1))
        self._turns: dict[int, Array] = {}

    def turn(self, bone: str) -> Array:
        """World turn [T,3,3] of a bone; bones never set follow their parent."""
        return self._turn(self.rig.index[bone])

    def _turn(self, i: int) -> Array:
        while i not in self._turns:
            i = int(self.rig.parents[i])
        return self._turns[i]

    def set_turn(self, bone: str, turn: Array) -> None:
        i = self.rig.index[bone]
        parent = int(self.rig.parents[i])
        self.deltas[:, i] = turn if parent < 0 else rot.transpose(self._turn(parent)) @ turn
        self._turns[i] = turn

    def set_delta(self, bone: str, delta: Array) -> None:
        i = self.rig.index[bone]
        self.deltas[:, i] = delta
        self._turns[i] = self._turn(int(self.rig.parents[i])) @ delta

    def positions(self, root: Array, bones: list[str]) -> Array:
        """Heads [T,len(bones),3] of bones, the root's head being at root [T,3]."""
        rig, known = self.rig, {0: root}

        def head(i: int) -> Array:
            if i not in known:
                p = int(rig.parents[i])
                known[i] = head(p) + rot.apply(self._turn(p), rig.heads[i] - rig.heads[p])
            return known[i]

        return np.stack([head(rig.index[b]) for b in bones], 1)


def place_trunk(turns: Turns, score: Score) -> None:
    """Pelvis, spine, neck and head from the score's angles."""
    yaw = score.heading + score.yaw
    turns.set_turn("root", rot.rot_z(yaw) @ rot.rot_x(score.pitch) @ rot.rot_y(score.roll))
    for names, z, x, y in (
        (SPINE, score.twist, score.bend, score.side),
        (NECK, score.head_yaw, score.head_pitch, score.head_roll),
    ):
        n = len(names)
        delta = rot.rot_z(z / n) @ rot.rot_x(x / n) @ rot.rot_y(y / n)
        for name in names:
            turns.set_delta(name, delta)


@dataclass
class Foot:
    """Where a foot must be: ankle [T,3] in the world and turn [T,3,3]; toes stay level by `toe_bend` [T]."""

    ankle: Array
    turn: Array
    toe_bend: Array


def foothold(rig: Rig, score: Score, side: str) -> Foot:
    """The foot on (or above) its foothold, rolled over the toe joints or the heel by the pitch."""
    leg, sign, measures = score.legs[side], SIGN[side], rig.legs[side]
    local = np.stack([sign * (rig.hip_half_width + leg.spread * rig.leg), -leg.forward * rig.leg], -1)
    c, s = np.cos(leg.turn), np.sin(leg.turn)
    turned = np.stack([c * local[:, 0] - s * local[:, 1], s * local[:, 0] + c * local[:, 1]], -1)
    ground = np.concatenate([leg.centre * rig.leg + turned, (rig.ankle_height + leg.lift * rig.leg)[:, None]], -1)
    ground = rot.apply(rot.rot_z(np.array(score.heading)), ground)
    flat = rot.rot_z(score.heading + leg.turn + sign * leg.toe_out)
    rolled = flat @ rot.rot_x(leg.pitch)
    pivot = np.where(leg.pitch[:, None] > 0, measures.toes, measures.heel)
    return Foot(ground + rot.apply(flat, pivot) - rot.apply(rolled, pivot), rolled, np.maximum(leg.pitch, 0.0))


def knee_front(rig: Rig, score: Score, side: str) -> Array:
    """Horizontal direction [T,3] the knee points to: between the pelvis's front and the toes, turned outward."""
    leg = score.legs[side]
    yaw = score.heading + 0.5 * (score.yaw + leg.turn) + SIGN[side] * (0.5 * leg.toe_out + leg.knee_out)
    return rot.apply(rot.rot_z(yaw), _FRONT)


def air_foot(rig: Rig, leg: Leg, side: str, hip: Array, pelvis: Array) -> tuple[Array, Array]:
    """Ankle [T,3] and shank direction [T,3] of a leg ruled by its angles, from the hip [T,3] and pelvis turn."""
    frame = pelvis @ rot.rot_y(-SIGN[side] * leg.out)
    thigh = rot.apply(frame @ rot.rot_x(-leg.flex), _DOWN)
    shank = rot.apply(frame @ rot.rot_x(leg.knee - leg.flex), _DOWN)
    m = rig.legs[side]
    return hip + np.linalg.norm(m.thigh) * thigh + np.linalg.norm(m.shank) * shank, shank


def place_leg(turns: Turns, score: Score, side: str, hip: Array, foot: Foot) -> None:
    """Two-bone inverse kinematics from the hip [T,3] to the foot, mixed with the free leg's angles by `air`."""
    rig, leg = turns.rig, score.legs[side]
    m = rig.legs[side]
    pelvis = turns.turn("root")
    free, _ = air_foot(rig, leg, side, hip, pelvis)
    air = leg.air[:, None]
    to_ankle = foot.ankle * (1 - air) + free * air - hip
    a, b = np.linalg.norm(m.thigh), np.linalg.norm(m.shank)
    d = np.clip(np.linalg.norm(to_ankle, axis=-1), 0.25 * (a + b), 0.999 * (a + b))
    along = rot.unit(to_ankle)
    front = rot.apply(rot.shortest(_DOWN, along), knee_front(rig, score, side))
    hinge = np.cross(front, along)
    cosine = np.clip((a * a + d * d - b * b) / (2 * a * d), -1, 1)[:, None]
    ahead = np.cross(along, rot.unit(hinge))
    thigh = along * cosine + ahead * np.sqrt(1 - cosine**2)
    shank = along * d[:, None] - a * thigh
    side_axis = np.array([1.0, 0.0, 0.0])
    turns.set_turn(f"upperleg01.{side}", rot.basis(thigh, hinge) @ rot.transpose(rot.basis(m.thigh, side_axis)))
    shank_turn = rot.basis(shank, hinge) @ rot.transpose(rot.basis(m.shank, side_axis))
    turns.set_turn(f"lowerleg01.{side}", shank_turn)
    turns.set_turn(f"foot.{side}", rot.blend(foot.turn, shank_turn @ rot.rot_x(leg.point), leg.air))
    for toe in rig.toes[side]:
        turns.set_delta(toe, rot.rot_x(-foot.toe_bend * (1 - leg.air)))


def reach_excess(rig: Rig, side: str, hip: Array, ankle: Array) -> Array:
    """How far the hip [T,3] stands too high for the ankle [T,3] to be reached, metres (negative: it bends)."""
    reach = _REACH * rig.legs[side].length
    flat = np.linalg.norm(hip[:, :2] - ankle[:, :2], axis=-1)
    return hip[:, 2] - ankle[:, 2] - np.sqrt(np.maximum(reach**2 - flat**2, (0.3 * reach) ** 2))


def place_arm(turns: Turns, arm: Arm, side: str) -> None:
    """Clavicle, arm and wrist from directions in the chest's frame."""
    m, sign = turns.rig.arms[side], SIGN[side]
    chest = turns.turn("spine01")
    upper, fore = rot.unit(arm.upper), rot.unit(arm.fore)
    swing = rot.shortest(m.upper, upper)
    twist = _arm_twist(m, swing, upper, fore)
    raised = np.clip((upper[:, 2] + 0.15) / 1.15, 0, 1) * 0.38
    turns.set_turn(f"clavicle.{side}", chest @ rot.rot_y(-sign * raised))
    half = chest @ swing @ rot.about(m.upper, 0.5 * twist)
    full = chest @ swing @ rot.about(m.upper, twist)
    turns.set_turn(f"upperarm01.{side}", half)
    turns.set_turn(f"upperarm02.{side}", full)
    bent = rot.shortest(rot.apply(full, m.fore), rot.apply(chest, fore)) @ full
    turns.set_turn(f"lowerarm01.{side}", bent)
    turns.set_turn(f"lowerarm02.{side}", bent @ rot.about(m.fore, 0.5 * arm.roll))
    turns.set_turn(f"wrist.{side}", bent @ rot.about(m.fore, arm.roll) @ rot.about(m.hinge, arm.wrist))


def place_fingers(turns: Turns, arm: Arm, side: str) -> None:
    """Curls the fingers; the arm must be placed. They follow the hand when the arm is placed again."""
    hinge = turns.rig.arms[side].hinge
    bent, thumb = rot.about(hinge, 0.9 * arm.curl), rot.about(hinge, 0.22 * arm.curl)
    for finger in turns.rig.fingers[side]:
        turns.set_delta(finger, thumb if finger.startswith("finger1") else bent)


def _arm_twist(m: ArmMeasures, swing: Array, upper: Array, fore: Array) -> Array:
    """Turn [T] of the upper arm about itself that brings the elbow's hinge into the plane of the bent arm.

    A straight arm has no such plane, so the turn fades with the bend; it is unwrapped over time so that it never jumps.
    """
    plane = rot.apply(rot.transpose(swing), np.cross(upper, fore))
    across = np.cross(m.upper, m.hinge)
    angle = np.unwrap(np.arctan2(plane @ across, plane @ m.hinge))
    middle = np.round(np.median(angle) / (2 * np.pi)) * 2 * np.pi
    bend = np.linalg.norm(plane, axis=-1)
    strength = np.clip(bend / 0.45, 0, 1) ** 2 * (3 - 2 * np.clip(bend / 0.45, 0, 1))
    return np.clip((angle - middle) * strength, -_MAX_TWIST, _MAX_TWIST)
