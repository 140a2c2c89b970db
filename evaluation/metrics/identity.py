"""Whose face a made video shows: the character's (identity), or still the driver's (leakage).

Faces of frames spread over a clip become vectors of a recogniser, and those one vector
(:func:`data_pipeline.identity.base.combine`). Nothing is chosen by how well it looks: a method that shows the right face now
and then is not flattered. dlib's vectors do not lie around zero, so its cosines are high for any two people (0.79 to 0.94
between the videos of twelve, 0.98 and more between one's): compare them with each other, and read the distance beside the
threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.identity import backends
from data_pipeline.identity.base import combine, look
from data_pipeline.identity.config import IdentityConfig
from evaluation.choosing import spread
from evaluation.clip import Clip
from evaluation.features.faces import FaceSearch, FaceSearchConfig
from evaluation.features.recent import Recent
from evaluation.metrics.base import ClipMetric, Machine, MetricSpec, Value
from imanim.config import opt


@dataclass
class IdentityMetricConfig:
    """Which faces are compared, and by which network."""

    faces_per_clip: int = opt(8, "frames of a clip that are looked at, spread over it")
    recogniser: IdentityConfig = opt(IdentityConfig(), "")
    faces: FaceSearchConfig = opt(FaceSearchConfig(), "")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        return [] if self.faces_per_clip >= 1 else [f"faces_per_clip: {self.faces_per_clip}; give 1 or more"]


@dataclass(frozen=True)
class Who:
    """The combined vector of a video's faces, float32 [D] (NaN: none was usable), and the share of frames with a usable one."""

    vector: np.ndarray
    found: float


class Identity:
    """A :class:`~evaluation.metrics.base.ClipMetric`. Raises InputError when a network is missing."""

    values: tuple[Value, ...] = (
        Value("identity_similarity", "face like the character's (cosine)", "higher", needs_truth=False),
        Value("identity_distance", "face from the character's (distance)", "lower", needs_truth=False),
        Value("leakage_similarity", "face like the driver's (cosine)", "lower", needs_truth=False),
        Value("identity_margin", "more like the character than the driver (cosines)", "higher", needs_truth=False),
        Value("faces_found", "looked-at frames with a usable face", "higher", digits=2, needs_truth=False),
    )

    def __init__(self, settings: IdentityMetricConfig):
        self._settings = settings
        self._search = FaceSearch(settings.faces)
        self._network = backends.build(settings.recogniser)
        self._known = Recent(self.who)

    def protocol(self) -> dict[str, Any]:
        """Everything that the numbers depend on."""
        rules, network = self._settings.recogniser, self._network
        return {
            "recogniser": {"network": network.name, "models": network.models, "options": rules.options},
            "threshold": network.threshold,
            "faces": self._search.protocol(),
            "faces_per_clip": self._settings.faces_per_clip,
            "min_face_px": rules.min_face_px,
            "min_frontality": rules.min_frontality,
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        """The five values of a clip.

        ``identity_similarity`` is the cosine between the made faces' combined vector and that of the character's image,
        ``identity_distance`` their Euclidean distance; below the protocol's threshold they pass for one person.
        ``leakage_similarity`` is the cosine between the made faces and the driver's, ``identity_margin`` the first less
        that. NaN where a face is missing, and of the last two when driver and character are one person.
        """
        made, character = self._known(clip.made), self._known(clip.character[None])
        driver = self._nobody() if same_person(clip) else self._known(clip.driving)
        identity, leakage = cosine(made.vector, character.vector), cosine(made.vector, driver.vector)
        apart = made.vector.astype(np.float64) - character.vector
        return {
            "identity_similarity": identity,
            "identity_distance": float(np.linalg.norm(apart)),
            "leakage_similarity": leakage,
            "identity_margin": identity - leakage,
            "faces_found": made.found,
        }

    def who(self, frames: np.ndarray) -> Who:
        """The faces of a video uint8 [T,H,W,3], or of one picture [1,H,W,3]."""
        vectors = [self._vector(frames[t]) for t in spread(len(frames), self._settings.faces_per_clip)]
        return Who(combine(np.array(vectors)), float(np.mean([np.isfinite(v).all() for v in vectors])))

    def _vector(self, frame: np.ndarray) -> np.ndarray:
        face = self._search(frame)
        if face is None or np.isnan(look(frame, face, self._settings.recogniser)):
            return self._nobody().vector
        return self._network.embed(frame, face)

    def _nobody(self) -> Who:
        return Who(np.full(self._network.size, np.nan, np.float32), 0.0)


def same_person(clip: Clip) -> bool:
    """Whether driver and character are known to be one: by the labels ``person`` and ``driver_person``, or because the truth
    is the driving video, or the character's picture one of its frames.
    """
    person, driver = clip.labels.get("person"), clip.labels.get("driver_person")
    if person is not None and driver is not None:
        return bool(person == driver)
    if clip.truth is not None and np.array_equal(clip.truth, clip.driving):
        return True
    return clip.character.shape == clip.driving.shape[1:] and any(
        np.array_equal(clip.character, frame) for frame in clip.driving
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors, in [-1,1]; NaN when a number of either is."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / lengths, -1.0, 1.0)) if lengths > 0 else float("nan")


def _build(settings: IdentityMetricConfig, machine: Machine) -> ClipMetric:
    return Identity(settings)


def _weights(settings: IdentityMetricConfig) -> Sequence[str]:
    return settings.faces.required_weights() + backends.required_weights(settings.recogniser)


METRICS = {"identity": MetricSpec(IdentityMetricConfig, _build, _weights)}
