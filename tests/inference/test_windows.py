"""Stitching windows: every frame once, at its place, without a step."""

import numpy as np
import pytest

from imanim import clock
from imanim.inference.windows import padded, stitch


def frame_numbers(window: clock.Window) -> np.ndarray:
    values = np.arange(window.start, window.stop, dtype=np.float32)
    return np.broadcast_to(values[:, None, None, None], (len(values), 2, 2, 3)).copy()


@pytest.mark.parametrize("total", [5, 16, 17, 18, 29, 30, 41, 100, 255])
@pytest.mark.parametrize("overlap", [0, 5, 12])
def test_frame_i_of_the_output_is_frame_i_of_the_driver(total, overlap):
    out = list(stitch(clock.windows(total, 17, overlap), frame_numbers, total))
    assert [int(f[0, 0, 0]) for f in out] == list(range(total))
    assert all(f.dtype == np.uint8 for f in out)


def test_the_overlap_is_a_ramp_between_the_two_windows():
    plan = clock.windows(29, 17, 5)
    levels = {plan[0].start: 0.0, plan[1].start: 240.0}
    out = list(stitch(plan, lambda w: np.full((17, 2, 2, 3), levels[w.start], np.float32), 29))
    values = [int(f[0, 0, 0]) for f in out]
    assert values == [0] * 12 + [40, 80, 120, 160, 200] + [240] * 12


def test_windows_are_rendered_one_at_a_time():
    rendered = []

    def render(window):
        rendered.append(window.start)
        return frame_numbers(window)

    frames = stitch(clock.windows(41, 17, 5), render, 41)
    for _ in range(12):
        next(frames)
    assert rendered == [0]
    next(frames)
    assert rendered == [0, 12]


def test_a_short_clip_is_padded_with_its_last_frame():
    clip = np.arange(6).reshape(6, 1)
    assert padded(clip, 9)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert padded(clip, 6) is clip
