"""A body in the reference A-pose, in double precision: what a motion is fitted to.

Turning an arm out of a body (motions.clearance) goes many small ways round, each deciding the next; a difference of 1e-7, which
processors have in single precision, grows to centimetres now and then. From 1e-15 it stays invisible, so the same seeds are
the same samples everywhere. Skin that is only drawn stays in single precision (bodies.Body).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles import exaggeration
from data_pipeline.doubles.asset import Asset, load_asset
from data_pipeline.doubles.bodies import JOINT_COUNT, corner_weights, gather_points, nearest_rotations

Array = np.ndarray


@dataclass(frozen=True)
class Reference:
    """All float64, metres; the root's head as in the rest pose, where the soles lie at z=0.

    reference_heads [104,3]; soles [8,3]; vertices [V,3].
    """

    bone_names: tuple[str, ...]
    parents: Array
    reference_heads: Array
    soles: Array
    vertices: Array


def measure(phenotype: Mapping[str, float], changes: Mapping[str, float]) -> Reference:
    """Of the body that :class:`~data_pipeline.doubles.bodies.Body` makes of the same arguments."""
    asset = load_asset()
    shape = _rest(asset, phenotype, changes)
    to_reference = asset.reference_frames.astype(float) @ shape["frames"].transpose(0, 2, 1)
    carry = to_reference.copy()
    carry[0] = np.eye(3)
    heads = shape["heads"].copy()
    for bone, parent in enumerate(asset.parents):
        if parent >= 0:
            heads[bone] = heads[parent] + carry[parent] @ (shape["heads"][bone] - shape["heads"][parent])
    shift = heads - np.einsum("bij,bj->bi", to_reference, shape["heads"])
    bones = asset.point_index[:, 1]
    parts = np.einsum("pij,pj->pi", to_reference[bones], shape["moments"])
    soles = gather_points(asset, parts + asset.point_weight[:, None] * shift[bones])[JOINT_COUNT:]
    transforms = np.concatenate([to_reference, shift[..., None]], -1).reshape(len(heads), 12)
    blend = (asset.skin_weights.astype(float) @ transforms).reshape(-1, 3, 4)
    skin = np.einsum("vij,vj->vi", blend[..., :3], shape["vertices"]) + blend[..., 3]
    return Reference(asset.bone_names, np.asarray(asset.parents), heads, soles, skin)


def _rest(asset: Asset, phenotype: Mapping[str, float], changes: Mapping[str, float]) -> dict[str, Array]:
    """vertices [V,3], heads [104,3], moments [P,3] of the rest pose standing on z=0, frames [104,3,3]."""
    c = corner_weights(asset, phenotype).astype(float) @ asset.coefficients.astype(float)
    means = {
        "vertices": (asset.vertex_mean, asset.vertex_basis),
        "heads": (asset.head_mean, asset.head_basis),
        "moments": (asset.moment_mean, asset.moment_basis),
        "frames": (asset.frame_mean, asset.frame_basis),
    }
    shape = {name: mean + np.tensordot(c, basis.astype(float), 1) for name, (mean, basis) in means.items()}
    if changes:
        change = exaggeration.summed(changes, np.float64)
        shape = {name: value + getattr(change, name) for name, value in shape.items()}
    lowest = np.array([0, 0, gather_points(asset, shape["moments"])[JOINT_COUNT:, 2].min()])
    shape["vertices"], shape["heads"] = shape["vertices"] - lowest, shape["heads"] - lowest
    shape["moments"] = shape["moments"] - asset.point_weight[:, None] * lowest
    shape["frames"] = nearest_rotations(shape["frames"])
    return shape
