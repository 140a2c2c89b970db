"""Faces over time: weights of the 52 ARKit-style facial actions, in the order of the body model."""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles.motions.score import ease

Array = np.ndarray

FACE_ACTIONS: tuple[str, ...] = tuple(
    (
        "browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
        "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
        "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft "
        "eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft "
        "mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight "
        "mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
        "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft "
        "noseSneerRight tongueOut"
    ).split()
)
_INDEX = {name: i for i, name in enumerate(FACE_ACTIONS)}

# "name*" stands for the Left and the Right action.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": {"mouthSmile*": 0.9, "cheekSquint*": 0.5},
    "laugh": {"mouthSmile*": 0.9, "jawOpen": 0.55, "eyeSquint*": 0.5},
    "open": {"jawOpen": 0.8},
    "o": {"jawOpen": 0.35, "mouthFunnel": 0.9, "browInnerUp": 0.5},
    "sad": {"mouthFrown*": 0.9, "browInnerUp": 0.9},
    "angry": {"browDown*": 1.0, "noseSneer*": 0.6, "mouthPress*": 0.6},
    "surprise": {"jawOpen": 0.6, "browInnerUp": 1.0, "browOuterUp*": 1.0, "eyeWide*": 1.0},
    "pucker": {"mouthPucker": 1.0},
    "wink": {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.7},
    "puff": {"cheekPuff": 0.9, "mouthClose": 0.1},
    "smirk": {"mouthSmileRight": 0.9, "mouthDimpleRight": 0.5, "browOuterUpRight": 0.6},
    "grimace": {"mouthStretch*": 0.9, "mouthLowerDown*": 0.5, "browDown*": 0.4},
    "disgust": {"noseSneer*": 0.9, "mouthUpperUp*": 0.7, "browDown*": 0.5},
}


def expression(name: str) -> Array:
    """Weights [52] of a named expression."""
    out = np.zeros(len(FACE_ACTIONS))
    for action, weight in EXPRESSIONS[name].items():
        sides = [action.replace("*", s) for s in ("Left", "Right")] if action.endswith("*") else [action]
        out[[_INDEX[s] for s in sides]] = weight
    return out


def make_faces(rng: np.random.Generator, t: Array, *, portrait: bool) -> Array:
    """Weights [T,52] in 0..1 at times t [T] seconds: expressions come and go, speech, blinks and glances on top.

    A portrait shows more: expressions change faster, the mouth talks more and the eyes wander further.
    """
    period = rng.uniform(0.55, 0.8) if portrait else rng.uniform(0.9, 1.5)
    plan = [expression(str(rng.choice(list(EXPRESSIONS)))) * rng.uniform(0.7, 1.05) for _ in range(16)]
    x = t / period + rng.uniform(0, 4) + 8
    j = np.floor(x).astype(int)
    e = ease((x - j) / 0.55)[:, None]
    table = np.stack(plan)
    out = table[j % len(plan)] * (1 - e) + table[(j + 1) % len(plan)] * e
    talk = (0.35 if portrait else 0.15) * rng.uniform(0, 1) * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 3.4) * t))
    out[:, _INDEX["jawOpen"]] += talk
    _glance(out, rng, t, 0.8 if portrait else 0.4)
    blink = np.maximum(0, 1 - np.abs((t + rng.uniform(0, 3)) % rng.uniform(1.6, 3.2) - 0.2) / 0.14)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        out[:, _INDEX[name]] = np.maximum(out[:, _INDEX[name]], blink)
    return np.clip(out, 0, 1).astype(np.float32)


def make_strong_faces(rng: np.random.Generator, t: Array) -> Array:
    """Weights [T,52] in 0..1 at times t [T] seconds, for measuring expression: no neutral face, every expression of a clip
    another one, the upper half of the face from one of its own, near full strength, lopsided at times, changed within a
    fifth of a second; speech, blinks and wide glances on top."""
    names = [name for name in EXPRESSIONS if name != "neutral"]
    plan = np.stack([_strong(*pair, rng) for pair in zip(rng.permutation(names), rng.permutation(names), strict=True)])
    x = t / rng.uniform(0.42, 0.55) + rng.uniform(0, 1)
    j = np.floor(x).astype(int)
    e = ease((x - j) / 0.4)[:, None]
    out = plan[j % len(plan)] * (1 - e) + plan[(j + 1) % len(plan)] * e
    speech = rng.uniform(0.2, 0.4) * (0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(2, 3.4) * t + rng.uniform(0, 1))))
    out[:, _INDEX["jawOpen"]] += speech
    _glance(out, rng, t, 1.0)
    blink = np.maximum(0, 1 - np.abs((t + rng.uniform(0, 2)) % rng.uniform(1.0, 1.8) - 0.2) / 0.14)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        out[:, _INDEX[name]] = np.maximum(out[:, _INDEX[name]], blink)
    return np.clip(out, 0, 1).astype(np.float32)


_UPPER = np.array([name.startswith(("brow", "eye", "cheekSquint", "nose")) for name in FACE_ACTIONS])


def _strong(name: str, upper: str, rng: np.random.Generator) -> Array:
    """Weights [52]: an expression with the upper face of another one added, both near full strength."""
    both = np.maximum(expression(name), np.where(_UPPER, expression(upper), 0.0))
    return _lopsided(np.minimum(both * rng.uniform(1.0, 1.25), 1.0), rng)


def _lopsided(weights: Array, rng: np.random.Generator) -> Array:
    """One in three expressions is weaker on one side of the face."""
    chosen, side, left = rng.random() < 1 / 3, str(rng.choice(["Left", "Right"])), rng.uniform(0.1, 0.6)
    weaker = np.array([left if chosen and name.endswith(side) else 1.0 for name in FACE_ACTIONS])
    return weights * weaker


def _glance(out: Array, rng: np.random.Generator, t: Array, reach: float) -> None:
    """Both eyes look the same way: sideways g > 0 is to the body's left."""
    g = reach * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * t + rng.uniform(0, 6))
    v = 0.6 * reach * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * t + rng.uniform(0, 6))
    for name, value in (
        ("eyeLookOutLeft", g),
        ("eyeLookInRight", g),
        ("eyeLookInLeft", -g),
        ("eyeLookOutRight", -g),
        ("eyeLookUpLeft", v),
        ("eyeLookUpRight", v),
        ("eyeLookDownLeft", -v),
        ("eyeLookDownRight", -v),
    ):
        out[:, _INDEX[name]] += np.maximum(0, value)
