"""Probes on constructed features, where it is known what can be read and what cannot."""

import numpy as np
import pytest

from evaluation.leakage.carried import read_joints
from evaluation.leakage.labels import Table, driver_of, table
from evaluation.leakage.probes import (
    READERS,
    SHRINKAGE,
    ProbeSettings,
    RidgePath,
    permutations,
    plan_folds,
    probe,
    standardised,
)
from imanim.errors import InputError

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra `eval`)")

FAST = ProbeSettings(permutations=120, bootstrap=200, hidden=16)
PEOPLE, CLIPS = 30, 240
PERSON = np.tile(np.arange(PEOPLE), CLIPS // PEOPLE)


def body(y):
    return Table("body_shape", np.arange(CLIPS), y, PERSON, "person")


def identity(person, motion):
    return Table("person", np.arange(len(person)), person, motion, "motion")


def three_a_motion(rng, people=12, motions=60):
    """Ids and motions of clips in which random people, three a motion, perform."""
    person = np.concatenate([rng.choice(people, 3, replace=False) for _ in range(motions)])
    return person, np.repeat(np.arange(motions), 3)


def test_ridge_for_all_penalties_is_scikit_learns():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    for rows, columns in ((40, 12), (20, 50)):
        x, y, new = rng.normal(size=(rows, columns)), rng.normal(size=(rows, 3)), rng.normal(size=(7, columns))
        path = RidgePath(x, new)
        a, b = standardised(x, new)
        for penalty, found in zip(path.penalties, path.predict(y)):
            np.testing.assert_allclose(found, Ridge(alpha=penalty).fit(a, y).predict(b), rtol=1e-7, atol=1e-9)
    assert len(path.penalties) == len(SHRINKAGE)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_linearly_there_is_read(reader):
    rng = np.random.default_rng(1)
    y = rng.normal(size=(PEOPLE, 2))[PERSON]
    x = rng.normal(size=(CLIPS, 12))
    x[:, :2] += 2 * y
    score = probe(x, body(y), reader, FAST)
    assert score.found and score.p <= 1 / 100
    assert 0.4 < score.value <= 0.8  # the noise leaves 4/5 of the variance at best
    assert score.low < score.value < score.high
    assert score.value == pytest.approx(np.mean(score.per_dim))


def test_what_is_only_there_nonlinearly_is_read_by_the_network_alone():
    rng = np.random.default_rng(2)
    size = np.abs(rng.normal(size=PEOPLE))[PERSON]
    x = rng.normal(size=(CLIPS, 6))
    x[:, 0] = 3 * size * rng.choice([-1, 1], CLIPS)
    y = size[:, None]
    assert not probe(x, body(y), "linear", FAST).found
    score = probe(x, body(y), "mlp", FAST)
    assert score.found and score.value > 0.7


@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_there_is_not_found(reader):
    rng = np.random.default_rng(3)
    y = rng.normal(size=(PEOPLE, 3))[PERSON]
    score = probe(rng.normal(size=(CLIPS, 12)), body(y), reader, FAST)
    assert not score.found and score.value < 0.05


def test_without_content_r2_is_exactly_zero_and_accuracy_the_majoritys():
    rng = np.random.default_rng(4)
    y = rng.normal(size=(PEOPLE, 2))[PERSON]
    for reader in READERS:
        assert probe(np.ones((CLIPS, 1)), body(y), reader, FAST).value == pytest.approx(0, abs=1e-4)
    person, motion = three_a_motion(rng)
    score = probe(np.ones((len(person), 1)), identity(person, motion), "linear", FAST)
    assert score.value == score.floor and not score.found and score.uniform == 1 / 12


@pytest.mark.parametrize("reader", READERS)
def test_an_id_that_tokens_hold_is_read_in_motions_never_seen(reader):
    rng = np.random.default_rng(5)
    person, motion = three_a_motion(rng)
    x = rng.normal(size=(len(person), 16))
    assert not probe(x, identity(person, motion), reader, FAST).found
    score = probe(x + 2 * rng.normal(size=(12, 16))[person], identity(person, motion), reader, FAST)
    assert score.found and score.value > 0.5 and score.permuted.startswith("within a motion")


def test_knowing_the_motion_by_heart_is_not_rewarded():
    """Every motion has its own unmistakable tokens and one performer: clips of one motion in two folds would give 100 %."""
    rng = np.random.default_rng(6)
    motion = np.repeat(np.arange(40), 5)
    person = rng.permutation(np.arange(40) % 8)[motion]
    x = 5 * rng.normal(size=(40, 30))[motion] + 0.1 * rng.normal(size=(len(motion), 30))
    clips_apart = Table("person", np.arange(len(motion)), person, np.arange(len(motion)), "clip")
    assert probe(x, clips_apart, "linear", FAST).value > 0.95
    score = probe(x, identity(person, motion), "linear", FAST)
    assert not score.found and score.value < 0.35 and score.permuted == "among motions"


def test_knowing_the_person_by_heart_is_not_rewarded():
    """Tokens give the person away, but nothing about the body: people of the test folds were never seen."""
    rng = np.random.default_rng(7)
    y = rng.normal(size=(PEOPLE, 3))[PERSON]
    x = 5 * rng.normal(size=(PEOPLE, 40))[PERSON] + 0.1 * rng.normal(size=(CLIPS, 40))
    clips_apart = Table("body_shape", np.arange(CLIPS), y, PERSON, "person")
    assert not probe(x, clips_apart, "linear", FAST).found
    folds = plan_folds(np.arange(CLIPS), 5, 0)
    known = [RidgePath(x[f.train], x[f.test]).predict(y[f.train]) for f in folds]
    errors = [min(((p - y[f.test]) ** 2).mean() for p in path) for f, path in zip(folds, known)]
    assert np.mean(errors) < 0.05 * y.var()  # what folds apart by clip would have claimed


def test_folds_keep_groups_whole_inside_too():
    groups = np.random.default_rng(8).integers(20, size=200)
    for fold in plan_folds(groups, 5, 0):
        assert not set(groups[fold.train]) & set(groups[fold.test])
        for a, b in fold.inner:
            assert not set(groups[a]) & set(groups[b]) and set(a) | set(b) == set(fold.train)


def test_too_few_groups_are_refused_by_name():
    few = Table("body_shape", np.arange(12), np.zeros((12, 1)), np.arange(12) % 6, "person")
    with pytest.raises(InputError, match="body_shape: 6 persons; 5 folds need 10 or more"):
        probe(np.zeros((12, 2)), few, "linear", FAST)


def test_features_and_labels_that_cannot_be_are_refused():
    y = np.zeros((CLIPS, 1))
    x = np.zeros((CLIPS, 2))
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        probe(x, body(y), "linear", FAST)
    with pytest.raises(InputError, match="differs between clips of one person"):
        probe(np.zeros((CLIPS, 2)), body(np.arange(CLIPS)[:, None].astype(float)), "linear", FAST)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    rng = np.random.default_rng(9)
    y = rng.normal(size=(PEOPLE, 2))[PERSON]
    x = rng.normal(size=(CLIPS, 8)) + np.repeat(y, 4, 1)
    for reader in READERS:
        one, two = (probe(x, body(y), reader, FAST) for _ in range(2))
        assert one.to_json() == two.to_json() and (one.draws == two.draws).all()
    other = probe(x, body(y), "linear", ProbeSettings(permutations=120, bootstrap=200, seed=1))
    assert other.value != probe(x, body(y), "linear", FAST).value


def test_permutations_move_people_whole_and_ids_within_their_motion():
    rng = np.random.default_rng(10)
    y = rng.normal(size=(PEOPLE, 1))[PERSON]
    orders, _ = permutations(body(y), FAST)
    for order in orders[:5]:
        assert all(len(np.unique(y[order][p == PERSON])) == 1 for p in range(PEOPLE))
    person, motion = three_a_motion(rng)
    orders, _ = permutations(identity(person, motion), FAST)
    assert all((motion[order] == motion).all() for order in orders)
    assert any((person[order] != person).any() for order in orders)


def meta(person, motion):
    looks = {"phenotype": dict.fromkeys("age gender height muscle proportions weight".split(), 0.5)}
    looks |= {part: [0.1, 0.2, 0.3] for part in ("skin", "shirt", "pants", "shoes")}
    driver = {"height_m": 1.7, "identity": looks}
    return {"driver_person": person, "person": "somebody", "motion": {"id": motion}, "driver": driver}


def test_labels_come_from_the_driver_and_what_is_missing_says_why():
    found = driver_of("k", meta("p1", "walk-1"))
    assert (found.person, found.motion, found.scene) == ("p1", "walk-1", "walk-1")
    assert found.values["body_shape"] == (0.5,) * 6 + (1.7,) and found.values["skin"] == (0.1, 0.2, 0.3)
    real = driver_of("r", {"person": "p2", "motion": "video-abc-7", "video": {"sha256": "abc"}})
    assert (real.person, real.scene) == ("p2", "abc") and not real.values
    with pytest.raises(InputError, match="shirt: the data do not say the shirt's colour"):
        table("shirt", [real])


def test_an_id_needs_people_who_recur():
    drivers = [driver_of(f"k{i}", meta(f"p{i % 4 if i < 12 else i}", f"m{i}")) for i in range(16)]
    found = table("person", drivers)
    assert (len(found.rows), found.left_out, found.by) == (12, 4, "motion")
    with pytest.raises(InputError, match="person: 0 of 4 people are in 3 motions or more"):
        table("person", drivers[12:])
    assert len(table("shirt", drivers).rows) == 16


def test_joints_are_read_from_tokens_that_hold_them_and_not_from_others():
    rng = np.random.default_rng(11)
    clips, frames = 40, 3
    joints = 0.2 * rng.normal(size=(clips, frames, 20, 2))
    joints[:, :, 1] = 0
    joints[:10, :, 9:11] = np.nan  # knees and ankles outside a portrait
    tokens = np.nan_to_num(joints).reshape(clips, frames, 40) @ rng.normal(size=(40, 48))
    motions = np.arange(clips) % 20
    good = read_joints(tokens, joints, motions, FAST, "motion")
    assert good.r2 > 0.98 and good.error < 2 < good.mean_pose and good.groups == 20
    assert good.per_joint["neck"] is None and good.per_joint["r_knee"] < 4
    bad = read_joints(rng.normal(size=tokens.shape), joints, motions, FAST, "motion")
    assert abs(bad.r2) < 0.05 and bad.error == pytest.approx(bad.mean_pose, rel=0.03)
    with pytest.raises(InputError, match="no joint is known"):
        read_joints(tokens, np.full_like(joints, np.nan), motions, FAST, "motion")
