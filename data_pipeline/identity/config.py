"""Which network tells people apart, and from how many frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.plugins import backend_problem
from imanim.config import opt

BACKENDS = ("dlib", "arcface_onnx")


@dataclass
class IdentityConfig:
    """Settings of the identity network."""

    backend: str = opt(
        "dlib",
        "dlib (registered weights), arcface_onnx (an InsightFace recogniser of yours) or package.module:factory, called"
        " with these settings",
    )
    embedding: Path | None = opt(None, "arcface_onnx: the .onnx file; dlib: another .dat than the registered one")
    landmarks: Path | None = opt(None, "dlib: another 5-point predictor (.dat) than the registered one")
    threshold: float | None = opt(None, "tracks nearer than this are one person; null: the network's own default")
    faces_per_track: int = opt(5, "frames of a track that are looked at, spread over its time")
    min_face_px: int = opt(48, "smaller faces (width of the box) tell nothing sure about who it is")
    min_frontality: float = opt(0.5, "nor do faces turned away further than this (1 = facing the camera, 0 = profile)")
    options: dict[str, Any] = opt({}, "for a plug-in: whatever it reads")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = backend_problem(self.backend, BACKENDS)
        if self.backend == "arcface_onnx" and self.embedding is None:
            found.append("embedding: arcface_onnx needs the path of its .onnx file")
        if self.threshold is not None and not self.threshold > 0:
            found.append(f"threshold: {self.threshold}; give a distance above 0, or null")
        if self.faces_per_track < 1:
            found.append(f"faces_per_track: {self.faces_per_track}; give 1 or more")
        if self.min_face_px < 1:
            found.append(f"min_face_px: {self.min_face_px}; give 1 or more")
        if not 0 <= self.min_frontality <= 1:
            found.append(f"min_frontality: {self.min_frontality}; give 0 to 1")
        return found
