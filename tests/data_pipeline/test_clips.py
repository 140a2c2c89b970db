"""Windows, clips, identity frames and smoothing: geometry without networks."""

import numpy as np
import pytest

from data_pipeline.config import VideosConfig
from data_pipeline.video.framing import Crop, around, fit, person_box
from data_pipeline.video.pairing import plan_clips, reasons_of
from data_pipeline.video.tracks import Track, fill_gaps, smooth

ASPECT = 128 / 80
RULES = {"aspect": ASPECT, "margin": 0.1, "max_padding": 0.25, "min_inside": 0.6}


def joints_in(x0, y0, x1, y1, frames=3):
    """[T,20,3] joints on the edge of a box, all known."""
    t = np.linspace(0, 1, 20)
    one = np.stack([x0 + (x1 - x0) * t, y0 + (y1 - y0) * t**2, np.ones(20)], axis=1)
    return np.repeat(one[None], frames, axis=0).astype(np.float32)


def no_head(frames=3):
    return np.full((frames, 4), np.nan, np.float32)


def config(**framing):
    made = VideosConfig(input=".", output=".")
    for key, value in framing.items():
        setattr(made.framing, key, value)
    return made


def track(ticks=60, box=(100, 60, 160, 240)):
    made = Track.empty(ticks)
    made.joints[:] = joints_in(*box, frames=ticks)
    made.person[:] = 1
    return made


def test_the_window_has_the_aspect_and_holds_the_person_with_air():
    joints = joints_in(300, 100, 360, 300)
    crop = fit(joints, no_head(), 640, 480, **RULES)
    assert crop.height / crop.width == pytest.approx(ASPECT)
    assert crop.padding(640, 480) < 1e-9
    placed = crop.joints(joints)[..., :2]
    assert placed.min() > 0.05 and placed.max() < 0.95


def test_at_the_frame_s_edge_the_window_moves_instead_of_leaving():
    crop = fit(joints_in(5, 100, 60, 300), no_head(), 640, 480, **RULES)
    assert crop.x == 0 and crop.padding(640, 480) < 1e-9


def test_air_gives_way_before_the_window_leaves_the_frame():
    # 280 of 300 pixels high: the full margin would not fit.
    crop = fit(joints_in(300, 10, 360, 290), no_head(), 640, 300, **RULES)
    assert crop.padding(640, 300) < 0.05


def test_a_wide_person_pads_the_window_up_to_the_limit():
    crop = fit(joints_in(200, 50, 400, 280), no_head(), 640, 300, **RULES)
    assert 0.05 < crop.padding(640, 300) <= 0.25
    assert fit(joints_in(50, 50, 600, 280), no_head(), 640, 300, **RULES) is None


def test_a_close_up_keeps_the_head_when_shoulders_are_too_wide():
    joints = joints_in(290, 120, 350, 200)
    joints[:, [2, 5], 0] = (100, 540)  # two shoulders, far apart
    joints[:, 8:14] = (np.nan, np.nan, 0)  # nothing from the hips down is in view
    head = np.repeat(np.array([[290, 120, 350, 200]], np.float32), 3, axis=0)
    crop = fit(joints, head, 640, 360, **RULES)
    assert crop.padding(640, 360) < 1e-9 and crop.height == 360
    assert abs(crop.x + crop.width / 2 - 320) < 1


def test_a_close_up_is_not_padded_but_a_dancing_body_is():
    joints, head = joints_in(200, 100, 440, 340), np.repeat(np.array([[300, 60, 340, 100]], np.float32), 3, axis=0)
    body = fit(joints, head, 640, 360, **RULES)
    assert body.padding(640, 360) < 0.25 and body.height > 360
    joints[:, 8:14] = (np.nan, np.nan, 0)
    joints[:, [0, 19], 0] = (180, 460)
    close = fit(joints, head, 640, 360, **RULES)
    assert close.padding(640, 360) < 1e-9 and close.height == 360


def test_hair_and_chin_are_inside_the_person_s_box():
    head = np.array([[310, 110, 350, 140]], np.float32)
    box = person_box(joints_in(300, 120, 360, 300, frames=1), head)
    assert box[1] == pytest.approx(110 - 40) and box[3] > 300


