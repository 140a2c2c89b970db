"""One person through a video: found by the detector, followed by the landmark network, smoothed a little in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.config import FilterConfig, PoseConfig
from data_pipeline.face import FaceFinder
from data_pipeline.pose.base import Pose, PoseNetwork, Region
from imanim.data.sample import JOINTS

UNCHECKED = NOBODY = -1
SAME_PERSON = 0.25  # found again within this part of the region's side of where they were: the same person


@dataclass
class Track:
    """One person at every tick of a video, in pixels of the decoded frame.

    Attributes:
        joints: float32 [N,20,3] x, y, visibility 0/1; unknown joints are NaN, NaN, 0.
        heads: float32 [N,4] x0,y0,x1,y1 around nose, eyes, ears and mouth; NaN = no person.
        faces: float32 [N,4] face boxes; NaN = no face shows.
        others: int [N] how many other people the detector saw; -1 where it was not run.
        person: int [N] number of the person followed; another one whenever the thread was lost. -1 = nobody.
    """

    joints: np.ndarray
    heads: np.ndarray
    faces: np.ndarray
    others: np.ndarray
    person: np.ndarray

    @classmethod
    def empty(cls, ticks: int) -> Track:
        """A track in which nobody is seen."""
        joints = np.full((ticks, len(JOINTS), 3), np.nan, np.float32)
        joints[..., 2] = 0.0
        boxes = np.full((2, ticks, 4), np.nan, np.float32)
        return cls(joints, boxes[0], boxes[1], np.full(ticks, UNCHECKED, int), np.full(ticks, NOBODY, int))

    def known(self) -> np.ndarray:
        """int [N]: how many joints are known at each tick."""
        return (self.joints[..., 2] > 0).sum(axis=1)


class Follower:
    """Follows one person over the frames of one shot after another.

    The region for the next frame comes from the last frame's landmarks; the detector runs when nobody is followed, and every
    so often to count other people.
    """

    def __init__(self, network: PoseNetwork, faces: FaceFinder, pose: PoseConfig, rules: FilterConfig):
        self._network, self._faces, self._pose, self._rules = network, faces, pose, rules
        self._region: Region | None = None  # where the person will be in the next frame
        self._last: Region | None = None  # where they were when last seen
        self._person = 0
        self._since_check = 0

    def new_shot(self) -> None:
        """Forgets the person: the next frame shows another picture."""
        self._region = self._last = None

    def step(self, frame: np.ndarray, track: Track, tick: int) -> None:
        """Finds the person in a frame uint8 [H,W,3] and writes what it found into ``track`` at ``tick``."""
        found: list[Region] | None = None
        if self._region is None or self._since_check >= self._pose.detect_every_frames:
            found = self._network.find(frame)
            self._since_check = 0
        self._since_check += 1
        person = self._region or self._choose(found or [])
        pose = self._network.pose(frame, person) if person is not None else None
        if pose is None and self._region is not None:
            # The person jumped out of the region, or left: look at the whole frame once before giving up.
            found = self._network.find(frame) if found is None else found
            again = self._choose(found)
            pose = self._network.pose(frame, again) if again is not None else None
        self._region = pose.region if pose is not None else None
        if pose is not None:
            if self._last is None or pose.region.distance(self._last) > SAME_PERSON:
                self._person += 1
            self._last = pose.region
            self._write(frame, pose, track, tick)
        if found is not None:
            track.others[tick] = self._count_others(found, pose)

    def _choose(self, found: list[Region]) -> Region | None:
        """The detection nearest to where the person was; at the start the most certain one."""
        if not found or self._last is None:
            return found[0] if found else None
        last = self._last
        return min(found, key=lambda region: region.distance(last))

    def _write(self, frame: np.ndarray, pose: Pose, track: Track, tick: int) -> None:
        known = pose.joints[:, 2] >= self._pose.min_visibility
        track.joints[tick, known, :2] = pose.joints[known, :2]
        track.joints[tick, :, 2] = known
        track.person[tick] = self._person
        head = pose.head[~np.isnan(pose.head).any(axis=1)]
        if len(head):
            track.heads[tick] = *head.min(axis=0), *head.max(axis=0)
        track.faces[tick] = self._faces.box(frame, pose.head)

    def _count_others(self, found: list[Region], pose: Pose | None) -> int:
        """Detections that are somebody else: away from the person followed, and not much smaller."""
        if pose is None:
            return max(0, len(found) - 1)
        mine = pose.region
        least = self._rules.other_person_size * max(mine.width, mine.height)
        # The same person's second detection has its hips where the first has them.
        return sum(max(r.width, r.height) >= least and r.distance(mine) > 0.2 for r in found)


def smooth(joints: np.ndarray, scale: float, amount: float) -> np.ndarray:
    """Takes jitter out: each joint moves towards the mean of its two neighbours in time, by at most ``amount * scale``.

    The bound keeps true motion: a fast arm is moved by no more than the jitter that it hides.

    Args:
        joints: float32 [T,20,3] in pixels, of one shot.
        scale: the person's size in pixels.
        amount: part of it, 0 switches the filter off.
    """
    out = joints.copy()
    if len(joints) < 3 or amount <= 0:
        return out
    middle = (joints[:-2, :, :2] + joints[2:, :, :2]) / 2
    pull = (middle - joints[1:-1, :, :2]) / 2
    length = np.linalg.norm(pull, axis=-1, keepdims=True)
    pull *= np.minimum(1.0, amount * scale / np.maximum(length, 1e-6))
    # NaN neighbours (unknown joints) leave a joint where it is.
    out[1:-1, :, :2] += np.where(np.isnan(pull), 0.0, pull)
    return out


def runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """(start, stop) of the stretches of equal values in a one-dimensional array."""
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)]
    yield from zip(bounds[:-1], bounds[1:])
