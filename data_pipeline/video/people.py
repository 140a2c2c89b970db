"""The people of a video, frame by frame: found by the detector, each followed by the landmark network."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data_pipeline.config import PeopleConfig
from data_pipeline.pose.base import Pose, PoseNetwork, Region
from data_pipeline.video.artefacts import Artefact
from data_pipeline.video.tracks import UNCHECKED

SAME_PERSON = 0.25  # found again within this part of the region's side of where they were: the same person
SAME_BODY = 0.2  # the same person's second detection has its hips where the first has them


@dataclass
class Sighting:
    """One person at one tick. ``index`` counts the sightings of the video."""

    index: int
    person: int
    joints: np.ndarray
    """float32 [20,3] in pixels, visibility in [0,1] as the network says."""
    head: np.ndarray
    """float32 [P,2] points of the face in pixels, NaN = unknown."""
    hands: np.ndarray
    """float32 [2]: how surely the right and the left hand are seen, 0 to 1."""
    box: np.ndarray
    """float32 [4] around the joints in pixels."""


@dataclass(eq=False)
class _Thread:
    """Somebody who is followed: where they will be in the next frame (None: lost), and where they were last."""

    person: int
    region: Region | None
    last: Region


class PeopleFinder:
    """Follows the people of one shot after another.

    The region for the next frame comes from the last frame's landmarks; the detector runs when somebody is lost or nobody is
    followed, and every so often to notice others. With ``multiple=reject`` one person is followed and the others are counted.
    """

    name = "people"

    def __init__(self, network: PoseNetwork, config: PeopleConfig):
        self._network, self._config = network, config
        self._most = 1 if config.multiple == "reject" else config.max_followed
        self._threads: list[_Thread] = []
        self._people = 0
        self._since_check = 0
        self._record = _Record()

    def new_shot(self) -> None:
        """Forgets everybody: the next frame shows another picture."""
        self._threads = []

    def step(self, image: np.ndarray, tick: int) -> list[Sighting]:
        """The people in a frame uint8 [H,W,3], the one who has been followed longest first."""
        found: list[Region] | None = None
        followed = [t for t in self._threads if t.region is not None]
        if not followed or self._since_check >= self._config.detect_every_frames:
            found = self._network.find(image)
            self._since_check = 0
        self._since_check += 1
        poses: list[tuple[_Thread, Pose]] = []
        lost: list[_Thread] = []
        for thread in self._threads:
            pose = self._network.pose(image, thread.region) if thread.region is not None else None
            (poses.append((thread, pose)) if pose is not None else lost.append(thread))
        if any(thread.region is not None for thread in lost) and found is None:
            # Somebody jumped out of the region, or left: look at the whole frame once before giving up.
            found = self._network.find(image)
        for thread in lost:
            thread.region = None
        self._find_again(image, found or [], lost, poses)
        self._without_doubles(poses)
        for thread, pose in poses:
            thread.region = thread.last = pose.region
        others = UNCHECKED if found is None else self._count_others(found, poses)
        return self._record.add(tick, poses, others)

    def artefact(self) -> Artefact:
        """All sightings: tick, person [M]; joints [M,20,3]; head [M,P,2]; hands [M,2]; others [N] (-1 = not looked for)."""
        return self._record.artefact()

    def _find_again(
        self, image: np.ndarray, found: list[Region], lost: list[_Thread], poses: list[tuple[_Thread, Pose]]
    ) -> None:
        """Gives detections that nobody has yet to those who were lost, the nearest first, then to new people."""
        free = [r for r in found if all(r.distance(pose.region) > SAME_BODY for _, pose in poses)]
        for thread in lost:
            if not free:
                break
            nearest = min(free, key=lambda region: region.distance(thread.last))
            free.remove(nearest)
            pose = self._network.pose(image, nearest)
            if pose is None:
                continue
            if pose.region.distance(thread.last) > SAME_PERSON:
                self._people += 1
                thread.person = self._people
            poses.append((thread, pose))
        while free and len(poses) < self._most:
            pose = self._network.pose(image, free.pop(0))
            if pose is None or any(pose.region.distance(p.region) <= SAME_BODY for _, p in poses):
                continue
            self._people += 1
            gone = [t for t in self._threads if t.region is None and all(t is not thread for thread, _ in poses)]
            if len(self._threads) >= self._most and gone:
                self._threads.remove(gone[0])
            poses.append((_Thread(self._people, pose.region, pose.region), pose))
            self._threads.append(poses[-1][0])

    def _without_doubles(self, poses: list[tuple[_Thread, Pose]]) -> None:
        """Two threads that landed on one person become one, the elder."""
        for i in range(len(poses) - 1, 0, -1):
            if any(poses[i][1].region.distance(earlier.region) <= SAME_BODY for _, earlier in poses[:i]):
                self._threads.remove(poses.pop(i)[0])

    def _count_others(self, found: list[Region], poses: list[tuple[_Thread, Pose]]) -> int:
        """Detections that are nobody we follow, and not much smaller."""
        if not poses:
            return max(0, len(found) - 1)
        largest = max(max(p.region.width, p.region.height) for _, p in poses)
        least = self._config.other_person_size * largest
        return sum(
            max(r.width, r.height) >= least and all(r.distance(p.region) > SAME_BODY for _, p in poses) for r in found
        )


@dataclass
class _Record:
    """Sightings as they come, in lists."""

    ticks: list[int] = field(default_factory=list)
    people: list[int] = field(default_factory=list)
    joints: list[np.ndarray] = field(default_factory=list)
    heads: list[np.ndarray] = field(default_factory=list)
    hands: list[np.ndarray] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)

    def add(self, tick: int, poses: list[tuple[_Thread, Pose]], others: int) -> list[Sighting]:
        """Writes down a tick and gives its sightings."""
        self.others[tick] = others
        seen = []
        for thread, pose in poses:
            seen.append(sighting(len(self.ticks), thread.person, pose.joints, pose.head, pose.hands))
            self.ticks.append(tick)
            self.people.append(thread.person)
            self.joints.append(pose.joints)
            self.heads.append(pose.head)
            self.hands.append(pose.hands)
        return seen

    def artefact(self) -> Artefact:
        """As arrays."""
        count = len(self.ticks)
        others = np.full(max(self.others, default=-1) + 1, UNCHECKED, np.int16)
        others[list(self.others)] = list(self.others.values())
        return Artefact(
            {"people": len(set(self.people)), "sightings": count},
            {
                "tick": np.array(self.ticks, np.int32),
                "person": np.array(self.people, np.int32),
                "joints": np.array(self.joints, np.float32).reshape(count, 20, 3),
                "head": np.array(self.heads, np.float32).reshape(count, -1, 2)
                if count
                else np.zeros((0, 0, 2), np.float32),
                "hands": np.array(self.hands, np.float32).reshape(count, 2),
                "others": others,
            },
        )


class Remembered:
    """People as an earlier run found them, in the place of a :class:`PeopleFinder`."""

    name = "people"

    def __init__(self, people: Artefact):
        self._people = people
        self._first = np.searchsorted(people["tick"], np.arange(len(people["others"]) + 1))

    def new_shot(self) -> None:
        """Nothing to forget."""

    def step(self, image: np.ndarray, tick: int) -> list[Sighting]:
        """The people of that tick."""
        a = self._people
        span = range(int(self._first[tick]), int(self._first[tick + 1]))
        return [sighting(i, int(a["person"][i]), a["joints"][i], a["head"][i], a["hands"][i]) for i in span]

    def artefact(self) -> Artefact:
        """What it was given."""
        return self._people


def sighting(index: int, person: int, joints: np.ndarray, head: np.ndarray, hands: np.ndarray) -> Sighting:
    """A sighting with the box around its joints."""
    points = joints[~np.isnan(joints[:, 0]), :2]
    box = np.concatenate([points.min(axis=0), points.max(axis=0)]) if len(points) else np.full(4, np.nan)
    return Sighting(index, person, joints, head, hands, box.astype(np.float32))
