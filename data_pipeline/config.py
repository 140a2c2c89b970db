"""Settings of real video -> shards (`configs/data/videos.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_pipeline.faces.config import FaceConfig
from data_pipeline.identity.config import IdentityConfig
from data_pipeline.plugins import backend_problem
from data_pipeline.quality.config import QualityConfig, QualityRules
from data_pipeline.shot_finders.config import ShotsConfig
from imanim import clock
from imanim.config import opt, req

SPLITS = ("train", "val", "test")


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
    """Which network finds people and joints, and how the joints of a person are cleaned over time."""

    backend: str = opt(
        "blazepose",
        "blazepose (CPU, ai-edge-litert), rtm_onnx (RTMPose/DWPose/RTMW files of yours), or module:factory of yours",
    )
    detector: Path | None = opt(None, "rtm_onnx: person detector (YOLOX .onnx); blazepose: another .tflite")
    landmarks: Path | None = opt(None, "rtm_onnx: landmark network (SimCC .onnx); blazepose: another .tflite")
    min_person_score: float = opt(0.5, "detections below this are nobody")
    min_visibility: float = opt(0.5, "joints seen with less certainty are unknown: NaN coordinates, visibility 0")
    fill_gap_sec: float = opt(0.25, "a joint that is unknown for at most this long is put between its neighbours")
    smoothing: float = opt(
        0.01, "a joint is moved towards its neighbours in time by at most this part of the person's size"
    )

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = [f"{key}: {getattr(self, key)}; give 0 to 1" for key in ("min_person_score", "min_visibility", "smoothing")
                 if not 0 <= getattr(self, key) <= 1]  # fmt: skip
        if not 0 <= self.fill_gap_sec <= 2:
            found.append(f"fill_gap_sec: {self.fill_gap_sec}; give 0 to 2")
        found += backend_problem(self.backend, ("blazepose", "rtm_onnx"))
        if self.backend == "rtm_onnx" and (self.detector is None or self.landmarks is None):
            found.append(
                "detector, landmarks: rtm_onnx needs both; e.g. pose.detector=yolox.onnx pose.landmarks=rtmpose.onnx"
            )
        return found


@dataclass
class PeopleConfig:
    """Whom a video's tracks follow."""

    multiple: Literal["reject", "split"] = opt(
        "reject", "several people in a shot: `reject` it, or `split` it into clips that show one of them each"
    )
    max_followed: int = opt(
        3, "split: at most this many people are followed at a time; each costs a pose network's run"
    )
    detect_every_frames: int = opt(6, "also run the detector every so often, to notice other people")
    other_person_size: float = opt(0.35, "somebody else counts from this size, relative to the person followed")
    max_frames_with_others: float = opt(
        0.2, "reject: part of the checked frames of a clip, and of its shot, that may show somebody else"
    )
    max_intrusion: float = opt(0.05, "split: part of a clip's window that somebody else's box may cover")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = [f"{key}: {getattr(self, key)}; give 0 to 1" for key in
                 ("other_person_size", "max_frames_with_others", "max_intrusion") if not 0 <= getattr(self, key) <= 1]  # fmt: skip
        found += [f"{key}: {getattr(self, key)}; give 1 or more" for key in ("max_followed", "detect_every_frames")
                  if getattr(self, key) < 1]  # fmt: skip
        return found


@dataclass
class FramingConfig:
    """When a stretch shows a person well enough, and the window it is cut out with."""

    min_frames_with_person: float = opt(0.95, "part of a clip's frames that must show the person")
    min_known_joints: int = opt(4, "a frame shows a person when this many of the 20 joints are known")
    margin: float = opt(0.12, "air around the person, relative to the person's box")
    max_padding: float = opt(0.25, "part of the crop that may lie outside the video (edge pixels repeated)")
    min_joints_inside: float = opt(
        0.6, "known joints that a close-up's crop must still show when the person is wider than it"
    )
    max_enlargement: float = opt(1.5, "smaller people than this factor allows are left out instead of blown up")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        parts = ("min_frames_with_person", "max_padding", "min_joints_inside")
        found = [f"{key}: {getattr(self, key)}; give 0 to 1" for key in parts if not 0 <= getattr(self, key) <= 1]
        if not 0 <= self.margin <= 2:
            found.append(f"margin: {self.margin}; give 0 to 2")
        if not 1 <= self.min_known_joints <= 20:
            found.append(f"min_known_joints: {self.min_known_joints}; give 1 to 20")
        return found


