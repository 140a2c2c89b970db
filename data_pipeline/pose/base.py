"""What every pose network here gives: where people are in a frame, and one person's joints inside a region of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Region:
    """A rotated rectangle of a frame, in pixels: where a network looks for one person.

    ``angle_rad`` turns the rectangle clockwise on screen (y points down); 0 is upright. ``score`` in [0,1].
    """

    x: float
    y: float
    width: float
    height: float
    angle_rad: float = 0.0
    score: float = 1.0

    def to_frame(self, unit: np.ndarray) -> np.ndarray:
        """Points [...,2] of the unit square over this region -> pixels of the frame."""
        local = (np.asarray(unit, np.float64) - 0.5) * (self.width, self.height)
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        x = self.x + local[..., 0] * cos - local[..., 1] * sin
        y = self.y + local[..., 0] * sin + local[..., 1] * cos
        return np.stack([x, y], axis=-1)

    def distance(self, other: Region) -> float:
        """Distance of the centres in units of the larger region's side."""
        apart = float(np.hypot(self.x - other.x, self.y - other.y))
        return apart / max(self.width, self.height, other.width, other.height)


@dataclass(frozen=True)
class Pose:
    """One person in one frame.

    Attributes:
        joints: float32 [20,3]: x, y in pixels of the frame (NaN = unknown), visibility in [0,1]; `imanim.data.sample.JOINTS`.
        head: float32 [P,2] points of the face in pixels (nose, eyes, ears, mouth as the network has them), NaN = unknown.
        score: that this region holds a person at all, in [0,1].
        region: where to look for the same person in the next frame.
        hands: float32 [2] how surely the right and the left hand are seen, in [0,1]; NaN where the network has no hands.
    """

    joints: np.ndarray
    head: np.ndarray
    score: float
    region: Region
    hands: np.ndarray = field(default_factory=lambda: np.full(2, np.nan, np.float32))


@runtime_checkable
class PoseNetwork(Protocol):
    """Finds people and their joints. Frames are uint8 [H,W,3] RGB."""

    name: str
    models: dict[str, str]
    """File name -> sha256 of the networks it runs."""

    def find(self, frame: np.ndarray) -> list[Region]:
        """Everybody the detector is sure of, the most certain first."""

    def pose(self, frame: np.ndarray, region: Region) -> Pose | None:
        """The joints of the person in that region; None when nobody is there."""
