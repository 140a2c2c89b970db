"""Finding, checking and decoding videos."""

import numpy as np
import pytest
from moving_disc import disc_frames, write

from data_pipeline.shots import find_cuts, shots_of_ticks
from data_pipeline.sources import Unusable, find_files, images, nearest_frames, scan
from imanim.errors import InputError


def refusal(path, fps=12.0):
    with pytest.raises(Unusable) as caught:
        scan(path, fps, max_side=1280)
    return caught.value.reason


def test_a_constant_rate_is_thinned_to_every_second_frame(tmp_path):
    found = scan(write(tmp_path / "a.mp4", disc_frames(40)), 12.0, max_side=1280)
    assert (found.frames, found.width, found.height) == (40, 160, 200)
    assert found.picks.tolist() == list(range(0, 40, 2))
    assert found.rate_fps == pytest.approx(24, rel=1e-3)


def test_ticks_of_a_variable_rate_show_the_frame_nearest_in_time():
    times = np.array([0, 0.04, 0.1, 0.26, 0.30, 0.52])
    ticks = np.arange(6) / 10
    expected = [int(np.abs(times - t).argmin()) for t in ticks]
    assert nearest_frames(times, 10.0).tolist() == expected


def test_a_variable_rate_file_keeps_its_timing(tmp_path):
    times = [0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5]
    found = scan(write(tmp_path / "v.mkv", disc_frames(9), times=times), 10.0, max_side=1280)
    assert np.allclose(found.times_sec, times, atol=2e-3)
    assert found.picks.tolist() == [0, 2, 3, 5, 6, 8]


def test_frames_asked_for_are_the_frames_given(tmp_path):
    frames = disc_frames(20)
    path = write(tmp_path / "a.mp4", frames)
    given = dict(images(path, [3, 17, 8, 8], width=160, height=200))
    assert sorted(given) == [3, 8, 17]
    for index, image in given.items():
        apart = [np.abs(image.astype(int) - frame).mean() for frame in frames]
        assert int(np.argmin(apart)) == index


def test_large_videos_are_decoded_smaller(tmp_path):
    found = scan(write(tmp_path / "a.mp4", disc_frames(8)), 12.0, max_side=100)
    assert (found.width, found.height) == (80, 100)


def test_an_empty_file_is_named_so(tmp_path):
    (tmp_path / "e.mp4").touch()
    assert refusal(tmp_path / "e.mp4") == "empty_file"


def test_a_text_file_with_a_video_ending_is_no_video(tmp_path):
    (tmp_path / "t.mp4").write_text("not a video\n" * 100)
    assert refusal(tmp_path / "t.mp4") == "not_a_video"


def test_two_frames_are_too_few(tmp_path):
    assert refusal(write(tmp_path / "two.mp4", disc_frames(2))) == "too_few_frames"


def test_flipped_bytes_are_noticed(tmp_path):
    path = write(tmp_path / "c.mp4", disc_frames(60))
    data = bytearray(path.read_bytes())
    for i in range(40):
        data[len(data) // 2 + i * 7] ^= 0xFF
    path.write_bytes(bytes(data))
    assert refusal(path) == "corrupt"


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_file_cut_short_is_refused(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", disc_frames(120))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert refusal(path) in ("truncated", "corrupt", "not_a_video")


def test_a_slow_video_is_refused_rather_than_stuttered(tmp_path):
    assert refusal(write(tmp_path / "s.mp4", disc_frames(10), fps=6)) == "frame_rate"


def test_a_folder_without_videos_is_named(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds no .*mp4"):
        find_files(tmp_path, ["mp4"])
    with pytest.raises(InputError, match="not a folder"):
        find_files(tmp_path / "nowhere", ["mp4"])


def test_subfolders_and_upper_case_endings_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.MP4", "sub/a.mov", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in find_files(tmp_path, ["mp4", "mov"])] == ["b.MP4", "a.mov"]


def test_a_hard_cut_is_found_and_motion_is_not(tmp_path):
    frames = np.concatenate([disc_frames(20), disc_frames(20, ground=180)])
    found = scan(write(tmp_path / "cut.mp4", frames), 12.0, max_side=1280)
    cuts = find_cuts(found.change, found.times_sec, ratio=6.0, change=0.03, max_gap_sec=0.5)
    assert cuts.tolist() == [20]
    assert shots_of_ticks(found.picks, cuts).tolist() == [0] * 10 + [1] * 10


def test_a_hole_in_the_timestamps_is_a_cut():
    times = np.array([0.0, 0.1, 0.2, 1.2, 1.3])
    assert find_cuts(np.zeros(4), times, ratio=6.0, change=0.03, max_gap_sec=0.5).tolist() == [3]
