"""A motion performed by one body: planted feet stay planted, hands keep clear of the trunk.

The rules, the same for every body, so that "the same motion" has one meaning:
1. Angles of trunk, neck and head and the directions of the arms are copied.
2. Footholds and the pelvis's path are copied in units of the body's own leg, footholds starting at its own hip width;
   the legs follow by two-bone inverse kinematics, so that a foot on the floor does not move.
3. The pelvis sinks as far as needed for both feet to be reached, smoothly.
4. Arms turn about the shoulder out of the body's own trunk, head and thighs (motions.clearance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles.bodies import Body
from data_pipeline.doubles.motions import FACE_ACTIONS, Motion
from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.clearance import Volumes, clear_arms, measure_volumes
from data_pipeline.doubles.motions.rig import Foot, Rig, Turns, foothold, place_leg, place_trunk, reach_excess
from data_pipeline.doubles.motions.score import SIDES, Score
from data_pipeline.doubles.reference import measure

Array = np.ndarray
MARGIN_FRAMES = 6  # played before and after the clip, so that smoothing knows what comes


@dataclass(frozen=True)
class Performance:
    """What poses a body: `body.pose(deltas, root, expressions)`."""

    deltas: Array  # float32 [T,104,3,3]
    root: Array  # float32 [T,3] metres
    expressions: Array  # float32 [T,52]

    def frame(self, index: int) -> Performance:
        """One frame, T=1."""
        at = slice(index, index + 1)
        return Performance(self.deltas[at], self.root[at], self.expressions[at])


class Performer:
    """A body with what performing needs of it, measured once."""

    def __init__(self, body: Body):
        self.body = body
        # The model may turn the whole reference pose; undo that in the root's delta.
        self._root_turn = np.asarray(body.asset.reference_frames[0], float)
        reference = measure(body.phenotype, body.changes)
        self.rig = Rig(reference, reference.soles)
        self.volumes: Volumes = measure_volumes(self.rig, reference.vertices, _dominant_bones(body))

        self._standing = reference.reference_heads[0] - [0.0, 0.0, reference.soles[:, 2].min()]

    def rest(self) -> Performance:
        """The reference A-pose, standing on the floor, one frame."""
        deltas = np.tile(np.eye(3, dtype=np.float32), (1, len(self.rig.names), 1, 1))
        deltas[0, 0] = self._root_turn
        return Performance(
            deltas, self._standing[None].astype(np.float32), np.zeros((1, len(FACE_ACTIONS)), np.float32)
        )

    def perform(self, motion: Motion) -> Performance:
        """Deltas, root and expressions of the motion's frames. Pure function of (motion, body)."""
        score = motion.score(MARGIN_FRAMES)
        turns = Turns(self.rig, score.frames)
        place_trunk(turns, score)
        root = self._place_legs(turns, score)
        clear_arms(turns, score, root, self.volumes)
        deltas = turns.deltas
        deltas[:, 0] = self._root_turn @ deltas[:, 0]
        keep = slice(MARGIN_FRAMES, MARGIN_FRAMES + motion.frames)
        return Performance(deltas[keep].astype(np.float32), root[keep].astype(np.float32), motion.faces())

    def _place_legs(self, turns: Turns, score: Score) -> Array:
        """Root translation [T,3] and both legs."""
        rig, pelvis = self.rig, turns.turn("root")
        feet = {side: foothold(rig, score, side) for side in SIDES}
        flat = rot.apply(rot.rot_z(np.array(score.heading)), np.pad(score.pelvis * rig.leg, ((0, 0), (0, 1))))
        middle = flat + np.array([0, 0, 1.0]) * (rig.ankle_height + rig.leg * (1 - score.drop))[:, None]
        root = middle - rot.apply(pelvis, rig.mid_hip)
        root[:, 2] -= self._sink(score, root, pelvis, feet)
        for side in SIDES:
            place_leg(turns, score, side, root + rot.apply(pelvis, rig.legs[side].hip), feet[side])
        return root

    def _sink(self, score: Score, root: Array, pelvis: Array, feet: dict[str, Foot]) -> Array:
        """Metres [T] the pelvis must sink so that every foot on its foothold can be reached, smoothed from above."""
        needed = np.zeros(score.frames)
        for side in SIDES:
            hip = root + rot.apply(pelvis, self.rig.legs[side].hip)
            excess = reach_excess(self.rig, side, hip, feet[side].ankle)
            needed = np.maximum(needed, excess * np.clip(1 - 2 * score.legs[side].air, 0, 1))
        widest = np.max([np.roll(needed, k) for k in (-1, 0, 1)], axis=0)
        kernel = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9
        return np.maximum(needed, np.convolve(np.pad(widest, 2, mode="edge"), kernel, mode="valid"))


def _dominant_bones(body: Body) -> Array:
    """Index [V] of the bone with the largest skin weight."""
    return np.asarray(body.asset.skin_weights.argmax(axis=1)).ravel()
