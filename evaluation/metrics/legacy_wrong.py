"""What old tables were computed with and what is wrong with it: to derive such numbers again, and to recognise them.

Nothing here measures quality. Every name begins with ``legacy_wrong``, every label says WRONG, and no value has a better
direction, so that none is ever ranked. Each reproduces published code; tests hold it beside that code or its arithmetic.

* ``legacy_wrong-psnr-uint8``: differences and squares of uint8 wrap around at 256, and an exact frame counts 100 dB. Frames
  that differ much read too high: independent noise reads 27.9 dB instead of 7.7 (Lightning-AI/torchmetrics#2787 shows the
  same fault); a difference of 16 everywhere reads as an exact copy. Found in Wangt-CN/DisCo#86 and corrected in its code
  later; fudan-generative-vision/champ#8 kept it to compare with earlier tables.
* ``legacy_wrong-lpips-01``: LPIPS VGG fed [0,1] where the network takes [-1,1]. Half the contrast: one table reads 0.292
  instead of 0.339 (Wangt-CN/DisCo#41).
* ``legacy_wrong-ssim-padded``: the settings of Wang et al. 2004, but averaged over the whole mirrored frame, its outer 5
  pixels with windows that are partly reflections. torchmetrics does so since Lightning-AI/torchmetrics#2721.

SSIM on gray with a uniform window and L1 divided by the number of pixels are no errors but other protocols:
``ssim-disco`` and ``l1-disco`` in :mod:`evaluation.metrics.pixels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from evaluation.clip import Clip
from evaluation.metrics.base import Machine, MetricSpec, NoSettings, Value
from evaluation.metrics.pixels import PEAK, SSIM_BORDER, SSIM_SIGMA, FrameMetric, check, check_window
from imanim import weights

EXACT_DB = 100.0
"""What DisCo's script gives an exact frame."""


def psnr_uint8(candidate: np.ndarray, truth: np.ndarray) -> float:
    """Wrong on purpose: PSNR in wrapping uint8, the mean over frames, in dB. uint8 [T,H,W,3] each."""
    check(candidate, truth, None)
    # (a - b)^2 modulo 256.
    errors = [float((np.subtract(a, b) ** 2).mean(dtype=np.float64)) for a, b in zip(candidate, truth)]
    return float(np.mean([10 * np.log10(PEAK**2 / mse) if mse else EXACT_DB for mse in errors]))


def ssim_padded(candidate: np.ndarray, truth: np.ndarray) -> float:
    """Wrong on purpose: SSIM averaged over the mirrored border too, the mean over frames. uint8 [T,H,W,3] each."""
    check(candidate, truth, None)
    check_window(truth, 2 * SSIM_BORDER + 1)
    return float(np.mean([_ssim_map(a, b).mean() for a, b in zip(candidate, truth)]))


def _ssim_map(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """SSIM at every pixel of uint8 [H,W,3], float64 [H,W,3], the frame mirrored about its outermost pixels."""
    a, b = one.astype(np.float64), other.astype(np.float64)

    def local(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, SSIM_SIGMA, mode="mirror", radius=SSIM_BORDER, axes=(0, 1))

    mean_a, mean_b = local(a), local(b)
    variance_a = np.maximum(local(a * a) - mean_a**2, 0)
    variance_b = np.maximum(local(b * b) - mean_b**2, 0)
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return light * (2 * covariance + c2) / (variance_a + variance_b + c2)


class Lpips01:
    """Wrong on purpose: LPIPS 0.1 VGG fed [0,1], the mean over frames."""

    values: tuple[Value, ...] = (Value("legacy_wrong_lpips_01", "WRONG, old tables only: LPIPS VGG fed [0,1]", "none"),)

    def __init__(self, machine: Machine):
        self.machine = machine

    def protocol(self) -> dict[str, Any]:
        return {
            "wrong": "the network takes [-1,1] (Wangt-CN/DisCo#41)",
            "network": "LPIPS 0.1 vgg",
            "weights_sha256": weights.fingerprint("lpips-vgg"),
            "input": "RGB in [0,1]",
            "resize": None,
            "over": "mean over frames",
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        from evaluation.features import lpips

        name = self.values[0].name
        if clip.truth is None:
            return {name: float("nan")}
        check(clip.made, clip.truth, None)
        lpips.check_size("vgg", *clip.made.shape[1:3])
        network = lpips.load("vgg", self.machine.device)
        found, _ = lpips.measured(network, clip.made, clip.truth, None, self.machine.batch_size, lpips.to_unit_range)
        return {name: float(found.mean())}


PSNR_UINT8 = FrameMetric(
    (Value("legacy_wrong_psnr_uint8", "WRONG, old tables only: PSNR in wrapping uint8", "none", 2, "dB"),),
    psnr_uint8,
    {
        "wrong": "differences wrap around at 256 (Wangt-CN/DisCo#86)",
        "arithmetic": "uint8 RGB",
        "peak": PEAK,
        "exact_frame_db": EXACT_DB,
    },
)
SSIM_PADDED = FrameMetric(
    (Value("legacy_wrong_ssim_padded", "WRONG, old tables only: SSIM with its mirrored border", "none"),),
    ssim_padded,
    {
        "wrong": "windows beyond the frame count (Lightning-AI/torchmetrics#2721)",
        "arithmetic": "float64 of uint8 RGB, mean over channels",
        "window": f"gaussian 11x11, sigma {SSIM_SIGMA}, population covariance",
        "border": "mirrored and counted",
    },
)
METRICS = {
    "legacy_wrong-psnr-uint8": MetricSpec(NoSettings, lambda settings, machine: PSNR_UINT8),
    "legacy_wrong-ssim-padded": MetricSpec(NoSettings, lambda settings, machine: SSIM_PADDED),
    "legacy_wrong-lpips-01": MetricSpec(
        NoSettings, lambda settings, machine: Lpips01(machine), lambda settings: ("lpips-vgg",)
    ),
}
