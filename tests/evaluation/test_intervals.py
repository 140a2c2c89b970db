"""The bootstrap over units."""

import numpy as np
import pytest
from feature_sets import Features
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import intervals
from imanim.errors import InputError

some_units = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30)


@given(some_units, st.integers(0, 2**32))
def test_clips_of_a_unit_are_drawn_together_and_each_draw_has_as_many_units(units, seed):
    times = intervals.draw_units(units, 5, seed)
    assert times.shape == (5, len(units))
    for draw in times:
        by_unit = {unit: {int(t) for u, t in zip(units, draw) if u == unit} for unit in units}
        assert all(len(t) == 1 for t in by_unit.values())
        assert sum(t for (t,) in by_unit.values()) == len(by_unit)


@given(some_units, st.randoms())
def test_the_order_of_the_clips_does_not_change_how_often_a_unit_is_drawn(units, random):
    order = list(range(len(units)))
    random.shuffle(order)
    times = intervals.draw_units(units, 4, 1)
    assert (intervals.draw_units([units[i] for i in order], 4, 1) == times[:, order]).all()


def test_the_first_draws_do_not_depend_on_how_many_follow():
    units = list("abcdef")
    assert (intervals.draw_units(units, 100, 7)[:10] == intervals.draw_units(units, 10, 7)).all()
    assert (intervals.draw_units(units, 10, 7) != intervals.draw_units(units, 10, 8)).any()


def test_every_unit_is_drawn_once_on_average():
    times = intervals.draw_units(list("abcde"), 4000, 0)
    assert np.allclose(times.mean(0), 1, atol=0.06)


def test_no_draws_and_bad_numbers():
    assert intervals.draw_units(["a", "b"], 0, 0).shape == (0, 2)
    with pytest.raises(InputError, match="bootstrap: -1"):
        intervals.draw_units(["a"], -1, 0)
    with pytest.raises(InputError, match="no clips"):
        intervals.draw_units([], 3, 0)


def test_an_interval_is_around_the_value():
    draws = [11.0, 13.0, 15.0]
    half = 2 * intervals.half_width_sd(6)
    assert intervals.normal(10, draws, 6) == pytest.approx((10 - half, 10 + half))
    assert np.isnan(intervals.normal(10, [11.0], 6)).all()


def test_half_widths_are_students_and_tend_to_the_normals():
    assert intervals.half_width_sd(6) == pytest.approx(2.5706 * (6 / 5) ** 0.5, rel=1e-4)
    assert intervals.half_width_sd(10_000) == pytest.approx(1.96, rel=1e-3)


def test_made_and_truth_are_the_same_units():
    one, other = Features([None] * 2, ["a", "b"]), Features([None] * 2, ["b", "a"])
    assert intervals.paired_units(one, one) == ["a", "b"]
    with pytest.raises(InputError, match="clip 0 is of unit `a` as made, `b` as true"):
        intervals.paired_units(one, other)
    with pytest.raises(InputError, match="2 made clips, 1 true"):
        intervals.paired_units(one, Features([None], ["a"]))


def test_few_units_are_said():
    assert "one unit alone" in intervals.doubts(["a", "a"])[0]
    assert "5 units" in intervals.doubts(list("abcdea"))[0]
    assert intervals.doubts(list("abcdef")) == []
