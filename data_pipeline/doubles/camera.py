"""Cameras and how they differ between the driver, the reference and the target of a pair.

World: metres, z up, a person at the origin facing -y. Focal lengths are in image heights, so a camera does not depend
on the resolution. Image coordinates are in [0,1]: x to the right over the width, y down over the height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from data_pipeline.doubles.asset import FloatArray
from imanim.errors import InputError

Framing = Literal["full_body", "portrait"]
Role = Literal["driver", "target", "reference"]
Vector = tuple[float, float, float]

LEVELS = ("L0", "L1", "L2", "L3", "L4", "L5")
MAX_VIEW_GAP_RAD = (0.0, 0.0, 0.0, np.deg2rad(35.0), np.deg2rad(70.0), np.deg2rad(35.0))
MIN_VIEW_GAP_RAD = (0.0, 0.0, 0.0, np.deg2rad(10.0), np.deg2rad(36.0), np.deg2rad(10.0))
MAX_AZIMUTH_RAD = 0.5
"""Of the character's camera, to either side."""
ZOOM_GAP = 0.35
LARGEST_FILL = {"full_body": 0.78, "portrait": 1.1}  # a driver zoomed in beyond this would lose its raised hands


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without roll.

    Attributes:
        eye, target: world points, metres. focal: in image heights.
    """

    eye: Vector
    target: Vector
    focal: float

    def world_to_camera(self) -> FloatArray:
        """[4,4] rigid transform to axes x right, y down, z forward.

        Raises:
            InputError: eye and target coincide or lie on one vertical line.
        """
        eye = np.array(self.eye, np.float64)
        forward = np.array(self.target, np.float64) - eye
        right = np.cross(forward, (0.0, 0.0, 1.0))
        if np.linalg.norm(right) < 1e-6:
            raise InputError(f"camera: eye {self.eye} looks straight up or down at {self.target}; move one of them")
        forward /= np.linalg.norm(forward)
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        matrix[:3, 3] = -matrix[:3, :3] @ eye
        return matrix.astype(np.float32)

    def project(self, points: FloatArray, width: int, height: int) -> tuple[FloatArray, FloatArray]:
        """World points [...,3] -> image coordinates [...,2] in [0,1] (outside the frame beyond), depth [...] in m.

        Points behind the camera get NaN coordinates.
        """
        matrix = self.world_to_camera().astype(np.float64)
        local = np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        depth = local[..., 2]
        safe = np.where(depth > 1e-3, depth, np.nan)
        u = self.focal * local[..., 0] / safe * (height / width) + 0.5
        v = self.focal * local[..., 1] / safe + 0.5
        return np.stack([u, v], -1).astype(np.float32), depth.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def orbit(centre: Vector, distance_m: float, azimuth_rad: float, elevation_rad: float, focal: float) -> Camera:
    """Looks at ``centre`` from ``distance_m`` away; azimuth 0 is in front of the person (-y), positive to its left."""
    flat = distance_m * np.cos(elevation_rad)
    eye = np.array(centre) + [
        flat * np.sin(azimuth_rad),
        -flat * np.cos(azimuth_rad),
        distance_m * np.sin(elevation_rad),
    ]
    return Camera(_vector(eye), _vector(np.array(centre)), float(focal))


@dataclass(frozen=True)
class View:
    """A camera relative to a body: angles, how much of the frame the body fills, shift in image heights."""

    azimuth_rad: float
    elevation_rad: float
    distance_heights: float
    fill: float  # body height (portrait: head and shoulders) over image height
    shift_x: float
    shift_y: float
    framing: Framing

    def camera(self, body_height_m: float, centre: Sequence[float] | None = None) -> Camera:
        """For a body of this height; ``centre`` is the world point to frame (default: the standing body's middle, or
        the face for a portrait)."""
        portrait = self.framing == "portrait"
        if centre is None:
            centre = (0.0, 0.0, body_height_m * (0.885 if portrait else 0.52))
        distance = self.distance_heights * body_height_m
        # children have larger heads for their height: a portrait shows at least this much
        shown = max(0.30 * body_height_m, 0.12 * body_height_m + 0.26) if portrait else body_height_m
        focal = self.fill * distance / shown
        camera = orbit(_vector(np.array(centre)), distance, self.azimuth_rad, self.elevation_rad, focal)
        right, down = camera.world_to_camera()[:2, :3]
        move = (right * self.shift_x + down * self.shift_y) * (-distance / focal)
        eye, target = np.array(camera.eye) + move, np.array(camera.target) + move
        return replace(camera, eye=_vector(eye), target=_vector(target))


@dataclass(frozen=True)
class CameraPlan:
    """The views of one pair: the target and the reference share theirs, the driver's differs by the level."""

    level: int
    driver: View
    target: View

    def view(self, role: Role) -> View:
        return self.driver if role == "driver" else self.target

    def camera(self, role: Role, body_height_m: float, centre: Sequence[float] | None = None) -> Camera:
        return self.view(role).camera(body_height_m, centre)


