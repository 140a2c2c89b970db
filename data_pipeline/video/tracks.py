"""Sightings -> tracks: joints cleaned over time, and the people of a video laid out tick by tick."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.config import PoseConfig
from data_pipeline.video.artefacts import Artefact
from imanim.data.sample import JOINTS

WRISTS = [JOINTS.index("r_wrist"), JOINTS.index("l_wrist")]
UNCHECKED = -1
NOBODY = 0


@dataclass
class Track:
    """One person at a time at every tick of a video, in pixels of the decoded frame.

    Attributes:
        joints: float32 [N,20,3] x, y, confidence; unknown joints are NaN, NaN, 0.
        heads: float32 [N,4] x0,y0,x1,y1 around nose, eyes, ears and mouth; NaN = no person.
        faces: float32 [N,4] face boxes; NaN = no face shows.
        hands: float32 [N,2] how surely the right and left hand are seen; NaN = nobody, or the network has no hands.
        others: int [N] how many other people the detector saw; -1 where it was not run.
        person: int [N] number of the person followed; from 1, another one whenever the thread was lost. 0 = nobody.
        same: int [N] a number that people with the same face share, not 0; 0 = nobody.
        intruders: float32 [N,P,4] boxes of other people who are followed; NaN = none.
    """

    joints: np.ndarray
    heads: np.ndarray
    faces: np.ndarray
    hands: np.ndarray
    others: np.ndarray
    person: np.ndarray
    same: np.ndarray
    intruders: np.ndarray

    @classmethod
    def empty(cls, ticks: int) -> Track:
        """A track in which nobody is seen."""
        joints = np.full((ticks, len(JOINTS), 3), np.nan, np.float32)
        joints[..., 2] = 0.0
        boxes = np.full((2, ticks, 4), np.nan, np.float32)
        hands = np.full((ticks, 2), np.nan, np.float32)
        others, person, same = (np.full(ticks, value, int) for value in (UNCHECKED, NOBODY, NOBODY))
        return cls(joints, boxes[0], boxes[1], hands, others, person, same, np.empty((ticks, 0, 4), np.float32))

    def known(self) -> np.ndarray:
        """int [N]: how many joints are known at each tick."""
        return (self.joints[..., 2] > 0).sum(axis=1)


def clean(people: Artefact, config: PoseConfig, fps: float) -> Artefact:
    """The pose step: uncertain joints unknown, short gaps filled, jitter taken out; for each person by themselves.

    Args:
        people: the people step's sightings.

    Returns:
        joints float32 [M,20,3] and heads float32 [M,4] (box around the points of the head) of the same sightings, in pixels.
    """
    joints = people["joints"].copy()
    unknown = (joints[..., 2] < config.min_visibility) | np.isnan(joints[..., 0])
    joints[unknown] = (np.nan, np.nan, 0.0)
    most = round(config.fill_gap_sec * fps)
    filled = 0
    for person in np.unique(people["person"]):
        mine = np.flatnonzero(people["person"] == person)
        for first, last in _stretches(people["tick"][mine]):
            span = mine[first:last]
            before = (joints[span, :, 2] > 0).sum()
            joints[span] = fill_gaps(joints[span], most)
            filled += int((joints[span, :, 2] > 0).sum() - before)
            joints[span] = smooth(joints[span], _person_size(joints[span]), config.smoothing)
    heads = np.full((len(joints), 4), np.nan, np.float32)
    for i, head in enumerate(people["head"]):
        points = head[~np.isnan(head).any(axis=1)]
        if len(points):
            heads[i] = *points.min(axis=0), *points.max(axis=0)
    return Artefact({"filled_joints": filled}, {"joints": joints, "heads": heads})


def fill_gaps(joints: np.ndarray, most_frames: int) -> np.ndarray:
    """Puts joints that are unknown for at most ``most_frames`` between their known neighbours in time.

    A filled joint has half the confidence of its less certain neighbour.

    Args:
        joints: float32 [T,20,3] of one person at consecutive ticks; NaN, NaN, 0 = unknown.
    """
    out = joints.copy()
    for j in range(joints.shape[1]):
        known = np.flatnonzero(joints[:, j, 2] > 0)
        for a, b in zip(known[:-1], known[1:]):
            if 1 < b - a <= most_frames + 1:
                share = (np.arange(a + 1, b) - a)[:, None] / (b - a)
                out[a + 1 : b, j, :2] = joints[a, j, :2] * (1 - share) + joints[b, j, :2] * share
                out[a + 1 : b, j, 2] = 0.5 * min(joints[a, j, 2], joints[b, j, 2])
    return out


def smooth(joints: np.ndarray, scale: float, amount: float) -> np.ndarray:
    """Takes jitter out: each joint moves towards the mean of its two neighbours in time, by at most ``amount * scale``.

    The bound keeps true motion: a fast arm is moved by no more than the jitter that it hides.

    Args:
        joints: float32 [T,20,3] in pixels, of one person in one shot.
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


