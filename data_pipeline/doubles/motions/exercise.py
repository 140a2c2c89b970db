"""Families of exercise and sport: squat, kick, jacks, hop, box, bow, throw, stretch, twist, circles, balance."""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.registry import Draw, family
from data_pipeline.doubles.motions.score import SIDES, SIGN, Score, arm_pose, cycle, ease, set_arm, standing

Array = np.ndarray


@family
def squat(d: Draw, t: Array) -> Score:
    """Sits down in the air and rises; the hips go back, the arms come forward."""
    score = standing(t)
    down = ease(cycle(d.cycles(t))) * d.amp
    score.heading = d.rng.uniform(-1.0, 1.0)
    score.drop = 0.02 + 0.4 * down
    score.pelvis[:, 1] = 0.2 * down
    score.pitch, score.bend = 0.45 * down, 0.3 * down
    score.head_pitch = -0.45 * down
    pose, wide = d.pick("front", "chest", "side", "hip"), d.rng.uniform(0.02, 0.2)
    for side in SIDES:
        leg = score.legs[side]
        leg.spread, leg.toe_out, leg.knee_out = leg.spread + wide, leg.toe_out + 0.25, leg.knee_out + 0.3
        set_arm(score, side, "rest", pose, ease(down))
    return score


@family
def kick(d: Draw, t: Array) -> Score:
    """Draws one knee up, kicks to the front or the side, and sets the foot down again."""
    score = standing(t)
    phase = d.cycles(t, 0.9)
    x = (phase - np.floor(phase)) / 0.75
    up = np.where(x < 1, np.sin(np.pi * np.clip(x, 0, 1)) ** 2, 0.0)
    sideways = d.rng.random() < 0.4
    score.heading = d.rng.uniform(-0.9, 0.9)
    leg, way = score.legs[d.side], SIGN[d.side]
    leg.air = ease(np.minimum((x - 0.08) / 0.22, (0.92 - x) / 0.22))
    leg.lift = 0.07 * ease(np.minimum(x / 0.16, (1 - x) / 0.16))  # the foot leaves the floor before it travels
    leg.flex = (0.35 if sideways else 1.35) * d.amp * up
    leg.out = (1.0 if sideways else 0.05) * d.amp * up
    leg.knee = 0.12 + 1.2 * np.where(x < 1, np.sin(2 * np.pi * np.clip(x, 0, 1)) ** 2, 0.0)
    leg.point = 0.35 * up
    score.pelvis[:, 0] = -way * 0.13 * ease(cycle(x * 0.75)) * (x < 4 / 3)
    score.pitch = -0.12 * up if not sideways else 0 * up
    score.roll = -way * (0.3 if sideways else 0.05) * up
    score.drop = score.drop + 0.02
    guard = d.pick("guard", "low", "carry")
    set_arm(score, d.other, "rest" if guard == "low" else guard, "punch" if guard == "guard" else "front", 0.8 * up)
    set_arm(score, d.side, "rest" if guard == "low" else guard, "low", 0.8 * up)
    return score


@family
def jacks(d: Draw, t: Array) -> Score:
    """Jumping jacks: the feet open and close in the air, the arms swing overhead."""
    score = standing(t)
    phase = d.cycles(t, 1.25)
    e, fly = ease(cycle(phase)), np.sin(2 * np.pi * phase) ** 2
    score.heading = d.rng.uniform(-0.5, 0.5)
    score.drop = 0.05 + 0.05 * e - 0.11 * d.amp * fly
    for side in SIDES:
        leg = score.legs[side]
        leg.spread = leg.spread + 0.38 * d.amp * e
        leg.lift = 0.09 * d.amp * fly
        leg.pitch = 0.4 * fly
        leg.toe_out = leg.toe_out + 0.15
        set_arm(score, side, "low", "up", e)
    return score


