"""Exaggerated proportions: right against Anny, strong, standing, clear of the body, and no change to ordinary bodies."""

import hashlib

import numpy as np
import pytest

from data_pipeline.doubles.bodies import PHENOTYPE, Body, load_asset
from data_pipeline.doubles.exaggeration import FEATURES, changes_metadata, random_changes, summed
from data_pipeline.doubles.measure import HandsInTrunk, sole_speeds
from data_pipeline.doubles.motions import Motion
from data_pipeline.doubles.performance import Performer
from data_pipeline.doubles.takes import make_changes, make_identity
from imanim.errors import InputError

MIDDLE = dict.fromkeys(PHENOTYPE, 0.5)


def test_changes_were_verified_against_anny_within_two_millimetres() -> None:
    verified = changes_metadata()["verified"]
    for what in ("rest", "skin", "keypoints", "bone_heads"):
        assert verified[f"{what}_mean_mm"] < 2.0
        assert verified[f"{what}_p99_mm"] < 5.0


def test_ordinary_people_are_byte_for_byte_who_they_were() -> None:
    asset, found = load_asset(), hashlib.sha256()
    for i in range(0, 1000, 50):
        identity = make_identity(i)
        found.update(repr(identity.to_dict()).encode())
        body, plain = Body(identity.phenotype), Body(identity.phenotype, {})
        np.testing.assert_array_equal(body.rest_vertices, plain.rest_vertices)
        assert body.reference_heads.tobytes() == plain.reference_heads.tobytes()
    arrays = (asset.vertex_basis, asset.head_basis, asset.frame_basis, asset.moment_basis, asset.coefficients)
    found.update(b"".join(a.tobytes() for a in arrays))
    assert found.hexdigest() == "0a4388ee9cfe508ea2f16e4a86c9c63dca315cebedc458676424bfd87639c516"


@pytest.mark.parametrize(
    ("feature", "measure"),
    [("arms", "arm_m"), ("legs", "leg_m"), ("head", "head_m"), ("shoulders", "shoulders_m"), ("trunk", "trunk_m")],
)
def test_a_feature_changes_its_own_measure_strongly_and_the_other_limb_little(feature: str, measure: str) -> None:
    plain, more, less = (Body(MIDDLE, c).measures() for c in (None, {feature: 1.0}, {feature: -1.0}))
    assert more[measure] / plain[measure] > 1.15
    assert less[measure] / plain[measure] < 0.89
    if feature in ("arms", "legs"):
        other = "leg_m" if feature == "arms" else "arm_m"
        assert abs(more[other] / plain[other] - 1) < 0.03


def test_changes_add_up_and_are_linear() -> None:
    one, two = summed({"arms": 0.5, "head": -1.0}), summed({"arms": 1.0})
    rest = summed({"head": -1.0})
    np.testing.assert_allclose(one.vertices, 0.5 * two.vertices + rest.vertices, atol=1e-6)


def test_everybody_exaggerated_differs_from_their_ordinary_self_and_is_the_same_each_time() -> None:
    for i in range(40):
        changes = make_changes(i)
        assert changes == make_changes(i) and set(changes) == set(FEATURES)
        marked = [name for name, value in changes.items() if abs(value) > 0.6]
        assert 3 <= len(marked) <= 4 and {"arms", "legs"} & set(marked)
    assert len({tuple(make_changes(i).values()) for i in range(40)}) == 40


def test_feet_stand_and_no_sole_sinks_on_exaggerated_bodies() -> None:
    speeds = []
    for i in (0, 1, 2, 645):
        person = Performer(Body(make_identity(i).phenotype, make_changes(i)))
        for kind in ("walk", "squat", "dance", "lunge"):
            p = person.perform(Motion(kind, 1))
            soles = person.body.joints_only(p.deltas, p.root).soles
            assert soles[..., 2].min() > -0.015
            speeds.append(sole_speeds(soles))
    assert np.concatenate(speeds).size > 100
    assert np.concatenate(speeds).mean() < 0.03


def test_hands_keep_out_of_exaggerated_trunks() -> None:
    measure = HandsInTrunk()
    people = [Performer(Body(make_identity(i).phenotype, make_changes(i))) for i in (4, 9)]
    inside = np.concatenate(
        [measure.frames(p, kind, 3, every=8) for p in people for kind in ("gesture", "walk", "bow")]
    )
    assert inside.mean() < 0.1


@pytest.mark.parametrize(("changes", "message"), [({"tail": 1.0}, "unknown"), ({"arms": 1.5}, r"outside \[-1,1\]")])
def test_wrong_changes_are_refused_in_one_line(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Body(MIDDLE, changes)


def test_draws_do_not_depend_on_what_was_drawn_before() -> None:
    assert random_changes(np.random.default_rng(5)) == random_changes(np.random.default_rng(5))
