"""Families that travel or step: walk, march, jog, sidestep, turn, lunge, dance."""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.registry import Draw, family
from data_pipeline.doubles.motions.score import (
    FOOT_SHIFT,
    SIDES,
    SIGN,
    Score,
    arm_pose,
    cycle,
    ease,
    set_arm,
    standing,
    swings,
)

Array = np.ndarray


def _mid_stance(n: Array, swing: float, shift: float) -> Array:
    """Phase at which the body passes over foothold n of a foot whose cycle is shifted."""
    return n + (1 + swing) / 2 - shift


def _heel_and_toe(phase: Array, swing: float, size: float) -> Array:
    """Foot pitch of a walking foot: the heel rises before the swing, the toes are up when the heel lands."""
    x = phase - np.floor(phase)
    rise = ease((x - 0.8) / 0.2) + (1 - ease(x / (0.6 * swing))) * (x < swing)
    land = ease((x - 0.4 * swing) / (0.6 * swing)) * (1 - ease((x - swing) / 0.12))
    return size * (0.55 * rise - 0.22 * land)


def _swing_arms(score: Score, phase: Array, size: float, elbow: float) -> None:
    for side in SIDES:
        angle = -size * np.sin(2 * np.pi * (phase + FOOT_SHIFT[side] - 0.2))
        upper, fore = arm_pose(side, "rest")
        score.arms[side].upper = rot.apply(rot.rot_x(-angle), upper)
        score.arms[side].fore = rot.apply(rot.rot_x(-angle - elbow), fore)


@family
def walk(d: Draw, t: Array) -> Score:
    """Steps forward along a heading, arms swinging against the legs."""
    score = standing(t)
    stride, swing, phase = d.rng.uniform(0.55, 0.95), 0.42, d.cycles(t, 1.15)
    score.heading = d.rng.uniform(-0.8, 0.8) + (np.pi if d.rng.random() < 0.15 else 0.0)
    middle = d.cycles(np.array(0.7), 1.15)
    score.pelvis[:, 1] = -stride * (phase - middle)
    score.pelvis[:, 0] = -0.03 * np.sin(2 * np.pi * phase)
    score.drop = 0.035 + 0.012 * np.cos(4 * np.pi * (phase - 0.96))
    for side in SIDES:
        leg, own = score.legs[side], phase + FOOT_SHIFT[side]
        n, e, bump = swings(own, swing)
        leg.centre[:, 1] = -stride * (_mid_stance(n - 1 + e, swing, FOOT_SHIFT[side]) - middle)
        leg.spread = leg.spread - 0.05
        leg.lift = 0.07 * d.amp * bump
        leg.pitch = _heel_and_toe(own, swing, d.amp)
    _swing_arms(score, phase, 0.45 * d.amp, 0.3)
    score.twist = 0.12 * d.amp * np.sin(2 * np.pi * (phase - 0.2))
    score.yaw = -0.08 * np.sin(2 * np.pi * (phase - 0.2))
    score.bend = score.bend + 0.05
    return score


@family
def march(d: Draw, t: Array) -> Score:
    """High knees on the spot."""
    score = standing(t)
    score.heading = d.rng.uniform(-0.6, 0.6)
    phase = d.cycles(t, 1.2)
    for side in SIDES:
        leg = score.legs[side]
        _, _, bump = swings(phase + FOOT_SHIFT[side], 0.48)
        leg.lift = 0.34 * d.amp * bump
        leg.forward = 0.12 * bump
        leg.pitch = 0.35 * bump
    score.pelvis[:, 0] = -0.05 * np.sin(2 * np.pi * phase)
    _swing_arms(score, phase, 0.6 * d.amp, d.rng.uniform(0.3, 1.3))
    return score


@family
def jog(d: Draw, t: Array) -> Score:
    """Running on the spot: short flights between quick steps, elbows bent."""
    score = standing(t)
    score.heading = d.rng.uniform(-0.9, 0.9)
    phase = d.cycles(t, 1.9)
    score.drop = 0.05 - 0.045 * np.cos(4 * np.pi * (phase - 0.02))
    for side in SIDES:
        leg = score.legs[side]
        _, _, bump = swings(phase + FOOT_SHIFT[side], 0.6)
        leg.lift = 0.24 * d.amp * bump
        leg.forward = -0.10 * bump
        leg.pitch = 0.8 * bump
        leg.spread = leg.spread - 0.03
    _swing_arms(score, phase, 0.55 * d.amp, 1.5)
    for side in SIDES:
        score.arms[side].curl = score.arms[side].curl * 0 + 0.9
    score.bend, score.pitch = score.bend + 0.08, score.pitch + 0.06
    return score


