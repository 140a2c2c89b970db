"""One take: a person performs a motion before a camera. Frames, joints, face boxes, part masks, and all parameters."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.doubles.bodies import Body
from data_pipeline.doubles.camera import Camera, View
from data_pipeline.doubles.exaggeration import random_changes
from data_pipeline.doubles.performance import Performance, Performer
from data_pipeline.doubles.render import Renderer, face_box, joint_visibility
from data_pipeline.doubles.wardrobe import Identity, Scene, random_identity, random_scene

_BODY_STREAM, _SCENE_STREAM, _CHANGES_STREAM = 101, 102, 103
_KEPT_PEOPLE = 24  # measured and dressed people a process remembers


@dataclass(frozen=True)
class Take:
    """T frames of one person.

    Attributes:
        frames: uint8 [T,H,W,3]. joints: float32 [T,20,3], x,y in [0,1] (true even when hidden), visibility 1 or 0.
        faces: float32 [T,4] boxes in [0,1], NaN where no face is seen. parts: uint8 [T,H,W].
        expressions: float32 [T,52] weights of motions.FACE_ACTIONS.
        parameters: everything that made it, JSON-ready.
    """

    frames: np.ndarray
    joints: np.ndarray
    faces: np.ndarray
    parts: np.ndarray
    expressions: np.ndarray
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Person:
    """A dressed body, ready to perform."""

    body_id: int
    identity: Identity
    performer: Performer
    renderer: Renderer
    exaggerated: bool = False

    @property
    def height_m(self) -> float:
        return self.performer.body.height_m


class Studio:
    """Makes people and films them at one size. Remembers the last people, since measuring and dressing one takes time."""

    def __init__(self, width: int, height: int, *, supersample: int = 2, device: str = "cpu"):
        self.width, self.height, self.supersample, self.device = width, height, supersample, device
        self._people: OrderedDict[tuple[int, bool], Person] = OrderedDict()

    def person(self, body_id: int, exaggerated: bool = False) -> Person:
        """The person with this id, the same in every data set; exaggerated: with proportions that nobody has."""
        key = (body_id, exaggerated)
        if key not in self._people:
            identity = make_identity(body_id)
            body = Body(identity.phenotype, make_changes(body_id) if exaggerated else None)
            renderer = Renderer(
                body, identity, self.width, self.height, supersample=self.supersample, device=self.device
            )
            self._people[key] = Person(body_id, identity, Performer(body), renderer, exaggerated)
            if len(self._people) > _KEPT_PEOPLE:
                self._people.popitem(last=False)
        self._people.move_to_end(key)
        return self._people[key]

    def film(self, person: Person, performance: Performance, scene: Scene, camera: Camera) -> Take:
        """Renders a performance; the returned parameters describe person, scene and camera."""
        posed = person.performer.body.pose(performance.deltas, performance.root, performance.expressions)
        rendered = person.renderer.frames(posed.vertices, scene, camera)
        joints, _ = joint_visibility(posed.keypoints, camera, rendered.depth, person.height_m)
        faces = face_box(posed.vertices, camera, self.width, self.height)
        parameters = {
            "body": person.body_id,
            "identity": person.identity.to_dict(),
            "height_m": round(person.height_m, 4),
            "scene": scene.to_dict(),
            "camera": camera.to_dict(),
        }
        if person.exaggerated:
            parameters["exaggeration"] = {n: round(v, 4) for n, v in person.performer.body.changes.items()}
        return Take(rendered.rgb, joints, faces, rendered.parts, performance.expressions, parameters)


def make_identity(body_id: int) -> Identity:
    """The looks and shape of a person, a function of the id alone."""
    return random_identity(np.random.default_rng([_BODY_STREAM, body_id]))


def make_changes(body_id: int) -> dict[str, float]:
    """The exaggerated proportions of a person (level L5), a function of the id alone."""
    return random_changes(np.random.default_rng([_CHANGES_STREAM, body_id]))


def make_scene(seed: int) -> Scene:
    """Surroundings and light from a seed."""
    return random_scene(np.random.default_rng([_SCENE_STREAM, seed]))


def place_camera(view: View, person: Person, performance: Performance) -> Camera:
    """The view's camera for this person: a portrait frames where the face is on the average of the clip."""
    if view.framing == "full_body":
        return view.camera(person.height_m)
    keypoints = person.performer.body.joints_only(performance.deltas, performance.root).keypoints
    x, y, z = (float(v) for v in keypoints[:, 0].mean(0))
    return view.camera(person.height_m, (x, y, z - 0.02 * person.height_m))
