"""The numbers of a clip, from what was measured tick by tick, and the rules that judge them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from data_pipeline.quality.config import QualityRules
from imanim.data.sample import JOINTS

SPEED_SEC = 0.25  # a joint's speed is its way over this time: jitter from frame to frame adds little to it
FROZEN = 0.0002  # change of a step, 0 to 1: a still picture under x264 or VP9 stays below, a quiet face above
DARK_PERCENTILE = 10  # of the brightness: a clip that fades to black is as bright as its dark end
LOW_PERCENTILE = 20  # of the sharpness: a clip is as sharp as its worse frames, a single odd one aside

# Lengths between two joints in parts of a standing adult's height (Drillis and Contini, 1966; heads after Farkas, 1994).
PROPORTIONS = (
    (("r_shoulder", "l_shoulder"), 0.22),
    (("neck", "r_hip"), 0.30),
    (("neck", "l_hip"), 0.30),
    (("r_hip", "r_ankle"), 0.49),
    (("l_hip", "l_ankle"), 0.49),
    (("nose", "neck"), 0.11),
    (("r_ear", "l_ear"), 0.085),
)
PROPORTION_PERCENTILE = 80  # over the frames: a limb that points at the camera is short, none is too long
TORSO = [JOINTS.index(name) for name in ("neck", "r_shoulder", "l_shoulder", "r_hip", "l_hip")]


def clip_quality(
    measures: Mapping[str, np.ndarray],
    joints: np.ndarray,
    hands: np.ndarray,
    faces: np.ndarray,
    *,
    fps: float,
    span: tuple[int, int],
    size: tuple[int, int],
    source_size: tuple[int, int],
    rate_fps: float,
) -> dict[str, float]:
    """The numbers of a clip: ticks [start, stop) of a video, T of them.

    Args:
        measures: float32 [N] a name, over the whole video: those of :class:`~data_pipeline.quality.meter.Measures`.
        joints: [T,20,3] of the clip in pixels of the decoded frame, visibility; NaN = unknown.
        hands: [T,2] certainty of the right and left hand, 0 to 1; NaN = not expected in the picture.
        faces: [T,4] face boxes in pixels of the decoded frame; NaN = none.
        fps: ticks a second.
        span: (start, stop).
        size: (height, width) of the decoded frames. source_size: of the file's picture, upright.
        rate_fps: mean frame rate of the file.

    Returns:
        finite numbers; one that could not be measured is left out:
        motion, motion_pose, motion_way (heights of the person a second: joints; joints against the torso; the torso),
        camera (diagonals a second), sharpness, brightness, text (part of the frame), static (part of the steps), person_px,
        face_px, source_side_px (pixels of the file), face_share (part of the frames), hands, rate_fps.

    Raises:
        ValueError: arrays that do not belong together.
    """
    start, stop = span
    if not (len(joints) == len(hands) == len(faces) == stop - start) or stop - start < 2:
        raise ValueError(f"clip_quality: {len(joints)} joints, {len(hands)} hands, {len(faces)} faces for span {span}")
    scale = source_size[0] / size[0]
    steps = slice(start + 1, stop)  # the first tick's step leads into the clip, not through it
    change = _known(measures["change"][steps])
    numbers = {
        **motion(joints, fps=fps),
        "camera": _mean(measures["camera"][steps]),
        "sharpness": _percentile(measures["sharpness"][start:stop], LOW_PERCENTILE),
        "brightness": _percentile(measures["brightness"][start:stop], DARK_PERCENTILE),
        "text": _most_text(measures["text"], start, stop),
        "static": _mean(change < FROZEN),
        "person_px": scale * _visible_height(joints, faces, size[0]),
        "face_px": scale * _percentile(faces[:, 3] - faces[:, 1], 50),
        "face_share": _mean(~np.isnan(faces).any(axis=1)),
        "hands": _mean(hands),
        "source_side_px": float(min(source_size)),
        "rate_fps": float(rate_fps),
    }
    return {name: float(value) for name, value in numbers.items() if np.isfinite(value)}


def motion(joints: np.ndarray, *, fps: float) -> dict[str, float]:
    """How much a person moves, in their own heights a second: of all known joints, against the torso, and of the torso.

    Joints are put through a median of three frames, so that a joint lost for one frame does not count, and their speed is
    the way over a quarter of a second: jitter of half a percent of the height then counts as 0.024, an arm that waves once a
    second as eight tenths of its speed.

    Args:
        joints: [T,20,3] in pixels, NaN = unknown.

    Returns:
        motion, motion_pose, motion_way; NaN when nobody is followed.
    """
    height = body_height(joints)
    reach = max(1, min(round(SPEED_SEC * fps), len(joints) - 1))
    points = _median_of_three(np.where(joints[..., 2:] > 0, joints[..., :2], np.nan).astype(np.float64))
    way = (points[reach:] - points[:-reach]) * (fps / reach / height)
    torso = _mean_of_known(way[:, TORSO])
    return {
        "motion": _mean(np.linalg.norm(way, axis=-1)),
        "motion_pose": _mean(np.linalg.norm(way - torso[:, None], axis=-1)),
        "motion_way": _mean(np.linalg.norm(torso, axis=-1)),
    }


def body_height(joints: np.ndarray) -> float:
    """Height in pixels that the person would have standing upright, from the parts that show; NaN when too little does.

    Args:
        joints: [T,20,3] in pixels, NaN = unknown.
    """
    points = np.where(joints[..., 2:] > 0, joints[..., :2], np.nan).astype(np.float64)
    found = []
    for (a, b), part in PROPORTIONS:
        length = np.linalg.norm(points[:, JOINTS.index(a)] - points[:, JOINTS.index(b)], axis=-1)
        found.append(_percentile(length, PROPORTION_PERCENTILE) / part)
    known = [height for height in found if np.isfinite(height) and height > 0]
    # Foreshortening makes a length too short, never too long; the median of the longer half bears one wrong joint.
    return float(np.median(sorted(known)[len(known) // 2 :])) if known else float("nan")


# -------------------------------------------------------------------------------------------------------------- judging

Side = Literal["min", "max"]
RULES: tuple[tuple[str, str, str, Side], ...] = (
    ("low_resolution", "source_side_px", "min_source_side_px", "min"),
    ("low_frame_rate", "rate_fps", "min_rate_fps", "min"),
    ("person_small", "person_px", "min_person_px", "min"),
    ("dark", "brightness", "min_brightness", "min"),
    ("static", "static", "max_static", "max"),
    ("text", "text", "max_text", "max"),
    ("camera_motion", "camera", "max_camera_motion", "max"),
    ("blurred", "sharpness", "min_sharpness", "min"),
    ("little_motion", "motion", "min_motion", "min"),
    ("little_motion", "motion_pose", "min_pose_motion", "min"),
    ("too_much_motion", "motion", "max_motion", "max"),
    ("face_small", "face_px", "min_face_px", "min"),
    ("face_hidden", "face_share", "min_face_share", "min"),
    ("hands_unsure", "hands", "min_hands", "min"),
)
"""(reason, number, threshold in `QualityRules`, which side of it is kept), in the order in which they are applied."""


def judge(numbers: Mapping[str, float], rules: QualityRules) -> str | None:
    """The first rule that a clip's numbers break, as its reason; None when they break none. Unmeasured numbers break none."""
    for reason, name, threshold, side in RULES:
        limit, value = getattr(rules, threshold), numbers.get(name)
        if not limit or value is None:
            continue
        if (value < limit) if side == "min" else (value > limit):
            return reason
    return None


