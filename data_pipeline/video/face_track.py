"""The face of every sighting: its box, how well it is seen, and how large it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.faces import quality
from data_pipeline.faces.base import Face, FaceDetector, head_region
from data_pipeline.video.artefacts import Artefact
from data_pipeline.video.people import Sighting

COLUMNS = {"box": (4,), "points": (5, 2), "score": (), "sharpness": (), "frontality": ()}


@dataclass(frozen=True)
class SeenFace:
    """A face with how well it is seen: ``sharpness`` and ``frontality`` as `data_pipeline.faces.quality` measures them."""

    face: Face
    sharpness: float
    frontality: float


class FaceTrack:
    """Looks for a face where the pose network found a head."""

    name = "face"

    def __init__(self, detector: FaceDetector):
        self._detector = detector
        self._seen: list[SeenFace | None] = []

    def new_shot(self) -> None:
        """Every frame is looked at by itself."""

    def step(self, image: np.ndarray, people: list[Sighting]) -> list[SeenFace | None]:
        """The people's faces in a frame uint8 [H,W,3]; None where none shows (turned away, covered)."""
        out: list[SeenFace | None] = []
        for person in people:
            region = head_region(person.head)
            face = None if region is None else self._detector.find(image, region)
            measured = None if face is None else (quality.sharpness(image, face.box), quality.frontality(face.points))
            out.append(None if face is None or measured is None else SeenFace(face, *measured))
        self._seen += out
        return out

    def artefact(self) -> Artefact:
        """For each sighting: box [M,4], points [M,5,2] in pixels, score [M], sharpness [M], frontality [M]; NaN = no face."""
        arrays = {name: np.full((len(self._seen), *shape), np.nan, np.float32) for name, shape in COLUMNS.items()}
        for i, seen in enumerate(self._seen):
            if seen is not None:
                arrays["box"][i], arrays["points"][i], arrays["score"][i] = (
                    seen.face.box,
                    seen.face.points,
                    seen.face.score,
                )
                arrays["sharpness"][i], arrays["frontality"][i] = seen.sharpness, seen.frontality
        return Artefact({"faces": sum(seen is not None for seen in self._seen)}, arrays)


class RememberedFaces:
    """Faces as an earlier run found them, in the place of a :class:`FaceTrack`."""

    name = "face"

    def __init__(self, found: Artefact):
        self._found = found

    def new_shot(self) -> None:
        """Nothing to forget."""

    def step(self, image: np.ndarray, people: list[Sighting]) -> list[SeenFace | None]:
        """The people's faces."""
        return [self._at(person.index) for person in people]

    def artefact(self) -> Artefact:
        """What it was given."""
        return self._found

    def _at(self, i: int) -> SeenFace | None:
        a = self._found
        if np.isnan(a["score"][i]):
            return None
        face = Face(a["box"][i], a["points"][i], float(a["score"][i]))
        return SeenFace(face, float(a["sharpness"][i]), float(a["frontality"][i]))
