"""Whether a made face does what it should: lips, eyes and brows against the truth, openings of mouth and eyes over time.

Head pose, size and the person's own neutral face are taken off first (:mod:`evaluation.features.expression`), so the
correlations also compare with a driver who is somebody else, where no truth is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.choosing import spread
from evaluation.clip import Clip
from evaluation.features import expression as features
from evaluation.features.face_mesh import MARGIN, MIN_PRESENCE, POINTS, WEIGHTS, FaceMesh
from evaluation.features.faces import FaceSearch, FaceSearchConfig
from evaluation.features.recent import Recent
from evaluation.metrics.base import ClipMetric, Machine, MetricSpec, Value
from imanim.config import opt
from imanim.errors import InputError

LOOKS = 2


@dataclass
class ExpressionConfig:
    """Which faces are measured."""

    frames_per_clip: int = opt(81, "frames of a clip that are looked at, spread over it; shorter clips: all")
    min_frames: int = opt(8, "frames with both meshes that a number needs; clips with fewer frames are refused")
    min_face_px: int = opt(32, "smaller faces (width of the mesh) have no expression that the network could see")
    min_frontality: float = opt(
        0.3, "nor have faces turned away further than this (1 = facing the camera, 0 = profile)"
    )
    min_motion: float = opt(
        0.5, "correlations need an opening whose standard deviation is at least this, in % of the distance of the eyes"
    )
    mesh: Path | None = opt(None, "another face mesh (.tflite) than the registered one")
    faces: FaceSearchConfig = opt(FaceSearchConfig(), "")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = [] if self.min_frames >= 3 else [f"min_frames: {self.min_frames}; give 3 or more"]
        if self.frames_per_clip < self.min_frames:
            found.append(f"frames_per_clip: {self.frames_per_clip}; give min_frames ({self.min_frames}) or more")
        if self.min_face_px < 1:
            found.append(f"min_face_px: {self.min_face_px}; give 1 or more")
        if not 0 <= self.min_frontality <= 1:
            found.append(f"min_frontality: {self.min_frontality}; give 0 to 1")
        if not self.min_motion > 0:
            found.append(f"min_motion: {self.min_motion}; give more than 0")
        return found


class Expression:
    """A :class:`~evaluation.metrics.base.ClipMetric`. Raises InputError when a network is missing."""

    values: tuple[Value, ...] = (
        Value("expression_error", "expression error", "lower", digits=2, unit="% of eye distance"),
        Value("mouth_correlation", "mouth opening, correlation over time", "higher", needs_truth=False),
        Value("eye_correlation", "eye opening, correlation over time", "higher", needs_truth=False),
        Value("mesh_found", "frames whose face has a mesh where it should", "higher", digits=2, needs_truth=False),
    )

    def __init__(self, settings: ExpressionConfig):
        self._settings = settings
        self._search, self._mesh = FaceSearch(settings.faces), FaceMesh(settings.mesh, LOOKS)
        self._known = Recent(self.meshes)

    def protocol(self) -> dict[str, Any]:
        """Everything that the numbers depend on."""
        s = self._settings
        return {
            "mesh": {
                "models": self._mesh.models,
                "points": POINTS,
                "margin": MARGIN,
                "looks": LOOKS,
                "min": MIN_PRESENCE,
            },
            "faces": self._search.protocol(),
            "frames_per_clip": s.frames_per_clip,
            "min_frames": s.min_frames,
            "min_face_px": s.min_face_px,
            "min_frontality": s.min_frontality,
            "min_motion": s.min_motion,
            "unit": "distance of the outer eye corners",
            "neutral": "the clip's median",
            "correlated_with": "the truth, else the driving video",
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        """The four values of a clip; made is compared with the truth, without one the driving video.

        ``expression_error``: mean distance of lips, eyes and brows from the truth's in % of the distance of the eyes.
        ``mouth_correlation``, ``eye_correlation``: Pearson's, over time; NaN when the other's opening hardly changes, 0 when it
        does and the made one never changes. ``mesh_found``: of the other's frames with a mesh, the share where the made face has
        one too. NaN where fewer than ``min_frames`` frames have both meshes.

        Raises:
            InputError: the clip is shorter than ``min_frames``.
        """
        if len(clip.made) < self._settings.min_frames:
            raise InputError(
                f"clip {clip.key}: {len(clip.made)} frames; the expression metric needs {self._settings.min_frames}"
            )
        other = clip.driving if clip.truth is None else clip.truth
        made, wanted = self._known(clip.made), self._known(other)
        known = [np.isfinite(meshes).all(axis=(1, 2)) for meshes in (made, wanted)]
        both = known[0] & known[1]
        values = {value.name: float("nan") for value in self.values}
        if known[1].any():
            values["mesh_found"] = float(both.sum() / known[1].sum())
        if both.sum() >= self._settings.min_frames:
            values |= self._compare(features.aligned(made[both]), features.aligned(wanted[both]))
            if clip.truth is None:
                values["expression_error"] = float("nan")
        return values

    def meshes(self, frames: np.ndarray) -> np.ndarray:
        """float64 [K,468,3] of the frames looked at of a video uint8 [T,H,W,3]; NaN where no face shows well enough."""
        return np.stack([self._look(frames[t]) for t in spread(len(frames), self._settings.frames_per_clip)])

    def _look(self, frame: np.ndarray) -> np.ndarray:
        face = self._search(frame)
        nothing = np.full((POINTS, 3), np.nan)
        if face is None:
            return nothing
        mesh = self._mesh(frame, face)
        told = np.ptp(mesh[:, 0]) >= self._settings.min_face_px  # False for NaN
        return mesh if told and features.frontality(mesh) >= self._settings.min_frontality else nothing

    def _compare(self, made: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
        apart = np.linalg.norm(features.movement(made) - features.movement(wanted), axis=2)
        least = self._settings.min_motion / 100
        openings = {"mouth_correlation": features.LIP_PAIRS, "eye_correlation": features.LID_PAIRS}
        return {"expression_error": float(100 * apart.mean())} | {
            name: correlation(features.opening(made, pairs), features.opening(wanted, pairs), least)
            for name, pairs in openings.items()
        }


def correlation(made: np.ndarray, wanted: np.ndarray, least: float) -> float:
    """Pearson's of two series [K]: NaN when ``wanted`` varies by less than ``least``, 0 when only ``made`` does not vary."""
    if wanted.std() < least:
        return float("nan")
    if made.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(made, wanted)[0, 1])


def _build(settings: ExpressionConfig, machine: Machine) -> ClipMetric:
    return Expression(settings)


def _weights(settings: ExpressionConfig) -> Sequence[str]:
    return settings.faces.required_weights() + ([WEIGHTS] if settings.mesh is None else [])


METRICS = {"expression": MetricSpec(ExpressionConfig, _build, _weights)}