def lanes(
    ticks: int, people: Artefact, pose: Artefact, face: Artefact, same: dict[int, int], *, apart: bool, least_ticks: int
) -> list[Track]:
    """The people of a video as tracks.

    Args:
        ticks: N.
        same: person followed -> a number that people with the same face share.
        apart: False: everybody in one track (one person at a time is followed). True: a track for each face, in which the
            others are intruders; people with fewer than ``least_ticks`` sightings get none, but intrude.
    """
    person = people["person"]
    if not apart:
        return [_lane(ticks, people, pose, face, same, np.ones(len(person), bool))]
    count = {int(p): int((person == p).sum()) for p in np.unique(person)}
    members: list[list[int]] = []
    for p in (p for p in count if count[p] >= least_ticks):
        mine = people["tick"][person == p]
        home = next((m for m in members if same[m[0]] == same[p] and not _meet(people, mine, m)), None)
        members.append([p]) if home is None else home.append(p)
    return [_lane(ticks, people, pose, face, same, np.isin(person, m)) for m in members]


def _meet(people: Artefact, ticks: np.ndarray, members: list[int]) -> bool:
    """Whether any of some people is seen at any of the ticks: a face in two places at once is two people."""
    return bool(np.isin(ticks, people["tick"][np.isin(people["person"], members)]).any())


def _lane(
    ticks: int, people: Artefact, pose: Artefact, face: Artefact, same: dict[int, int], mine: np.ndarray
) -> Track:
    track = Track.empty(ticks)
    at = people["tick"][mine]
    track.joints[at], track.heads[at] = pose["joints"][mine], pose["heads"][mine]
    track.faces[at] = face["box"][mine]
    # Whose wrist does not show has no hand in the picture: nothing is expected of it.
    track.hands[at] = np.where(pose["joints"][mine][:, WRISTS, 2] > 0, people["hands"][mine], np.nan)
    track.person[at] = people["person"][mine]
    track.same[at] = [same[int(p)] for p in people["person"][mine]]
    track.others[: len(people["others"])] = people["others"]
    rest = np.flatnonzero(~mine)
    if len(rest):
        nth = np.zeros(ticks, int)
        boxes = np.full((ticks, int(np.bincount(people["tick"][rest]).max()), 4), np.nan, np.float32)
        for i in rest:
            t = people["tick"][i]
            points = pose["joints"][i, pose["joints"][i, :, 2] > 0, :2]
            if len(points):
                boxes[t, nth[t]] = *points.min(axis=0), *points.max(axis=0)
                nth[t] += 1
        track.intruders = boxes
    return track


def runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """(start, stop) of the stretches of equal values in a one-dimensional array."""
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)]
    yield from zip(bounds[:-1], bounds[1:])


def _stretches(ticks: np.ndarray) -> Iterator[tuple[int, int]]:
    """(start, stop) of the stretches of consecutive ticks in an increasing array."""
    yield from runs(ticks - np.arange(len(ticks)))


def _person_size(joints: np.ndarray) -> float:
    """The longer side of the box of known joints in pixels: the median over the frames [T,20,3]; 0 when nobody is seen."""
    known = joints[(joints[..., 2] > 0).sum(axis=1) >= 2]
    if not len(known):
        return 0.0
    extent = np.nanmax(known[..., :2], axis=1) - np.nanmin(known[..., :2], axis=1)
    return float(np.median(extent.max(axis=1)))
