"""Human bodies without Anny: phenotype -> rest shape -> posed vertices, keypoints and bones, in numpy.

Units are metres, z up, x to the body's left, the body facing -y. A pose is given as Anny's ``local-ref`` deltas: one
rotation a bone about world axes, seen from the reference A-pose that all bodies share. So the same deltas on another
body are the same motion, retargeted.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles import exaggeration
from data_pipeline.doubles.asset import PHENOTYPE, Asset, FloatArray, load_asset
from imanim.errors import InputError

__all__ = ["PHENOTYPE", "SOLES", "Asset", "Body", "Posed", "Skeleton", "load_asset"]

JOINT_COUNT = 20
SOLES = (
    "l_heel", "l_ball_inner", "l_ball_outer", "l_toe", "r_heel", "r_ball_inner", "r_ball_outer", "r_toe",
)  # fmt: skip
"""The points of the shoe soles that touch the floor, in the order of ``Posed.soles``."""


@dataclass(frozen=True)
class Skeleton:
    """A posed body without its skin. T frames.

    Attributes:
        keypoints: [T,20,3] the joints of the sample contract (imanim.data.sample.JOINTS), in the world.
        soles: [T,8,3] points under the shoes (SOLES).
        bone_heads: [T,104,3].
        bone_rotations: [T,104,3,3] turn of each bone in the world since the reference A-pose (product of the deltas).
    """

    keypoints: FloatArray
    soles: FloatArray
    bone_heads: FloatArray
    bone_rotations: FloatArray


@dataclass(frozen=True)
class Posed(Skeleton):
    """A posed body with its skin: ``vertices`` [T,V,3] in the world, V as in the asset."""

    vertices: FloatArray


class Body:
    """One person's shape, ready to be posed.

    Attributes:
        bone_names, parents: the skeleton, 104 bones; the root is bone 0 (pelvis) with parent -1.
        rest_vertices: [V,3] and rest_heads [104,3]: the rest pose, shoe soles at z=0.
        rest_frames: [104,3,3] world orientation of every bone's own axes in the rest pose.
        reference_heads: [104,3] bone heads in the reference A-pose (all deltas identity), root as in the rest pose.
        height_m: sole to crown in the rest pose; leg_length_m: hip to knee to ankle, mean of both legs.
    """

    def __init__(self, phenotype: Mapping[str, float], changes: Mapping[str, float] | None = None):
        """Builds the shape.

        Args:
            phenotype: names every entry of PHENOTYPE with a value in [0,1].
            changes: proportions beside the phenotype's, some of exaggeration.FEATURES with a value in [-1,1]; None: none.

        Raises:
            InputError: a name is missing or unknown, or a value lies outside its range.
        """
        self.phenotype = _checked(phenotype)
        self.changes = dict(changes or {})
        self.asset = asset = load_asset()
        self.bone_names, self.parents = asset.bone_names, asset.parents
        c = corner_weights(asset, self.phenotype) @ asset.coefficients  # [R]
        self.rest_vertices = asset.vertex_mean + np.tensordot(c, asset.vertex_basis, 1)
        self.rest_heads = asset.head_mean + np.tensordot(c, asset.head_basis, 1)
        self._moments = asset.moment_mean + np.tensordot(c, asset.moment_basis, 1)
        frames = asset.frame_mean + np.tensordot(c, asset.frame_basis, 1)
        if self.changes:
            change = exaggeration.summed(self.changes)
            self.rest_vertices, self.rest_heads = self.rest_vertices + change.vertices, self.rest_heads + change.heads
            self._moments, frames = self._moments + change.moments, frames + change.frames
        self.rest_frames = nearest_rotations(frames).astype(np.float32)
        self._set_on_floor()
        # A_b = U_b R_b^T turns a rest bone to the reference A-pose; the root's own turn does not move its children.
        self._to_reference = asset.reference_frames @ self.rest_frames.transpose(0, 2, 1)
        carry = self._to_reference.copy()
        carry[0] = np.eye(3)
        offsets = self.rest_heads - self.rest_heads[self.parents]
        self._offsets = np.einsum("bij,bj->bi", carry[self.parents], offsets).astype(np.float32)
        self._levels = _depth_levels(self.parents)
        self.reference_heads = self._reference_heads()
        self.height_m = float(self.rest_vertices[:, 2].max())
        identity = np.broadcast_to(np.eye(3, dtype=np.float32), (1, len(self.parents), 3, 3))
        k = self.joints_only(identity, self.rest_heads[:1]).keypoints[0]
        bones = np.linalg.norm(k[[8, 9, 11, 12]] - k[[9, 10, 12, 13]], axis=-1)
        self.leg_length_m = float(bones.sum() / 2)

    def measures(self) -> dict[str, float]:
        """Lengths in metres between joints of the reference pose, limbs' means of both sides; height as ``height_m``."""
        at = {name: self.reference_heads[i] for i, name in enumerate(self.bone_names)}

        def way(*bones: str) -> float:
            return float(sum(np.linalg.norm(at[a] - at[b]) for a, b in itertools.pairwise(bones)))

        def both(*bones: str) -> float:
            return (way(*(f"{b}.L" for b in bones)) + way(*(f"{b}.R" for b in bones))) / 2

        lengths = {
            "height_m": self.height_m,
            "leg_m": both("upperleg01", "lowerleg01", "foot"),
            "arm_m": both("upperarm01", "lowerarm01", "wrist"),
            "trunk_m": way("root", "neck01"),
            "shoulders_m": way("upperarm01.L", "upperarm01.R"),
            "head_m": self.height_m - float(self.rest_heads[self.bone_names.index("head"), 2]),
        }
        return {name: round(length, 4) for name, length in lengths.items()}

    def _set_on_floor(self) -> None:
        """Shifts the rest state up so that the lowest sole point lies at z=0."""
        sole = self.asset.point_index[:, 0] >= JOINT_COUNT
        weights = self.asset.point_weight
        lowest = np.array([0, 0, gather_points(self.asset, self._moments)[JOINT_COUNT:, 2].min()], np.float32)
        assert sole.any()
        self.rest_vertices = (self.rest_vertices - lowest).astype(np.float32)
        self.rest_heads = (self.rest_heads - lowest).astype(np.float32)
        self._moments = (self._moments - weights[:, None] * lowest).astype(np.float32)

    def _reference_heads(self) -> FloatArray:
        heads = np.empty_like(self.rest_heads)
        heads[0] = self.rest_heads[0]
        for bone in range(1, len(heads)):
            heads[bone] = heads[self.parents[bone]] + self._offsets[bone]
        return heads

    def joints_only(self, deltas: FloatArray, root: FloatArray, expressions: FloatArray | None = None) -> Skeleton:
        """Forward kinematics without skinning, exact for keypoints too (they are linear in the bones).

        Args:
            deltas: [T,104,3,3] rotations, see the module; root: [T,3] world position of the root bone's head
                (``rest_heads[0]`` stands on the floor in the rest pose); expressions: [T,52] in [0,1] or None.
        """
        rotations, heads = self._kinematics(deltas, root)
        linear, shift = self._bone_transforms(rotations, heads)
        return Skeleton(*self._points(linear, shift, expressions), bone_heads=heads, bone_rotations=rotations)

    def pose(self, deltas: FloatArray, root: FloatArray, expressions: FloatArray | None = None) -> Posed:
        """Poses the skin by linear blend skinning; arguments as for ``joints_only``."""
        rotations, heads = self._kinematics(deltas, root)
        linear, shift = self._bone_transforms(rotations, heads)
        keypoints, soles = self._points(linear, shift, expressions)
        vertices = self._skin(linear, shift, expressions)
        return Posed(keypoints, soles, heads, rotations, vertices)

    def _kinematics(self, deltas: FloatArray, root: FloatArray) -> tuple[FloatArray, FloatArray]:
        """-> rotations G [T,B,3,3] with G_b = G_parent D_b, heads [T,B,3]."""
        deltas, root = np.asarray(deltas, np.float32), np.asarray(root, np.float32)
        bones = len(self.parents)
        if deltas.ndim != 4 or deltas.shape[1:] != (bones, 3, 3) or root.shape != (len(deltas), 3):
            raise InputError(
                f"pose: deltas {deltas.shape} and root {root.shape} are not [T,{bones},3,3] and [T,3]; check the motion"
            )
        rotations, heads = np.empty_like(deltas), np.empty(deltas.shape[:3], np.float32)
        # W_0 = U_0^T D_0 U_0, and G = W U^T
        rotations[:, 0] = self.asset.reference_frames[0].T @ deltas[:, 0]
        heads[:, 0] = root
        for level in self._levels:
            up = self.parents[level]
            rotations[:, level] = rotations[:, up] @ deltas[:, level]
            turned = rotations[:, up] @ self._offsets[level][:, :, None]
            heads[:, level] = heads[:, up] + turned[..., 0]
        return rotations, heads

    def _bone_transforms(self, rotations: FloatArray, heads: FloatArray) -> tuple[FloatArray, FloatArray]:
        """-> linear [T,B,3,3], shift [T,B,3] that carry rest points with each bone."""
        linear = rotations @ self._to_reference
        return linear, heads - (linear @ self.rest_heads[:, :, None])[..., 0]

    def _points(
        self, linear: FloatArray, shift: FloatArray, expressions: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Keypoints [T,20,3] and soles [T,8,3] from their per-bone moments."""
        asset = self.asset
        bones = asset.point_index[:, 1]
        moments = np.broadcast_to(self._moments, (len(linear), *self._moments.shape))
        if expressions is not None:
            moments = moments + np.tensordot(expressions.astype(np.float32), asset.moment_expressions, 1)
        parts = (linear[:, bones] @ moments[..., None])[..., 0] + asset.point_weight[:, None] * shift[:, bones]
        points = gather_points(asset, parts)
        return points[:, :JOINT_COUNT], points[:, JOINT_COUNT:]

    def _skin(self, linear: FloatArray, shift: FloatArray, expressions: FloatArray | None) -> FloatArray:
        """Linear blend skinning of the rest vertices, [T,V,3]."""
        asset, frames = self.asset, len(linear)
        transforms = np.concatenate([linear, shift[..., None]], -1)  # [T,B,3,4]
        vertices = np.empty((frames, len(self.rest_vertices), 3), np.float32)
        rest = np.concatenate([self.rest_vertices, np.ones((len(self.rest_vertices), 1), np.float32)], 1)
        for t in range(frames):
            local = rest
            if expressions is not None and expressions[t].any():
                local = rest.copy()
                active = np.flatnonzero(expressions[t])
                local[asset.expression_vertices, :3] += np.tensordot(
                    expressions[t, active].astype(np.float32), asset.expression_offsets[active], 1
                )
            blend = (asset.skin_weights @ transforms[t].reshape(len(self.parents), 12)).reshape(-1, 3, 4)
            np.einsum("vij,vj->vi", blend, local, out=vertices[t])
        return vertices


def corner_weights(asset: Asset, phenotype: Mapping[str, float]) -> FloatArray:
    """Multilinear weights [C] of the phenotype grid's corners, axes in the order of PHENOTYPE."""
    axes = []
    for name, anchors in zip(PHENOTYPE, asset.anchors, strict=True):
        grid = np.arange(len(anchors))
        axes.append(np.stack([np.interp(phenotype[name], anchors, grid == i) for i in grid]))
    return np.array([np.prod(corner) for corner in itertools.product(*axes)], np.float32)


def nearest_rotations(matrices: np.ndarray) -> np.ndarray:
    """The rotations float64 [...,3,3] closest to ``matrices`` (orthogonal Procrustes with determinant +1)."""
    u, _, vt = np.linalg.svd(matrices.astype(np.float64))
    u[..., :, 2] *= np.linalg.det(u @ vt)[..., None]
    return u @ vt


def gather_points(asset: Asset, parts: np.ndarray) -> np.ndarray:
    """Sums moments [...,P,3] into points [...,20+8,3]; the moments are stored sorted by point."""
    starts = np.flatnonzero(np.diff(asset.point_index[:, 0], prepend=-1))
    return np.add.reduceat(parts, starts, axis=-2)


def _depth_levels(parents: np.ndarray) -> list[np.ndarray]:
    """Bones grouped by depth below the root (the root left out), parents before children."""
    depth = np.zeros(len(parents), int)
    for bone in range(1, len(parents)):
        depth[bone] = depth[parents[bone]] + 1
    return [np.flatnonzero(depth == d) for d in range(1, depth.max() + 1)]


def _checked(phenotype: Mapping[str, float]) -> dict[str, float]:
    if set(phenotype) != set(PHENOTYPE):
        raise InputError(f"phenotype: names {sorted(phenotype)} are not {sorted(PHENOTYPE)}; give each exactly once")
    for name, value in phenotype.items():
        if not 0.0 <= float(value) <= 1.0:
            raise InputError(f"phenotype {name}: {value} lies outside [0,1]; clamp it")
    return {name: float(phenotype[name]) for name in PHENOTYPE}
