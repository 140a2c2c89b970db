"""A few seconds of Doubles, filmed for the tests of the reader: the truth, and the same motion by the driver's body."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from data_pipeline.doubles.camera import plan_cameras
from data_pipeline.doubles.motions import Motion
from data_pipeline.doubles.takes import Studio, Take, make_scene, place_camera
from evaluation.clip import Clip

FRAMES = 9
TARGETS, DRIVERS = (700, 703, 706), (710, 713, 716)
KINDS = ("jacks", "dance", "march")


@dataclass(frozen=True)
class Film:
    truth: Take
    wrong_body: Take
    """The driver's body, in the truth's pose, view, light and place."""


@cache
def films() -> tuple[Film, ...]:
    """Three motions, each by an unseen person and by somebody else, 128x80 pixels."""
    studio = Studio(80, 128)
    found = []
    for i, (target, driver, kind) in enumerate(zip(TARGETS, DRIVERS, KINDS)):
        motion = Motion(kind, 900_000 + i, frames=FRAMES)
        view = plan_cameras(np.random.default_rng(i), 3, "full_body").target
        takes = []
        for body in (target, driver):
            person = studio.person(body)
            performance = person.performer.perform(motion)
            camera = place_camera(view, person, performance)
            takes.append(studio.film(person, performance, make_scene(i), camera))
        found.append(Film(*takes))
    return tuple(found)


def clip_of(film: Film, made: np.ndarray) -> Clip:
    """The film's truth beside a made video uint8 [T,H,W,3]."""
    true = film.truth
    return Clip(
        "one", made, film.wrong_body.frames, true.frames[0], 12.0, true.frames, joints=true.joints, parts=true.parts
    )
