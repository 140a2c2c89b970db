"""Which stretches of a video become clips, with which crop, and which other frame shows the character.

A self pair: the clip is its own truth, and the identity frame is the same person at another time: of the same shot, or of another
one in which the same face was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from data_pipeline.config import PeopleConfig, VideosConfig
from data_pipeline.video.framing import Crop, around, fit
from data_pipeline.video.tracks import NOBODY, UNCHECKED, Track, runs

MAX_CANDIDATES = 240
Numbers = dict[str, float]
Judge = Callable[[Track, int, int, Crop], tuple[Numbers, str | None]]
"""A stretch's quality in numbers, and the reason why it is not good enough, if so."""


@dataclass(frozen=True)
class Clip:
    """Ticks [start, stop) of a video seen through ``crop``; the identity frame is tick ``identity`` through its own."""

    start: int
    stop: int
    crop: Crop
    identity: int
    identity_crop: Crop
    quality: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """Ticks [start, stop) that became no clip, and why."""

    start: int
    stop: int
    reason: str
    quality: Numbers = field(default_factory=dict)


def plan_clips(
    track: Track, shots: np.ndarray, config: VideosConfig, width: int, height: int, judge: Judge | None = None
) -> tuple[list[Clip], list[Dropped]]:
    """Chooses the clips of a track.

    Args:
        track: the person at each tick, in pixels of frames ``width`` x ``height``.
        shots: int [N] shot number of each tick.
        judge: measures a stretch; None: everything is good enough.

    Returns:
        the clips, and the stretches left out: hard_cut, too_short (rests and videos shorter than a clip), no_person, person_lost,
        multiple_people, too_small, does_not_fit, no_identity, over_max_per_video, and what ``judge`` says.
    """
    clips: list[Clip] = []
    dropped: list[Dropped] = []
    frames, stride, total = config.clip.frames, config.clip.stride_frames, len(shots)
    known = track.known()
    # Clips start afresh in every shot, so that a cut costs the rest of its shot and no more.
    for first, last in runs(shots):
        starts = range(first, last - frames + 1, stride)
        if not starts:
            dropped.append(Dropped(first, last, "hard_cut" if last - first < total else "too_short"))
        for start in starts:
            planned = _plan(track, known, range(first, last), start, config, width, height, judge)
            clips.append(planned) if isinstance(planned, Clip) else dropped.append(planned)
    most = config.clip.max_per_video
    if len(clips) > most:
        spread = set(np.linspace(0, len(clips) - 1, most).round().astype(int).tolist())
        dropped += [Dropped(c.start, c.stop, "over_max_per_video") for i, c in enumerate(clips) if i not in spread]
        clips = [c for i, c in enumerate(clips) if i in spread]
    return clips, dropped


def reasons_of(dropped: list[Dropped]) -> Counter:
    """How many stretches were left out for which reason."""
    return Counter(d.reason for d in dropped)


def _plan(
    track: Track,
    known: np.ndarray,
    shot: range,
    start: int,
    config: VideosConfig,
    width: int,
    height: int,
    judge: Judge | None,
) -> Clip | Dropped:
    """The clip that starts there, or why there is none."""
    rules, size = config.framing, config.clip
    stop = start + size.frames
    seen = known[start:stop] >= rules.min_known_joints
    if not seen.any():
        return Dropped(start, stop, "no_person")
    if seen.mean() < rules.min_frames_with_person or len(set(track.person[start:stop][seen].tolist())) > 1:
        return Dropped(start, stop, "person_lost")
    if _crowded(track, shot, start, stop, config.people):
        return Dropped(start, stop, "multiple_people")
    crop = _fit(track, slice(start, stop), config, width, height)
    if crop is None:
        return Dropped(start, stop, "does_not_fit")
    if size.height / crop.height > rules.max_enlargement:
        return Dropped(start, stop, "too_small")
    if _intruded(track.intruders[start:stop], crop) > config.people.max_intrusion:
        return Dropped(start, stop, "multiple_people")
    numbers, reason = judge(track, start, stop, crop) if judge is not None else ({}, None)
    if reason is not None:
        return Dropped(start, stop, reason, numbers)
    person = int(track.person[start:stop][seen][0])
    found = choose_identity(track, person, shot, start, stop, crop, config, width, height)
    if found is None:
        return Dropped(start, stop, "no_identity", numbers)
    return Clip(start, stop, crop, *found, numbers)


def _fit(track: Track, span: slice, config: VideosConfig, width: int, height: int) -> Crop | None:
    rules = config.framing
    return fit(
        track.joints[span],
        track.heads[span],
        width,
        height,
        aspect=config.clip.height / config.clip.width,
        margin=rules.margin,
        max_padding=rules.max_padding,
        min_inside=rules.min_joints_inside,
    )


