"""One family for everything between the others: improvise. Training sets that hold it learn motion that no other kind shows."""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.keys import COUNT, Keys
from data_pipeline.doubles.motions.registry import Draw, family
from data_pipeline.doubles.motions.score import ARM_POSES, FOOT_SHIFT, SIDES, Arm, Score, arm_pose, standing, swings

Array = np.ndarray
_TRUNK = {  # channel: lowest and highest key, radians or leg lengths
    "twist": (-0.5, 0.5),
    "side": (-0.28, 0.28),
    "bend": (-0.08, 0.4),
    "pitch": (-0.05, 0.25),
    "head_yaw": (-0.6, 0.6),
    "head_pitch": (-0.25, 0.35),
    "head_roll": (-0.25, 0.25),
}


@family
def improvise(d: Draw, t: Array) -> Score:
    """Random poses of arms and trunk over random steps, turns and bends of the knees."""
    score = standing(t)
    score.heading = d.rng.uniform(-1.1, 1.1)
    for side in SIDES:
        _arm(d, score.arms[side], side, _keys(d, t, 0.45, 1.1))
    keys = _keys(d, t, 0.5, 1.2)
    size = d.rng.uniform(0.3, 1.0)
    for name, (low, high) in _TRUNK.items():
        setattr(score, name, size * keys.numbers(d.rng.uniform(low, high, COUNT)))
    deepest = d.rng.choice([0.04, 0.3])
    score.drop = 0.03 + _keys(d, t, 0.6, 1.2).numbers(d.rng.uniform(0, deepest, COUNT))
    stepping = d.rng.random() < 0.7
    spread, toe_out = d.rng.uniform(0, 0.14), d.rng.uniform(0, 0.35)
    for side in SIDES:
        score.legs[side].spread = score.legs[side].spread + spread
        score.legs[side].toe_out = score.legs[side].toe_out + toe_out
    if stepping:
        _step(d, score)
    else:
        score.pelvis[:, 0] += keys.numbers(d.rng.uniform(-0.09, 0.09, COUNT))
    return score


def _keys(d: Draw, t: Array, shortest: float, longest: float) -> Keys:
    """A key every so many seconds, held a little."""
    return Keys(t, d.rng.uniform(shortest, longest), d.rng.uniform(0, 1), moving=0.9)


def _arm(d: Draw, arm: Arm, side: str, keys: Keys) -> None:
    """Every key lies between two known poses, disturbed: a limit of what shoulders and elbows do."""
    names = list(ARM_POSES)
    pairs = [(arm_pose(side, str(d.rng.choice(names))), arm_pose(side, str(d.rng.choice(names)))) for _ in range(COUNT)]
    share = d.rng.uniform(0, 1, (COUNT, 1))
    for i, name in enumerate(("upper", "fore")):
        a, b = (np.array([pair[k][i] for pair in pairs]) for k in (0, 1))
        setattr(arm, name, keys.directions(rot.unit(a * share + b * (1 - share) + d.rng.normal(0, 0.15, (COUNT, 3)))))
    for name, low, high in (("roll", -0.5, 0.5), ("wrist", -0.4, 0.4), ("curl", 0.0, 1.0)):
        setattr(arm, name, keys.numbers(d.rng.uniform(low, high, COUNT)))


def _step(d: Draw, score: Score) -> None:
    """Steps of one size and direction, on the spot to as far as people go sideways or forward, turning or not."""
    tempo, swing = d.rng.uniform(0.9, 1.5), d.rng.uniform(0.38, 0.5)
    phase, start = d.cycles(score.t, tempo), float(d.cycles(np.array(0.7), tempo))
    way, far = d.rng.uniform(0, 2 * np.pi), d.rng.uniform(0, 1)
    stride = far * np.array([0.3 * np.cos(way), 0.8 * np.sin(way)])  # of a cycle, leg lengths
    turn = d.rng.uniform(-1.2, 1.2) * (d.rng.random() < 0.4)
    lift, heel = d.rng.uniform(0.06, 0.24), d.rng.uniform(0.1, 0.5)
    score.yaw = turn * (phase - start)
    sway = -0.04 * np.sin(2 * np.pi * phase)
    score.pelvis = (phase - start)[:, None] * stride + sway[:, None] * np.stack(
        [np.cos(score.yaw), np.sin(score.yaw)], -1
    )
    for side in SIDES:
        leg = score.legs[side]
        n, e, bump = swings(phase + FOOT_SHIFT[side], swing)
        over = n - 1 + e + (1 + swing) / 2 - FOOT_SHIFT[side] - start  # cycles until the body passes over the foothold
        leg.centre, leg.turn = over[:, None] * stride, turn * over
        leg.lift, leg.pitch = lift * d.amp * bump, heel * bump
        leg.spread = leg.spread + 0.05 * abs(np.cos(way)) * far
