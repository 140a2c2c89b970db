"""Which network finds faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.plugins import backend_problem
from imanim.config import opt

BACKENDS = ("blazeface", "mtcnn", "scrfd_onnx")


@dataclass
class FaceConfig:
    """Settings of the face detector."""

    backend: str = opt(
        "blazeface",
        "blazeface (MediaPipe, short range), mtcnn (its points include the mouth's corners), scrfd_onnx (an InsightFace"
        " detector of yours) or package.module:factory, called with these settings",
    )
    detector: Path | None = opt(None, "scrfd_onnx: the .onnx file; blazeface: another .tflite than the registered one")
    min_score: float = opt(0.5, "detections below this are no face")
    input_side_px: int = opt(320, "scrfd_onnx: side of its input when the file leaves it open, a multiple of 32")
    options: dict[str, Any] = opt({}, "for a plug-in: whatever it reads")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = backend_problem(self.backend, BACKENDS)
        if self.backend == "scrfd_onnx" and self.detector is None:
            found.append("detector: scrfd_onnx needs the path of its .onnx file")
        if self.backend == "mtcnn" and self.detector is not None:
            found.append(f"detector: {self.detector}; mtcnn has its registered networks, leave it empty")
        if not 0 <= self.min_score <= 1:
            found.append(f"min_score: {self.min_score}; give 0 to 1")
        if self.input_side_px < 32 or self.input_side_px % 32:
            found.append(f"input_side_px: {self.input_side_px}; give a multiple of 32")
        return found
