"""The frame clock: an off-by-one here is the field's commonest bug."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imanim import clock
from imanim.errors import InputError


@given(st.integers(1, 500))
def test_latent_and_pixel_frames_invert_each_other(latents: int) -> None:
    frames = clock.pixel_frames(latents)
    assert frames == 4 * (latents - 1) + 1 and clock.latent_frames(frames) == latents


@given(st.integers(0, 300))
def test_every_pixel_frame_has_one_latent_frame_that_holds_it(pixel: int) -> None:
    latent = clock.latent_of_pixel(pixel)
    assert pixel in clock.pixels_of_latent(latent)
    assert pixel not in clock.pixels_of_latent(latent + 1) and (
        latent == 0 or pixel not in clock.pixels_of_latent(latent - 1)
    )


def test_the_first_latent_frame_holds_one_pixel_frame() -> None:
    assert clock.slots(9) == [[-1, -1, -1, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("frames", [0, -3, 2, 16, 18])
def test_a_wrong_frame_count_is_refused_with_the_next_right_ones(frames: int) -> None:
    with pytest.raises(InputError, match=r"4n\+1"):
        clock.latent_frames(frames)


@given(st.integers(1, 400), st.integers(0, 5), st.integers(0, 16))
def test_windows_cover_every_frame_and_overlap_as_asked(total: int, n: int, overlap: int) -> None:
    window = 4 * n + 17
    spans = clock.windows(total, window, overlap)
    assert all(s.stop - s.start == window for s in spans)
    assert spans[0].start == 0 and (spans[-1].stop == total or len(spans) == 1)
    for a, b in zip(spans, spans[1:]):
        assert a.start < b.start and a.stop - b.start >= overlap


def test_windows_refuse_an_overlap_as_long_as_the_window() -> None:
    with pytest.raises(InputError, match="overlap"):
        clock.windows(40, 17, 17)
