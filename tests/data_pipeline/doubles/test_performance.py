"""Performing: planted feet stay, nothing sinks into the floor or the body, and the motion is the same on every body."""

from collections.abc import Mapping

import numpy as np
import pytest

from data_pipeline.doubles import performance, reference
from data_pipeline.doubles.bodies import Body, Skeleton
from data_pipeline.doubles.measure import HEAVY, HandsInTrunk, sole_speeds, winding
from data_pipeline.doubles.motions import KINDS, Motion
from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.performance import Performer
from data_pipeline.doubles.takes import make_changes, make_identity
from imanim.data.sample import JOINTS


def people() -> list[Performer]:
    return [Performer(Body(p)) for p in (make_identity(3).phenotype, make_identity(8).phenotype, HEAVY)]


PEOPLE = people()


def skeleton(person: Performer, motion: Motion) -> Skeleton:
    p = person.perform(motion)
    assert p.deltas.shape == (motion.frames, 104, 3, 3) and p.root.shape == (motion.frames, 3)
    return person.body.joints_only(p.deltas, p.root, p.expressions)


@pytest.mark.parametrize("kind", KINDS)
def test_standing_feet_do_not_skate_and_no_sole_sinks(kind: str) -> None:
    speeds = []
    for seed in (1, 2):
        for person in PEOPLE:
            soles = skeleton(person, Motion(kind, seed)).soles
            assert soles[..., 2].min() > -0.012, f"sole {soles[..., 2].min():.3f} m under the floor"
            speeds.append(sole_speeds(soles))
    assert np.concatenate(speeds).size > 20
    assert np.concatenate(speeds).mean() < 0.03


def test_somebody_always_stands_somewhere_unless_they_leap() -> None:
    for kind in ("walk", "march", "dance", "kick", "turn"):
        for person in PEOPLE:
            assert (skeleton(person, Motion(kind, 4)).soles[..., 2].min(1) < 0.02).all(), kind
    assert (skeleton(PEOPLE[0], Motion("hop", 4, frames=25)).soles[..., 2].min(1) > 0.05).any()


def test_rotations_are_rotations_and_joints_do_not_jump() -> None:
    for kind in KINDS:
        p = PEOPLE[2].perform(Motion(kind, 6, fps=96.0, frames=41))
        gram = p.deltas @ np.swapaxes(p.deltas, -1, -2)
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-4)
        k = PEOPLE[2].body.joints_only(p.deltas, p.root).keypoints
        assert np.linalg.norm(np.diff(k, axis=0), axis=-1).max() < 0.12, kind  # m in 1/96 s: 11 m/s


def test_knees_and_elbows_bend_the_human_way() -> None:
    for kind in ("squat", "walk", "lunge", "kick"):
        for person in PEOPLE:
            k = skeleton(person, Motion(kind, 2)).keypoints
            for side in "lr":
                hip, knee, ankle, toe = (k[:, JOINTS.index(f"{side}_{j}")] for j in ("hip", "knee", "ankle", "toe"))
                bend = knee - (hip + ankle) / 2  # points to where the knee sticks out
                bent = np.linalg.norm(bend, axis=-1) > 0.06
                assert ((bend * (toe - ankle)).sum(-1)[bent] > 0).mean() > 0.9, kind


def test_left_stays_left() -> None:
    k = skeleton(PEOPLE[0], Motion("squat", 1)).keypoints
    across = k[:, JOINTS.index("l_hip")] - k[:, JOINTS.index("r_hip")]
    front = k[:, JOINTS.index("l_toe")] - k[:, JOINTS.index("l_ankle")]
    up = np.cross(front, across)  # front x left points up: -y cross x = z
    assert (up[:, 2] > 0).all()


def test_the_same_motion_gives_the_same_arm_directions_on_lean_bodies() -> None:
    a, b = (skeleton(p, Motion("jacks", 3)).keypoints for p in PEOPLE[:2])

    def direction(k: np.ndarray) -> np.ndarray:
        return rot.unit(k[:, JOINTS.index("l_wrist")] - k[:, JOINTS.index("l_elbow")])

    assert (direction(a) * direction(b)).sum(-1).min() > np.cos(np.deg2rad(12))


def test_performing_is_a_pure_function() -> None:
    one, two = (Performer(Body(HEAVY)).perform(Motion("gesture", 9)) for _ in range(2))
    np.testing.assert_array_equal(one.deltas, two.deltas)
    np.testing.assert_array_equal(one.root, two.root)


def test_the_rest_pose_stands_on_the_floor() -> None:
    for person in PEOPLE:
        rest = person.rest()
        soles = person.body.joints_only(rest.deltas, rest.root).soles
        assert abs(soles[..., 2].min()) < 1e-3


def test_hands_do_not_pass_through_a_heavy_trunk() -> None:
    measure, person = HandsInTrunk(), PEOPLE[2]
    kinds = ("gesture", "talk", "walk", "idle", "bow", "dance")
    inside = np.concatenate([measure.frames(person, kind, 3) for kind in kinds])
    rest = person.body.rest_vertices
    assert winding(rest[None].mean(1), rest[measure.trunk]) > 0.5  # it does measure
    assert inside.mean() < 0.1


def test_last_digits_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors differ in them. With a body measured in single precision these hands end up centimetres elsewhere."""
    noise = np.random.default_rng(0)

    def measured(*shape: Mapping[str, float]) -> reference.Reference:
        r = reference.measure(*shape)
        moved = (a + noise.normal(0, 1e-14, a.shape) for a in (r.reference_heads, r.soles, r.vertices))
        return reference.Reference(r.bone_names, r.parents, *moved)

    body = Body(make_identity(4).phenotype)
    exact = Performer(body)
    monkeypatch.setattr(performance, "measure", measured)
    disturbed = Performer(body)
    for motion in (Motion("squat", 1), Motion("squat", 2), Motion("stretch", 0), Motion("gesture", 3)):
        one, two = exact.perform(motion), disturbed.perform(motion)
        np.testing.assert_allclose(one.deltas, two.deltas, atol=1e-5)


def test_the_reference_is_the_body_posed_without_a_motion() -> None:
    body = Body(make_identity(9).phenotype, make_changes(9))
    found = reference.measure(body.phenotype, body.changes)
    still = np.tile(np.eye(3, dtype=np.float32), (1, len(body.bone_names), 1, 1))
    still[:, 0] = body.asset.reference_frames[0]  # the model turns the whole pose; this undoes it
    posed = body.pose(still, body.reference_heads[:1])
    for mine, theirs in ((found.vertices, posed.vertices[0]), (found.soles, posed.soles[0])):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)
    np.testing.assert_allclose(found.reference_heads, posed.bone_heads[0], atol=2e-6)
