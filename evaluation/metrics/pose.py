"""Whether the made person stands and moves as asked: joints that a pose network finds in the made frames, against the truth's.

Against known joints: ``pose_mean_error`` and ``pose_pck`` in % of the true person's height (:mod:`evaluation.metrics.joints`).
Against what the same network finds in the true frames: ``pose_akd``, the average keypoint distance in pixels (Siarohin et
al., "First Order Motion Model for Image Animation", 2019), and ``pose_missing``, the missing keypoint rate (Siarohin et al.,
"Motion Representations for Articulated Animation", 2021). Both papers measure at 256 or 384 pixels with OpenPose's 18 points:
pixels at another size, or another network's, are not theirs.

A network errs too: ``pose_floor`` and ``pose_floor_pck`` are what its reading of the *true* frames gets; below that nothing
can be told. PCK's unit differs in the field: PCKh@0.5 (Andriluka et al. 2014) allows half of the head's segment, PCK@0.2
(Yang and Ramanan 2013) a fifth of the torso; here it is ``pck_percent`` of the height. Where a network guesses legs outside
a portrait, Doubles show its height up to 15 % short, and so its errors larger.

Without a truth, ``pose_driver_error`` compares with the driver after its joints were laid on the made ones by one scale and
one shift a clip (no turn). Bodies of other proportions differ by rights: it cannot reach 0, and has another name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from data_pipeline.config import PoseConfig
from data_pipeline.pose.base import Pose, PoseNetwork
from evaluation.clip import Clip
from evaluation.features.recent import Recent
from evaluation.metrics.base import Machine, MetricSpec, Value
from evaluation.metrics.joints import PCK_PERCENT, check_joints, counted, stature, to_pixels
from imanim.config import opt
from imanim.data.sample import JOINTS
from imanim.errors import InputError

READ_AT_LEAST_PX = 384
"""Smaller frames are enlarged for the network: 128x80 three times. In Doubles renders blurred by 1.5 pixels it then finds 84 %
of the people instead of 82 %, and its mean error falls from 9.3 to 4.3 % of their height; sharp ones it finds anyway."""
NAN = float("nan")


@dataclass
class PoseSettings:
    """Which network reads the frames, and what its reading is compared with."""

    pose: PoseConfig = opt(PoseConfig(), "the pose network")
    reference: Literal["auto", "joints", "frames"] = opt(
        "auto",
        "joints: the clip's own, exact ones (Doubles); frames: what the network finds in the true frames; auto: the first that a"
        " clip has (value pose_exact says which)",
    )
    enlarge: int | None = opt(
        None, f"whole factor for the frames read; null = the smallest that makes the longer side {READ_AT_LEAST_PX}"
    )
    pck_percent: float = opt(PCK_PERCENT, "a joint within this part of the person's height, in %, is right")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = [
            f"pose.{key}: {getattr(self.pose, key)}; measured joints are not cleaned over time, leave it out"
            for key in ("fill_gap_sec", "smoothing")
            if getattr(self.pose, key) != getattr(PoseConfig(), key)
        ]
        if self.enlarge is not None and not 1 <= self.enlarge <= 16:
            found.append(f"enlarge: {self.enlarge}; give 1 to 16, or null")
        if not 0 < self.pck_percent <= 100:
            found.append(f"pck_percent: {self.pck_percent}; give more than 0, at most 100")
        return found


@dataclass(frozen=True)
class Match:
    """One reading against a reference; NaN where nothing can be said. ``missing`` and ``pck``: % of the reference's joints."""

    error: float
    """Mean distance of the joints found, in % of ``stature_px``."""
    pck: float
    """A joint that was not found is not right."""
    akd_px: float
    missing: float