@dataclass
class PairingConfig:
    """Which other frame shows the character."""

    across: Literal["shot", "video"] = opt(
        "video", "the identity frame is of the same shot, or also of other shots of the video with the same face"
    )
    min_gap_sec: float = opt(0.0, "identity frames are at least this far from the clip in time")
    certainty: float = opt(
        0.75,
        "people of two shots are taken for one within this part of the identity network's threshold; 1 = all of it",
    )

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = [f"min_gap_sec: {self.min_gap_sec}; give 0 or more"] if self.min_gap_sec < 0 else []
        return found + (
            [] if 0 < self.certainty <= 1 else [f"certainty: {self.certainty}; give more than 0, at most 1"]
        )


@dataclass
class CaptionConfig:
    """Captions, written into ``meta.json`` as ``caption``."""

    backend: str = opt("none", "none, sidecar (`caption` of NAME.json beside the video), or module:function of yours")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        return backend_problem(self.backend, ("none", "sidecar"))


@dataclass
class SplitConfig:
    """Which people go where. All clips of a person, and of a video, are in one split."""

    val_fraction: float = opt(0.1, "part of the people that goes to `val`, chosen by a hash")
    test_fraction: float = opt(0.0, "part of the people that goes to `test`")
    pinned: dict[str, str] = opt({}, "pattern of file names -> split, e.g. {'tiktok/*': test}; overrides the fractions")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = []
        if self.val_fraction < 0 or self.test_fraction < 0 or self.val_fraction + self.test_fraction >= 1:
            found.append(
                f"val_fraction, test_fraction: {self.val_fraction}, {self.test_fraction}; give 0 or more, together below 1"
            )
        wrong = sorted(set(self.pinned.values()) - set(SPLITS))
        if wrong:
            found.append(f"pinned: {', '.join(wrong)} is no split; use {', '.join(SPLITS)}")
        return found


@dataclass
class LimitsConfig:
    """What one video may cost. Each is worked on in a process of its own, which is killed beyond these."""

    memory_gb: float = opt(4.0, "resident memory of the process, GB")
    stall_sec: float = opt(120.0, "longest time without a frame")
    total_sec: float = opt(4 * 3600.0, "longest time for one video")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        return [f"{key}: {getattr(self, key)}; give more than 0" for key in ("memory_gb", "stall_sec", "total_sec")
                if getattr(self, key) <= 0]  # fmt: skip


@dataclass
class VideosConfig:
    """A folder of videos to shards of one-person clips with joints, face boxes and an identity frame."""

    input: Path = req("folder of videos, searched with its subfolders")
    output: Path = req("folder for the shards, the manifest and the report")
    source: Literal["videos"] = opt("videos", "what the samples are made from (another value chooses another schema)")
    extensions: list[str] = opt(["mp4", "mov", "mkv", "webm", "m4v", "avi"], "file name endings that are looked at")
    licence: str = opt(
        "unknown", "licence of the footage, written into every sample; NAME.json beside a video overrides it"
    )
    origin: str = opt("", "where the footage is from, written into every sample; NAME.json's `source` overrides it")
    samples_per_shard: int = opt(64, "samples a tar")
    workers: int = opt(0, "videos worked on at a time, each in a process of its own; 0: one for each CPU core")
    max_side: int = opt(1280, "larger videos are decoded at this longer side, in pixels")
    dropped_strips: int = opt(2, "pictures of dropped clips kept for the report, for each video and reason")
    clip: ClipConfig = opt(ClipConfig(), "")
    shots: ShotsConfig = opt(ShotsConfig(), "")
    people: PeopleConfig = opt(PeopleConfig(), "")
    pose: PoseConfig = opt(PoseConfig(), "")
    face: FaceConfig = opt(FaceConfig(), "")
    quality: QualityConfig = opt(QualityConfig(), "")
    rules: QualityRules = opt(QualityRules(), "")
    identity: IdentityConfig = opt(IdentityConfig(), "")
    framing: FramingConfig = opt(FramingConfig(), "")
    pairing: PairingConfig = opt(PairingConfig(), "")
    captions: CaptionConfig = opt(CaptionConfig(), "")
    split: SplitConfig = opt(SplitConfig(), "")
    limits: LimitsConfig = opt(LimitsConfig(), "")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = []
        if self.samples_per_shard < 1:
            found.append(f"samples_per_shard: {self.samples_per_shard}; give 1 or more")
        if self.workers < 0:
            found.append(f"workers: {self.workers}; give 0 (every core) or more")
        if self.dropped_strips < 0:
            found.append(f"dropped_strips: {self.dropped_strips}; give 0 or more")
        if self.max_side < max(self.clip.height, self.clip.width):
            found.append(
                f"max_side: {self.max_side} is smaller than a clip's {self.clip.height}x{self.clip.width}; give more"
            )
        return found
