"""Families of the upper body: wave, gesture, reach, point, talk, conduct, drum, idle."""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.keys import COUNT, Keys
from data_pipeline.doubles.motions.registry import Draw, family
from data_pipeline.doubles.motions.score import (
    ARM_POSES,
    SIDES,
    SIGN,
    Score,
    arm_pose,
    cycle,
    ease,
    set_arm,
    standing,
)

Array = np.ndarray


def _shift_weight(score: Score, d: Draw, size: float) -> None:
    """Slow sway of the pelvis over still feet."""
    wave = np.sin(2 * np.pi * (0.35 * score.t + d.rng.uniform(0, 1)))
    score.pelvis[:, 0] += size * wave
    score.roll = score.roll - 0.5 * size * wave
    score.side = score.side + 0.6 * size * wave
    score.drop = score.drop + 0.015


@family
def wave(d: Draw, t: Array) -> Score:
    """Waves with one hand."""
    score = standing(t)
    phase = d.cycles(t, 2.0)
    score.heading = d.rng.uniform(-0.6, 0.6)
    raised = 0.82 + 0.18 * np.sin(np.pi * phase * 0.5)
    set_arm(score, d.side, "rest", d.pick("wave", "wave", "vee"), raised)
    arm = score.arms[d.side]
    arm.fore = rot.apply(rot.rot_y(0.5 * d.amp * np.sin(2 * np.pi * phase) * SIGN[d.side]), arm.fore)
    arm.curl, arm.wrist = arm.curl * 0, 0.25 * np.sin(2 * np.pi * phase + 0.7)
    set_arm(score, d.other, d.pick("rest", "hip", "low", "rest"))
    score.head_yaw = score.head_yaw + 0.2 * SIGN[d.side]
    score.head_roll = 0.1 * np.sin(np.pi * phase)
    _shift_weight(score, d, 0.05)
    return score


@family
def gesture(d: Draw, t: Array) -> Score:
    """Moves through random key poses of arms, trunk and head."""
    score = standing(t)
    between = Keys(t, d.rng.uniform(0.6, 0.9), d.rng.uniform(0, 1), moving=0.8)
    names, rng = list(ARM_POSES), d.rng
    for side in SIDES:
        picks = [arm_pose(side, str(rng.choice(names))) for _ in range(COUNT)]
        noise = rng.normal(0, 0.12, (2, COUNT, 3))
        for name, i in (("upper", 0), ("fore", 1)):
            keys = rot.unit(np.array([p[i] for p in picks]) + noise[i])
            setattr(score.arms[side], name, between.directions(keys))
        for name, low, high in (("roll", -0.5, 0.5), ("wrist", -0.4, 0.4), ("curl", 0.0, 1.0)):
            setattr(score.arms[side], name, between.numbers(rng.uniform(low, high, COUNT)))
    for name, low, high in (
        ("twist", -0.35, 0.35),
        ("side", -0.18, 0.18),
        ("bend", -0.06, 0.22),
        ("head_yaw", -0.5, 0.5),
        ("head_pitch", -0.2, 0.25),
        ("head_roll", -0.2, 0.2),
        ("drop", 0.015, 0.07),
    ):
        setattr(score, name, between.numbers(rng.uniform(low, high, COUNT)))
    score.heading = rng.uniform(-0.7, 0.7)
    for side in SIDES:
        score.legs[side].spread = score.legs[side].spread + rng.uniform(0, 0.12)
        score.legs[side].toe_out = score.legs[side].toe_out + rng.uniform(0, 0.35)
    _shift_weight(score, d, 0.04)
    return score


@family
def reach(d: Draw, t: Array) -> Score:
    """Reaches up, out or low with one hand, onto the toes when reaching up."""
    score = standing(t)
    e, goal, way = ease(cycle(d.cycles(t))), d.pick("up", "side", "front", "low"), SIGN[d.side]
    score.heading = d.rng.uniform(-0.9, 0.9)
    target = {"up": "up", "side": "side", "front": "front", "low": "carry"}[goal]
    set_arm(score, d.side, "rest", target, e)
    set_arm(score, d.other, d.pick("rest", "hip", "low"))
    score.arms[d.side].curl = 0.35 - 0.3 * e
    if goal == "up":
        score.side, score.drop = -way * 0.2 * d.amp * e, score.drop - 0.055 * e
        for leg in score.legs.values():
            leg.pitch = 0.5 * e
        score.head_pitch = -0.3 * e
    elif goal == "side":
        score.side, score.pelvis[:, 0] = way * 0.25 * d.amp * e, way * 0.06 * e
        score.head_yaw = way * 0.5 * e
    elif goal == "front":
        score.pitch, score.bend, score.pelvis[:, 1] = 0.25 * e, 0.2 * d.amp * e, 0.05 * e
    else:
        score.pitch, score.bend, score.side = 0.4 * e, 0.45 * d.amp * e, way * 0.15 * e
        score.drop, score.pelvis[:, 1] = score.drop + 0.25 * e, 0.12 * e
        score.head_pitch = 0.2 * e
    return score