def _crowded(track: Track, shot: range, start: int, stop: int, rules: PeopleConfig) -> bool:
    """Whether the detector saw somebody else too often, in a clip or in its whole shot (it misses people at times)."""
    if rules.multiple == "split":
        return False
    for span in (slice(start, stop), slice(shot.start, shot.stop)):
        checked = track.others[span][track.others[span] != UNCHECKED]
        if len(checked) and float((checked > 0).mean()) > rules.max_frames_with_others:
            return True
    return False


def _intruded(boxes: np.ndarray, crop: Crop) -> float:
    """The largest part of a window that somebody else's box covers in any frame; boxes [T,P,4] in pixels."""
    if not boxes.size or np.isnan(boxes).all():
        return 0.0
    low = np.maximum(boxes[..., :2], (crop.x, crop.y))
    high = np.minimum(boxes[..., 2:], (crop.x + crop.width, crop.y + crop.height))
    covered = np.maximum(high - low, 0).prod(axis=-1)
    return float(np.nanmax(covered)) / (crop.width * crop.height)


def choose_identity(
    track: Track,
    person: int,
    shot: range,
    start: int,
    stop: int,
    crop: Crop,
    config: VideosConfig,
    width: int,
    height: int,
) -> tuple[int, Crop] | None:
    """The tick of the identity frame and its window: the person well seen, their face too, far from the clip in pose and time.

    Candidates are ticks outside the clip at which the same person is followed in the same shot; with ``pairing.across=video``
    also ticks of other shots at which the same face was found, nobody else is seen, and a window of the samples' aspect fits.

    Returns:
        None when the person is not seen well enough at any of them.
    """
    ticks = _candidates(track, person, shot, start, stop, config)
    if not len(ticks):
        return None
    crops = [_window_at(track, int(t), shot, crop, config, width, height) for t in ticks]
    fitting = [i for i, window in enumerate(crops) if window is not None]
    ticks, windows = ticks[fitting], [window for window in crops if window is not None]
    if not len(ticks):
        return None
    clip = crop.joints(track.joints[start:stop])
    # In the same shot a pose counts where it is in the clip's window; elsewhere, where it is in its own.
    others = np.stack([(crop if t in shot else w).joints(track.joints[t]) for t, w in zip(ticks, windows)])
    seen = _inside(others).sum(axis=1) / max(int(_inside(clip).sum(axis=1).max()), 1)
    face = ~np.isnan(track.faces[ticks]).any(axis=1)
    # Mean distance to the clip's poses over the joints known in both; the window's side is the unit.
    apart = np.linalg.norm(others[:, None, :, :2] - clip[None, :, :, :2], axis=-1)
    both = ~np.isnan(apart)
    pose = np.where(both, apart, 0).sum(axis=(1, 2)) / np.maximum(both.sum(axis=(1, 2)), 1)
    away = np.maximum(start - ticks, ticks - stop + 1)
    score = np.minimum(seen, 1.0) + 0.5 * face + np.minimum(pose / 0.2, 1.0) + 0.5 * away / away.max()
    best = int(np.argmax(score))
    return int(ticks[best]), windows[best]


def _candidates(track: Track, person: int, shot: range, start: int, stop: int, config: VideosConfig) -> np.ndarray:
    here = np.zeros(len(track.person), bool)
    here[shot.start : shot.stop] = True
    mine = here & (track.person == person)
    if config.pairing.across == "video":
        group = int(track.same[start:stop][track.person[start:stop] == person][0])
        alone = (track.others <= 0) & np.isnan(track.intruders).all(axis=(1, 2))
        mine |= ~here & (track.same == group) & (group != NOBODY) & alone
    gap = round(config.pairing.min_gap_sec * config.clip.fps)
    mine[max(0, start - gap) : stop + gap] = False
    ticks = np.flatnonzero(mine & (track.known() >= config.framing.min_known_joints))
    # A long video offers thousands; an even spread of them is as good, and keeps the work per clip constant.
    return ticks[np.linspace(0, len(ticks) - 1, min(len(ticks), MAX_CANDIDATES)).round().astype(int)]


def _window_at(
    track: Track, tick: int, shot: range, crop: Crop, config: VideosConfig, width: int, height: int
) -> Crop | None:
    if tick in shot:
        window: Crop | None = around(crop, track.joints[tick], track.heads[tick], width, height)
    else:
        window = _fit(track, slice(tick, tick + 1), config, width, height)
        if window is None or config.clip.height / window.height > config.framing.max_enlargement:
            return None
    if window is None or _intruded(track.intruders[tick : tick + 1], window) > config.people.max_intrusion:
        return None
    return window


def _inside(joints: np.ndarray) -> np.ndarray:
    """bool [...,20]: joints [...,20,3] that are known and inside the window."""
    return (joints[..., 2] > 0) & (joints[..., :2] >= 0).all(axis=-1) & (joints[..., :2] < 1).all(axis=-1)
