"""Planned clips -> encoded samples: the frames that are needed are decoded again, cut out and encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import decode
from data_pipeline.config import VideosConfig
from data_pipeline.reporting import sheets
from data_pipeline.video.analysis import Beat, StageClock
from data_pipeline.video.artefacts import Artefact, EncodedSample
from data_pipeline.video.framing import Crop
from data_pipeline.video.pairing import Clip, Dropped
from data_pipeline.video.sidecar import Sidecar
from data_pipeline.video.tracks import Track
from imanim.data.sample import Sample, encode

STRIP_FRAMES = 4
STRIP_HEIGHT = 160
MOST_WAITING_BYTES = 512e6
Caption = Callable[[np.ndarray, dict[str, Any]], str]


@dataclass(frozen=True)
class Lane:
    """A track with what was planned in it. ``label`` tells the lanes of a video apart in the samples' keys."""

    track: Track
    clips: list[Clip]
    dropped: list[Dropped]
    label: str = ""


@dataclass(frozen=True)
class Video:
    """What a sample says of the video it is from."""

    path: Path
    name: str
    sha256: str
    probe: decode.Probe
    shots: Artefact
    sidecar: Sidecar
    pose: str
    """The pose network's name."""

    def key(self, lane: Lane, start: int) -> str:
        """The sample's key: the video's bytes, the tick (and the lane). Not its name: copies are one video."""
        return f"{self.sha256[:12]}-{start:06d}{lane.label}"

    def time_sec(self, tick: int) -> float:
        """When the frame shown at a tick is, from the first frame on."""
        return round(float(self.shots["times_sec"][self.shots["picks"][tick]]), 4)


@dataclass
class Strip:
    """A picture of a dropped clip for the report."""

    reason: str
    key: str
    jpeg: bytes


@dataclass
class _Job:
    """Pictures of one clip or strip while they are gathered, tick -> pixels. ``ticks``: those it wants, each once."""

    ticks: list[int]
    cut: Callable[[int, np.ndarray], np.ndarray]
    finish: Callable[[dict[int, np.ndarray]], None]
    pictures: dict[int, np.ndarray] = field(default_factory=dict)


def cut_out(
    video: Video, lanes: list[Lane], config: VideosConfig, caption: Caption | None, clock: StageClock, beat: Beat
) -> tuple[list[EncodedSample], list[Strip]]:
    """Encodes a video's clips in order of time; pictures wait only until their clip and its identity frame are complete.

    Raises:
        Unusable: the file decodes otherwise than at first.
    """
    samples: dict[str, EncodedSample] = {}
    strips: dict[str, Strip] = {}
    identities: dict[str, np.ndarray] = {}
    clips = sum(len(lane.clips) for lane in lanes)
    if clips * config.clip.frames * config.clip.height * config.clip.width * 3 > MOST_WAITING_BYTES:
        # An identity frame may lie behind all clips: were it fetched with them, every clip would wait in memory.
        _gather(video, [*_identity_jobs(video, lanes, config, identities)], clock, beat)
    jobs = [
        *_clip_jobs(video, lanes, config, caption, clock, identities, samples),
        *_strip_jobs(video, lanes, config, strips),
    ]
    _gather(video, jobs, clock, beat)
    return [samples[key] for key in sorted(samples)], [strips[key] for key in sorted(strips)]


def _gather(video: Video, jobs: list[_Job], clock: StageClock, beat: Beat) -> None:
    """Decodes what the jobs want, gives each its pictures, and finishes it when it has them all."""
    picks = video.shots["picks"]
    wanted: dict[int, list[_Job]] = {}
    for job in jobs:
        for index in {int(picks[tick]) for tick in job.ticks}:
            wanted.setdefault(index, []).append(job)
    frames = decode.images(video.path, video.probe, sorted(wanted), times_sec=video.shots["times_sec"])
    while True:
        with clock.stage("decode_again"):
            found = next(frames, None)
        if found is None:
            return
        index, image = found
        beat()
        for job in wanted.pop(index):
            with clock.stage("cut"):
                for tick in job.ticks:
                    if picks[tick] == index:
                        job.pictures[tick] = job.cut(tick, image)
            if len(job.pictures) == len(job.ticks):
                job.finish(job.pictures)
                job.pictures = {}


def _identity_jobs(video: Video, lanes: list[Lane], config: VideosConfig, out: dict[str, np.ndarray]) -> Iterator[_Job]:
    for lane in lanes:
        for clip in lane.clips:

            def cut(tick: int, image: np.ndarray, clip: Clip = clip) -> np.ndarray:
                return clip.identity_crop.cut(image, config.clip.width, config.clip.height)

            def finish(pictures: dict[int, np.ndarray], lane: Lane = lane, clip: Clip = clip) -> None:
                out[video.key(lane, clip.start)] = pictures[clip.identity]

            yield _Job([clip.identity], cut, finish)


