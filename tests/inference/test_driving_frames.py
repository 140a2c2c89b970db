"""Driving videos: decoded onto the canvas, refused when damaged."""

import numpy as np
import pytest
from small_model import moving_square

from imanim.data.video import write_video
from imanim.errors import InputError
from imanim.inference.frames import FrameStore, load_driving


def numbered(path, frames, fps):
    """A video whose frame i is as bright as 20 + 8i."""
    clip = np.stack([np.full((64, 48, 3), 20 + 8 * i, np.uint8) for i in range(frames)])
    write_video(path, clip, fps, crf=10)
    return path


def read_numbers(store):
    return [round((float(f.mean()) - 20) / 8) for f in store]


def test_a_store_gives_back_what_was_put_in():
    clip = moving_square(7)
    with FrameStore(96, 64) as store:
        for frame in clip:
            store.append(frame)
        assert store.shape == clip.shape and len(store) == 7
        assert np.array_equal(store[2:5], clip[2:5])
        assert np.array_equal(np.stack(list(store)), clip)
        assert store[5:99].shape[0] == 2
        data = write_video(None, store, 12)  # what an array may do
        assert data == write_video(None, clip, 12)


def test_every_frame_is_kept_at_the_drivers_own_rate(tmp_path):
    store, fps, where = load_driving(numbered(tmp_path / "a.mp4", 12, 30), (64, 48))
    assert fps == 30 and read_numbers(store) == list(range(12)) and (where.height, where.width) == (64, 48)


@pytest.mark.parametrize(
    "rate, expected", [(15, range(0, 12, 2)), (60, [i // 2 for i in range(24)]), (25, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10])]
)
def test_resampling_shows_what_is_on_screen_at_that_moment(tmp_path, rate, expected):
    store, fps, _ = load_driving(numbered(tmp_path / "a.mp4", 12, 30), (64, 48), fps=rate)
    assert fps == rate and read_numbers(store) == list(expected)


def test_too_few_frames_after_resampling_are_refused(tmp_path):
    with pytest.raises(InputError, match="4 frames at 10 frames/s"):
        load_driving(numbered(tmp_path / "a.mp4", 12, 30), (64, 48), fps=10)


def test_at_most_max_frames_come_out(tmp_path):
    store, _, _ = load_driving(numbered(tmp_path / "a.mp4", 12, 30), (64, 48), max_frames=7)
    assert read_numbers(store) == list(range(7))


def test_landscape_is_fitted_onto_a_portrait_canvas(tmp_path):
    write_video(tmp_path / "wide.mp4", moving_square(6, 64, 128), 12)
    store, _, where = load_driving(tmp_path / "wide.mp4", (128, 80))
    assert store.shape == (6, 128, 80, 3) and (where.height, where.width) == (40, 80)


def damaged(tmp_path, kind):
    path = tmp_path / f"{kind}.mp4"
    data = write_video(None, moving_square(24), 12)
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "noise":
            path.write_bytes(b"no video at all" * 100)
        case "two_frames":
            write_video(path, moving_square(2), 12)
        case "cut":
            path.write_bytes(data[: len(data) * 2 // 3])
        case "missing":
            pass
    return path


@pytest.mark.parametrize(
    "kind, says",
    [
        ("empty", "empty"),
        ("noise", "not a readable"),
        ("two_frames", "2 frames"),
        ("cut", "damaged|truncated"),
        ("missing", "no such file"),
    ],
)
def test_damage_is_refused_in_one_line_that_names_the_file(tmp_path, kind, says):
    path = damaged(tmp_path, kind)
    with pytest.raises(InputError, match=says) as caught:
        load_driving(path, (64, 48))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
