"""Bodies: right against Anny's own numbers, the same motion on every body, and plain refusals."""

import numpy as np
import pytest

from data_pipeline.doubles.bodies import PHENOTYPE, Body, corner_weights, load_asset
from imanim.data.sample import JOINTS
from imanim.errors import InputError

MIDDLE = dict.fromkeys(PHENOTYPE, 0.5)

# Anny 0.6.2 itself: gender .8, age .4, muscle .3, weight .7, height .55, proportions .35; jawOpen .8; root at 0.
GOLDEN_PHENOTYPE = {"gender": 0.8, "age": 0.4, "muscle": 0.3, "weight": 0.7, "height": 0.55, "proportions": 0.35}
GOLDEN_JOINTS = {
    "nose": (0.1270, -0.0850, 0.5589),
    "neck": (0.0260, -0.0088, 0.3993),
    "r_wrist": (-0.1114, -0.4238, 0.0935),
    "l_elbow": (0.2691, 0.2750, 0.3926),
    "l_wrist": (0.4777, 0.3186, 0.4065),
    "r_hip": (-0.0851, -0.0122, -0.0123),
    "r_ankle": (-0.1554, -0.5586, -0.4672),
    "l_ankle": (0.1554, 0.0062, -0.7306),
    "r_ear": (0.0050, -0.0794, 0.5705),
    "l_toe": (0.1644, -0.1463, -0.8016),
}
GOLDEN_HEADS = {
    "head": (0.0443, -0.0194, 0.5491),
    "foot.R": (-0.1534, -0.5764, -0.4797),
    "finger2-3.R": (-0.0401, -0.5227, 0.0279),
}


