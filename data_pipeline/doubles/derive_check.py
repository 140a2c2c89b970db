"""Compares the asset with Anny itself on held-out bodies, poses and expressions (errors in millimetres)."""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles import derive_asset, derive_changes, derive_fields
from data_pipeline.doubles.asset import PHENOTYPE
from data_pipeline.doubles.bodies import JOINT_COUNT, Body
from data_pipeline.doubles.exaggeration import random_changes


def random_deltas(rng: np.random.Generator, bones: int, sigma: float) -> np.ndarray:
    """[bones,3,3] rotations by normal rotation vectors of ``sigma`` radians an axis."""
    vectors = rng.normal(size=(bones, 3)) * sigma
    angle = np.linalg.norm(vectors, axis=1)[:, None, None] + 1e-12
    x, y, z = (vectors / angle[:, 0]).T
    zero = np.zeros(bones)
    k = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    return (np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k).astype(np.float32)


def compare_with_anny(bodies: int = 40, seed: int = 99, exaggerated: bool = False) -> dict[str, float]:
    """-> mean, 99th percentile and largest error of skin, keypoints and bone heads."""
    import torch

    source = derive_asset.load_source(derive_changes.labels() if exaggerated else ())
    m = source.model
    mesh = derive_fields.build_mesh(source.template, source.weights, m.bone_labels)
    rng = np.random.default_rng(seed)
    errors: dict[str, list[np.ndarray]] = {"rest": [], "skin": [], "keypoints": [], "bone_heads": []}
    for _ in range(bodies):
        values = rng.random(len(PHENOTYPE))
        values[1] = 0.15 + 0.85 * values[1]
        phenotype = dict(zip(PHENOTYPE, values.tolist()))
        changes = random_changes(rng) if exaggerated else {}
        in_anny = derive_changes.in_anny(changes)
        body = Body(phenotype, changes)
        deltas = random_deltas(rng, len(body.parents), 0.15)[None]
        root = rng.normal(size=(1, 3)).astype(np.float32)
        expressions = (rng.random((1, 52)) * (rng.random((1, 52)) < 0.2)).astype(np.float32)
        pose = torch.eye(4)[None, None].repeat(1, m.bone_count, 1, 1)
        pose[:, :, :3, :3] = torch.from_numpy(deltas)
        truth = m(
            pose_parameters=pose, phenotype_kwargs={k: float(v) for k, v in phenotype.items()},
            facial_actions={n: float(e) for n, e in zip(m.facial_action_labels, expressions[0])},
            local_changes_kwargs=in_anny,
        )  # fmt: skip
        ours = body.pose(deltas, root, expressions)
        skin = mesh.bind(truth["vertices"].numpy())
        key = source.keypoint_weights @ truth["vertices"][0].numpy()
        heads = truth["bone_poses"][0, :, :3, 3].numpy()
        local = np.array([[in_anny.get(label, 0.0) for label in m.local_change_labels]])
        rest, rest_heads, _ = source.rest(values[None], local)
        shift = body.rest_heads[0] - rest_heads[0, 0]
        errors["rest"].append(np.linalg.norm(body.rest_vertices - mesh.bind(rest)[0] - shift, axis=-1))
        errors["skin"].append(np.linalg.norm(ours.vertices - skin - root[:, None], axis=-1).ravel())
        errors["keypoints"].append(np.linalg.norm(ours.keypoints[0, :JOINT_COUNT] - key - root, axis=-1))
        errors["bone_heads"].append(np.linalg.norm(ours.bone_heads[0] - heads - root, axis=-1))
    report: dict[str, float] = {"bodies": bodies}
    for name, parts in errors.items():
        e = np.concatenate(parts) * 1e3
        report |= {f"{name}_{k}_mm": round(float(v), 3) for k, v in
                   {"mean": e.mean(), "p99": np.percentile(e, 99), "max": e.max()}.items()}  # fmt: skip
    return report
