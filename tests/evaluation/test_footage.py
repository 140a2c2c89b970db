"""Other people's videos: read as they are, or refused by name."""

import numpy as np
import pytest
from PIL import Image

from evaluation.protocols import footage
from imanim.data.video import write_video
from imanim.errors import InputError


def frames(count: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def pictures(folder, made, extension="png"):
    folder.mkdir(parents=True)
    for i, frame in enumerate(made):
        Image.fromarray(frame).save(folder / f"{i:03d}.{extension}")
    return folder


def test_a_folder_of_pictures_and_a_video_are_found_by_name(tmp_path):
    pictures(tmp_path / "b", frames())
    write_video(tmp_path / "a.mp4", frames(), 12)
    assert footage.find(tmp_path, "a") == tmp_path / "a.mp4" and footage.find(tmp_path, "b") == tmp_path / "b"
    assert footage.find(tmp_path, "c") is None and list(footage.listed(tmp_path)) == ["a", "b"]
    read, fps = footage.read(tmp_path / "b")
    np.testing.assert_array_equal(read, frames())
    assert fps is None and footage.read(tmp_path / "a.mp4")[1] == 12


def test_two_candidates_for_one_sample_are_refused(tmp_path):
    pictures(tmp_path / "a", frames())
    write_video(tmp_path / "a.mp4", frames(), 12)
    with pytest.raises(InputError, match=r"both a.mp4 and a"):
        footage.find(tmp_path, "a")


@pytest.mark.parametrize("mode, says", [("L", "grey"), ("RGBA", "transparent"), ("LA", "transparent"), ("P", "mode P")])
def test_pictures_of_other_colours_are_refused(tmp_path, mode, says):
    folder = pictures(tmp_path / "a", frames())
    Image.fromarray(frames(1)[0]).convert(mode).save(folder / "002.png")
    with pytest.raises(InputError, match=rf"002.png: is .*{says}"):
        footage.read(folder)


def test_one_frame_different_sizes_damage_and_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="1 pictures"):
        footage.read(pictures(tmp_path / "one", frames(1)))
    folder = pictures(tmp_path / "sizes", frames())
    Image.fromarray(frames(1, 30)[0]).save(folder / "004.png")
    with pytest.raises(InputError, match=r"004.png: 48x30, but 000.png is 48x32"):
        footage.read(folder)
    (folder / "004.png").write_bytes((folder / "000.png").read_bytes()[:90])
    with pytest.raises(InputError, match=r"004.png: (a damaged|not a readable) picture"):
        footage.read(folder)
    write_video(tmp_path / "short.mp4", frames(1), 12)
    with pytest.raises(InputError, match="1 frames"):
        footage.read(tmp_path / "short.mp4")
    with pytest.raises(InputError, match="no such folder"):
        footage.listed(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no videos"):
        footage.listed(tmp_path / "empty")


@pytest.mark.parametrize(
    "pixels, codec, says", [("gray", "ffv1", "a grey video"), ("yuva420p", "ffv1", "transparency")]
)
def test_grey_and_transparent_videos_are_refused(tmp_path, pixels, codec, says):
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
        for frame in frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=says):
        footage.read(tmp_path / "a.mkv")


def test_the_hash_of_a_folder_changes_with_a_picture_and_with_its_name(tmp_path):
    folder = pictures(tmp_path / "a", frames())
    before = footage.hash_of(folder)
    (folder / "004.png").rename(folder / "009.png")
    renamed = footage.hash_of(folder)
    Image.fromarray(frames(6)[5]).save(folder / "009.png")
    assert len({before, renamed, footage.hash_of(folder)}) == 3
