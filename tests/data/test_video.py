"""Videos and images: what is written comes back, damage is refused by name."""

import io

import numpy as np
import pytest
from PIL import Image

from imanim.data import video
from imanim.errors import InputError


def moving_square(frames: int = 9, height: int = 64, width: int = 48) -> np.ndarray:
    clip = np.full((frames, height, width, 3), (40, 90, 160), np.uint8)
    for t in range(frames):
        clip[t, 10 : 10 + 16, 4 + 3 * t : 4 + 3 * t + 12] = (220, 60, 30)
    return clip


def test_a_written_video_reads_back_with_its_colours_rate_and_order() -> None:
    clip = moving_square()
    back = video.read_video(video.write_video(None, clip, 12.0))
    assert back.frames.shape == clip.shape and back.fps == 12.0
    assert np.abs(back.frames.astype(int) - clip.astype(int)).mean() < 3
    assert np.allclose(back.times_sec, np.arange(9) / 12)
    for t in range(9):
        red = (back.frames[t, 10:26, :, 0] > 150).any(0).nonzero()[0]
        assert abs(red.min() - (4 + 3 * t)) <= 1


def test_the_same_frames_give_the_same_bytes() -> None:
    assert video.write_video(None, moving_square(), 12.0) == video.write_video(None, moving_square(), 12.0)


@pytest.mark.parametrize("size", [(63, 48), (64, 47)])
def test_odd_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="even"):
        video.write_video(None, np.zeros((2, *size, 3), np.uint8), 12.0)


def test_damaged_videos_are_refused_by_name(tmp_path) -> None:
    rng = np.random.default_rng(0)
    data = video.write_video(None, rng.integers(0, 255, (20, 64, 48, 3)).astype(np.uint8), 12.0)
    holed = bytearray(data)
    # Wide enough to hit a frame boundary: H.264 has no checksum, flipped bytes inside a frame may decode to other pixels.
    holed[len(data) // 2 : len(data) // 2 + 6000] = bytes(6000)
    for name, content, words in [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"no video at all" * 50, "not a readable video"),
        ("head.mp4", data[:400], "not a readable video"),
        ("cut.mp4", data[: len(data) // 2], "truncated|damaged"),
        ("holed.mp4", bytes(holed), "damaged"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            video.read_video(path)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_video_that_is_too_short_says_how_long_it_is() -> None:
    with pytest.raises(InputError, match="2 frames; at least 5"):
        video.read_video(video.write_video(None, moving_square(2), 12.0), min_frames=5)


def test_a_missing_video_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        video.read_video(tmp_path / "absent.mp4")


def test_an_image_is_turned_upright_by_its_exif_orientation() -> None:
    upright = Image.fromarray(moving_square(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    buffer = io.BytesIO()
    upright.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    assert video.exif_rotated(buffer.getvalue())
    assert np.array_equal(video.read_image(buffer.getvalue()), np.asarray(upright))


def test_transparency_is_refused_unless_a_background_is_given() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = (255, 0, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    with pytest.raises(InputError, match="--background"):
        video.read_image(buffer.getvalue())
    image = video.read_image(buffer.getvalue(), background="#00ff00")
    assert tuple(image[0, 0]) == (255, 0, 0) and tuple(image[0, 7]) == (0, 255, 0)
    with pytest.raises(InputError, match="not a colour"):
        video.read_image(buffer.getvalue(), background="notacolour")


def test_an_opaque_alpha_channel_is_no_transparency() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 4), 255, np.uint8)).save(buffer, "PNG")
    assert video.read_image(buffer.getvalue()).shape == (4, 4, 3)


def test_a_damaged_image_is_refused(tmp_path) -> None:
    data = video.write_png(None, moving_square(1)[0])
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_bytes(b"hello")
    for name in ("cut.png", "text.png", "absent.png"):
        with pytest.raises(InputError, match=name):
            video.read_image(tmp_path / name)


def test_the_same_frames_give_the_same_bytes_wherever_they_lie_in_memory():
    """x264's macroblock tree did not, on CPUs with AVX-512: a moving clip came out in 21 ways of 24."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 255, (40, 30, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    clip = np.stack([scene[3 * t : 3 * t + 128, 2 * t : 2 * t + 80] for t in range(17)])
    clip[:, 40:80, 30:50] = rng.integers(0, 255, (17, 1, 1, 3))
    made = {video.write_video(None, clip, 12)}
    for _ in range(7):
        junk = [rng.integers(0, 255, int(rng.integers(10**4, 10**6)), dtype=np.uint8) for _ in range(3)]
        del junk
        made.add(video.write_video(None, clip.copy(), 12))
    assert len(made) == 1