def turn(axis: int, angle: float) -> np.ndarray:
    """[3,3] rotation about a world axis."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.eye(3)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix.astype(np.float32)


def still(frames: int = 1) -> np.ndarray:
    return np.tile(np.eye(3, dtype=np.float32), (frames, 104, 1, 1))


def golden_deltas(body: Body) -> np.ndarray:
    deltas = still()
    deltas[0, body.bone_names.index("upperarm01.L")] = turn(1, -0.9)
    deltas[0, body.bone_names.index("upperleg01.R")] = turn(0, -0.9)
    deltas[0, body.bone_names.index("spine03")] = turn(2, 0.9)
    return deltas


def test_posed_joints_and_bones_are_those_that_anny_computes() -> None:
    body = Body(GOLDEN_PHENOTYPE)
    expressions = np.zeros((1, 52), np.float32)
    expressions[0, body.asset.expression_names.index("jawOpen")] = 0.8
    posed = body.joints_only(golden_deltas(body), np.zeros((1, 3), np.float32), expressions)
    for name, expected in GOLDEN_JOINTS.items():
        assert np.linalg.norm(posed.keypoints[0, JOINTS.index(name)] - expected) < 0.003, name
    for name, expected in GOLDEN_HEADS.items():
        assert np.linalg.norm(posed.bone_heads[0, body.bone_names.index(name)] - expected) < 0.003, name


def test_the_asset_was_verified_against_anny_within_two_millimetres() -> None:
    verified = load_asset().metadata["verified"]
    for what in ("rest", "skin", "keypoints", "bone_heads"):
        assert verified[f"{what}_mean_mm"] < 2.0
        assert verified[f"{what}_p99_mm"] < 5.0


def test_forward_kinematics_alone_gives_the_joints_that_skinning_gives() -> None:
    body, deltas = Body(GOLDEN_PHENOTYPE), golden_deltas(Body(GOLDEN_PHENOTYPE))
    root = np.array([[0.3, -0.2, 1.0]], np.float32)
    a, b = body.joints_only(deltas, root), body.pose(deltas, root)
    np.testing.assert_array_equal(a.keypoints, b.keypoints)
    np.testing.assert_array_equal(a.bone_heads, b.bone_heads)
    np.testing.assert_array_equal(b.bone_heads[:, 0], root)
    eye = body.asset.groups == 1
    ball = b.vertices[0, np.unique(body.asset.triangles[eye])].mean(0)
    assert np.linalg.norm(ball - b.keypoints[0, JOINTS.index("l_eye")]) < 0.03


def test_turning_the_root_turns_the_whole_body_rigidly() -> None:
    body = Body(MIDDLE)
    deltas = still(2)
    deltas[1, 0] = turn(2, 0.7)
    posed = body.pose(deltas, np.tile(body.rest_heads[:1], (2, 1)))
    expected = (posed.vertices[0] - body.rest_heads[0]) @ turn(2, 0.7).T + body.rest_heads[0]
    np.testing.assert_allclose(posed.vertices[1], expected, atol=2e-5)
    np.testing.assert_allclose(posed.bone_rotations[1], np.broadcast_to(turn(2, 0.7), (104, 3, 3)), atol=1e-5)


def test_the_same_deltas_turn_bones_the_same_way_on_every_body() -> None:
    child, giant = Body(MIDDLE | {"age": 0.25}), Body(MIDDLE | {"height": 1.0, "gender": 0.0})
    a, b = (p.joints_only(golden_deltas(p), p.rest_heads[:1]) for p in (child, giant))
    np.testing.assert_allclose(a.bone_rotations, b.bone_rotations, atol=1e-5)
    forearms = [p.keypoints[0, JOINTS.index("l_wrist")] - p.keypoints[0, JOINTS.index("l_elbow")] for p in (a, b)]
    unit = [v / np.linalg.norm(v) for v in forearms]
    assert unit[0] @ unit[1] > np.cos(np.deg2rad(8))
    assert giant.height_m > 1.5 * child.height_m


def test_people_stand_on_the_floor_face_the_viewer_and_have_left_on_the_positive_side() -> None:
    body = Body(MIDDLE)
    posed = body.pose(still(), body.rest_heads[:1])
    k = {name: posed.keypoints[0, i] for i, name in enumerate(JOINTS)}
    assert k["l_wrist"][0] > 0.2 > -0.2 > k["r_wrist"][0]
    assert k["nose"][1] < k["neck"][1] - 0.05
    assert abs(posed.soles[0, :, 2].min()) < 0.01
    assert 1.5 < body.height_m < 2.0
    assert 0.6 < body.leg_length_m < 1.0
    np.testing.assert_allclose(posed.bone_heads[0], body.reference_heads, atol=1e-6)


def test_every_phenotype_changes_the_shape_and_corner_weights_partition_unity() -> None:
    asset = load_asset()
    for name in PHENOTYPE:
        low, high = Body(MIDDLE | {name: 0.3}), Body(MIDDLE | {name: 0.9})
        assert np.abs(low.rest_vertices - high.rest_vertices).max() > 0.005, name
    rng = np.random.default_rng(0)
    weights = corner_weights(asset, dict(zip(PHENOTYPE, rng.random(6).tolist())))
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_an_expression_moves_the_face_and_nothing_else() -> None:
    body = Body(MIDDLE)
    expressions = np.zeros((2, 52), np.float32)
    expressions[1, body.asset.expression_names.index("jawOpen")] = 1.0
    posed = body.pose(still(2), np.tile(body.rest_heads[:1], (2, 1)), expressions)
    moved = np.linalg.norm(posed.vertices[1] - posed.vertices[0], axis=1) > 1e-4
    assert moved.sum() > 100
    assert body.asset.attribute("z")[moved].min() > 0.45


@pytest.mark.parametrize(
    ("phenotype", "message"),
    [({"gender": 0.5}, "give each exactly once"), (MIDDLE | {"age": 1.2}, "age: 1.2 lies outside")],
)
def test_a_wrong_phenotype_is_refused_in_one_line(phenotype: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Body(phenotype)


def test_deltas_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(InputError, match="are not"):
        Body(MIDDLE).joints_only(still()[:, :50], np.zeros((1, 3), np.float32))
