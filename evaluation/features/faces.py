"""The face that a frame shows, for metrics: where the pose network sees a head, or anywhere in the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from data_pipeline.config import PoseConfig
from data_pipeline.faces import backends as face_backends
from data_pipeline.faces.base import Face, head_region
from data_pipeline.faces.config import FaceConfig
from data_pipeline.faces.mtcnn import Mtcnn
from data_pipeline.pose import backends as pose_backends
from imanim.config import opt
from imanim.errors import InputError

MOST_PEOPLE = 3
"""So many people of a frame, the most certain, are asked for their face."""

T = TypeVar("T")


@dataclass
class FaceSearchConfig:
    """Where faces are looked for, and with which networks."""

    search: Literal["head", "frame"] = opt(
        "head",
        "head: around the heads that the pose network finds, so that the small face of a full body is seen; frame: in the"
        " whole frame (mtcnn only; hands and folds pass for faces there, so raise face.min_score to 0.9)",
    )
    pose: PoseConfig = opt(PoseConfig(), "")
    face: FaceConfig = opt(FaceConfig(), "")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        if self.search == "frame" and self.face.backend != "mtcnn":
            return [f"search: frame, but {self.face.backend} only looks around heads; set face.backend=mtcnn"]
        return []

    def required_weights(self) -> list[str]:
        """Names for :func:`imanim.weights.require_all`."""
        pose = pose_backends.required_weights(self.pose) if self.search == "head" else []
        return pose + face_backends.required_weights(self.face)


class FaceSearch:
    """Finds the largest face of a frame, each frame by itself. Raises InputError when a network is missing."""

    def __init__(self, config: FaceSearchConfig):
        self._config = config
        self._detector = face_backends.build(config.face)
        self._pose = pose_backends.build(config.pose) if config.search == "head" else None

    def protocol(self) -> dict[str, Any]:
        """What the faces found depend on, for JSON."""
        face = self._config.face
        said: dict[str, Any] = {
            "search": self._config.search,
            "face": {"network": self._detector.name, "models": self._detector.models, "min_score": face.min_score},
        }
        if self._pose is not None:
            pose = {"network": self._pose.name, "models": self._pose.models}
            said["pose"] = {**pose, "min_person_score": self._config.pose.min_person_score, "people": MOST_PEOPLE}
        return said

    def __call__(self, frame: np.ndarray) -> Face | None:
        """The largest face of a frame uint8 [H,W,3]; None when none shows."""
        check_frames(frame[None], "frame")
        found = self._around_heads(frame) if self._pose is not None else self._everywhere(frame)
        return max(found, key=lambda face: _area(face.box), default=None)

    def _everywhere(self, frame: np.ndarray) -> list[Face]:
        assert isinstance(self._detector, Mtcnn)
        return self._detector.detect(frame)

    def _around_heads(self, frame: np.ndarray) -> list[Face]:
        assert self._pose is not None
        found = []
        for person in self._pose.find(frame)[:MOST_PEOPLE]:
            pose = self._pose.pose(frame, person)
            region = head_region(pose.head) if pose is not None else None
            face = self._detector.find(frame, region) if region is not None else None
            if face is not None:
                found.append(face)
        return found


def check_frames(frames: np.ndarray, name: str) -> None:
    """Raises InputError when frames are not uint8 [T,H,W,3]."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise InputError(f"{name}: {frames.dtype} {list(frames.shape)}; give uint8 RGB, [H,W,3] a frame")


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