# -------------------------------------------------------------------------------------------------------------- numbers


def _known(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values[np.isfinite(values)]


def _mean(values: np.ndarray) -> float:
    known = _known(values)
    return float(known.mean()) if len(known) else float("nan")


def _percentile(values: np.ndarray, q: float) -> float:
    known = _known(values)
    return float(np.percentile(known, q)) if len(known) else float("nan")


def _mean_of_known(points: np.ndarray) -> np.ndarray:
    """[T,J,2] -> [T,2]: the mean of the known ones, NaN where none is."""
    known = np.isfinite(points).all(axis=-1, keepdims=True)
    count = known.sum(axis=1)
    total = np.where(known, points, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _median_of_three(points: np.ndarray) -> np.ndarray:
    """[T,...]: each value replaced by the median of it and its two neighbours in time, where all three are known."""
    if len(points) < 3:
        return points
    out = points.copy()
    middle = np.median(np.stack([points[:-2], points[1:-1], points[2:]]), axis=0)
    out[1:-1] = np.where(np.isnan(middle), points[1:-1], middle)
    return out


def _most_text(text: np.ndarray, start: int, stop: int) -> float:
    """The most text of the checks inside the clip and of the last one before it.

    The first tick of every shot is checked, so that the last check before a clip belongs to its shot.
    """
    checks = np.flatnonzero(np.isfinite(text[:stop]))
    within = checks[max(0, int(np.searchsorted(checks, start, side="right")) - 1) :]
    return float(text[within].max()) if len(within) else float("nan")


def _visible_height(joints: np.ndarray, faces: np.ndarray, frame_height: float) -> float:
    """Median over the frames of the height that known joints and face span inside the frame, in pixels."""
    joint_y = np.where(joints[..., 2] > 0, joints[..., 1], np.nan)
    y = np.clip(np.concatenate([joint_y, faces[:, 1::2]], axis=1), 0, frame_height)
    y = y[(~np.isnan(y)).sum(axis=1) >= 2]
    return float(np.median(np.nanmax(y, axis=1) - np.nanmin(y, axis=1))) if len(y) else float("nan")
