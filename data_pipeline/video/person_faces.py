"""Whose face it is: the best few faces of every person followed, as vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.faces.base import Face
from data_pipeline.identity.base import FaceEmbedder, choose, combine, grade
from data_pipeline.identity.config import IdentityConfig
from data_pipeline.video.artefacts import Artefact
from data_pipeline.video.face_track import SeenFace
from data_pipeline.video.people import Sighting

BIN_SEC = 0.5  # at first the best look of every so long is kept; of a long track fewer, further apart
SPARE = 4  # candidates for each face that will be embedded
AIR = 1.0  # of the box, kept on every side of it for the alignment
MAX_OPEN = 8


@dataclass(frozen=True)
class _Candidate:
    quality: float
    tick: int
    patch: np.ndarray
    face: Face
    """In pixels of the patch."""


class _Track:
    """The best looks at one person so far, at most one for each stretch of time."""

    def __init__(self, bin_ticks: int, most: int):
        self._bin, self._most = bin_ticks, most
        self._kept: dict[int, _Candidate] = {}

    def improves(self, quality: float, tick: int) -> bool:
        """Whether a look is the best of its stretch."""
        rival = self._kept.get(tick // self._bin)
        return rival is None or quality > rival.quality

    def add(self, candidate: _Candidate) -> None:
        """Keeps a look; when there are too many, stretches become twice as long."""
        self._kept[candidate.tick // self._bin] = candidate
        while len(self._kept) > self._most:
            self._bin *= 2
            merged: dict[int, _Candidate] = {}
            for each in self._kept.values():
                rival = merged.get(each.tick // self._bin)
                if rival is None or each.quality > rival.quality:
                    merged[each.tick // self._bin] = each
            self._kept = merged

    def chosen(self, count: int) -> list[_Candidate]:
        """The looks that stand for the person, spread over their time."""
        some = [self._kept[number] for number in sorted(self._kept)]
        return [some[i] for i in choose(np.array([c.quality for c in some]), count)]


class PersonFaces:
    """Keeps the best faces of each person while they are followed, and embeds them once that has ended."""

    name = "identity"

    def __init__(self, embedder: FaceEmbedder | None, config: IdentityConfig, fps: float):
        self._embedder, self._config = embedder, config
        self._threshold = embedder.threshold if embedder is not None else 0.0
        self._bin = max(1, round(BIN_SEC * fps))
        self._open: dict[int, _Track] = {}
        self._done: list[tuple[int, int, float, np.ndarray]] = []

    def new_shot(self) -> None:
        """Nobody is followed across a cut."""
        for person in list(self._open):
            self._close(person)

    def step(self, image: np.ndarray, tick: int, people: list[Sighting], faces: list[SeenFace | None]) -> None:
        """Takes a frame's faces into account."""
        if self._embedder is None:
            return
        for person, seen in zip(people, faces):
            if seen is None:
                continue
            quality = grade(seen.face, seen.sharpness, seen.frontality, self._config)
            if np.isnan(quality):
                continue
            if person.person not in self._open:
                self._open[person.person] = _Track(self._bin, SPARE * self._config.faces_per_track)
                if len(self._open) > MAX_OPEN:
                    self._close(next(iter(self._open)))
            track = self._open[person.person]
            if track.improves(quality, tick):
                track.add(_Candidate(quality, tick, *_cut(image, seen.face)))

    def artefact(self) -> Artefact:
        """vector [E,D], and for each: person [E], tick [E], quality [E]."""
        self.new_shot()
        self._done.sort(key=lambda entry: entry[:2])
        size = self._embedder.size if self._embedder is not None else 0
        vectors = np.array([vector for *_, vector in self._done], np.float32).reshape(len(self._done), size)
        columns = [np.array([entry[i] for entry in self._done]) for i in range(3)]
        return Artefact(
            {"faces": len(self._done), "threshold": self._threshold},
            {
                "vector": vectors,
                "person": columns[0].astype(np.int32),
                "tick": columns[1].astype(np.int32),
                "quality": columns[2].astype(np.float32),
            },
        )

    def _close(self, person: int) -> None:
        assert self._embedder is not None
        for found in self._open.pop(person).chosen(self._config.faces_per_track):
            self._done.append((person, found.tick, found.quality, self._embedder.embed(found.patch, found.face)))


def _cut(image: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
    """The part of a frame around a face, and the face in it: a whole frame would be kept for nothing."""
    size = face.box[2:] - face.box[:2]
    low = np.maximum(np.floor(face.box[:2] - AIR * size), 0).astype(int)
    high = np.minimum(np.ceil(face.box[2:] + AIR * size).astype(int), (image.shape[1], image.shape[0]))
    patch = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    shift = low.astype(np.float32)
    return patch, Face(face.box - np.concatenate([shift, shift]), face.points - shift, face.score)


def track_vectors(identity: Artefact) -> dict[int, np.ndarray]:
    """Person followed -> the vector [D] of their faces; NaN when none of them could be aligned."""
    people = identity["person"]
    return {int(p): combine(identity["vector"][people == p]) for p in np.unique(people)}
