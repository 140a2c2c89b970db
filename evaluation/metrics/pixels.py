"""PSNR and SSIM in float64 from uint8 frames, over the whole frame and inside the person's mask.

Why float64 from uint8: a difference of uint8 arrays wraps around, and one blurred pair then reads 33 dB instead of 25
(Wangt-CN/DisCo#86). Why the mask: the background is most of a picture, so a method that paints nothing but the background
looks good on the whole frame.

The mask is the *truth's* person, grown a little so that its outline counts. It does not depend on what is measured, so
every candidate of a pair is measured on the same pixels.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

PEAK = 255.0
SSIM_SIGMA = 1.5
"""Standard deviation of SSIM's Gaussian window, in pixels (Wang et al. 2004); scikit-image cuts it at 3.5 sigma: 11x11."""
SSIM_BORDER = 5
"""Half of that window: nearer to the border a window is not full and is not counted."""
MASK_MARGIN = 0.02
"""How far the person's mask is grown, in image heights (3 pixels at 128)."""


def psnr(candidate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of a clip in dB: the mean over its frames of each frame's PSNR.

    Args:
        candidate, truth: uint8 [T,H,W,3].
        mask: bool [T,H,W], the pixels that count; a frame without any is left out, and without any at all the value is NaN.

    Returns:
        dB; ``inf`` when a frame is reproduced exactly.
    """
    _check(candidate, truth, mask)
    squared = (candidate.astype(np.float64) - truth.astype(np.float64)) ** 2
    counted = np.ones(truth.shape[:3], bool) if mask is None else mask
    values = []
    for error, here in zip(squared, counted):
        if here.any():
            mse = error[here].mean()
            values.append(np.inf if mse == 0 else 10 * np.log10(PEAK**2 / mse))
    return float(np.mean(values)) if values else float("nan")


def ssim(candidate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity of a clip: the mean over its frames of the mean over (masked) pixels and channels.

    The published settings (Wang et al. 2004): Gaussian window of sigma 1.5, population covariance, K1 0.01, K2 0.03, data
    range 255; the outer 5 pixels, whose windows are not full, do not count.

    Args:
        candidate, truth: uint8 [T,H,W,3], H and W at least 11.
        mask: bool [T,H,W], the pixels that count; a frame without any is left out, and without any at all the value is NaN.
    """
    _check(candidate, truth, mask)
    inner = (slice(SSIM_BORDER, -SSIM_BORDER), slice(SSIM_BORDER, -SSIM_BORDER))
    values = []
    for t, (one, other) in enumerate(zip(candidate, truth)):
        here = np.ones(one.shape[:2], bool)[inner] if mask is None else mask[t][inner]
        if not here.any():
            continue
        _, full = structural_similarity(
            one.astype(np.float64),
            other.astype(np.float64),
            channel_axis=-1,
            data_range=PEAK,
            gaussian_weights=True,
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
            full=True,
        )
        values.append(full[inner][here].mean())
    return float(np.mean(values)) if values else float("nan")


def person_mask(parts: np.ndarray, margin: float = MASK_MARGIN) -> np.ndarray:
    """Part labels uint8 [T,H,W] to the pixels of the person, bool [T,H,W], grown by ``margin`` image heights.

    Grown by a disc, so the margin is the same in every direction.
    """
    radius = round(margin * parts.shape[1])
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x**2 + y**2 <= radius**2
    return np.stack([ndimage.binary_dilation(frame > 0, disc) for frame in parts])


def _check(candidate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> None:
    for name, frames in (("candidate", candidate), ("truth", truth)):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"{name}: expected uint8 [T,H,W,3], found {frames.dtype} {list(frames.shape)}")
    if candidate.shape != truth.shape:
        raise ValueError(f"candidate {list(candidate.shape)} and truth {list(truth.shape)} differ in shape")
    if mask is not None and (mask.shape != truth.shape[:3] or mask.dtype != bool):
        raise ValueError(f"mask: expected bool {list(truth.shape[:3])}, found {mask.dtype} {list(mask.shape)}")
