"""Procedural motions that any body can perform: a registry of small families, varied by seed, and faces."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles.motions import exercise, expressive, improvised, locomotion  # noqa: F401  (they fill the registry)
from data_pipeline.doubles.motions.faces import FACE_ACTIONS, make_faces, make_strong_faces
from data_pipeline.doubles.motions.registry import FAMILIES, Draw
from data_pipeline.doubles.motions.score import Score
from imanim.errors import InputError

KINDS: tuple[str, ...] = tuple(sorted(FAMILIES))

__all__ = ["FACE_ACTIONS", "KINDS", "Motion", "Score"]


@dataclass(frozen=True)
class Motion:
    """One motion, identity free: a pure function of its fields. `frames` at `fps`; a portrait has a busier face
    and smaller turns of the body; with strong_faces it acts at full strength."""

    kind: str
    seed: int
    fps: float = 12.0
    frames: int = 17
    portrait: bool = False
    strong_faces: bool = False

    def __post_init__(self) -> None:
        if self.kind not in FAMILIES:
            raise InputError(f"motion kind: {self.kind!r} is unknown; choose from {', '.join(KINDS)}")

    def times(self, margin: int = 0) -> np.ndarray:
        """Seconds of the frames, with `margin` more before and after: [frames + 2 margin]."""
        return np.arange(-margin, self.frames + margin) / self.fps

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(self.kind.encode()), stream])

    def score(self, margin: int = 0) -> Score:
        """Degrees of freedom over [frames + 2 margin] frames."""
        t = self.times(margin)
        draw = Draw.from_rng(self._rng(0))
        score = FAMILIES[self.kind](draw, t)
        if self.portrait:  # near the camera and facing it
            score.heading, score.twist, score.side = 0.45 * score.heading, 0.6 * score.twist, 0.6 * score.side
        _breathe(score, self._rng(1), 1.6 if self.portrait else 1.0)
        return score

    def faces(self) -> np.ndarray:
        """Weights [frames,52] of FACE_ACTIONS in 0..1."""
        if self.strong_faces:
            return make_strong_faces(self._rng(3), self.times())
        return make_faces(self._rng(2), self.times(), portrait=self.portrait)


def _breathe(score: Score, rng: np.random.Generator, size: float) -> None:
    """Nobody stands perfectly still: breathing and small turns of the head."""
    p = rng.uniform(0, 1, 4)
    tau = 2 * np.pi
    score.bend = score.bend + 0.015 * np.sin(tau * (0.3 * score.t + p[0]))
    score.head_yaw = score.head_yaw + 0.09 * size * np.sin(tau * (0.27 * score.t + p[1]))
    score.head_pitch = score.head_pitch + 0.05 * size * np.sin(tau * (0.35 * score.t + p[2]))
    score.head_roll = score.head_roll + 0.04 * size * np.sin(tau * (0.23 * score.t + p[3]))