def plan_cameras(rng: np.random.Generator, level: int, framing: Framing = "full_body") -> CameraPlan:
    """Draws the views of a pair at difficulty ``level``.

    0 and 1: the same view and body-normalised framing (they differ by the reference's pose, which is not the camera's
    matter); 2: the driver's zoom differs by up to +-35 % (within LARGEST_FILL) and its frame is
    shifted; 3: the view differs by 10-35 degrees as well; 4: by 36-70 degrees; 5: as 3 (the character's proportions are
    the difficulty there).

    Raises:
        InputError: the level is not 0..5 or the framing is unknown.
    """
    if level not in range(len(LEVELS)):
        raise InputError(f"camera level: {level} is not 0..{len(LEVELS) - 1}; choose one of them")
    if framing not in ("full_body", "portrait"):
        raise InputError(f"camera framing: {framing!r} is unknown; choose full_body or portrait")
    target = _draw_view(rng, framing)
    # every level draws the same numbers, so one seed gives one pair that only grows harder
    zoom, shift, gap, side = rng.uniform(-1, 1), rng.uniform(-1, 1, 2), rng.random(), rng.choice([-1.0, 1.0])
    driver = target
    if level >= 2:
        fill = target.fill * (1 + ZOOM_GAP * zoom)
        driver = replace(
            driver, fill=float(min(fill, LARGEST_FILL[framing])), shift_x=0.08 * shift[0], shift_y=0.07 * shift[1]
        )
    low, high = MIN_VIEW_GAP_RAD[level], MAX_VIEW_GAP_RAD[level]
    if high:
        azimuth = target.azimuth_rad + side * (low + (high - low) * gap)
        driver = replace(driver, azimuth_rad=float(azimuth), elevation_rad=float(0.08 + 0.12 * shift[1]))
    return CameraPlan(level, driver, target)


def _draw_view(rng: np.random.Generator, framing: Framing) -> View:
    portrait = framing == "portrait"
    return View(
        azimuth_rad=float(rng.uniform(-MAX_AZIMUTH_RAD, MAX_AZIMUTH_RAD)),
        elevation_rad=float(rng.uniform(-0.02, 0.22)),
        distance_heights=float(rng.uniform(1.6, 2.4) if portrait else rng.uniform(2.6, 3.8)),
        fill=float(rng.uniform(0.78, 0.95) if portrait else rng.uniform(0.60, 0.70)),
        shift_x=0.0,
        shift_y=float(rng.uniform(0.0, 0.03)),
        framing=framing,
    )


def make_camera(
    rng: np.random.Generator,
    body_height_m: float,
    level: int,
    framing: Framing = "full_body",
    role: Role = "target",
    centre: Sequence[float] | None = None,
) -> Camera:
    """One role's camera. Give each role of a pair a generator of the same seed: the views are drawn together."""
    return plan_cameras(rng, level, framing).camera(role, body_height_m, centre)


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z