@family
def hop(d: Draw, t: Array) -> Score:
    """Crouch, leap straight up with swinging arms, land softly."""
    score = standing(t)
    phase = d.cycles(t, 1.1)
    x = phase - np.floor(phase)
    fly = np.where((x > 0.4) & (x < 0.78), np.sin(np.pi * (x - 0.4) / 0.38), 0.0) ** 2
    crouch = ease(x / 0.22) - ease((x - 0.25) / 0.17) + 0.7 * (ease((x - 0.72) / 0.12) - ease((x - 0.84) / 0.16))
    score.heading = d.rng.uniform(-1.0, 1.0)
    score.drop = 0.02 + 0.2 * crouch - 0.17 * d.amp * fly
    score.pitch, score.bend = 0.25 * crouch, 0.2 * crouch
    score.pelvis[:, 1] = 0.06 * crouch
    pose = d.pick("vee", "up", "flex")
    for side in SIDES:
        leg = score.legs[side]
        leg.lift, leg.pitch = 0.16 * d.amp * fly, 0.6 * fly
        leg.spread = leg.spread + 0.04
        set_arm(score, side, "back" if pose != "flex" else "low", pose, ease(0.25 + 0.75 * fly - 0.25 * crouch))
    return score


@family
def box(d: Draw, t: Array) -> Score:
    """Punches in turn from a guard, one foot ahead."""
    score = standing(t)
    phase = d.cycles(t, 1.2)
    ahead = score.legs[d.side]
    score.heading = d.rng.uniform(-0.9, 0.9)
    ahead.forward, score.legs[d.other].forward = ahead.forward + 0.2, ahead.forward - 0.2
    score.legs[d.other].toe_out = score.legs[d.other].toe_out + 0.5
    score.legs[d.other].pitch = score.legs[d.other].pitch + 0.2
    hook = d.pick("punch", "punch", "cross")
    for side, shift in (("L", 0.0), ("R", 0.5)):
        out = np.maximum(0, np.sin(2 * np.pi * (phase + shift))) ** 1.5
        set_arm(score, side, "guard", hook, ease(out))
        score.arms[side].curl = score.arms[side].curl * 0 + 1.05
        score.legs[side].spread = score.legs[side].spread + 0.05
    score.twist = -0.4 * d.amp * np.sin(2 * np.pi * phase)
    score.bend = score.bend + 0.1
    score.drop = 0.08 + 0.02 * np.cos(4 * np.pi * phase)
    return score


@family
def bow(d: Draw, t: Array) -> Score:
    """Bends forward from the hips and rises."""
    score = standing(t)
    down = ease(cycle(d.cycles(t, 0.9))) * d.amp
    score.heading = d.rng.uniform(-1.2, 1.2)
    score.pitch, score.bend, score.head_pitch = 0.55 * down, 0.6 * down, 0.15 * down
    score.pelvis[:, 1] = 0.13 * down
    pose = d.pick("rest", "back", "open", "chest")
    for side in SIDES:
        set_arm(score, side, "rest", pose if side == d.side or pose != "chest" else "rest", down)
    return score


@family
def throw(d: Draw, t: Array) -> Score:
    """Winds up with one arm, steps with the opposite foot, throws and follows through."""
    score = standing(t)
    phase = d.cycles(t, 0.85)
    x, way = phase - np.floor(phase), SIGN[d.side]
    wind, release = ease(x / 0.32) - ease((x - 0.34) / 0.16), ease((x - 0.32) / 0.18) - ease((x - 0.62) / 0.38)
    score.heading = d.rng.uniform(-1.0, 1.0)
    step = ease((x - 0.2) / 0.2) - ease((x - 0.75) / 0.25)
    foot = score.legs[d.other]
    foot.forward = 0.32 * step
    moving = np.where(x < 0.5, np.clip((x - 0.2) / 0.2, 0, 1), np.clip((x - 0.75) / 0.25, 0, 1))
    foot.lift = 0.1 * np.sin(np.pi * moving) ** 2
    score.pelvis[:, 1] = -0.14 * step
    score.legs[d.side].pitch = 0.5 * release
    score.twist = -way * d.amp * (0.5 * wind - 0.45 * release)
    score.yaw = -way * d.amp * (0.25 * wind - 0.2 * release)
    score.bend = 0.25 * release - 0.1 * wind
    back, forth = arm_pose(d.side, "cocked"), arm_pose(d.side, "punch")
    rest = arm_pose(d.side, "carry")
    for name, i in (("upper", 0), ("fore", 1)):
        cocked = rot.between(rest[i], back[i], wind)
        w = rot.to_vector(rot.shortest(cocked, forth[i])) * release[:, None]
        setattr(score.arms[d.side], name, rot.apply(rot.from_vector(w), cocked))
    set_arm(score, d.other, "rest", d.pick("front", "open", "side"), wind)
    score.arms[d.side].curl = 0.9 - 0.8 * release
    return score


