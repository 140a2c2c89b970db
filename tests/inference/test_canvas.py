"""Fitting pictures onto the canvas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imanim.inference.canvas import fit, place


def blank(height: int, width: int) -> np.ndarray:
    """A picture that takes no memory."""
    return np.broadcast_to(np.zeros((), np.uint8), (height, width, 3))


@given(height=st.integers(1, 4000), width=st.integers(1, 4000))
@settings(max_examples=200, deadline=None)
def test_every_picture_lies_inside_the_canvas_with_even_sides(height, width):
    where = fit(blank(height, width), (128, 80))
    assert where.height % 2 == 0 and where.width % 2 == 0 and where.height >= 2 and where.width >= 2
    assert where.top >= 0 and where.left >= 0
    assert where.top + where.height <= 128 and where.left + where.width <= 80
    assert where.height == 128 or where.width == 80  # one side is filled


@pytest.mark.parametrize(
    "height, width, inside",
    [(128, 80, (128, 80)), (256, 160, (128, 80)), (1080, 1920, (44, 80)), (832, 480, (128, 74))],
)
def test_the_aspect_is_kept(height, width, inside):
    where = fit(blank(height, width), (128, 80))
    assert (where.height, where.width) == inside


def test_a_picture_of_the_canvas_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 255, (128, 80, 3)).astype(np.uint8)
    where = fit(blank(128, 80), (128, 80))
    assert np.array_equal(place(image, where), image)


def test_padding_repeats_the_edge_and_cropping_removes_it():
    image = np.zeros((80, 80, 3), np.uint8)
    image[0], image[-1] = 200, 50
    where = fit(blank(80, 80), (128, 80))
    placed = place(image, where)
    assert placed.shape == (128, 80, 3)
    assert (placed[: where.top] == 200).all() and (placed[where.top + 80 :] == 50).all()
    assert np.array_equal(where.crop(placed), image)


def test_boxes_follow_the_picture_onto_the_canvas():
    where = fit(blank(80, 80), (128, 80))
    box = where.boxes(np.array([[0.0, 0.0, 1.0, 1.0], [np.nan] * 4]))
    assert box[0] == pytest.approx([0, 24 / 128, 1, 104 / 128])
    assert np.isnan(box[1]).all()
