"""The detectors' decoding."""

import numpy as np
import pytest

from data_pipeline.pose import ssd


@pytest.mark.parametrize(("layout", "count"), [(ssd.POSE_DETECTOR, 2254), (ssd.FACE_DETECTOR, 896)])
def test_there_is_an_anchor_for_every_output(layout, count):
    centres = ssd.anchors(layout)
    assert centres.shape == (count, 2)
    assert ((centres > 0) & (centres < 1)).all()


def test_anchors_go_row_by_row_two_a_cell_and_layer():
    centres = ssd.anchors(ssd.POSE_DETECTOR) * 224
    assert centres[:4].tolist() == [[4, 4], [4, 4], [12, 4], [12, 4]]
    assert centres[28 * 2].tolist() == [4, 12]
    # The three layers of stride 32 share a grid: six anchors a cell.
    assert (centres[-6:] == [224 - 16, 224 - 16]).all()


def test_a_box_is_decoded_relative_to_its_anchor():
    layout = ssd.POSE_DETECTOR
    raw, logits = np.zeros((2254, 12)), np.full(2254, -10.0)
    anchor = 700
    x, y = ssd.anchors(layout)[anchor] * 224
    raw[anchor, :6] = [100 - x, 60 - y, 40, 20, 100 - x, 90 - y]
    logits[anchor] = 2.0
    (found,) = ssd.decode(raw, logits, layout, min_score=0.5)
    assert found.score == pytest.approx(1 / (1 + np.exp(-2)))
    assert np.allclose(found.box * 224, [80, 50, 120, 70])
    assert np.allclose(found.points[0] * 224, [100, 90])


def detection(score, x, y, side=0.2):
    return ssd.Detection(score, np.array([x, y, x + side, y + side]), np.array([[x, y]]))


def test_overlapping_detections_become_their_weighted_mean_and_others_stay():
    found = [detection(0.9, 0.1, 0.1), detection(0.8, 0.6, 0.6), detection(0.3, 0.14, 0.1)]
    kept = ssd.suppress(found)
    assert [d.score for d in kept] == [0.9, 0.8]
    assert kept[0].box[0] == pytest.approx((0.9 * 0.1 + 0.3 * 0.14) / 1.2)
    assert kept[0].points[0, 0] == pytest.approx(kept[0].box[0])


def test_boxes_apart_share_nothing():
    assert ssd.iou(np.array([0, 0, 1, 1]), np.array([2, 2, 3, 3])) == 0
    assert ssd.iou(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)
