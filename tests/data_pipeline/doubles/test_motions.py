"""Motions: many kinds, smooth, varied by seed alone, the same at any frame rate."""

import numpy as np
import pytest

from data_pipeline.doubles.bodies import load_asset
from data_pipeline.doubles.config import PORTRAIT_KINDS
from data_pipeline.doubles.motions import FACE_ACTIONS, KINDS, Motion
from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.score import SIDES, SPINE_CHANNELS, Score
from imanim.errors import InputError


def channels(score: Score) -> np.ndarray:
    """Every degree of freedom of a score, [T,n]; lengths and angles are of one order of size."""
    columns = [getattr(score, name)[:, None] for name in SPINE_CHANNELS] + [score.pelvis]
    for side in SIDES:
        for limb in (score.arms[side], score.legs[side]):
            columns += [np.asarray(v, float).reshape(score.frames, -1) for v in vars(limb).values()]
    return np.concatenate(columns, 1)


def test_there_are_at_least_fifteen_kinds_and_portraits_use_known_ones() -> None:
    assert len(KINDS) >= 15
    assert set(PORTRAIT_KINDS) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_motion_moves_without_jumps(kind: str) -> None:
    for seed in range(4):
        values = channels(Motion(kind, seed, fps=120.0, frames=160).score())
        assert np.isfinite(values).all()
        assert np.ptp(values, 0).max() > 0.1  # something moves
        # at 120 frames a second the fastest limb turns a few degrees a frame; a jump would be far more
        assert np.abs(np.diff(values, axis=0)).max() < 0.3, kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_rate_and_the_length_do_not_change_a_motion(kind: str) -> None:
    slow, fast = Motion(kind, 5, fps=12.0, frames=9), Motion(kind, 5, fps=24.0, frames=25)
    np.testing.assert_allclose(channels(slow.score()), channels(fast.score())[:17:2], atol=1e-9)
    np.testing.assert_allclose(slow.faces(), fast.faces()[:17:2], atol=1e-6)
    np.testing.assert_allclose(channels(slow.score(margin=2))[2:-2], channels(slow.score()), atol=1e-9)


def test_seeds_differ_and_repeat() -> None:
    for kind in KINDS:
        one, two = (channels(Motion(kind, seed).score()) for seed in (1, 2))
        assert np.abs(one - two).max() > 0.05, kind
        np.testing.assert_array_equal(one, channels(Motion(kind, 1).score()))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="cartwheel"):
        Motion("cartwheel", 0)


def test_faces_use_the_bodys_actions_in_its_order() -> None:
    assert tuple(load_asset().expression_names) == FACE_ACTIONS


def test_faces_move_blink_and_are_busier_in_a_portrait() -> None:
    def activity(portrait: bool) -> float:
        faces = [Motion("talk", s, frames=49, portrait=portrait).faces() for s in range(12)]
        assert all(f.min() >= 0 and f.max() <= 1 and f.shape == (49, 52) for f in faces)
        blink = FACE_ACTIONS.index("eyeBlinkLeft")
        assert np.mean([f[:, blink].max() > 0.5 for f in faces]) > 0.7
        return float(np.mean([np.abs(np.diff(f, axis=0)).mean() for f in faces]))

    assert activity(True) > 1.3 * activity(False)


def test_rotations_agree_with_their_definitions() -> None:
    rng = np.random.default_rng(0)
    a, b = rot.unit(rng.normal(size=(50, 3))), rot.unit(rng.normal(size=(50, 3)))
    turn = rot.shortest(a, b)
    np.testing.assert_allclose(rot.apply(turn, a), b, atol=1e-7)
    np.testing.assert_allclose(turn @ rot.transpose(turn), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-7)
    w = a * rng.uniform(0.01, 3.0, (50, 1))
    np.testing.assert_allclose(rot.to_vector(rot.from_vector(w)), w, atol=1e-6)
    np.testing.assert_allclose(rot.between(a[0], b[0], np.array([0.0, 1.0])), [a[0], b[0]], atol=1e-7)
    # x left, -y front, z up: leaning forward, tipping left, turning left
    quarter = np.array(np.pi / 2)
    np.testing.assert_allclose(rot.apply(rot.rot_x(quarter), [0, 0, 1]), [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(rot.apply(rot.rot_y(quarter), [0, 0, 1]), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rot.apply(rot.rot_z(quarter), [0, -1, 0]), [1, 0, 0], atol=1e-12)
