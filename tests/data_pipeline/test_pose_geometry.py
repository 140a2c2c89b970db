"""Regions, crops and the step from landmarks to joints."""

import math

import numpy as np
import pytest

from data_pipeline.pose import blazepose
from data_pipeline.pose.base import Region
from data_pipeline.pose.crop import cut, letterbox
from imanim.data.sample import JOINTS


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_a_region_of_whole_pixels_is_cut_exactly(picture):
    assert np.array_equal(cut(picture, Region(30, 20, 20, 10), 20, 10), picture[15:25, 20:40])


def test_a_quarter_turn_of_the_region_turns_the_picture_back(picture):
    # The region's up points to the right of the frame: in the cut, the frame is turned counter-clockwise.
    turned = cut(picture, Region(30, 20, 10, 10, angle_rad=math.pi / 2), 10, 10)
    assert np.allclose(turned, np.rot90(picture[15:25, 25:35]), atol=1e-2)


def test_outside_the_frame_edges_go_on_or_it_is_black(picture):
    region = Region(0, 20, 20, 10)
    edge = cut(picture, region, 20, 10)
    assert np.array_equal(edge[:, :10], np.repeat(picture[15:25, :1], 10, axis=1))
    black = cut(picture, region, 20, 10, black_outside=True)
    assert (black[:, :10] == 0).all() and np.array_equal(black[:, 10:], picture[15:25, :10])


def test_points_of_a_cut_are_where_the_region_says():
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[62, 31] = 255
    region = Region(40, 55, 50, 50, angle_rad=0.4)
    image = cut(frame, region, 200, 200)[..., 0]
    y, x = np.mgrid[0:200, 0:200] + 0.5
    centre = np.array([(image * x).sum(), (image * y).sum()]) / image.sum() / 200
    assert np.allclose(region.to_frame(centre), [31.5, 62.5], atol=0.05)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (37, 61)])
def test_the_letterbox_region_maps_the_square_back_to_the_frame(shape):
    frame = np.zeros((*shape, 3), np.uint8)
    frame[10:14, 20:24] = 255
    square, region = letterbox(frame, 224)
    y, x = np.nonzero(square[..., 0] > 127)
    centre = np.array([x.mean() + 0.5, y.mean() + 0.5]) / 224
    assert np.allclose(region.to_frame(centre), [22, 12], atol=0.15)


def test_the_alignment_points_give_side_and_tilt():
    upright = blazepose.aligned_region(np.array([50.0, 80.0]), np.array([50.0, 40.0]), score=0.9)
    assert (upright.x, upright.y, upright.angle_rad) == (50, 80, 0)
    assert upright.width == upright.height == pytest.approx(2 * 40 * 1.25)
    lying = blazepose.aligned_region(np.array([50.0, 80.0]), np.array([90.0, 80.0]), score=0.9)
    assert lying.angle_rad == pytest.approx(math.pi / 2)


def test_a_sure_heatmap_moves_its_landmark_and_a_vague_one_does_not():
    heatmaps = np.full((64, 64, 2), -8.0)
    heatmaps[21, 33, 0] = 8.0
    heatmaps[:, :, 1] = -1.0
    landmarks = np.array([[32.4 / 64, 20.2 / 64], [0.5, 0.5]])
    refined = blazepose.refine(landmarks, heatmaps)
    assert np.allclose(refined[0] * 64, [33, 21], atol=0.1)
    assert np.array_equal(refined[1], landmarks[1])


def test_joints_take_the_landmark_of_their_own_side():
    # The published landmark list: odd numbers from 11 on are the person's left, even ones their right.
    points = np.stack([np.arange(33.0), np.zeros(33)], axis=1)
    joints = blazepose.to_joints(points, np.linspace(0.2, 1, 33))
    expected = {"nose": 0, "r_shoulder": 12, "l_shoulder": 11, "r_wrist": 16, "l_wrist": 15, "l_ankle": 27, "r_toe": 32}
    expected |= {"l_toe": 31, "l_eye": 2, "r_eye": 5, "l_ear": 7, "r_ear": 8, "r_hip": 24, "l_knee": 25, "neck": 11.5}
    for name, source in expected.items():
        assert joints[JOINTS.index(name), 0] == source, name
    assert joints[JOINTS.index("neck"), 2] == joints[JOINTS.index("l_shoulder"), 2]
