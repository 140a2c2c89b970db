"""What an identity means for the mesh: which triangles are drawn, how far each vertex stands off, which colours.

The renderer cuts every layer along the zero line of one per-vertex field (``drawn_field``), so that what is covered can
be checked here, on vertices, without rendering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles import coverage
from data_pipeline.doubles.asset import GROUPS, Asset, FloatArray, IntArray
from data_pipeline.doubles.wardrobe import Identity

BODY, LONG_HAIR, SKIRT, GARMENT, BUN, TAIL, BRIM = (
    GROUPS.index(name) for name in ("body", "long_hair", "skirt", "garment", "bun", "tail", "brim")
)
LONG_HAIR_CUT_Z = {"long": 0.33, "shoulder": 0.46, "bob": 0.545}
SCALP_THICKNESS_M = {
    "bald": 0.0, "buzz": 0.003, "short": 0.012, "quiff": 0.012, "afro": 0.055, "curly": 0.030, "mohawk": 0.004,
    "bob": 0.018, "shoulder": 0.016, "long": 0.016, "bun": 0.009, "ponytail": 0.009, "cap": 0.013, "beanie": 0.018,
}  # fmt: skip
NECK_OVERLAP_M, LIMB_OVERLAP = 0.022, 0.035
SKIRT_TOP_Z = 0.095


@dataclass(frozen=True)
class Outfit:
    """Ready for the renderer. T' drawn triangles of the asset's F, V vertices.

    Attributes:
        triangles: [T',3]; groups: [T']; tested: [T'] 1 where the zero line of ``field`` may cross the triangle.
        field: [V] drawn where positive. offsets: [V] metres along the normal for a body of 1.7 m.
    """

    triangles: IntArray
    groups: IntArray
    tested: IntArray
    field: FloatArray
    offsets: FloatArray


def build_outfit(asset: Asset, identity: Identity) -> Outfit:
    field = drawn_field(asset, identity)
    at_corners = field[asset.triangles]
    keep = np.isin(asset.groups, worn_groups(identity)) & (at_corners > 0).any(1)
    return Outfit(
        asset.triangles[keep],
        asset.groups[keep],
        np.asarray((at_corners[keep] <= 0).any(1), np.int32),
        field,
        offsets(asset, identity),
    )


def worn_groups(identity: Identity) -> list[int]:
    """Groups this person shows. Body, garment, eyes and mouth always."""
    groups = [GROUPS.index(n) for n in ("body", "eye_left", "eye_right", "garment", "teeth", "tongue")]
    extras = {"bun": [BUN], "ponytail": [TAIL], "cap": [BRIM]}.get(identity.hair_style, [])
    if identity.hair_style in LONG_HAIR_CUT_Z:
        extras = [LONG_HAIR]
    return groups + extras + ([SKIRT] if identity.skirt_hem_z is not None else [])


def drawn_field(asset: Asset, identity: Identity) -> FloatArray:
    """Signed field [V], positive where the vertex's layer is drawn.

    Garment: everything but hands and forearms below the sleeve, head and neck above the collar, legs between hem and
    shoes. Body: the complement, a little larger, so that cloth and skin overlap and skin never shows through cloth.
    """
    x, y, z, arm = (asset.attribute(n) for n in ("x", "y", "z", "arm"))
    on_arm = arm > coverage.ARM
    arm_length_m = 0.45
    covered_arm = (identity.sleeve - arm) * arm_length_m
    covered_top = coverage.neckline(x, y, identity.neck_z, identity.neck_depth) - z
    covered_leg = np.maximum(z - identity.hem_z, identity.shoe_z - z)
    garment = np.where(on_arm, covered_arm, np.where(z > 0, covered_top, covered_leg))
    overlap = np.where(on_arm | (z < 0), LIMB_OVERLAP * 0.5, NECK_OVERLAP_M)
    field = np.ones(len(x), np.float32)
    for group, values in (
        (GARMENT, garment),
        (BODY, overlap - garment),
        (SKIRT, np.minimum(z - (identity.skirt_hem_z or 0.0), SKIRT_TOP_Z - z)),
        (LONG_HAIR, np.minimum(z - LONG_HAIR_CUT_Z.get(identity.hair_style, 0.0), y + 0.058)),
    ):
        members = vertices_of(asset, group)
        field[members] = values[members]
    return field


def offsets(asset: Asset, identity: Identity) -> FloatArray:
    """Distance [V] in metres that each vertex is pushed out along its normal: cloth thickness, hair volume."""
    x, y, z, arm = (asset.attribute(n) for n in ("x", "y", "z", "arm"))
    out = np.zeros(len(x), np.float32)
    head = vertices_of(asset, BODY)
    out[head] = (_scalp_volume(identity, x, y, z) * np.clip(_scalp_field(asset, identity) / 0.05, 0, 1))[head]
    out[head] += (identity.beard * 0.006 * np.clip(asset.attribute("beard") / 0.012, 0, 1) * (identity.beard > 0.7))[
        head
    ]
    loose = identity.looseness
    shirt = 0.011 + 0.008 * loose
    sleeve = 0.009 + loose * 0.022 * np.clip((arm - 0.05) / 0.5, 0, 1)
    leg = np.clip((-0.12 - z) / 0.6, 0, 1)
    pants = 0.006 + 0.004 * loose + leg * (0.008 * loose + 0.032 * identity.flare)
    cloth = np.where(arm > coverage.ARM, sleeve, np.where(z > identity.waist_z, shirt, pants))
    if identity.skirt_hem_z is not None:
        under = np.clip((SKIRT_TOP_Z + 0.02 - z) / 0.05, 0, 1)  # what is under the skirt lies tight
        cloth = cloth * (1 - under) + np.minimum(cloth, 0.004) * under
        cloth = np.where(arm > coverage.ARM, sleeve, cloth)
    shoes = np.where(z < -0.80, 0.010, 0.012 + 0.05 * np.clip(z + 0.70, 0, 0.12))
    # between hem and shoes nothing is drawn, but the shoes' upper edge leans on those vertices
    low = z < max(identity.shoe_z, min(identity.hem_z - 0.03, identity.shoe_z + 0.06))
    cloth = np.where(low & (arm <= coverage.ARM), shoes, cloth)
    garment = vertices_of(asset, GARMENT)
    out[garment] = cloth[garment]
    skirt = vertices_of(asset, SKIRT)
    out[skirt] = 0.014 + 0.02 * loose * np.clip((0.05 - z[skirt]) / 0.5, 0, 1)
    return out


def _scalp_field(asset: Asset, identity: Identity) -> FloatArray:
    """The scalp field moved by the hairline (only over the forehead)."""
    front = np.clip(-asset.attribute("y") / 0.05, 0, 1)
    return asset.attribute("hair") + identity.hairline * front


def _scalp_volume(identity: Identity, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    thickness = np.full(len(x), SCALP_THICKNESS_M[identity.hair_style])
    if identity.hair_style == "quiff":
        thickness = thickness + 0.038 * np.clip((z - 0.70) / 0.04, 0, 1) * np.clip((0.02 - y) / 0.08, 0, 1)
    elif identity.hair_style == "mohawk":
        thickness = thickness + 0.055 * np.clip(1 - np.abs(x) / 0.022, 0, 1)
    elif identity.hair_style == "curly":
        thickness = thickness * (0.75 + 0.35 * np.sin(x * 190) * np.sin(y * 170 + 1) * np.sin(z * 180))
    return thickness.astype(np.float32)


def vertices_of(asset: Asset, group: int) -> IntArray:
    """Vertices [n] that the group's triangles use."""
    return np.unique(asset.triangles[asset.groups == group]).astype(np.int32)


PALETTE = (
    "background", "skin", "lips", "brow", "sclera", "iris", "hair", "shirt", "pants", "skirt", "shoes", "teeth",
    "tongue", "floor", "wall", "hat", "pupil",
)  # fmt: skip
"""Rows of the renderer's colour table: the part labels of the sample contract, then what has no label of its own."""


def palette(identity: Identity) -> FloatArray:
    """Main and accent colour of every row, [17,2,3]; floor and wall are left to the scene."""
    skin, hair = np.array(identity.skin), np.array(identity.hair)
    if identity.hair_style == "buzz":
        hair = 0.65 * hair + 0.35 * skin
    beard = np.array(identity.hair) * 0.9
    rows = {
        "skin": (skin, beard), "lips": (identity.lips, identity.lips), "brow": (hair * 0.65, hair * 0.65),
        "sclera": ([0.95] * 3, [0.95] * 3), "iris": (identity.iris, identity.iris), "hair": (hair, hair * 0.75),
        "shirt": (identity.shirt, identity.shirt_accent), "pants": (identity.pants, identity.pants_accent),
        "skirt": (identity.pants, identity.pants_accent), "shoes": (identity.shoes, identity.soles),
        "teeth": ([0.95] * 3, [0.9] * 3), "tongue": ([0.75, 0.35, 0.35], [0.7, 0.3, 0.3]),
        "hat": (identity.hat, np.array(identity.hat) * 0.7), "pupil": ([0.04] * 3, [0.04] * 3),
    }  # fmt: skip
    table = np.zeros((len(PALETTE), 2, 3), np.float32)
    for name, colours in rows.items():
        table[PALETTE.index(name)] = np.array(colours)
    return table