def test_cutting_the_window_puts_pixels_where_its_joints_say():
    frame = np.zeros((200, 300, 3), np.uint8)
    frame[80:84, 120:124] = 255
    crop = Crop(90.5, 40.25, 62.5, 100.0)
    image = crop.cut(frame, 80, 128)[..., 0].astype(float)
    y, x = np.mgrid[0:128, 0:80] + 0.5
    centre = np.array([(image * x).sum() / 80, (image * y).sum() / 128]) / image.sum()
    assert np.allclose(crop.joints(np.array([[122, 82, 1.0]]))[0, :2], centre, atol=2e-3)


def test_outside_the_frame_the_window_repeats_the_edge():
    frame = np.zeros((60, 40, 3), np.uint8)
    frame[:, 0] = 200
    image = Crop(-20, 0, 40, 60).cut(frame, 40, 60)
    assert (image[:, :18] == 200).all() and (image[:, 24:] == 0).all()


def test_a_face_that_left_the_window_is_none():
    boxes = Crop(100, 100, 80, 128).boxes(np.array([[120, 110, 140, 130], [20, 110, 40, 130]], np.float32))
    assert np.allclose(boxes[0], [0.25, 10 / 128, 0.5, 30 / 128])
    assert np.isnan(boxes[1]).all()


def test_another_frame_gets_the_same_window_or_one_of_its_size():
    crop = Crop(100, 50, 80, 128)
    inside, elsewhere = joints_in(120, 80, 150, 150, 1)[0], joints_in(320, 80, 350, 150, 1)[0]
    assert around(crop, inside, no_head(1)[0], 640, 480) is crop
    moved = around(crop, elsewhere, no_head(1)[0], 640, 480)
    assert (moved.width, moved.height) == (80, 128)
    assert ((moved.joints(elsewhere)[:, :2] > 0) & (moved.joints(elsewhere)[:, :2] < 1)).all()


def test_clips_stay_inside_shots_and_the_identity_inside_the_clip_s_shot():
    shots = np.repeat([0, 1], [38, 22])
    clips, dropped = plan_clips(track(), shots, config(), 320, 300)
    assert [(c.start, c.stop) for c in clips] == [(0, 17), (17, 34), (38, 55)]
    for clip in clips:
        assert shots[clip.identity] == shots[clip.start]
        assert not clip.start <= clip.identity < clip.stop
    assert not dropped


def test_the_identity_is_the_best_seen_other_frame_far_away():
    made = track()
    made.joints[40:, :12] = np.nan  # from here on little is seen
    made.joints[40:, :12, 2] = 0
    clips, _ = plan_clips(made, np.zeros(60, int), config(), 320, 300)
    assert clips[0].identity == 39


