"""PSNR, SSIM and L1 in float64 from uint8 frames, over the whole frame and inside the person's mask.

Why float64 from uint8: a difference of uint8 arrays wraps around, and one blurred pair then reads 33 dB instead of 25
(Wangt-CN/DisCo#86). Why the mask: the background is most of a picture, so a method that paints nothing but the background
looks good on the whole frame.

The mask is the *truth's* person, grown a little so that its outline counts. It does not depend on what is measured, so
every candidate of a pair is measured on the same pixels.

``ssim-disco`` and ``l1-disco`` are other protocols, those of the tables that were made with DisCo's script
(Wangt-CN/DisCo, tool/metrics/ssim_l1_lpips_psnr.py). What that script got wrong is in
:mod:`evaluation.metrics.legacy_wrong`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

from evaluation.clip import Clip
from evaluation.metrics.base import MetricSpec, NoSettings, Value
from imanim.errors import InputError

Masks = Sequence[np.ndarray | None]
"""bool [T,H,W] each, the pixels that count; None: all of them."""

PEAK = 255.0
PSNR_CEILING = 10 * np.log10(12 * PEAK**2)
"""58.9 dB: what rounding to 8 bits alone costs (an error of variance 1/12). What a frame's PSNR counts at most in a metric:
an exact copy says no more than that, and its infinity would take the clip out of every mean."""
SSIM_SIGMA = 1.5
"""Standard deviation of SSIM's Gaussian window, in pixels (Wang et al. 2004); scikit-image cuts it at 3.5 sigma: 11x11."""
SSIM_BORDER = 5
"""Half of that window: nearer to the border a window is not full and is not counted."""
DISCO_WINDOW_PX = 7
"""scikit-image's window when none is given: uniform, its covariance divided by 7*7-1."""
MASK_MARGIN = 0.02
"""How far the person's mask is grown, in image heights (3 pixels at 128)."""


