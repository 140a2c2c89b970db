"""Decoding: ticks, single frames, colours, memory; every picture is known because the tests rendered it."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_disc import disc_frames, write
from rendered import number_in, numbered, render

from data_pipeline import decode
from data_pipeline.decode import interlaced
from data_pipeline.decode.frames import Frame
from data_pipeline.decode.ticks import MIN_RATE
from data_pipeline.sources import Unusable

SHARP = {"crf": "14"}
FAR = [2, 70, 71, 139, 140, 211]


def everything(path, max_side=1280):
    probe = decode.probe(path, max_side=max_side)
    found = [(f.index, f.time_sec, f.rgb()) for f in decode.frames(path, probe)]
    assert [i for i, _, _ in found] == list(range(len(found)))
    return probe, np.array([t for _, t, _ in found]), [image for _, _, image in found]


def refusal(path):
    with pytest.raises(Unusable) as caught:
        list(decode.frames(path, decode.probe(path, max_side=1280)))
    return caught.value.reason


def blanks(times):
    """Frames without pictures, for the clock."""
    return [Frame(i, t, t - times[i - 1] if i else 0.0, None, None, None) for i, t in enumerate(times)]


def shown(times, fps, **kwargs):
    out = {}
    for frame, mine in decode.ticks(blanks(times), fps, **kwargs):
        assert mine and not set(mine) & set(out)
        out |= dict.fromkeys(mine, frame.index)
    assert list(out) == list(range(len(out))), "each tick once, in order"
    return list(out.values())


steps = st.lists(st.floats(0.001, 0.1), min_size=2, max_size=200)


@given(steps, st.sampled_from([8.0, 12.0, 12.5, 24.0]))
@settings(max_examples=200, deadline=None)
def test_ticks_show_the_nearest_frames_for_any_times(steps, fps):
    times = np.concatenate([[0.0], np.cumsum(steps)])
    if len(steps) < MIN_RATE * fps * times[-1]:
        with pytest.raises(Unusable, match="frame_rate"):
            shown(times, fps)
        return
    assert shown(times, fps) == decode.nearest_frames(times, fps).tolist()


@given(steps)
@settings(max_examples=100, deadline=None)
def test_nearest_frames_are_those_of_a_search_over_all(steps):
    times = np.concatenate([[0.0], np.cumsum(steps)])
    for tick, index in enumerate(decode.nearest_frames(times, 12.0)):
        assert abs(times[index] - tick / 12) <= np.abs(times - tick / 12).min() + 1e-9


def test_a_tick_amid_two_frames_shows_the_earlier():
    times = np.array([0.0, 0.25, 0.75, 1.0, 1.25])
    assert shown(times, 2.0) == decode.nearest_frames(times, 2.0).tolist() == [0, 1, 3]


def test_after_a_hole_the_clock_starts_anew_at_the_next_frame():
    before, after = np.arange(13) / 24, 9.03 + np.arange(25) / 24
    assert shown([*before, *after], 12.0, max_gap_sec=0.5) == [*range(0, 13, 2), *range(13, 38, 2)]


def test_too_few_and_too_slow_frames_are_refused():
    with pytest.raises(Unusable, match="too_few_frames"):
        shown([0.0, 0.04], 12.0)
    with pytest.raises(Unusable, match="frame_rate"):
        shown(np.arange(20) / 6, 12.0)


def combed(count, height=96, width=128):
    """Fields of two moments: what a camera of fields gives of a moving square."""
    fields = numbered(2 * count, height, width)
    out = fields[0::2].copy()
    out[:, 1::2] = fields[1::2, 1::2]
    return out


KINDS = {
    "b_frames.mp4": {"options": SHARP | {"bf": "3", "g": "30"}},
    "long_gop.mp4": {"options": SHARP | {"bf": "3", "g": "1000"}},
    "open_gop.mp4": {"options": SHARP | {"x264-params": "open-gop=1:keyint=24:min-keyint=24:bframes=4:b-adapt=0"}},
    "open_gop.mkv": {"options": SHARP | {"x264-params": "open-gop=1:keyint=24:min-keyint=24:bframes=4:b-adapt=0"}},
    "refresh.mp4": {"options": SHARP | {"x264-params": "intra-refresh=1:keyint=24"}},
    "variable.mkv": {
        "options": SHARP | {"g": "24"},
        "times_sec": list(np.cumsum(np.random.default_rng(0).uniform(0.02, 0.08, 220))),
    },
    "x265.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=24"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"crf": "20", "b": "0", "cpu-used": "8", "g": "30"}},
    "fields.mp4": {
        "options": SHARP | {"flags": "+ildct+ilme", "x264-params": "tff=1", "g": "24"},
        "interlaced": True,
    },
    "turned.mov": {"options": SHARP | {"g": "24"}, "rotation_deg": 90},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b": "3M", "bf": "2"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_single_frames_are_those_of_decoding_everything(tmp_path, name):
    source = combed(220) if name == "fields.mp4" else numbered(220)
    path = render(tmp_path / name, source, **KINDS[name])
    probe, times, images = everything(path)
    assert len(images) == 220
    for wanted in ([*FAR, 70], list(range(130, 150)), [219], [49, 52], []):
        given = list(decode.images(path, probe, wanted, times_sec=times))
        assert [i for i, _ in given] == sorted(set(wanted))
        for index, image in given:
            assert (image == images[index]).all(), f"frame {index} of {wanted}"


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mkv", "fields.mp4", "variable.mkv", "vp9.webm"])
def test_jumping_spares_most_of_the_decoding(tmp_path, name, monkeypatch):
    path = render(tmp_path / name, numbered(220), **KINDS[name])
    probe = decode.probe(path, max_side=1280)
    times = np.array([f.time_sec for f in decode.frames(path, probe)])
    decoded = []
    inner = interlaced.progressive
    module = sys.modules["data_pipeline.decode.frames"]
    monkeypatch.setattr(module, "progressive", lambda p: (decoded.append(1) or x for x in inner(p)))
    assert [i for i, _ in decode.images(path, probe, [210], times_sec=times)] == [210]
    assert len(decoded) < 90


@pytest.mark.parametrize("late_frames", [20, 60, -100])
def test_a_jump_that_lands_elsewhere_gives_the_right_frames_all_the_same(tmp_path, monkeypatch, late_frames):
    path = render(tmp_path / "b.mp4", numbered(220), options=SHARP | {"bf": "3", "g": "10"})
    probe, times, images = everything(path)
    real = av.open
    jumps = []

    class Late:
        def __init__(self, container):
            self._container = container

        def __enter__(self):
            self._container.__enter__()
            return self

        def __exit__(self, *error):
            return self._container.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self._container, name)

        def seek(self, offset, **kwargs):
            jumps.append(offset)
            self._container.seek(max(0, offset + late_frames * 1000), **kwargs)

    monkeypatch.setattr(av, "open", lambda *args, **kwargs: Late(real(*args, **kwargs)))
    given = dict(decode.images(path, probe, FAR, times_sec=times))
    assert jumps and sorted(given) == FAR
    assert all((given[i] == images[i]).all() for i in FAR)


def test_a_frame_that_is_gone_is_told(tmp_path):
    path = write(tmp_path / "a.mp4", disc_frames(30))
    probe, times, _ = everything(path)
    write(path, disc_frames(20))
    with pytest.raises(Unusable, match="truncated: frame 25 decoded at first"):
        list(decode.images(path, probe, [3, 25], times_sec=times))


YUV_OF = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""ITU-R BT.709, BT.601, BT.2020: the weights of red and blue."""