def match(
    reading: np.ndarray,
    reference: np.ndarray,
    height: int,
    width: int,
    *,
    min_visibility: float = 0.5,
    pck_percent: float = PCK_PERCENT,
) -> Match:
    """Compares joints found in frames with where they should be.

    Counted are the reference's joints that are seen (``min_visibility``) and inside the frame.

    Args:
        reading, reference: [T,20,3], x and y in [0,1] of the frame (NaN = unknown), visibility.
        height, width: the frame, in pixels.
    """
    wanted = counted(reference) & (reference[..., 2] >= min_visibility)
    found = wanted & seen(reading, min_visibility)
    if not wanted.any():
        return Match(NAN, NAN, NAN, NAN)
    off_px = np.linalg.norm(to_pixels(reading, height, width) - to_pixels(reference, height, width), axis=-1)[found]
    unit_px = stature(reference, height, width)
    right = off_px <= pck_percent / 100 * unit_px
    total = int(wanted.sum())
    mean_px = float(off_px.mean()) if len(off_px) else NAN
    return Match(
        error=100 * mean_px / unit_px,
        pck=100 * int(right.sum()) / total if np.isfinite(unit_px) else NAN,
        akd_px=mean_px,
        missing=100 * (total - int(found.sum())) / total,
    )


def seen(joints: np.ndarray, min_visibility: float) -> np.ndarray:
    """Which joints [...,20,3] are known and surely seen, bool [...,20]."""
    return np.isfinite(joints[..., :2]).all(axis=-1) & (joints[..., 2] >= min_visibility)


def driver_error(
    reading: np.ndarray,
    driver: np.ndarray,
    size: tuple[int, int],
    driver_size: tuple[int, int],
    *,
    min_visibility: float = 0.5,
) -> float:
    """Mean distance of the made joints from the driver's, laid on them by one scale and one shift a clip.

    The scale is the ratio of the joints' spreads (not least squares, which shrinks the driver where the two disagree).

    Args:
        reading, driver: [T,20,3] in the made and in the driving frames.
        size, driver_size: (height, width) of those, in pixels.

    Returns:
        % of the laid driver's height, over joints seen in both; NaN when fewer than two joints are.
    """
    both = seen(reading, min_visibility) & seen(driver, min_visibility)
    if both.sum() < 2:
        return NAN
    made, moved = to_pixels(reading, *size)[both], to_pixels(driver, *driver_size)[both]
    spreads = [np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=-1).mean()) for points in (made, moved)]
    if not spreads[1]:
        return NAN
    scale = float(spreads[0] / spreads[1])
    laid = (moved - moved.mean(axis=0)) * scale + made.mean(axis=0)
    unit_px = scale * stature(driver, *driver_size)
    return float(100 * np.linalg.norm(made - laid, axis=-1).mean() / unit_px) if unit_px else NAN


