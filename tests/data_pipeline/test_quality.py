"""Quality of clips on rendered pictures whose answers are known."""

import json
from dataclasses import astuple, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from data_pipeline.quality.clip import RULES, body_height, clip_quality, judge, motion
from data_pipeline.quality.config import QualityConfig, QualityRules
from data_pipeline.quality.meter import NAMES, QualityMeter, sharpness
from imanim import config
from imanim.data.sample import JOINTS
from imanim.errors import ConfigError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra `data`)")

FPS, HEIGHT, WIDTH = 12.0, 180, 320
DIAGONAL = float(np.hypot(HEIGHT, WIDTH))
NOBODY = np.empty((0, 4))
PERSON = np.array([[110.0, 20.0, 190.0, 180.0]])


def texture(height, width, seed):
    """A picture with detail at every scale, as photographs have it: amplitudes fall as 1/f."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    f[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / f
    spectrum[0, 0] = 0
    gray = np.fft.irfft2(spectrum, s=(height, width))
    gray = np.clip(128 + 45 * gray / gray.std(), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


SCENE, COAT = texture(400, 700, 1), texture(160, 80, 2)


def picture(shift_x, shift_y, person=None, zoom=1.0):
    """The scene seen ``shift`` pixels further right and down, with a person at a box or none."""
    centre = (40 + WIDTH / 2 + shift_x, 40 + HEIGHT / 2 + shift_y)
    matrix = np.array([[1 / zoom, 0, centre[0] - WIDTH / 2 / zoom], [0, 1 / zoom, centre[1] - HEIGHT / 2 / zoom]])
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(SCENE, matrix, (WIDTH, HEIGHT), flags=flags)
    if person is not None:
        x, y = person[:2].astype(int)
        image[y : y + 160, x : x + 80] = COAT
    return image


def measure(images, boxes, **settings_):
    meter = QualityMeter(QualityConfig(text="none", **settings_), None, fps=FPS)
    return [meter.step(image, tick, box) for tick, (image, box) in enumerate(zip(images, boxes))]


@pytest.mark.parametrize("speed", [(3.0, 0.0), (-1.3, 0.7), (11.0, -4.0), (0.25, 0.0)])
def test_a_pan_behind_a_still_person_is_measured_within_a_tenth(speed):
    images = [picture(100 + speed[0] * t, 60 + speed[1] * t, PERSON[0]) for t in range(6)]
    found = [m.camera for m in measure(images, [PERSON] * 6)]
    assert np.isnan(found[0])
    # A twentieth of a pixel is what following points cannot do better than.
    tolerance = max(0.1 * np.hypot(*speed), 0.05) / DIAGONAL * FPS
    assert found[1:] == pytest.approx([np.hypot(*speed) / DIAGONAL * FPS] * 5, abs=tolerance)


def test_a_person_walking_before_a_still_background_is_no_camera_motion():
    boxes = [PERSON + [8 * t, 0, 8 * t, 0] for t in range(8)]
    found = measure([picture(100, 60, box[0]) for box in boxes], boxes)
    assert max(m.camera for m in found[1:]) < 0.002
    assert min(m.change for m in found[1:]) > 0.01


def test_a_slow_zoom_is_camera_motion_of_its_size():
    images = [picture(100, 60, zoom=1.0 + 0.02 * t) for t in range(4)]
    x, y = np.meshgrid(np.arange(WIDTH) - WIDTH / 2, np.arange(HEIGHT) - HEIGHT / 2)
    expected = 0.02 * np.median(np.hypot(x, y)) / DIAGONAL * FPS
    assert [m.camera for m in measure(images, [NOBODY] * 4)[1:]] == pytest.approx([expected] * 3, rel=0.25)


def test_the_camera_is_unknown_when_a_person_fills_the_frame_or_nothing_has_structure():
    filling = np.array([[2.0, 2.0, WIDTH - 2, HEIGHT - 2]])
    assert all(np.isnan(m.camera) for m in measure([picture(5 * t, 0) for t in range(4)], [filling] * 4))
    plain = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    assert all(np.isnan(m.camera) for m in measure([plain] * 4, [NOBODY] * 4))


def test_a_skipped_tick_doubles_the_time_and_a_new_shot_forgets():
    meter = QualityMeter(QualityConfig(text="none"), None, fps=FPS)
    meter.step(picture(100, 60), 0, NOBODY)
    assert meter.step(picture(104, 60), 2, NOBODY).camera == pytest.approx(4 / DIAGONAL * FPS / 2, rel=0.1)
    meter.new_shot()
    after = meter.step(picture(200, 60), 3, NOBODY)
    assert np.isnan(after.camera) and np.isnan(after.change)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 3.0])
def test_blur_orders_sharpness_the_same_at_any_size(scale):
    large = Image.fromarray(texture(600, 300, 3))
    found = []
    for blur in (0.0, 0.003, 0.006, 0.012):
        # The same scene through the same lens, in a file of another size.
        seen = large.filter(ImageFilter.GaussianBlur(blur * 600)) if blur else large
        size = (round(100 * scale), round(200 * scale))
        person = np.asarray(seen.resize(size, Image.Resampling.BOX))
        frame = np.full((size[1] + 40, size[0] + 40, 3), 90, np.uint8)
        frame[20:-20, 20:-20] = person
        box = np.array([[20, 20, size[0] + 20, size[1] + 20]], float)
        found.append(measure([frame], [box])[0].sharpness)
    assert found == sorted(found, reverse=True)
    assert found[1] < 0.9 * found[0] and found[3] < 0.5 * found[0]
    assert found[0] > QualityRules().min_sharpness > found[3]


def test_grain_does_not_make_a_blurred_person_sharp():
    blurred = np.asarray(Image.fromarray(texture(400, 200, 4)).filter(ImageFilter.GaussianBlur(5)), np.float64)
    grainy = np.clip(blurred + np.random.default_rng(0).normal(0, 3, blurred.shape), 0, 255).astype(np.uint8)
    limit = QualityRules().min_sharpness
    assert measure([grainy], [NOBODY])[0].sharpness < limit


def test_a_picture_without_edges_is_not_sharp():
    assert sharpness(np.full((40, 30), 0.5, np.float32), cv2) == 0.0
    rounding = np.random.default_rng(0).integers(100, 102, (120, 80)).astype(np.float32) / 255
    assert sharpness(rounding, cv2) == 0.0


def test_sharpness_and_brightness_are_the_largest_persons_own():
    frame = texture(300, 400, 5)
    blurred = np.asarray(Image.fromarray(COAT).filter(ImageFilter.GaussianBlur(4)))
    frame[40:200, 40:120] = blurred // 2
    frame[40:60, 300:320] = 255
    boxes = np.array([[300.0, 40.0, 320.0, 60.0], [40.0, 40.0, 120.0, 200.0]])
    person = measure([frame], [boxes])[0]
    whole = measure([frame], [NOBODY])[0]
    assert person.sharpness < 0.5 * whole.sharpness
    assert person.brightness == pytest.approx(blurred.mean() / 2 / 255, abs=0.01)
    assert whole.brightness > 0.4


def test_boxes_that_are_unknown_or_empty_are_nobody():
    frame = picture(100, 60)
    whole = measure([frame], [NOBODY])[0]
    assert measure([frame], [np.full((1, 4), np.nan)])[0].sharpness == whole.sharpness
    outside = measure([frame], [np.array([[400.0, 20.0, 460.0, 100.0]])])[0]
    assert np.isnan(outside.sharpness) and np.isnan(outside.brightness)


def test_the_same_frames_give_the_same_numbers_to_the_last_bit():
    images = [picture(100 + 3 * t, 60 + t, PERSON[0]) for t in range(6)]
    first, second = (np.array([astuple(m) for m in measure(images, [PERSON] * 6)]) for _ in range(2))
    assert first.tobytes() == second.tobytes()


class Counting:
    name = "counting"

    def __init__(self):
        self.seen = []

    def coverage(self, image):
        self.seen.append(image)
        return 0.25

    def find(self, image):
        return np.empty((0, 4), np.float32)


def test_text_is_looked_for_at_the_start_of_a_shot_and_once_a_second():
    finder = Counting()
    meter = QualityMeter(QualityConfig(), finder, fps=FPS)
    found = []
    for tick in range(30):
        if tick == 17:
            meter.new_shot()
        found.append(meter.step(picture(100, 60), tick, NOBODY).text)
    assert np.flatnonzero(np.isfinite(found)).tolist() == [0, 12, 17, 29]
    assert len(finder.seen) == 4


# ---------------------------------------------------------------------------------------------------------------- clips

STANDING = {
    "nose": (0, 92), "neck": (0, 81), "r_shoulder": (-11, 81), "l_shoulder": (11, 81), "r_elbow": (-13, 63),
    "l_elbow": (13, 63), "r_wrist": (-14, 48), "l_wrist": (14, 48), "r_hip": (-6, 52), "l_hip": (6, 52),
    "r_knee": (-6, 28), "l_knee": (6, 28), "r_ankle": (-6, 4), "l_ankle": (6, 4), "r_eye": (-2, 94), "l_eye": (2, 94),
    "r_ear": (-4, 93), "l_ear": (4, 93), "l_toe": (7, 0), "r_toe": (-7, 0),
}  # fmt: skip


def person(frames, height_px=300.0, at=(200.0, 350.0)):
    """A person standing still, ``height_px`` high, feet at a point: float32 [T,20,3]."""
    points = np.array([STANDING[name] for name in JOINTS]) / 100.0
    joints = np.ones((frames, len(JOINTS), 3), np.float32)
    joints[..., :2] = points * (height_px, -height_px) + at
    return joints


def numbers(joints, *, measures=None, hands=None, faces=None, **other):
    frames = len(joints)
    known = {"sharpness": 0.8, "brightness": 0.5, "camera": 0.01, "change": 0.01, "text": 0.0} | (measures or {})
    arrays = {name: np.broadcast_to(np.float32(value), (frames,)) for name, value in known.items()}
    hands = np.full((frames, 2), 0.9) if hands is None else hands
    faces = np.broadcast_to([180.0, 60.0, 220.0, 100.0], (frames, 4)) if faces is None else faces
    given_ = {"fps": FPS, "span": (0, frames), "size": (360, 640), "source_size": (1080, 1920), "rate_fps": 30.0}
    return clip_quality(arrays, joints, hands, faces, **given_ | other)


def test_a_body_has_its_height_whole_or_cut_at_the_hips():
    whole = person(5)
    half = person(5)
    half[:, [JOINTS.index(j) for j in JOINTS if j.endswith(("knee", "ankle", "toe"))], 2] = 0
    assert body_height(whole) == pytest.approx(300, rel=0.1)
    assert body_height(half) == pytest.approx(300, rel=0.1)
    nobody = np.full((5, 20, 3), np.nan, np.float32)
    nobody[..., 2] = 0
    assert np.isnan(body_height(nobody))


def test_walking_through_the_frame_is_way_and_waving_is_pose():
    walk, wave = person(25), person(25)
    walk[..., 0] += 300 / FPS * np.arange(25)[:, None]  # a height a second
    found = motion(walk, fps=FPS)
    assert found["motion_way"] == pytest.approx(300 / body_height(walk), rel=0.01)
    assert found["motion_pose"] == pytest.approx(0, abs=1e-6)
    hand = JOINTS.index("l_wrist")
    wave[:, hand, 0] += 60 * np.sin(2 * np.pi * np.arange(25) / FPS)
    found = motion(wave, fps=FPS)
    assert found["motion_way"] == 0
    # A fifth of a height to each side once a second is 0.8 heights a second, for one joint of twenty; about eight tenths of it
    # are left of the way over a quarter of a second.
    assert found["motion_pose"] == pytest.approx(0.82 * 0.8 / 20, rel=0.05)


def test_jitter_and_a_joint_lost_for_a_frame_are_hardly_motion():
    rng = np.random.default_rng(0)
    joints = person(40)
    joints[..., :2] += rng.normal(0, 0.005 * 300, joints[..., :2].shape).astype(np.float32)
    shaky = motion(joints, fps=FPS)["motion"]
    assert shaky < 0.04
    joints = person(40)
    joints[20, JOINTS.index("r_wrist"), :2] += 200
    assert motion(joints, fps=FPS)["motion"] < 1e-6


def test_motion_does_not_depend_on_the_size_or_the_frame_rate():
    def waving(height, fps):
        joints = person(int(2 * fps) + 1, height)
        phase = 2 * np.pi * np.arange(len(joints)) / fps
        joints[:, JOINTS.index("l_wrist"), 0] += 0.2 * height * np.sin(phase)
        return motion(joints, fps=fps)["motion"]

    assert waving(80, 12.0) == pytest.approx(waving(300, 12.0), rel=0.01)
    assert waving(300, 30.0) == pytest.approx(waving(300, 12.0), rel=0.1)


def test_sizes_are_in_pixels_of_the_file():
    found = numbers(person(17))
    assert found["person_px"] == pytest.approx(3 * (350 - 60))
    assert found["face_px"] == pytest.approx(3 * 40)
    assert (found["source_side_px"], found["rate_fps"]) == (1080, 30)


def test_a_close_up_is_as_high_as_its_face_when_no_joint_is_lower():
    joints = person(17, 1500, at=(320, 1600))
    joints[:, [i for i, name in enumerate(JOINTS) if not name.endswith(("eye", "ear")) and name != "nose"], 2] = 0
    faces = np.broadcast_to([250.0, 100.0, 390.0, 300.0], (17, 4))
    assert numbers(joints, faces=faces)["person_px"] == pytest.approx(3 * 200)


def test_what_cannot_be_measured_is_left_out_and_breaks_no_rule():
    joints = np.full((17, 20, 3), np.nan, np.float32)
    joints[..., 2] = 0
    unknown = dict.fromkeys(NAMES, np.nan)
    found = numbers(joints, measures=unknown, hands=np.full((17, 2), np.nan), faces=np.full((17, 4), np.nan))
    assert found == {"face_share": 0.0, "source_side_px": 1080.0, "rate_fps": 30.0}
    assert judge(found, QualityRules(min_hands=0.5)) is None
    assert judge(found, QualityRules(min_face_share=0.5)) == "face_hidden"


def test_the_text_of_a_clip_is_the_most_of_its_checks_and_the_last_before():
    text = np.full(60, np.nan, np.float32)
    text[[0, 12, 24, 36]] = [0.5, 0.1, 0.2, 0.4]
    measures = {name: np.zeros(60, np.float32) for name in NAMES} | {"text": text}
    rest = {"fps": FPS, "size": (360, 640), "source_size": (360, 640), "rate_fps": 24.0}
    for span, expected in {(14, 31): 0.2, (12, 22): 0.1, (13, 24): 0.1, (0, 12): 0.5, (40, 57): 0.4}.items():
        frames = span[1] - span[0]
        arrays = (person(frames), np.full((frames, 2), np.nan), np.full((frames, 4), np.nan))
        assert clip_quality(measures, *arrays, span=span, **rest)["text"] == pytest.approx(expected), span


def test_a_still_picture_is_static_and_so_is_a_slide_show():
    still = [picture(100, 60)] * 17
    noisy = [np.clip(image + np.random.default_rng(t).normal(0, 1, image.shape), 0, 255).astype(np.uint8)
             for t, image in enumerate(still)]  # fmt: skip
    slides = [picture(100 + 20 * (t // 6), 60) for t in range(17)]
    moving = [picture(100 + 0.5 * t, 60) for t in range(17)]
    expected = {"still": (still, "static"), "slides": (slides, "static"), "moving": (moving, None)}
    for name, (images, reason) in expected.items():
        change = np.array([m.change for m in measure(images, [NOBODY] * 17)], np.float32)
        waving = person(17)
        waving[:, JOINTS.index("l_wrist"), 0] += 40 * np.sin(np.arange(17))
        found = numbers(waving, measures={"change": change})
        assert judge(found, QualityRules()) == reason, name
    changes = np.array([m.change for m in measure(noisy, [NOBODY] * 17)][1:])
    assert changes.max() < 0.004  # grain of a gray level averages out in the thumbnail


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="16 joints"):
        numbers(person(16), span=(0, 17))


# -------------------------------------------------------------------------------------------------------------- judging


def test_a_clip_that_fades_to_black_is_dark():
    walk = person(17)
    walk[..., 0] += 10 * np.arange(17)[:, None]
    still, fading = (numbers(walk, measures={"brightness": b}) for b in (0.3, np.linspace(0.45, 0.0, 17)))
    assert judge(still, QualityRules()) is None and judge(fading, QualityRules()) == "dark"


GOOD = {"source_side_px": 720.0, "rate_fps": 25.0, "person_px": 400.0, "brightness": 0.4, "static": 0.0, "text": 0.0,
        "camera": 0.02, "sharpness": 0.8, "motion": 0.1, "motion_pose": 0.08, "motion_way": 0.05, "face_px": 60.0,
        "face_share": 1.0, "hands": 0.9}  # fmt: skip
STRICT = QualityRules(
    min_motion=0.05, max_motion=2.0, min_pose_motion=0.02, max_camera_motion=0.1, min_sharpness=0.4, max_text=0.01,
    max_static=0.5, min_person_px=200.0, min_face_px=30.0, min_face_share=0.5, min_hands=0.5, min_source_side_px=480.0,
    min_rate_fps=20.0, min_brightness=0.1,
)  # fmt: skip
BAD = {"min": 0.5, "max": 1.5}


@pytest.mark.parametrize(("reason", "name", "threshold", "side"), RULES)
def test_each_rule_gives_its_reason_and_is_off_at_none_and_nought(reason, name, threshold, side):
    assert judge(GOOD, STRICT) is None
    broken = GOOD | {name: getattr(STRICT, threshold) * BAD[side]}
    assert judge(broken, STRICT) == reason
    for off in (None, 0.0):
        values = {f.name: getattr(STRICT, f.name) for f in fields(STRICT)} | {threshold: off}
        assert judge(broken, QualityRules(**values)) is None


def test_every_threshold_is_used_by_a_rule():
    assert {threshold for _, _, threshold, _ in RULES} == {f.name for f in fields(QualityRules)}


@given(
    st.dictionaries(st.sampled_from(sorted(GOOD)), st.floats(0, 2000), max_size=14),
    st.sampled_from([r for r in RULES if r[1] != "motion"]),
    st.floats(0, 1000),
)
@settings(max_examples=300, deadline=None)
def test_a_better_number_never_drops_a_clip(values, rule, amount):
    _, name, _, side = rule
    before = judge(values, STRICT)
    if name in values and before is None:
        better = values[name] + amount if side == "min" else values[name] - amount
        assert judge(values | {name: better}, STRICT) is None


@given(
    st.dictionaries(st.sampled_from(sorted(GOOD)), st.floats(0, 2000), max_size=14),
    st.sampled_from(RULES),
    st.floats(0.01, 1),
)
@settings(max_examples=300, deadline=None)
def test_a_stricter_threshold_never_keeps_what_a_looser_one_drops(values, rule, part):
    _, _, threshold, side = rule
    strict = {f.name: getattr(STRICT, f.name) for f in fields(STRICT)}
    loose = QualityRules(
        **strict | {threshold: strict[threshold] * part if side == "min" else strict[threshold] / part}
    )
    assert judge(values, STRICT) is not None or judge(values, loose) is None


def test_settings_that_make_no_sense_are_all_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        config.from_dict(QualityConfig, {"text": "tesseract", "side_px": 8, "check_text_every_sec": 0.0})
    assert [p.split(":")[1].strip() for p in caught.value.problems] == ["text", "check_text_every_sec", "side_px"]
    assert len(QualityRules(min_motion=2.0, max_motion=1.0, max_text=3.0, min_hands=-1.0).problems()) == 3
    assert QualityRules().problems() == [] and QualityConfig().problems() == []


def test_the_numbers_can_be_written_as_json():
    found = numbers(person(17))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
