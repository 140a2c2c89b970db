"""Temporal consistency beside the truth's own: warping error, flicker, feature consistency, amount of motion, lag.

A frozen video flickers least and is most like itself, so "less" is not better: what can be compared is compared with the
truth's own value (``..._gap``, 0 is right), and the amount of motion stands beside.

``warping_error`` is that of Lai et al., "Learning Blind Video Temporal Consistency" (2018): the next frame, brought back along
the optical flow, minus this frame, squared. The flow is the truth's (Kroeger et al., "Fast Optical Flow using Dense Inverse
Search", 2016, by OpenCV), so a video that moves otherwise pays. Pixels count whose flow there and back agree (Sundaram et al.
2010; Lai's mask also leaves out the flow's edges) and lie inside the frame. Lai's flow is FlowNet2's: numbers are not theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from evaluation.clip import Clip
from evaluation.features.recent import Recent
from evaluation.metrics.base import Machine, MetricSpec, Value
from imanim.config import opt
from imanim.errors import InputError

NAN = float("nan")
MIN_FRAMES = 3
MIN_SIDE_PX = 16
"""Below this the flow has no pyramid to search in."""
OCCLUSION_RELATIVE, OCCLUSION_PX2 = 0.01, 0.5
"""Flow and flow back disagree when |f+b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, in pixels (Sundaram et al. 2010)."""
WARPING_UNIT = 1e3
"""Squared differences of values in [0,1] are small: in thousandths."""
LUMA = (0.299, 0.587, 0.114)
"""Brightness from R, G, B (BT.601)."""
STILL_LEVELS = 0.1
"""Added to both sides of a ratio of grey levels (of 255), so that a frozen video has a finite logarithm."""
FEATURES_WEIGHTS, FEATURES_RESIZE = "inception-2015", "clean"
THUMBNAIL_PX = 128
"""Lags are found in pictures of one to two times this."""
MAX_LAG_FRAMES = 8
MIN_LAG_CORRELATION = 0.3
"""Below this nothing follows anything, and no lag is given. On Doubles a video blurred by a pixel has 0.91, another body 0.12."""
MIN_ENERGY_CORRELATION = 0.7
"""The same for amounts of motion, one number a frame: on Doubles another body doing the same has 0.59 to 0.99, and the only
wrong lag was found at 0.54."""


@dataclass
class TemporalSettings:
    """What is looked at."""

    features: bool = opt(True, "also compare Inception features of neighbouring frames (slow)")
    max_lag_frames: int = opt(MAX_LAG_FRAMES, "lags are looked for up to this many frames, at most half a clip")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        return [] if self.max_lag_frames >= 1 else [f"max_lag_frames: {self.max_lag_frames}; give 1 or more"]


# ------------------------------------------------------------------------------------------------------ warping error


@dataclass(frozen=True)
class Flow:
    """Where each pixel goes from a frame to the next, float32 [T-1,H,W,2] in pixels (x,y); ``counted`` bool [T-1,H,W]."""

    forward: np.ndarray
    counted: np.ndarray


def optical_flow(frames: np.ndarray) -> Flow:
    """The flow of uint8 [T,H,W,3], by dense inverse search on the grey frames at full resolution.

    Raises:
        InputError: OpenCV is not installed.
    """
    cv2 = _cv2()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    with _one_thread(cv2):
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(
            0
        )  # the preset stops at half the resolution: three times the error for 3 pixels of motion
        forward, counted = [], []
        for here, there in zip(grey[:-1], grey[1:]):
            forward.append(search.calc(here, there, None))
            counted.append(_agree(forward[-1], search.calc(there, here, None)))
    return Flow(np.stack(forward), np.stack(counted))


def warping_error(frames: np.ndarray, flow: Flow) -> float:
    """Mean squared difference of each frame and the next one brought back along ``flow``.

    The mean over counted pixels and channels of a pair, then over pairs; a pair without any is left out.

    Args:
        frames: uint8 [T,H,W,3].

    Returns:
        thousandths of [0,1]^2; NaN when no pixel counts.
    """
    values = []
    for here, there, forward, counted in zip(frames[:-1], frames[1:], flow.forward, flow.counted):
        if counted.any():
            brought = _sample(there.astype(np.float32) / 255, forward)
            squared = (brought.astype(np.float64) - here / 255.0) ** 2
            values.append(squared[counted].mean())
    return WARPING_UNIT * float(np.mean(values)) if values else NAN


def _agree(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Pixels [H,W] that are seen in both frames."""
    height, width = forward.shape[:2]
    back = _sample(backward, forward)
    apart = ((forward + back) ** 2).sum(axis=-1)
    lengths = (forward**2).sum(axis=-1) + (back**2).sum(axis=-1)
    y, x = np.mgrid[:height, :width]
    x, y = x + forward[..., 0], y + forward[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside & (apart <= OCCLUSION_RELATIVE * lengths + OCCLUSION_PX2)


def _sample(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Image float32 [H,W,C] at each pixel moved by flow [H,W,2], bilinear; the edge goes on outside."""
    from scipy import ndimage

    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    at = np.stack([y + flow[..., 1], x + flow[..., 0]])
    planes = [ndimage.map_coordinates(image[..., c], at, order=1, mode="nearest") for c in range(image.shape[-1])]
    return np.stack(planes, axis=-1)


def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise InputError("opencv-python-headless: not installed; run `pip install imanim[data]`") from None
    return cv2


@contextmanager
def _one_thread(cv2: ModuleType) -> Iterator[None]:
    """The search works in as many stripes as there are threads: with one, nothing can depend on the machine."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


# ----------------------------------------------------------------------------------------- brightness, motion, features


def flicker(frames: np.ndarray) -> float:
    """Mean absolute second difference in time of brightness, in grey levels of 255: what steady motion has little of."""
    steps = zip(frames[:-2], frames[1:-1], frames[2:])
    return float(np.mean([np.abs(brightness(a) - 2 * brightness(b) + brightness(c)).mean() for a, b, c in steps]))


def motion_energy(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring frames' brightness, in grey levels of 255: float64 [T-1]."""
    return np.array([np.abs(brightness(b) - brightness(a)).mean() for a, b in zip(frames[:-1], frames[1:])])


def brightness(frames: np.ndarray) -> np.ndarray:
    """uint8 [...,H,W,3] -> float64 [...,H,W], 0 to 255."""
    return frames.astype(np.float64) @ np.array(LUMA)


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """Brightness of uint8 [T,H,W,3] by mean over squares, the longer side at least ``THUMBNAIL_PX`` (or as it is): float64."""
    side = max(1, max(frames.shape[1:3]) // THUMBNAIL_PX)
    height, width = (size // side * side for size in frames.shape[1:3])
    squares = (height // side, side, width // side, side)
    return np.stack([brightness(frame[:height, :width]).reshape(squares).mean(axis=(1, 3)) for frame in frames])


def log_gap(made: float, truth: float) -> float:
    """|ln(made/truth)| of two amounts in grey levels, each with ``STILL_LEVELS`` added: 0 is right, doubled and halved alike."""
    return float(abs(np.log((made + STILL_LEVELS) / (truth + STILL_LEVELS))))


def consistency(features: np.ndarray) -> float:
    """Mean cosine similarity of neighbouring rows of float [T,dim]."""
    rows = features.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float((rows[1:] * rows[:-1]).sum(axis=1).mean())


# ---------------------------------------------------------------------------------------------------------------- lag


def lag(
    made: np.ndarray,
    truth: np.ndarray,
    max_lag_frames: int = MAX_LAG_FRAMES,
    min_correlation: float = MIN_LAG_CORRELATION,
) -> tuple[float, float]:
    """By how many frames ``made`` comes after ``truth`` (negative: before it), and how well it then follows.

    What moves is compared: both videos' brightness without its mean over the shared frames, as a correlation over all their
    pixels. The best shift wins, the smaller one where two are equal.

    Args:
        made, truth: float64 [T,...]: frames' brightness, or any other signal of T frames.
        max_lag_frames: shifts up to this, and to half of T.

    Returns:
        the shift, NaN when the best correlation is below ``min_correlation``; and that correlation (NaN: one is still).
    """
    frames = len(made)
    reach = min(max_lag_frames, frames // 2)
    best, found = NAN, NAN
    for shift in sorted(range(-reach, reach + 1), key=abs):
        late, early = max(shift, 0), max(-shift, 0)
        value = _correlation(made[late : frames - early], truth[early : frames - late])
        if np.isfinite(value) and not value <= best + 1e-9:
            best, found = value, float(shift)
    return (found if best >= min_correlation else NAN), best


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    spreads = float((a**2).mean()), float((b**2).mean())
    # What subtracting a mean leaves of a constant is rounding.
    return float((a * b).mean()) / float(np.sqrt(spreads[0] * spreads[1])) if min(spreads) > 1e-9 else NAN


# ------------------------------------------------------------------------------------------------------------- metric


class TemporalMetric:
    """See the module. ``features``: float [T,dim] of uint8 [T,H,W,3]; None: not compared."""

    values: tuple[Value, ...] = (
        Value("warping_error", "warping error along the truth's flow", "lower", 2, "1e-3"),
        Value("warping_gap", "warping error, from the truth's own", "lower", 2, "1e-3"),
        Value("warping_error_self", "warping error along its own flow", "none", 2, "1e-3", needs_truth=False),
        Value("flicker", "flicker", "none", 2, "grey levels", needs_truth=False),
        Value("flicker_gap", "flicker, |log ratio| to the truth's", "lower", 3),
        Value("feature_consistency", "neighbouring frames' features", "none", 4, "cosine", needs_truth=False),
        Value("feature_consistency_gap", "the same, from the truth's own", "lower", 4),
        Value("motion_energy_ratio", "motion, of the truth's", "none", 3),
        Value("motion_energy_gap", "motion, |log ratio| to the truth's", "lower", 3),
        Value("lag_frames", "lag behind the truth", "none", 2, "frames"),
        Value("lag_abs_frames", "|lag| behind the truth", "lower", 2, "frames"),
        Value("lag_correlation", "correlation of the motion at that lag", "higher", 3),
        Value("lag_driver_frames", "lag behind the driver's amount of motion", "none", 2, "frames", needs_truth=False),
    )

    def __init__(
        self,
        settings: TemporalSettings,
        features: Callable[[np.ndarray], np.ndarray] | None = None,
        features_key: str | None = None,
    ):
        _cv2()
        self._settings, self._features_key = settings, features_key
        self._features = None if features is None else Recent(features)
        self._flow = Recent(optical_flow, size=2)
        if features is None:
            self.values = tuple(v for v in self.values if not v.name.startswith("feature_"))

    def protocol(self) -> dict[str, Any]:
        """As in :class:`~evaluation.metrics.base.ClipMetric`."""
        return {
            "flow": "OpenCV DIS, medium, finest scale 0, grey, one thread; the truth's",
            "occlusion": f"|f+b|^2 > {OCCLUSION_RELATIVE} (|f|^2+|b|^2) + {OCCLUSION_PX2} px^2",
            "warping_error": "mean squared, [0,1]^2 x 1e3, over pixels and channels, then pairs",
            "brightness": "BT.601 luma of 255",
            "log_ratio_offset_levels": STILL_LEVELS,
            "features": self._features_key,
            "lag": f"brightness in squares, longer side from {THUMBNAIL_PX} px",
            "max_lag_frames": self._settings.max_lag_frames,
            "min_lag_correlation": {"truth": MIN_LAG_CORRELATION, "driver": MIN_ENERGY_CORRELATION},
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        """As in :class:`~evaluation.metrics.base.ClipMetric`.

        Raises:
            InputError: fewer than 3 frames, or a side below 16 pixels.
        """
        frames, *sides = clip.made.shape[:3]
        if frames < MIN_FRAMES or min(sides) < MIN_SIDE_PX:
            size = "x".join(map(str, (frames, *sides)))
            raise InputError(
                f"clip {clip.key}: {size} (frames x height x width); temporal consistency needs {MIN_FRAMES} frames of"
                f" {MIN_SIDE_PX} pixels at least"
            )
        found = dict.fromkeys((value.name for value in self.values), NAN)
        found["warping_error_self"] = warping_error(clip.made, self._flow(clip.made))
        found["flicker"] = flicker(clip.made)
        energies = motion_energy(clip.made), motion_energy(clip.driving)
        reach = self._settings.max_lag_frames
        found["lag_driver_frames"], _ = lag(*energies, reach, MIN_ENERGY_CORRELATION)
        if self._features is not None:
            found["feature_consistency"] = consistency(self._features(clip.made))
        return found | (self._beside_truth(clip.made, clip.truth, found) if clip.truth is not None else {})

    def _beside_truth(self, made: np.ndarray, truth: np.ndarray, own: dict[str, float]) -> dict[str, float]:
        flow = self._flow(truth)
        error, least = warping_error(made, flow), warping_error(truth, flow)
        energies = float(motion_energy(made).mean()), float(motion_energy(truth).mean())
        shift, correlation = lag(thumbnails(made), thumbnails(truth), self._settings.max_lag_frames)
        found = {
            "warping_error": error,
            "warping_gap": abs(error - least),
            "flicker_gap": log_gap(own["flicker"], flicker(truth)),
            "motion_energy_ratio": energies[0] / energies[1] if energies[1] else NAN,
            "motion_energy_gap": log_gap(*energies),
            "lag_frames": shift,
            "lag_abs_frames": abs(shift),
            "lag_correlation": correlation,
        }
        if self._features is not None:
            found["feature_consistency_gap"] = abs(own["feature_consistency"] - consistency(self._features(truth)))
        return found


def build(settings: TemporalSettings, machine: Machine) -> TemporalMetric:
    """The metric, its network read. Raises InputError when OpenCV or the network's weights are missing."""
    if not settings.features:
        return TemporalMetric(settings)
    from evaluation.features.inception import PictureFeatures

    features = PictureFeatures(FEATURES_RESIZE, machine=machine)
    return TemporalMetric(settings, features, features.key)


METRICS = {
    "temporal": MetricSpec(TemporalSettings, build, lambda settings: [FEATURES_WEIGHTS] if settings.features else [])
}