@family
def sidestep(d: Draw, t: Array) -> Score:
    """Steps to one side: the leading foot opens, the other closes."""
    score = standing(t)
    stride, swing, phase = d.rng.uniform(0.22, 0.34), 0.4, d.cycles(t, 1.15)
    middle, way = d.cycles(np.array(0.7), 1.15), SIGN[d.side]
    score.heading = d.rng.uniform(-0.4, 0.4)
    score.pelvis[:, 0] = way * stride * (phase - middle)
    score.drop = 0.05 + 0.03 * d.amp * np.cos(4 * np.pi * phase)
    arms = d.pick("open", "guard", "low", "hip")
    for side in SIDES:
        leg = score.legs[side]
        n, e, bump = swings(phase + FOOT_SHIFT[side], swing)
        leg.centre[:, 0] = way * stride * (_mid_stance(n - 1 + e, swing, FOOT_SHIFT[side]) - middle)
        leg.spread = leg.spread + 0.08
        leg.lift = 0.09 * d.amp * bump
        leg.pitch = 0.2 * bump
        set_arm(score, side, "rest", arms, 0.6 + 0.4 * np.sin(2 * np.pi * phase))
    score.side = 0.06 * np.sin(2 * np.pi * phase)
    return score


@family
def turn(d: Draw, t: Array) -> Score:
    """Turns around on the spot with small steps."""
    score = standing(t)
    way, swing, phase = SIGN[d.side], 0.42, d.cycles(t, 1.3)
    per_cycle = way * d.rng.uniform(0.9, 1.7)
    start = d.cycles(np.array(0.7), 1.3)
    score.heading = d.rng.uniform(-0.9, 0.9)
    score.yaw = per_cycle * (phase - start)
    score.head_yaw = score.head_yaw + 0.3 * way
    for side in SIDES:
        leg = score.legs[side]
        n, e, bump = swings(phase + FOOT_SHIFT[side], swing)
        leg.turn = per_cycle * (_mid_stance(n - 1 + e, swing, FOOT_SHIFT[side]) - start)
        leg.lift = 0.1 * d.amp * bump
        leg.pitch = 0.3 * bump
        set_arm(score, side, "rest", "open", 0.5 + 0.4 * np.sin(2 * np.pi * (phase + FOOT_SHIFT[side])))
    score.pelvis[:, 0] = -0.03 * np.sin(2 * np.pi * phase) * np.cos(score.yaw)
    score.pelvis[:, 1] = -0.03 * np.sin(2 * np.pi * phase) * np.sin(score.yaw)
    return score


@family
def lunge(d: Draw, t: Array) -> Score:
    """One foot steps forward, the body sinks between the feet, and back."""
    score = standing(t)
    phase = d.cycles(t, 0.85)
    x = phase - np.floor(phase)
    score.heading = d.rng.uniform(-0.9, 0.9)
    out = ease(x / 0.28) - ease((x - 0.72) / 0.28)
    down = ease((x - 0.1) / 0.35) - ease((x - 0.6) / 0.3)
    reach = 0.72 * d.amp
    front, rear = score.legs[d.side], score.legs[d.other]
    # The step is centred on where the body stood, so that the camera keeps both feet.
    front.forward, rear.forward = reach * (out - 0.5), rear.forward - 0.5 * reach
    front.lift = (
        0.12 * np.where(x < 0.28, np.sin(np.pi * x / 0.28), np.sin(np.pi * np.clip((x - 0.72) / 0.28, 0, 1))) ** 2
    )
    rear.pitch = 0.75 * np.maximum(out, down)
    score.pelvis[:, 1] = 0.5 * reach * (1 - out)
    score.drop = 0.03 + 0.33 * d.amp * down
    pose = d.pick("hip", "side", "carry", "up")
    for side in SIDES:
        set_arm(score, side, "rest", pose, down)
    return score


@family
def dance(d: Draw, t: Array) -> Score:
    """A groove: weight from foot to foot with a touch step, hips and shoulders against each other, arms in turn."""
    score = standing(t)
    phase = d.cycles(t, 1.15)
    wave = np.sin(2 * np.pi * phase)
    low, high = d.pick("guard", "chest", "carry"), d.pick("vee", "wave", "side", "flex")
    score.heading = d.rng.uniform(-0.7, 0.7)
    score.side, score.roll = 0.2 * d.amp * wave, -0.1 * d.amp * wave
    score.twist = 0.3 * d.amp * np.sin(2 * np.pi * phase + d.rng.uniform(0.4, 1.2))
    score.head_roll, score.head_pitch = -0.15 * wave, 0.12 * np.sin(4 * np.pi * phase)
    score.pelvis[:, 0] = -0.1 * wave
    score.drop = 0.07 + 0.04 * d.amp * np.cos(4 * np.pi * phase)
    for side in SIDES:
        leg = score.legs[side]
        _, _, bump = swings(phase + FOOT_SHIFT[side] - 0.02, 0.46)
        leg.lift, leg.pitch = 0.10 * d.amp * bump, 0.4 * bump
        leg.spread, leg.toe_out = leg.spread + 0.06, leg.toe_out + 0.2
        set_arm(score, side, low, high, ease(cycle(phase + FOOT_SHIFT[side])))
        score.arms[side].roll = 0.5 * wave
    return score