def psnr(candidate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of a clip in dB: the mean over its frames of each frame's PSNR.

    Args:
        candidate, truth: uint8 [T,H,W,3].
        mask: bool [T,H,W], the pixels that count; a frame without any is left out, and without any at all the value is NaN.

    Returns:
        dB; ``inf`` when a frame is reproduced exactly (the metric ``psnr`` has a ceiling instead: :func:`capped_psnr_over`).
    """
    return _mean(_decibels(_squared_means(candidate, truth, [mask])[0]))


def l1(candidate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference of a clip on the scale [0,255]: the mean over its frames, each over (masked) pixels and channels.

    Arguments and NaN as in :func:`psnr`.
    """
    return l1_over(candidate, truth, [mask])[0]


def l1_disco(candidate: np.ndarray, truth: np.ndarray) -> float:
    """:func:`l1` divided by the number of pixels once more and multiplied by 1e4: the "L1 (E-04)" of DisCo's table.

    It depends on the size: the same error at 512x512 reads a quarter of what it reads at 256x256, the size of DisCo's table
    (Francis-Rings/StableAnimator#117 reads 0.38 at 576x1024).
    """
    return 1e4 * l1(candidate, truth) / (truth.shape[1] * truth.shape[2])


def ssim(candidate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity of a clip: the mean over its frames of the mean over (masked) pixels and channels.

    The published settings (Wang et al. 2004): Gaussian window of sigma 1.5, population covariance, K1 0.01, K2 0.03, data
    range 255; the outer 5 pixels, whose windows are not full, do not count.

    Args:
        candidate, truth: uint8 [T,H,W,3], H and W at least 11.
        mask: bool [T,H,W], the pixels that count; a frame without any is left out, and without any at all the value is NaN.
    """
    return ssim_over(candidate, truth, [mask])[0]


def ssim_disco(candidate: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of a clip as DisCo's script computes it: the mean over its frames.

    On gray in uint8 (OpenCV's rounded 0.299 R + 0.587 G + 0.114 B), with a uniform 7x7 window and the sample covariance,
    without the outer 3 pixels: scikit-image's settings when none is given.

    Args:
        candidate, truth: uint8 [T,H,W,3], H and W at least 7.
    """
    check(candidate, truth, None)
    check_window(truth, DISCO_WINDOW_PX)
    pairs = (
        [cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in pair] for pair in zip(candidate, truth)
    )
    return _mean(np.array([structural_similarity(*pair, data_range=PEAK, win_size=DISCO_WINDOW_PX) for pair in pairs]))


def person_mask(parts: np.ndarray, margin: float = MASK_MARGIN) -> np.ndarray:
    """Part labels uint8 [T,H,W] to the pixels of the person, bool [T,H,W], grown by ``margin`` image heights.

    Grown by a disc, so the margin is the same in every direction.
    """
    radius = round(margin * parts.shape[1])
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x**2 + y**2 <= radius**2
    return np.stack([ndimage.binary_dilation(frame > 0, disc) for frame in parts])


def capped_psnr_over(candidate: np.ndarray, truth: np.ndarray, masks: Masks) -> list[float]:
    """:func:`psnr` for each mask, but no frame counts more than :data:`PSNR_CEILING`: an exact one does not hide the others."""
    return [_mean(np.minimum(_decibels(mse), PSNR_CEILING)) for mse in _squared_means(candidate, truth, masks)]


def l1_over(candidate: np.ndarray, truth: np.ndarray, masks: Masks) -> list[float]:
    """:func:`l1` for each mask."""
    return [_mean(frames) for frames in _frame_means(lambda a, b: np.abs(a - b), candidate, truth, masks)]


def ssim_over(candidate: np.ndarray, truth: np.ndarray, masks: Masks) -> list[float]:
    """:func:`ssim` for each mask, from one computation."""
    check(candidate, truth, None)
    check_window(truth, 2 * SSIM_BORDER + 1)
    return [_mean(frames) for frames in _frame_means(_ssim_map, candidate, truth, masks, SSIM_BORDER)]


def _ssim_map(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    _, full = structural_similarity(
        one,
        other,
        channel_axis=-1,
        data_range=PEAK,
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return np.asarray(full)


def _squared_means(candidate: np.ndarray, truth: np.ndarray, masks: Masks) -> np.ndarray:
    return _frame_means(lambda a, b: (a - b) ** 2, candidate, truth, masks)


def _decibels(mse: np.ndarray) -> np.ndarray:
    """``inf`` for 0, NaN for NaN."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK**2 / mse)


def _frame_means(
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray],
    candidate: np.ndarray,
    truth: np.ndarray,
    masks: Masks,
    border: int = 0,
) -> np.ndarray:
    """The mean of what ``compare`` makes of each pair of frames, float64 [H,W,3] both, over each mask.

    Returns:
        float64 [masks,T]; NaN for a frame without pixels that count; the outer ``border`` pixels never do.
    """
    for mask in masks:
        check(candidate, truth, mask)
    inner = (slice(border, truth.shape[1] - border), slice(border, truth.shape[2] - border))
    means = np.full((len(masks), len(truth)), np.nan)
    for t, (one, other) in enumerate(zip(candidate, truth)):
        found = compare(one.astype(np.float64), other.astype(np.float64))[inner]
        for m, mask in enumerate(masks):
            counted = found if mask is None else found[mask[t][inner]]
            if counted.size:
                means[m, t] = counted.mean()
    return means


def check(candidate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> None:
    """Raises InputError for frames that are not uint8 [T,H,W,3] of one shape, or a mask that is not bool [T,H,W]."""
    for name, frames in (("candidate", candidate), ("truth", truth)):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise InputError(f"{name}: {frames.dtype} {list(frames.shape)}; give uint8 [T,H,W,3]")
    if candidate.shape != truth.shape:
        raise InputError(f"candidate: {list(candidate.shape)}, truth {list(truth.shape)}; make their shapes alike")
    if mask is not None and (mask.shape != truth.shape[:3] or mask.dtype != bool):
        raise InputError(f"mask: {mask.dtype} {list(mask.shape)}; give bool {list(truth.shape[:3])}")


def check_window(frames: np.ndarray, window_px: int) -> None:
    """Raises InputError for frames that a window of that size does not fit into."""
    height, width = frames.shape[1:3]
    if min(height, width) < window_px:
        raise InputError(f"SSIM: frames of {height}x{width} pixels; its window needs sides of at least {window_px}")


def _mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN when nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


# ------------------------------------------------------------------------------------------------------ as metrics

Measure = Callable[[np.ndarray, np.ndarray], float]
MaskedMeasure = Callable[[np.ndarray, np.ndarray, Masks], list[float]]


@dataclass
class FrameMetric:
    """A function of two clips as a metric. ``facts``: what its protocol is."""

    values: tuple[Value, ...]
    function: Measure
    facts: Mapping[str, Any]

    def protocol(self) -> dict[str, Any]:
        return {"over": "mean over frames", "resize": None, **self.facts}

    def measure(self, clip: Clip) -> dict[str, float]:
        found = float("nan") if clip.truth is None else self.function(clip.made, clip.truth)
        return {self.values[0].name: found}


@dataclass
class PersonMetric:
    """A function of two clips and of masks as a metric: over the whole frame, and inside the person: its two values."""

    values: tuple[Value, ...]
    function: MaskedMeasure
    facts: Mapping[str, Any]

    def protocol(self) -> dict[str, Any]:
        return {
            "over": "mean over frames",
            "person": "the clip's mask; frames without one do not count",
            "resize": None,
            **self.facts,
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        found = dict.fromkeys((value.name for value in self.values), float("nan"))
        if clip.truth is None:
            return found
        masks: Masks = [None] if clip.mask is None else [None, clip.mask]
        return found | dict(zip(found, self.function(clip.made, clip.truth, masks)))


PSNR = PersonMetric(
    (
        Value("psnr", "PSNR, whole frame", "higher", 2, "dB"),
        Value("psnr_person", "PSNR inside the person", "higher", 2, "dB"),
    ),
    capped_psnr_over,
    {"arithmetic": "float64 of uint8 RGB", "peak": PEAK, "ceiling_db": round(float(PSNR_CEILING), 4)},
)
SSIM = PersonMetric(
    (Value("ssim", "SSIM, whole frame", "higher"), Value("ssim_person", "SSIM inside the person", "higher")),
    ssim_over,
    {
        "arithmetic": "float64 of uint8 RGB, mean over channels",
        "window": f"gaussian 11x11, sigma {SSIM_SIGMA}, population covariance",
        "border": f"the outer {SSIM_BORDER} pixels do not count",
    },
)
L1 = PersonMetric(
    (
        Value("l1", "L1, whole frame (of 255)", "lower", 2),
        Value("l1_person", "L1 inside the person (of 255)", "lower", 2),
    ),
    l1_over,
    {"arithmetic": "float64 of uint8 RGB", "scale": "0 to 255"},
)
SSIM_DISCO = FrameMetric(
    (Value("ssim_disco", "SSIM, DisCo's protocol (gray, uniform 7x7)", "higher"),),
    ssim_disco,
    {
        "arithmetic": "float64 of uint8 gray (OpenCV)",
        "window": f"uniform {DISCO_WINDOW_PX}x{DISCO_WINDOW_PX}, sample covariance",
        "border": f"the outer {DISCO_WINDOW_PX // 2} pixels do not count",
    },
)
L1_DISCO = FrameMetric(
    (Value("l1_disco", "L1, DisCo's scale (E-04, depends on the size)", "lower", 2),),
    l1_disco,
    {"arithmetic": "float64 of uint8 RGB", "scale": "0 to 255, divided by height x width, times 1e4"},
)


def _spec(metric: FrameMetric | PersonMetric) -> MetricSpec:
    return MetricSpec(NoSettings, lambda settings, machine: metric)


METRICS = {
    "psnr": _spec(PSNR),
    "ssim": _spec(SSIM),
    "l1": _spec(L1),
    "ssim-disco": _spec(SSIM_DISCO),
    "l1-disco": _spec(L1_DISCO),
}