def _clip_jobs(
    video: Video,
    lanes: list[Lane],
    config: VideosConfig,
    caption: Caption | None,
    clock: StageClock,
    identities: dict[str, np.ndarray],
    out: dict[str, EncodedSample],
) -> Iterator[_Job]:
    for lane in lanes:
        for clip in lane.clips:
            key = video.key(lane, clip.start)

            def cut(tick: int, image: np.ndarray, clip: Clip = clip) -> np.ndarray:
                crop = clip.identity_crop if tick == clip.identity else clip.crop
                return crop.cut(image, config.clip.width, config.clip.height)

            def finish(pictures: dict[int, np.ndarray], lane: Lane = lane, clip: Clip = clip, key: str = key) -> None:
                identity = identities[key] if key in identities else pictures[clip.identity]
                driving = np.stack([pictures[t] for t in range(clip.start, clip.stop)])
                with clock.stage("encode", config.clip.frames):
                    out[key] = _encode(video, key, lane.track, clip, driving, identity, config, caption)

            yield _Job([*range(clip.start, clip.stop), *([] if key in identities else [clip.identity])], cut, finish)


def _encode(
    video: Video,
    key: str,
    track: Track,
    clip: Clip,
    driving: np.ndarray,
    identity: np.ndarray,
    config: VideosConfig,
    caption: Caption | None,
) -> EncodedSample:
    span = slice(clip.start, clip.stop)
    joints, faces = clip.crop.joints(track.joints[span]), clip.crop.boxes(track.faces[span])
    numbers = {
        **clip.quality,
        "known_joints": float((joints[..., 2] > 0).mean()),
        "frames_with_face": float((~np.isnan(faces).any(axis=1)).mean()),
        "padding": clip.crop.padding(video.probe.width, video.probe.height),
        "enlargement": config.clip.height / clip.crop.height,
    }
    person = int(np.bincount(track.person[span][track.person[span] > 0]).argmax())
    meta: dict[str, Any] = {
        "source": "videos",
        "licence": video.sidecar.licence or config.licence,
        "origin": video.sidecar.source or config.origin,
        "video": {
            "sha256": video.sha256,
            "start_sec": video.time_sec(clip.start),
            "identity_sec": video.time_sec(clip.identity),
        },
        "track": f"{video.sha256[:16]}-{person}",
        "motion": f"video-{video.sha256[:16]}-{clip.start}",
        "pose": video.pose,
        "crop": _rounded(clip.crop),
        "identity_crop": _rounded(clip.identity_crop),
        "quality": {name: round(value, 4) for name, value in sorted(numbers.items()) if np.isfinite(value)},
    }
    if caption is not None:
        meta["caption"] = str(caption(driving, meta))
    sample = Sample(
        key=key,
        driving=driving,
        fps=config.clip.fps,
        identity=identity,
        joints=joints,
        faces=faces,
        meta=meta,
        identity_joints=clip.identity_crop.joints(track.joints[clip.identity]),
    )
    return key, encode(sample, crf=config.clip.crf)


def _strip_jobs(video: Video, lanes: list[Lane], config: VideosConfig, out: dict[str, Strip]) -> Iterator[_Job]:
    """A few dropped clips of each reason, spread over the video: whole frames with what was found in them."""
    by_reason: dict[str, list[tuple[Lane, Dropped]]] = {}
    for lane in lanes:
        for gone in lane.dropped:
            by_reason.setdefault(gone.reason, []).append((lane, gone))
    for _, all_of_it in sorted(by_reason.items()):
        count = min(config.dropped_strips, len(all_of_it))
        for i in np.linspace(0, len(all_of_it) - 1, count).round().astype(int):
            lane, gone = all_of_it[int(i)]
            yield _strip_job(video, lane, gone, out)


def _strip_job(video: Video, lane: Lane, gone: Dropped, out: dict[str, Strip]) -> _Job:
    wide, high = video.probe.width, video.probe.height
    whole = Crop(0, 0, wide, high)
    size = (max(2, round(wide * STRIP_HEIGHT / high)), STRIP_HEIGHT)
    ticks = sorted(set(np.linspace(gone.start, gone.stop - 1, STRIP_FRAMES).round().astype(int).tolist()))

    def finish(pictures: dict[int, np.ndarray]) -> None:
        shown = sorted(pictures)
        joints, faces = whole.joints(lane.track.joints[shown]), whole.boxes(lane.track.faces[shown])
        key = video.key(lane, gone.start)
        caption = f"{video.name} at {video.time_sec(gone.start):.1f} s"
        jpeg = sheets.strip_jpeg(np.stack([pictures[t] for t in shown]), joints, faces, caption)
        out[f"{gone.reason}/{key}"] = Strip(gone.reason, key, jpeg)

    return _Job(ticks, lambda tick, image: whole.cut(image, *size), finish)


def _rounded(crop: Crop) -> list[float]:
    return [round(v, 2) for v in (crop.x, crop.y, crop.width, crop.height)]