@family
def stretch(d: Draw, t: Array) -> Score:
    """Side bends with one or both arms overhead."""
    score = standing(t)
    phase = d.cycles(t, 0.8)
    lean = np.sin(2 * np.pi * phase)
    score.heading = d.rng.uniform(-0.6, 0.6)
    score.side, score.roll = 0.42 * d.amp * lean, 0.08 * lean
    score.pelvis[:, 0] = -0.07 * lean
    score.head_roll = 0.1 * lean
    both = d.rng.random() < 0.5
    for side in SIDES:
        score.legs[side].spread = score.legs[side].spread + 0.12
        raised = 0.85 + 0 * lean if both else ease(0.5 - 0.5 * SIGN[side] * lean)
        set_arm(score, side, "low" if both else "hip", "up", raised)
    return score


@family
def twist(d: Draw, t: Array) -> Score:
    """Turns the trunk to both sides over still feet, arms held out or before the chest."""
    score = standing(t)
    phase = d.cycles(t, 1.05)
    wave = np.sin(2 * np.pi * phase)
    score.heading = d.rng.uniform(-0.6, 0.6)
    score.twist, score.yaw = 0.65 * d.amp * wave, 0.15 * wave
    score.head_yaw = 0.25 * np.sin(2 * np.pi * phase - 0.6)
    score.drop = score.drop + 0.04
    pose = d.pick("side", "chest", "flex", "carry", "open")
    for side in SIDES:
        set_arm(score, side, pose)
        score.legs[side].spread = score.legs[side].spread + 0.1
        score.legs[side].toe_out = score.legs[side].toe_out + 0.2
    return score


@family
def circles(d: Draw, t: Array) -> Score:
    """Straight arms held out draw circles."""
    score = standing(t)
    angle = 2 * np.pi * d.cycles(t, 1.3)
    size, mirror = d.rng.uniform(0.3, 0.65) * d.amp, d.rng.random() < 0.5
    score.heading = d.rng.uniform(-0.8, 0.8)
    for side in SIDES:
        a = angle if side == "L" or mirror else angle + np.pi
        up = rot.unit(np.stack([SIGN[side] + 0 * a, -0.25 + size * np.sin(a), 0.1 + size * np.cos(a)], -1))
        score.arms[side].upper, score.arms[side].fore = up, rot.unit(up + [0, -0.12, 0])
        score.arms[side].curl = score.arms[side].curl * 0 + 0.15
    score.drop = score.drop + 0.01 * np.sin(angle)
    return score


@family
def balance(d: Draw, t: Array) -> Score:
    """Stands on one leg, the other knee drawn up, wobbling a little."""
    score = standing(t)
    phase = d.cycles(t, 0.9)
    up = 0.75 + 0.25 * np.sin(2 * np.pi * phase)
    way, leg, wobble = SIGN[d.side], score.legs[d.side], np.sin(2 * np.pi * phase * 1.7)
    score.heading = d.rng.uniform(-1.0, 1.0)
    leg.air = leg.air + 1
    leg.flex, leg.out = 1.1 * d.amp * up, leg.out + d.rng.uniform(0.05, 0.5)
    leg.knee, leg.point = 1.5 * up, leg.point + 0.15
    score.pelvis[:, 0] = score.pelvis[:, 0] - way * 0.15
    score.side, score.roll = 0.1 * wobble, -0.03 * way + 0.02 * wobble
    pose = d.pick("side", "vee", "low", "up", "hip")
    for side in SIDES:
        set_arm(score, side, pose, "side", 0.25 + 0.2 * wobble * SIGN[side])
    return score