def factor_for(height: int, width: int, enlarge: int | None) -> int:
    """How many times frames are enlarged for the network."""
    return enlarge if enlarge is not None else max(1, -(-READ_AT_LEAST_PX // max(height, width)))


def read(network: PoseNetwork, frames: np.ndarray, enlarge: int | None = None) -> np.ndarray:
    """One person's joints in frames uint8 [T,H,W,3]: float32 [T,20,3] in [0,1]; NaN and visibility 0 where nobody is found.

    The person is followed: the last frame's landmarks say where to look; the detector is asked in the first frame and wherever
    the person is lost.
    """
    from PIL import Image

    height, width = frames.shape[1:3]
    factor = factor_for(height, width, enlarge)
    out = np.full((len(frames), len(JOINTS), 3), np.nan, np.float32)
    out[..., 2] = 0
    region = None
    for t, frame in enumerate(frames):
        if factor > 1:
            size = (width * factor, height * factor)
            frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        pose = network.pose(frame, region) if region is not None else None
        if pose is None:
            pose = first_pose(network, frame)
        region = None if pose is None else pose.region
        if pose is not None:
            out[t, :, :2] = pose.joints[:, :2] / (width * factor, height * factor)
            out[t, :, 2] = pose.joints[:, 2]
    return out


def first_pose(network: PoseNetwork, frame: np.ndarray) -> Pose | None:
    """The person whom the network sees best among the detector's; None when there is nobody.

    Every detection is also tried upright: in a blurred picture the detector takes feet for a head, and a person once read
    upside down is followed upside down. Where Doubles are blurred by a pixel this halves the error (6.1 to 3.0 %).
    """
    found = network.find(frame)
    places = found + [replace(place, angle_rad=0.0) for place in found if place.angle_rad]
    poses = [pose for pose in (network.pose(frame, place) for place in places) if pose is not None]
    return max(poses, key=lambda pose: pose.score * float(pose.joints[:, 2].mean()), default=None)


class PoseMetric:
    """Reads the made frames with a pose network; see the module for the values."""

    values: tuple[Value, ...] = (
        Value("pose_mean_error", "pose error", "lower", 2, "% of the person's height"),
        Value("pose_pck", "pose PCK", "higher", 1, "%"),
        Value("pose_akd", "AKD", "lower", 2, "px"),
        Value("pose_missing", "joints missing", "lower", 1, "%"),
        Value("pose_found", "frames with a person", "higher", 1, "%", needs_truth=False),
        Value("pose_floor", "pose error of the truth", "none", 2, "% of the person's height"),
        Value("pose_floor_pck", "pose PCK of the truth", "none", 1, "%"),
        Value("pose_exact", "reference joints are exact", "none", 0),
        Value("pose_driver_error", "distance from the driver's pose", "lower", 2, "% of height", needs_truth=False),
    )

    def __init__(self, settings: PoseSettings, network: PoseNetwork):
        self._settings, self._network = settings, network
        self._read = Recent(lambda frames: read(network, frames, settings.enlarge))

    def protocol(self) -> dict[str, Any]:
        """As in :class:`~evaluation.metrics.base.ClipMetric`."""
        s = self._settings
        return {
            "network": self._network.name,
            "models": self._network.models,
            "min_person_score": s.pose.min_person_score,
            "min_visibility": s.pose.min_visibility,
            "following": "from the last frame's landmarks; when lost, the detector's people, also upright, by score x visibility",
            "enlarge": s.enlarge or f"bicubic, smallest whole factor to {READ_AT_LEAST_PX} px",
            "reference": s.reference,
            "counted": "reference joints seen and inside the frame",
            "unit": "% of nose-neck-hip-knee-ankle, each segment's longest in the reference",
            "pck_percent": s.pck_percent,
            "akd": "pixels of the frames as given, the same network on both",
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        """As in :class:`~evaluation.metrics.base.ClipMetric`.

        Raises:
            InputError: joints of another shape; ``reference`` is ``joints`` and the clip has none.
        """
        s, size = self._settings, clip.made.shape[1:3]
        exact = self._exact(clip)
        reading = self._read(clip.made)
        found = dict.fromkeys((value.name for value in self.values), NAN)
        found["pose_found"] = 100 * float(np.isfinite(reading[..., 0]).any(axis=-1).mean())
        of_truth = None if clip.truth is None else self._read(clip.truth)
        compare = partial(
            match,
            height=size[0],
            width=size[1],
            min_visibility=s.pose.min_visibility,
            pck_percent=s.pck_percent,
        )
        if of_truth is not None:
            beside = compare(reading, of_truth)
            found |= {"pose_akd": beside.akd_px, "pose_missing": beside.missing}
            if exact is not None:
                floor = compare(of_truth, exact)
                found |= {"pose_floor": floor.error, "pose_floor_pck": floor.pck}
        reference = of_truth if exact is None else exact
        if reference is not None:
            against = compare(reading, reference)
            found |= {"pose_mean_error": against.error, "pose_pck": against.pck, "pose_exact": float(exact is not None)}
        else:
            found["pose_driver_error"] = driver_error(
                reading, self._driver(clip), size, clip.driving.shape[1:3], min_visibility=s.pose.min_visibility
            )
        return found

    def _exact(self, clip: Clip) -> np.ndarray | None:
        """The clip's own joints where they are the reference."""
        joints = check_joints(clip, "joints", len(clip.made))
        if joints is None and self._settings.reference == "joints":
            raise InputError(f"clip {clip.key}: its true joints are not known; set pose.reference to frames or auto")
        return None if self._settings.reference == "frames" else joints

    def _driver(self, clip: Clip) -> np.ndarray:
        """The driver's joints: known ones, else the network's."""
        joints = check_joints(clip, "driving_joints", len(clip.made))
        return self._read(clip.driving) if joints is None or self._settings.reference == "frames" else joints


def build(settings: PoseSettings, machine: Machine) -> PoseMetric:
    """The metric, its network read. Raises InputError when the network, its files or its runtime are missing."""
    from data_pipeline.pose import backends

    return PoseMetric(settings, backends.build(settings.pose))


def required_weights(settings: PoseSettings) -> list[str]:
    """Names for :func:`imanim.weights.require_all`."""
    from data_pipeline.pose import backends

    return backends.required_weights(settings.pose)


METRICS = {"pose": MetricSpec(PoseSettings, build, required_weights)}
