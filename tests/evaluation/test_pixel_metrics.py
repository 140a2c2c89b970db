"""PSNR and SSIM on constructed frames whose values are known."""

import numpy as np
import pytest

from evaluation.metrics.pixels import person_mask, psnr, ssim


def clip(seed: int = 0, frames: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (frames, 32, 24, 3)).astype(np.uint8)


def test_identical_clips_have_infinite_psnr_and_ssim_one():
    a = clip()
    assert psnr(a, a) == np.inf
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-12)


def test_psnr_of_a_constant_offset_is_exact_and_does_not_wrap_around():
    a = clip()
    assert psnr(a + 10, a) == pytest.approx(10 * np.log10(255**2 / 100), abs=1e-12)
    assert psnr(a, a + 10) == psnr(a + 10, a)
    black, white = np.zeros_like(a), np.full_like(a, 255)
    assert psnr(black, white) == pytest.approx(0.0)


def test_psnr_is_the_mean_of_the_frames_values():
    a = clip(frames=2)
    b = a.copy()
    b[0] += 1
    b[1] += 10
    expected = np.mean([10 * np.log10(255**2), 10 * np.log10(255**2 / 100)])
    assert psnr(b, a) == pytest.approx(expected)


def test_a_mask_leaves_out_what_it_does_not_cover():
    a = clip()
    b = a.copy()
    b[:, :16] += 10
    mask = np.zeros(a.shape[:3], bool)
    mask[:, :16] = True
    assert psnr(b, a, mask) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(b, a, ~mask) == np.inf
    assert ssim(b, a, mask) < ssim(b, a) < 1


def test_frames_without_a_person_are_left_out_and_a_clip_without_one_is_nan():
    a = clip()
    mask = np.zeros(a.shape[:3], bool)
    assert np.isnan(psnr(a, a, mask)) and np.isnan(ssim(a, a, mask))
    mask[1] = True
    b = a.copy()
    b[0] += 50
    assert psnr(b, a, mask) == np.inf


def test_ssim_of_two_constant_frames_follows_the_formula():
    a, b = np.full((1, 24, 24, 3), 100, np.uint8), np.full((1, 24, 24, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), abs=1e-9)


def test_the_person_mask_grows_by_the_margin():
    parts = np.zeros((1, 100, 60), np.uint8)
    parts[0, 50, 30] = 7
    mask = person_mask(parts, margin=0.03)
    assert mask[0, 50, 33] and mask[0, 47, 30] and not mask[0, 50, 34] and not mask[0, 47, 33]
    assert mask.sum() == 29


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8), np.uint8), np.zeros((3, 32, 24, 3), np.uint8)]
)
def test_other_shapes_and_types_are_refused(bad):
    with pytest.raises(ValueError):
        psnr(bad, clip())