def solid(rgb, matrix, full_range, height, width, bits=8):
    """Planes Y, U, V of one colour by the standard's formula: independent of any library."""
    red, blue = YUV_OF[matrix]
    r, g, b = (c / 255 for c in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    top = 2**bits - 1
    if full_range:
        levels = (y * top, u * top + 2 ** (bits - 1), v * top + 2 ** (bits - 1))
    else:
        scale = 2 ** (bits - 8)
        levels = tuple(scale * n for n in (16 + 219 * y, 128 + 224 * u, 128 + 224 * v))
    kind = np.uint8 if bits == 8 else np.uint16
    return [
        np.full((h, w), round(n), kind)
        for n, h, w in zip(levels, (height, height // 2, height // 2), (width, width // 2, width // 2))
    ]


@pytest.mark.parametrize("size", [(96, 128), (720, 1280)])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 9, None])
@pytest.mark.parametrize("bits", [8, 10])
def test_solid_colours_come_back(tmp_path, size, full_range, matrix, bits):
    path = tmp_path / "c.mkv"
    really = matrix or (1 if size[0] >= 720 else 5)
    colours = [(230, 40, 40), (30, 200, 60), (25, 60, 220), (200, 200, 200), (16, 16, 16), (230, 180, 150)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p" if bits == 8 else "yuv420p10le"
        stream.codec_context.color_range = 2 if full_range else 1
        if matrix:
            stream.codec_context.colorspace = matrix
        for t, rgb in enumerate(colours):
            frame = av.VideoFrame(size[1], size[0], stream.pix_fmt)
            for plane, values in zip(frame.planes, solid(rgb, really, full_range, *size, bits)):
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : values.shape[1] * values.itemsize] = values.view(np.uint8)
                plane.update(rows.tobytes())
            frame.pts, frame.time_base, frame.colorspace = t, Fraction(1, 24), matrix or 2
            frame.color_range = 2 if full_range else 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    _, _, images = everything(path)
    for rgb, image in zip(colours, images):
        assert np.abs(image.reshape(-1, 3).astype(int) - rgb).max() <= 3, rgb


def test_a_larger_video_is_decoded_smaller_and_its_thumbnail_is_an_average(tmp_path):
    source = numbered(4)
    path = render(tmp_path / "a.mkv", source, codec="ffv1", pix_fmt="yuv444p")
    probe, _, images = everything(path, max_side=64)
    assert (probe.width, probe.height) == (64, 48)
    for image, frame in zip(images, source):
        assert np.abs(image - frame.reshape(48, 2, 64, 2, 3).mean((1, 3))).mean() < 1.5
    for frame, rgb in zip(decode.frames(path, probe), source):
        small = frame.small(64, 64)
        assert small.shape == (64, 64, 3) and small.dtype == np.uint8
        assert abs(small.mean() - rgb.mean()) < 1.5


def test_memory_does_not_grow_with_the_length(tmp_path):
    path = render(tmp_path / "long.mp4", np.repeat(numbered(30), 100, axis=0), options={"preset": "ultrafast"})
    probe = decode.probe(path, max_side=1280)
    page, seen = os.sysconf("SC_PAGE_SIZE"), []
    for frame in decode.frames(path, probe):
        frame.small(64, 64), frame.rgb()
        if frame.index % 100 == 99:
            seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
    assert len(seen) == 30
    one_frame = 128 * 96 * 3
    assert seen[-1] - seen[4] < 50 * one_frame, "2,500 frames later"


def test_decoding_twice_gives_the_same_bytes(tmp_path):
    path = render(tmp_path / "a.mp4", numbered(30), options=SHARP)
    first, again = everything(path), everything(path)
    assert first[0] == again[0] and (first[1] == again[1]).all()
    assert all((a == b).all() for a, b in zip(first[2], again[2]))


def test_flipped_bytes_are_noticed(tmp_path):
    path = write(tmp_path / "c.mp4", disc_frames(60))
    data = bytearray(path.read_bytes())
    for i in range(40):
        data[len(data) // 2 + i * 7] ^= 0xFF
    path.write_bytes(bytes(data))
    assert refusal(path) == "corrupt"


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "avi", "mov"])
@pytest.mark.parametrize("audio_sec", [0.0, 5.0])
def test_a_file_cut_short_is_refused(tmp_path, ending, audio_sec):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(ending, "libx264")
    if ending == "webm" and audio_sec:
        pytest.skip("webm holds no AAC")
    options = {"cpu-used": "8"} if ending == "webm" else {}
    path = render(tmp_path / f"t.{ending}", numbered(120), codec=codec, options=options, audio_sec=audio_sec)
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.8):
        path.write_bytes(data[: int(share * len(data))])
        assert refusal(path) in ("truncated", "corrupt", "not_a_video")


def test_frames_carry_the_number_they_were_rendered_with(tmp_path):
    path = render(tmp_path / "a.mp4", numbered(40), options=SHARP | {"bf": "3"})
    _, times, images = everything(path)
    assert [number_in(image) for image in images] == list(range(40))
    assert np.allclose(times, np.arange(40) / 24, atol=1e-3)
