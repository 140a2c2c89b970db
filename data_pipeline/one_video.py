"""One video -> samples: scan, follow the person, choose clips, cut them out.

Three passes over the file, each holding one frame (and the clips being filled): memory does not grow with the video.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import sources
from data_pipeline.config import VideosConfig
from data_pipeline.face import FaceFinder
from data_pipeline.framing import Crop
from data_pipeline.pairing import Clip, plan_clips
from data_pipeline.people import Follower, Track, runs, smooth
from data_pipeline.pose.base import PoseNetwork
from data_pipeline.shots import find_cuts, shots_of_ticks
from imanim.data.sample import Sample, encode

EncodedSample = tuple[str, dict[str, bytes]]


@dataclass
class Networks:
    """What a worker loads once."""

    pose: PoseNetwork
    faces: FaceFinder


def process(
    path: Path, name: str, sha256: str, config: VideosConfig, networks: Networks
) -> tuple[list[EncodedSample], dict[str, Any]]:
    """Makes the samples of one video.

    Args:
        path: the file. name: how the report calls it. sha256: of its bytes; the keys carry it.

    Returns:
        the encoded samples in order of time, and the report's facts: seconds, ticks, cuts, clips, left_out, cpu times.

    Raises:
        Unusable: nothing can be made of this file, with the reason.
    """
    begun = time.process_time()
    scan = sources.scan(path, config.clip.fps, max_side=config.max_side)
    rules = config.filter
    cuts = find_cuts(
        scan.change, scan.times_sec, ratio=rules.cut_ratio, change=rules.cut_change, max_gap_sec=rules.max_gap_sec
    )
    shots = shots_of_ticks(scan.picks, cuts)
    scanned = time.process_time()
    track = follow(path, scan, shots, config, networks)
    followed = time.process_time()
    clips, left_out = plan_clips(track, shots, config, scan.width, scan.height)
    samples = list(_cut_out(path, name, sha256, scan, track, clips, config, networks.pose.name))
    facts = {
        "seconds": round(scan.seconds, 3),
        "size": [scan.height, scan.width],
        "rate_fps": round(scan.rate_fps, 3),
        "codec": scan.codec,
        "frames": scan.frames,
        "ticks": len(scan.picks),
        "cuts": [int(c) for c in cuts],
        "person_ticks": int((track.known() >= rules.min_known_joints).sum()),
        "clips": len(samples),
        "left_out": dict(sorted(left_out.items())),
        "cpu_sec": {
            "scan": round(scanned - begun, 2),
            "pose": round(followed - scanned, 2),
            "clips": round(time.process_time() - followed, 2),
        },
    }
    return samples, facts


def follow(path: Path, scan: sources.Scan, shots: np.ndarray, config: VideosConfig, networks: Networks) -> Track:
    """The person at every tick of a scanned video; smoothed inside each shot."""
    track = Track.empty(len(scan.picks))
    follower = Follower(networks.pose, networks.faces, config.pose, config.filter)
    ticks = _ticks_of(scan.picks)
    last_shot = -1
    for index, image in sources.images(path, scan.picks, width=scan.width, height=scan.height):
        first, *repeats = ticks[index]
        if shots[first] != last_shot:
            follower.new_shot()
            last_shot = int(shots[first])
        follower.step(image, track, first)
        for tick in repeats:
            _repeat(track, first, tick)
    for start, stop in runs(shots):
        joints = track.joints[start:stop]
        track.joints[start:stop] = smooth(joints, _person_size(joints), config.pose.smoothing)
    return track


def _person_size(joints: np.ndarray) -> float:
    """The longer side of the box of known joints in pixels: the median over the frames [T,20,3]; 0 when nobody is seen."""
    known = joints[(joints[..., 2] > 0).sum(axis=1) >= 2]
    if not len(known):
        return 0.0
    extent = np.nanmax(known[..., :2], axis=1) - np.nanmin(known[..., :2], axis=1)
    return float(np.median(extent.max(axis=1)))


def _repeat(track: Track, source: int, tick: int) -> None:
    """The same decoded frame is shown at two ticks: what was found in it holds for both."""
    for values in (track.joints, track.heads, track.faces, track.person):
        values[tick] = values[source]


def _ticks_of(picks: np.ndarray) -> dict[int, list[int]]:
    ticks: dict[int, list[int]] = {}
    for tick, index in enumerate(picks.tolist()):
        ticks.setdefault(index, []).append(tick)
    return ticks


def _cut_out(
    path: Path,
    name: str,
    sha256: str,
    scan: sources.Scan,
    track: Track,
    clips: list[Clip],
    config: VideosConfig,
    backend: str,
) -> Iterator[EncodedSample]:
    """Encodes the clips one after another; pictures wait only until their clip and its identity frame are complete."""
    ticks = _ticks_of(scan.picks)
    wanted: dict[int, list[int]] = {}
    for number, clip in enumerate(clips):
        for tick in (*range(clip.start, clip.stop), clip.identity):
            wanted.setdefault(int(scan.picks[tick]), []).append(number)
    pictures: list[dict[int, np.ndarray]] = [{} for _ in clips]
    done: dict[int, EncodedSample] = {}
    for index, image in sources.images(path, list(wanted), width=scan.width, height=scan.height):
        for number in dict.fromkeys(wanted[index]):
            clip, mine = clips[number], pictures[number]
            for tick in ticks[index]:
                if clip.start <= tick < clip.stop:
                    mine[tick] = clip.crop.cut(image, config.clip.width, config.clip.height)
                if tick == clip.identity:
                    mine[tick] = clip.identity_crop.cut(image, config.clip.width, config.clip.height)
            if len(mine) == config.clip.frames + 1:
                done[number] = _encode(name, sha256, scan, track, clip, mine, config, backend)
                pictures[number] = {}
    yield from (done[number] for number in sorted(done))


def _encode(
    name: str,
    sha256: str,
    scan: sources.Scan,
    track: Track,
    clip: Clip,
    pictures: dict[int, np.ndarray],
    config: VideosConfig,
    backend: str,
) -> EncodedSample:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem)[:32].strip("-") or "video"
    key = f"{stem}-{sha256[:8]}-{clip.start:06d}"
    span = slice(clip.start, clip.stop)
    joints, faces = clip.crop.joints(track.joints[span]), clip.crop.boxes(track.faces[span])
    first, identity = float(scan.times_sec[scan.picks[clip.start]]), float(scan.times_sec[scan.picks[clip.identity]])
    meta = {
        "source": "videos",
        "licence": config.licence,
        "video": {"name": name, "sha256": sha256, "start_sec": round(first, 4), "identity_sec": round(identity, 4)},
        # Nobody told us who is who: one video is taken for one person, and the splits keep videos apart.
        "person": f"video-{sha256[:16]}",
        "motion": f"video-{sha256[:16]}-{clip.start}",
        "pose": backend,
        "crop": _numbers(clip.crop),
        "identity_crop": _numbers(clip.identity_crop),
        "quality": {
            "known_joints": round(float((joints[..., 2] > 0).mean()), 4),
            "frames_with_face": round(float((~np.isnan(faces).any(axis=1)).mean()), 4),
            "padding": round(clip.crop.padding(scan.width, scan.height), 4),
            "enlargement": round(config.clip.height / clip.crop.height, 4),
        },
    }
    sample = Sample(
        key=key,
        driving=np.stack([pictures[t] for t in range(clip.start, clip.stop)]),
        fps=config.clip.fps,
        identity=pictures[clip.identity],
        joints=joints,
        faces=faces,
        meta=meta,
        identity_joints=clip.identity_crop.joints(track.joints[clip.identity]),
    )
    return key, encode(sample, crf=config.clip.crf)


def _numbers(crop: Crop) -> list[float]:
    return [round(v, 2) for v in (crop.x, crop.y, crop.width, crop.height)]


def reasons(left_out: Counter | dict[str, int]) -> str:
    """``hard_cut 1, person_lost 2``."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
