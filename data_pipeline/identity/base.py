"""What every identity network here gives, and how the faces of one track become one vector."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from data_pipeline.faces import quality
from data_pipeline.faces.base import Face
from data_pipeline.identity.config import IdentityConfig


@runtime_checkable
class FaceEmbedder(Protocol):
    """Gives a face its vector.

    Attributes:
        models: the sha256 of every network file by the file's name.
        size: D, the length of a vector.
        threshold: vectors nearer than this (Euclidean) are taken for one person.
    """

    name: str
    models: dict[str, str]
    size: int
    threshold: float

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """float32 [D] of a face in a frame uint8 [H,W,3]; NaN when the face lacks what the network aligns it by."""


def look(frame: np.ndarray, face: Face | None, config: IdentityConfig) -> float:
    """How well a frame shows who somebody is, larger is better; NaN when too badly to tell, or no face shows.

    The vectors of small and turned faces crowd together, so that different people come near each other.
    """
    if face is None:
        return float("nan")
    return grade(face, quality.sharpness(frame, face.box), quality.frontality(face.points), config)


def grade(face: Face, sharpness: float, frontality: float, config: IdentityConfig) -> float:
    """:func:`look` at a face whose sharpness and frontality are known."""
    told = face.box[2] - face.box[0] >= config.min_face_px and frontality >= config.min_frontality
    return sharpness * frontality if told else float("nan")


def choose(looks: np.ndarray, count: int) -> np.ndarray:
    """The frames whose faces stand for a track: its time in ``count`` equal stretches, the best frame of each.

    Spread over the track, one bad moment (a hand, a blur, a grimace) cannot spoil every vector.

    Args:
        looks: [T] of :func:`look`, larger is better, NaN or -inf = no face.

    Returns:
        int [K], increasing, K <= count: stretches without a face give none.
    """
    usable = np.where(np.isnan(looks), -np.inf, looks).astype(np.float64)
    edges = np.linspace(0, len(usable), count + 1).round().astype(int)
    best = [a + int(usable[a:b].argmax()) for a, b in zip(edges[:-1], edges[1:]) if b > a]
    return np.array([t for t in best if np.isfinite(usable[t])], np.int64)


def combine(vectors: np.ndarray) -> np.ndarray:
    """The vectors of one track's faces [K,D] -> one, float32 [D].

    It is their mean, stretched to their mean length (averaging shortens): vectors of length one stay so, and thresholds
    keep their meaning. Vectors with NaN do not count; without any other the result is NaN.
    """
    rows = np.asarray(vectors, np.float64)
    good = rows[np.isfinite(rows).all(axis=1)]
    if not len(good):
        return np.full(rows.shape[1], np.nan, np.float32)
    mean = good.mean(axis=0)
    length = np.linalg.norm(mean)
    return (mean * (np.linalg.norm(good, axis=1).mean() / length if length > 0 else 1.0)).astype(np.float32)
