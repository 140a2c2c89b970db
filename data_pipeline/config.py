"""Settings of real video -> shards (`configs/data/videos.yaml`)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imanim import clock
from imanim.config import opt, req, to_dict


@dataclass
class ClipConfig:
    """What one sample looks like."""

    height: int = opt(128, "height of the crop in pixels")
    width: int = opt(80, "width of the crop in pixels")
    frames: int = opt(17, "frames a clip, 4n+1")
    fps: float = opt(12.0, "constant frame rate of the clips; faster videos are thinned, slower ones are refused")
    stride_frames: int = opt(17, "frames from the start of one clip to the start of the next; < frames overlaps them")
    max_per_video: int = opt(200, "at most this many clips of one video, spread over its length")
    crf: int = opt(18, "x264 quality of the re-encoded clips; lower is better")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = [f"{key}: {getattr(self, key)} is odd or < 16; give an even number" for key in ("height", "width")
                 if getattr(self, key) % 2 or getattr(self, key) < 16]  # fmt: skip
        if not clock.is_clip_length(self.frames) or self.frames < 5:
            found.append(f"frames: {self.frames} is not 4n+1 with n >= 1; e.g. {max(5, self.frames // 4 * 4 + 1)}")
        if not 1 <= self.fps <= 120:
            found.append(f"fps: {self.fps}; give 1 to 120")
        found += [f"{key}: {getattr(self, key)}; give 1 or more" for key in ("stride_frames", "max_per_video")
                  if getattr(self, key) < 1]  # fmt: skip
        return found


@dataclass
class PoseConfig:
    """Which network finds the joints, and when a joint counts as known."""

    backend: Literal["blazepose", "rtm_onnx"] = opt(
        "blazepose", "blazepose (fetched, CPU, ai-edge-litert) or rtm_onnx (RTMPose/DWPose files of yours, onnxruntime)"
    )
    detector: Path | None = opt(None, "rtm_onnx: person detector (YOLOX .onnx); blazepose: another .tflite")
    landmarks: Path | None = opt(None, "rtm_onnx: landmark network (SimCC .onnx); blazepose: another .tflite")
    min_person_score: float = opt(0.5, "detections below this are nobody")
    min_visibility: float = opt(0.5, "joints seen with less certainty are unknown: NaN coordinates, visibility 0")
    detect_every_frames: int = opt(6, "also run the detector every so often, to notice other people")
    smoothing: float = opt(
        0.01, "a joint is moved towards its neighbours in time by at most this part of the person's size"
    )

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = [f"{key}: {getattr(self, key)}; give 0 to 1" for key in ("min_person_score", "min_visibility", "smoothing")
                 if not 0 <= getattr(self, key) <= 1]  # fmt: skip
        if self.detect_every_frames < 1:
            found.append(f"detect_every_frames: {self.detect_every_frames}; give 1 or more")
        if self.backend == "rtm_onnx" and (self.detector is None or self.landmarks is None):
            found.append(
                "detector, landmarks: rtm_onnx needs both; e.g. pose.detector=yolox.onnx pose.landmarks=rtmpose.onnx"
            )
        return found


@dataclass
class FilterConfig:
    """When a clip is left out, and how its crop is chosen."""

    min_frames_with_person: float = opt(0.95, "part of a clip's frames that must show the person")
    min_known_joints: int = opt(4, "a frame shows a person when this many of the 20 joints are known")
    max_frames_with_others: float = opt(
        0.2, "part of the checked frames of a clip, and of its shot, that may show somebody else"
    )
    other_person_size: float = opt(0.35, "somebody else counts from this size, relative to the person followed")
    margin: float = opt(0.12, "air around the person, relative to the person's box")
    max_padding: float = opt(0.25, "part of the crop that may lie outside the video (edge pixels repeated)")
    min_joints_inside: float = opt(
        0.6, "known joints that a close-up's crop must still show when the person is wider than it"
    )
    max_enlargement: float = opt(1.5, "smaller people than this factor allows are left out instead of blown up")
    cut_ratio: float = opt(6.0, "a hard cut changes the picture this many times more than its neighbours change")
    cut_change: float = opt(0.03, "and by at least this much (mean change, 0 to 1)")
    max_gap_sec: float = opt(0.5, "a hole in the timestamps longer than this counts as a cut")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        parts = ("min_frames_with_person", "max_frames_with_others", "max_padding", "min_joints_inside")
        found = [f"{key}: {getattr(self, key)}; give 0 to 1" for key in parts if not 0 <= getattr(self, key) <= 1]
        if not 0 <= self.margin <= 2:
            found.append(f"margin: {self.margin}; give 0 to 2")
        if not 1 <= self.min_known_joints <= 20:
            found.append(f"min_known_joints: {self.min_known_joints}; give 1 to 20")
        return found


@dataclass
class VideosConfig:
    """A folder of videos to shards of one-person clips with joints, face boxes and an identity frame."""

    input: Path = req("folder of videos, searched with its subfolders")
    output: Path = req("folder for the shards, the manifest and the report")
    source: Literal["videos"] = opt("videos", "what the samples are made from (another value chooses another schema)")
    extensions: list[str] = opt(["mp4", "mov", "mkv", "webm", "m4v", "avi"], "file name endings that are looked at")
    licence: str = opt("unknown", "licence of the footage, written into every sample")
    val_fraction: float = opt(0.1, "part of the videos that goes to the split `val`, chosen by a hash of the file")
    samples_per_shard: int = opt(64, "samples a tar")
    workers: int = opt(2, "processes, each with a video at a time; 0 runs in this one")
    max_side: int = opt(1280, "larger videos are decoded at this longer side, in pixels")
    clip: ClipConfig = opt(ClipConfig(), "")
    pose: PoseConfig = opt(PoseConfig(), "")
    filter: FilterConfig = opt(FilterConfig(), "")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = []
        if not 0 <= self.val_fraction < 1:
            found.append(f"val_fraction: {self.val_fraction}; give 0 to 1 (below 1)")
        if self.samples_per_shard < 1:
            found.append(f"samples_per_shard: {self.samples_per_shard}; give 1 or more")
        if self.workers < 0:
            found.append(f"workers: {self.workers}; give 0 (this process) or more")
        if self.max_side < max(self.clip.height, self.clip.width):
            found.append(
                f"max_side: {self.max_side} is smaller than a clip's {self.clip.height}x{self.clip.width}; give more"
            )
        return found


def fingerprint(config: VideosConfig) -> str:
    """A hash of every setting that changes a sample: results made under another one are never mixed in."""
    values = to_dict(config)
    for key in ("input", "output", "extensions", "workers", "val_fraction", "samples_per_shard"):
        del values[key]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