@family
def point(d: Draw, t: Array) -> Score:
    """Points and sweeps the arm across, head and trunk following."""
    score = standing(t)
    sweep, way = np.sin(2 * np.pi * d.cycles(t, 0.8)), SIGN[d.side]
    score.heading = d.rng.uniform(-0.7, 0.7)
    set_arm(score, d.side, "point")
    arm = score.arms[d.side]
    for name, size in (("upper", 0.5), ("fore", 0.6)):
        setattr(arm, name, rot.apply(rot.rot_z(way * (0.1 + size * d.amp * sweep)), getattr(arm, name)))
    arm.curl = arm.curl * 0 + 0.7
    set_arm(score, d.other, d.pick("hip", "rest", "carry"))
    score.twist, score.head_yaw = way * 0.25 * sweep, way * (0.2 + 0.4 * sweep)
    _shift_weight(score, d, 0.05)
    return score


@family
def talk(d: Draw, t: Array) -> Score:
    """Talks with both hands: open, shrug, count, hands never still."""
    score = standing(t)
    phase = d.cycles(t, 1.5)
    score.heading = d.rng.uniform(-0.6, 0.6)
    first, second = d.pick("carry", "open", "chest"), d.pick("shrug", "open", "guard")
    lag = d.rng.uniform(0, 0.4)
    for side in SIDES:
        e = cycle(phase + (lag if side == d.side else 0))
        set_arm(score, side, first, second, ease(e))
        score.arms[side].roll = 0.6 * np.sin(2 * np.pi * phase + lag)
        score.arms[side].curl = 0.3 + 0.3 * np.sin(2 * np.pi * phase)
    score.head_pitch, score.head_yaw = 0.12 * np.sin(4 * np.pi * phase), 0.25 * np.sin(2 * np.pi * 0.4 * phase)
    _shift_weight(score, d, 0.06)
    return score


@family
def conduct(d: Draw, t: Array) -> Score:
    """Beats time with both arms, mirrored."""
    score = standing(t)
    phase = d.cycles(t, 1.2)
    score.heading = d.rng.uniform(-0.6, 0.6)
    for side in SIDES:
        set_arm(score, side, "carry", "wave", 0.45 + 0.35 * np.cos(4 * np.pi * phase))
        turned = rot.rot_z(0.45 * d.amp * np.sin(2 * np.pi * phase) * SIGN[side])
        arm = score.arms[side]
        arm.upper, arm.fore = rot.apply(turned, arm.upper), rot.apply(turned, arm.fore)
        arm.wrist = 0.4 * np.sin(4 * np.pi * phase)
    score.bend = score.bend + 0.06 * np.cos(4 * np.pi * phase)
    score.head_pitch = 0.1 * np.cos(4 * np.pi * phase)
    _shift_weight(score, d, 0.04)
    return score


@family
def drum(d: Draw, t: Array) -> Score:
    """Beats with both forearms in turn, knees bent."""
    score = standing(t)
    phase = d.cycles(t, 1.9)
    score.heading = d.rng.uniform(-1.0, 1.0)
    for side, shift in (("L", 0.0), ("R", 0.5)):
        set_arm(score, side, "carry", "guard", ease(cycle(phase + shift)) * min(1.0, d.amp))
        score.arms[side].curl = score.arms[side].curl * 0 + 0.95
        score.legs[side].spread = score.legs[side].spread + 0.1
        score.legs[side].toe_out = score.legs[side].toe_out + 0.25
    score.drop = 0.1 + 0.02 * np.sin(4 * np.pi * phase)
    score.twist = 0.12 * np.sin(2 * np.pi * phase)
    score.head_pitch = 0.15 * np.sin(4 * np.pi * phase)
    return score


@family
def idle(d: Draw, t: Array) -> Score:
    """Stands at ease, shifts weight, looks around."""
    score = standing(t)
    score.heading = d.rng.uniform(-1.0, 1.0)
    look = np.sin(2 * np.pi * d.cycles(t, 0.7))
    for side in SIDES:
        set_arm(score, side, "rest", d.pick("hip", "rest", "low", "back", "carry"), 0.8 + 0.12 * look)
        score.legs[side].spread = score.legs[side].spread + d.rng.uniform(0, 0.1)
        score.legs[side].toe_out = score.legs[side].toe_out + d.rng.uniform(0, 0.3)
    score.head_yaw = 0.6 * d.amp * look
    score.head_pitch = 0.15 * np.sin(2 * np.pi * d.cycles(t, 1.1))
    score.twist = 0.15 * look
    _shift_weight(score, d, 0.09)
    return score
