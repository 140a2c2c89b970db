"""The metric `doubles-reader`: pose, shape, colours and calm told apart on filmed people, with the shipped reader."""

from functools import cache

import numpy as np
import pytest
from reader_films import Film, clip_of, films

from evaluation.clip import Clip
from evaluation.metrics import doubles, registry
from evaluation.metrics.base import Machine
from evaluation.metrics.doubles import at_readers_size, colour_errors, limb_length_error, shaking
from imanim.data.sample import JOINTS, PARTS
from imanim.errors import InputError


@cache
def metric() -> doubles.DoublesReader:
    return registry.build({"doubles-reader": {}}, Machine())["doubles-reader"]


def measured(change) -> dict[str, float]:
    """Mean values over the films of ``change(film)``, a made video."""
    rows = [metric().measure(clip_of(film, np.ascontiguousarray(change(film)))) for film in films()]
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0] if "expression" not in name}


def truth(film: Film) -> np.ndarray:
    return film.truth.frames


def wrong_body(film: Film) -> np.ndarray:
    return film.wrong_body.frames


def test_the_true_video_has_the_readers_floor():
    values = measured(truth)
    assert values["read_joint_error"] == values["reader_floor_joint_error"]
    assert values["limb_length_error"] == values["reader_floor_limb_length_error"]
    assert values["mask_iou"] == values["reader_floor_iou"] and values["jitter"] == 0
    assert values["colour_error"] == values["reader_floor_colour_error"] < 12


def test_the_drivers_body_in_the_right_pose_shows_in_shape_and_colour():
    right, wrong = measured(truth), measured(wrong_body)
    assert wrong["limb_length_error"] > right["limb_length_error"] + 1.5
    assert wrong["colour_error"] > right["colour_error"] + 20
    # ... and in its joints less than two frames' delay
    late = measured(lambda film: truth(film)[[0, 0, *range(len(truth(film)) - 2)]])
    assert wrong["read_joint_error"] < late["read_joint_error"]
    assert late["colour_error"] < right["colour_error"] + 2


def test_a_mirrored_and_a_late_video_show_in_the_joints():
    right = measured(truth)
    mirrored = measured(lambda film: truth(film)[:, :, ::-1])
    late = measured(lambda film: truth(film)[[0, *range(len(truth(film)) - 1)]])
    assert mirrored["read_joint_error"] > right["read_joint_error"] + 5
    assert late["read_joint_error"] > right["read_joint_error"] + 0.5
    assert late["mask_iou"] < right["mask_iou"] and mirrored["read_pck"] < right["read_pck"]


def test_a_still_video_is_calmer_and_a_shuffled_one_shakes():
    frozen = measured(lambda film: np.repeat(truth(film)[:1], len(truth(film)), 0))
    order = np.random.default_rng(0).permutation(len(truth(films()[0])))
    shuffled = measured(lambda film: truth(film)[order])
    assert frozen["jitter"] < 0 < shuffled["jitter"]


def test_nothing_is_said_without_exact_truth():
    clip = clip_of(films()[0], films()[0].truth.frames)
    for missing in ("parts", "truth", "joints"):
        lacking = Clip(**{**vars(clip), missing: None})
        assert all(np.isnan(value) for value in metric().measure(lacking).values())
    values = metric().measure(clip)
    assert set(values) == {value.name for value in metric().values} and np.isnan(values["expression_read_error"])


def test_facial_actions_are_measured_where_they_are_known():
    film = films()[0]
    told = metric()._reader(film.truth.frames).actions
    clip = Clip(**{**vars(clip_of(film, film.truth.frames)), "actions": told + np.float32(0.1)})
    values = metric().measure(clip)
    assert values["expression_read_error"] == pytest.approx(10, abs=0.01) == values["reader_floor_expression"]


def test_another_shape_is_refused_by_name():
    film = films()[0]
    clip = clip_of(film, film.truth.frames)
    square = {**vars(clip), "made": clip.made[:, :80], "truth": clip.truth[:, :80], "parts": clip.parts[:, :80]}
    with pytest.raises(InputError, match="clip one: frames of 80x80"):
        metric().measure(Clip(**square))


def test_the_protocol_names_the_readers_weights():
    import hashlib

    from evaluation.instruments.reader import WEIGHTS

    assert metric().protocol()["reader_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------ numbers by construction


def standing(frames: int = 6) -> np.ndarray:
    """Joints [T,20,3] spread over the frame, the same in every frame."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(0.1, 0.9, (len(JOINTS), 2))
    return np.concatenate([np.repeat(xy[None], frames, 0), np.ones((frames, len(JOINTS), 1))], -1).astype(np.float32)


def test_limb_lengths_are_relative_and_take_the_median():
    true = standing()
    bigger = 0.5 + (true[..., :2] - 0.5) * 1.1
    assert limb_length_error(bigger, true, 128, 80) == pytest.approx(10, abs=1e-3)
    glitch = true[..., :2].copy()
    glitch[2] = 0.5 + (glitch[2] - 0.5) * 3  # one frame of six
    assert limb_length_error(glitch, true, 128, 80) == pytest.approx(0, abs=1e-3)
    outside = true.copy()
    outside[..., 0] += 2
    assert np.isnan(limb_length_error(bigger, outside, 128, 80))


def test_shaking_is_the_second_difference():
    true = standing()
    even = true[..., :2] + np.arange(6)[:, None, None] * np.float32(0.01)
    assert shaking(even, true, 128, 80) == pytest.approx(0, abs=1e-4)
    shaken = true[..., :2] + (np.arange(6) % 2)[:, None, None] * np.array([0.0, 0.01])
    from evaluation.metrics.joints import stature

    assert shaking(shaken, true, 128, 80) == pytest.approx(100 * 4 * 0.005 * 128 / stature(true, 128, 80), rel=1e-4)
    assert np.isnan(shaking(even[:2], true[:2], 128, 80))


def test_a_part_that_is_left_out_is_compared_where_it_should_be():
    parts = np.zeros((2, 128, 80), np.uint8)
    parts[:, 20:60, 20:60] = PARTS.index("shirt")
    true = np.where((parts > 0)[..., None], np.uint8([200, 10, 10]), np.uint8([50, 50, 50])).astype(np.uint8)
    nobody = np.full_like(true, 50)
    errors = colour_errors(nobody, np.zeros_like(parts), true, parts)
    assert errors["colour_error_shirt"] == pytest.approx((150 + 40 + 40) / 3)
    assert errors["colour_error"] == errors["colour_error_shirt"] and np.isnan(errors["colour_error_hair"])
    elsewhere = np.roll(parts, 15, 2)  # seen somewhere else: its colour there counts
    moved = np.roll(true, 15, 2)
    assert colour_errors(moved, elsewhere, true, parts)["colour_error_shirt"] == 0


def test_labels_come_to_the_readers_size():
    parts = np.random.default_rng(0).integers(0, 13, (1, 128, 80), np.uint8)
    np.testing.assert_array_equal(at_readers_size(parts), parts)
    np.testing.assert_array_equal(at_readers_size(np.repeat(np.repeat(parts, 2, 1), 2, 2)), parts)
