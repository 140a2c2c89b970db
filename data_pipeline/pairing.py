"""Which stretches of a video become clips, with which crop, and which other frame shows the character.

A self pair: the clip is its own truth, and the identity frame is the same person at another time of the same shot.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from data_pipeline.config import FilterConfig, VideosConfig
from data_pipeline.framing import Crop, around, fit
from data_pipeline.people import UNCHECKED, Track, runs

MAX_CANDIDATES = 240


@dataclass(frozen=True)
class Clip:
    """Ticks [start, stop) of a video seen through ``crop``; the identity frame is tick ``identity`` through its own."""

    start: int
    stop: int
    crop: Crop
    identity: int
    identity_crop: Crop


def plan_clips(
    track: Track, shots: np.ndarray, config: VideosConfig, width: int, height: int
) -> tuple[list[Clip], Counter]:
    """Chooses the clips of a video.

    Args:
        track: the person at each tick, in pixels of frames ``width`` x ``height``.
        shots: int [N] shot number of each tick.

    Returns:
        the clips, and how many stretches were left out for which reason: hard_cut, no_person, person_lost,
        multiple_people, too_small, does_not_fit, no_identity; short_rest counts ends shorter than a clip.
    """
    clips: list[Clip] = []
    left_out: Counter = Counter()
    frames, stride, total = config.clip.frames, config.clip.stride_frames, len(shots)
    if total < frames:
        left_out["too_short"] += 1
        return clips, left_out
    known = track.known()
    # Clips start afresh in every shot, so that a cut costs the rest of its shot and no more.
    for first, last in runs(shots):
        starts = range(first, last - frames + 1, stride)
        if not starts:
            left_out["hard_cut" if last - first < total else "too_short"] += 1
        for start in starts:
            planned = _plan(track, known, range(first, last), start, config, width, height)
            if isinstance(planned, Clip):
                clips.append(planned)
            else:
                left_out[planned] += 1
    if len(clips) > config.clip.max_per_video:
        left_out["over_max_per_video"] += len(clips) - config.clip.max_per_video
        spread = np.linspace(0, len(clips) - 1, config.clip.max_per_video).round().astype(int)
        clips = [clips[i] for i in spread]
    return clips, left_out


def _plan(
    track: Track, known: np.ndarray, shot: range, start: int, config: VideosConfig, width: int, height: int
) -> Clip | str:
    """The clip that starts there, or the reason why not."""
    rules, size = config.filter, config.clip
    stop = start + size.frames
    seen = known[start:stop] >= rules.min_known_joints
    if not seen.any():
        return "no_person"
    if seen.mean() < rules.min_frames_with_person:
        return "person_lost"
    if len(set(track.person[start:stop][seen].tolist())) > 1:
        return "person_lost"
    if _crowded(track.others[start:stop], rules) or _crowded(track.others[shot.start : shot.stop], rules):
        return "multiple_people"
    crop = fit(
        track.joints[start:stop],
        track.heads[start:stop],
        width,
        height,
        aspect=size.height / size.width,
        margin=rules.margin,
        max_padding=rules.max_padding,
        min_inside=rules.min_joints_inside,
    )
    if crop is None:
        return "does_not_fit"
    if size.height / crop.height > rules.max_enlargement:
        return "too_small"
    person = int(track.person[start:stop][seen][0])
    elsewhere = [t for t in shot if not start <= t < stop and track.person[t] == person]
    identity = choose_identity(track, np.array(elsewhere, int), start, stop, crop, rules.min_known_joints)
    if identity is None:
        return "no_identity"
    other = around(crop, track.joints[identity], track.heads[identity], width, height)
    return Clip(start, stop, crop, identity, other)


def _crowded(others: np.ndarray, rules: FilterConfig) -> bool:
    """Whether the detector saw somebody else too often, in a clip or in its whole shot (it misses people at times)."""
    checked = others[others != UNCHECKED]
    return len(checked) > 0 and float((checked > 0).mean()) > rules.max_frames_with_others


def choose_identity(track: Track, ticks: np.ndarray, start: int, stop: int, crop: Crop, min_known: int) -> int | None:
    """The tick of the identity frame: the person well seen, their face too, far from the clip in pose and in time.

    Args:
        ticks: int [M], where the same person is followed in the same shot, outside the clip.

    Returns:
        None when the person is not seen well enough at any of them.
    """
    ticks = ticks[(track.joints[ticks, :, 2] > 0).sum(axis=1) >= min_known]
    if not len(ticks):
        return None
    # A long shot offers thousands; an even spread of them is as good, and keeps the work per clip constant.
    ticks = ticks[np.linspace(0, len(ticks) - 1, min(len(ticks), MAX_CANDIDATES)).round().astype(int)]
    clip, others = crop.joints(track.joints[start:stop]), crop.joints(track.joints[ticks])
    seen = _inside(others).sum(axis=1) / max(int(_inside(clip).sum(axis=1).max()), 1)
    face = ~np.isnan(track.faces[ticks]).any(axis=1)
    # Mean distance to the clip's poses over the joints known in both; the window's side is the unit.
    apart = np.linalg.norm(others[:, None, :, :2] - clip[None, :, :, :2], axis=-1)
    both = ~np.isnan(apart)
    pose = np.where(both, apart, 0).sum(axis=(1, 2)) / np.maximum(both.sum(axis=(1, 2)), 1)
    away = np.maximum(start - ticks, ticks - stop + 1)
    score = np.minimum(seen, 1.0) + 0.5 * face + np.minimum(pose / 0.2, 1.0) + 0.5 * away / away.max()
    return int(ticks[np.argmax(score)])


def _inside(joints: np.ndarray) -> np.ndarray:
    """bool [...,20]: joints [...,20,3] that are known and inside the window."""
    return (joints[..., 2] > 0) & (joints[..., :2] >= 0).all(axis=-1) & (joints[..., :2] < 1).all(axis=-1)