def change(made, **values):
    for name, (where, value) in values.items():
        getattr(made, name)[where] = value
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Track.empty(60), "no_person"),
        (change(track(), others=(slice(0, 60, 6), 1)), "multiple_people"),
        (change(track(), person=(slice(None, None, 2), 2)), "person_lost"),
        (change(track(), joints=(slice(0, 60, 3), 0.0)), "person_lost"),
        (track(box=(100, 60, 110, 90)), "too_small"),
        (track(box=(2, 140, 318, 290)), "does_not_fit"),
        (change(track(), person=(np.arange(60), np.arange(60) // 17)), "no_identity"),
    ],
)
def test_what_is_left_out_says_why(made, reason):
    clips, dropped = plan_clips(made, np.zeros(60, int), config(), 320, 300)
    assert not clips and reasons_of(dropped) == {reason: 3}


def test_many_clips_of_one_video_are_thinned_evenly():
    settings = config()
    settings.clip.max_per_video = 3
    clips, dropped = plan_clips(track(170), np.zeros(170, int), settings, 320, 300)
    assert [c.start for c in clips] == [0, 17 * 4, 17 * 9] and reasons_of(dropped) == {"over_max_per_video": 7}


def test_smoothing_takes_jitter_out_and_is_bounded():
    rng = np.random.default_rng(0)
    t = np.arange(60)
    path = np.zeros((60, 20, 3), np.float32)
    path[..., 0] = (100 * np.sin(t / 6))[:, None]
    noisy = path.copy()
    noisy[..., :2] += rng.normal(0, 1.0, (60, 20, 2))
    calm = smooth(noisy, 200.0, 0.01)
    assert np.abs(calm - path)[..., :2].mean() < 0.8 * np.abs(noisy - path)[..., :2].mean()
    assert np.linalg.norm((calm - noisy)[..., :2], axis=-1).max() <= 2.0 + 1e-4


def test_smoothing_leaves_unknown_joints_unknown_and_their_neighbours_in_place():
    joints = np.random.default_rng(1).normal(50, 5, (9, 20, 3)).astype(np.float32)
    joints[4, 3, :2] = np.nan
    calm = smooth(joints, 100.0, 0.05)
    assert np.isnan(calm[4, 3, :2]).all() and np.isnan(calm[..., :2]).any(-1).sum() == 1
    assert np.array_equal(calm[3, 3], joints[3, 3]) and np.array_equal(calm[5, 3], joints[5, 3])


def test_short_gaps_are_filled_between_their_neighbours_and_long_ones_are_not():
    joints = np.ones((12, 20, 3), np.float32)
    joints[..., 0] = np.arange(12)[:, None] * 2.0
    joints[2:4, 5] = (np.nan, np.nan, 0)
    joints[3:8, 6] = (np.nan, np.nan, 0)
    joints[:2, 7] = (np.nan, np.nan, 0)
    filled = fill_gaps(joints, 3)
    assert np.allclose(filled[2:4, 5], [(4, 1, 0.5), (6, 1, 0.5)])
    assert np.isnan(filled[3:8, 6, 0]).all() and np.isnan(filled[:2, 7, 0]).all(), "too long; no neighbour before"
    rest = np.ones(joints.shape[:2], bool)
    rest[2:4, 5] = False
    assert np.array_equal(filled[rest], joints[rest], equal_nan=True)


def two_shots(**shared):
    """The same face in two shots of 20 ticks each."""
    made = track(40)
    made.person[20:] = 2
    made.same[:] = 7
    return change(made, **shared), np.repeat([0, 1], 20)


def test_the_identity_may_come_from_another_shot_with_the_same_face():
    made, shots = two_shots()
    clips, _ = plan_clips(made, shots, config(), 320, 300)
    assert [c.start for c in clips] == [0, 20]
    assert clips[0].identity >= 20 and clips[1].identity < 20
    settings = config()
    settings.pairing.across = "shot"
    clips, _ = plan_clips(made, shots, settings, 320, 300)
    assert [shots[c.identity] for c in clips] == [0, 1]


@pytest.mark.parametrize(
    "why_not",
    [{"same": (slice(20, None), 8)}, {"same": (slice(None), 0)}, {"others": (slice(0, 40), 1)}],
    ids=["another face", "no face", "somebody else beside"],
)
def test_another_shot_gives_no_identity_frame_without_proof(why_not):
    made, shots = two_shots(**why_not)
    settings = config()
    settings.people.max_frames_with_others = 1.0
    clips, _ = plan_clips(made, shots, settings, 320, 300)
    assert [shots[c.identity] for c in clips] == [0, 1]


def test_an_identity_frame_keeps_its_distance_in_time():
    settings = config()
    settings.pairing.min_gap_sec = 1.0
    clips, _ = plan_clips(track(51), np.zeros(51, int), settings, 320, 300)
    assert [c.start for c in clips] == [0, 17, 34]
    assert all(c.identity >= c.stop + 12 or c.identity < c.start - 12 for c in clips)


def test_a_clip_into_which_somebody_else_reaches_is_dropped_when_people_are_split():
    made = track()
    made.intruders = np.full((60, 1, 4), np.nan, np.float32)
    made.intruders[20] = (90, 50, 170, 250)
    settings = config()
    settings.people.multiple = "split"
    clips, dropped = plan_clips(made, np.zeros(60, int), settings, 320, 300)
    assert [c.start for c in clips] == [0, 34] and reasons_of(dropped) == {"multiple_people": 1}


def test_a_judge_s_reason_drops_a_clip_and_its_numbers_stay():
    def judge(track, start, stop, crop):
        return {"motion": float(start)}, "little_motion" if start == 17 else None

    clips, dropped = plan_clips(track(), np.zeros(60, int), config(), 320, 300, judge)
    assert [(c.start, c.quality) for c in clips] == [(0, {"motion": 0.0}), (34, {"motion": 34.0})]
    assert [(d.reason, d.quality) for d in dropped] == [("little_motion", {"motion": 17.0})]


def test_an_identity_frame_shows_nobody_else():
    made = track(34)
    made.intruders = np.full((34, 1, 4), np.nan, np.float32)
    made.intruders[18:] = (90, 50, 170, 250)  # somebody stands in front from here on, but for one frame
    made.intruders[25] = np.nan
    settings = config()
    settings.people.multiple = "split"
    clips, dropped = plan_clips(made, np.zeros(34, int), settings, 320, 300)
    assert [(c.start, c.identity in (17, 25)) for c in clips] == [(0, True)]
    assert reasons_of(dropped) == {"multiple_people": 1}
