"""PSNR, SSIM and L1 on constructed frames whose values are known, and beside independent computations."""

import cv2
import numpy as np
import pytest
from pictures import clip_of, noisy, picture, spoilt_more_and_more
from skimage.metrics import peak_signal_noise_ratio

from evaluation.metrics.base import ClipMetric, Machine, NoSettings
from evaluation.metrics.pixels import (
    METRICS,
    PSNR_CEILING,
    capped_psnr_over,
    l1,
    l1_disco,
    person_mask,
    psnr,
    ssim,
    ssim_disco,
)
from imanim.errors import InputError


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


def ssim_by_definition(one: np.ndarray, other: np.ndarray, weights: np.ndarray, correction: float = 1.0) -> np.ndarray:
    """Every full window of float64 [H,W], by the sums that define its means, variances and covariance."""
    size = len(weights)
    a, b = (np.lib.stride_tricks.sliding_window_view(x, (size, size)) for x in (one, other))
    mean_a, mean_b = (weights * a).sum((2, 3)), (weights * b).sum((2, 3))
    off_a, off_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
    va, vb, cov = (correction * (weights * p).sum((2, 3)) for p in (off_a**2, off_b**2, off_a * off_b))
    c1, c2 = 2.55**2, 7.65**2
    return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (va + vb + c2))


def test_psnr_is_that_of_scikit_image_in_float64():
    a = clip(frames=3)
    b = noisy(a, 30)
    expected = [peak_signal_noise_ratio(x.astype(float), y.astype(float), data_range=255) for x, y in zip(a, b)]
    assert psnr(b, a) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("function", [psnr, l1, ssim])
def test_the_metric_says_what_its_function_says_over_the_frame_and_inside_the_mask(function):
    a = np.stack([picture(40, 32, seed) for seed in range(3)])
    b, name = noisy(a, 25), function.__name__
    mask = np.zeros(a.shape[:3], bool)
    mask[:2, 8:20, 10:30] = True
    assert measure(name, b, a, mask) == {name: function(b, a), f"{name}_person": function(b, a, mask)}


def test_ssim_is_that_of_its_definition():
    a = picture(40, 32)
    b = noisy(a[None], 25)[0]
    offsets = np.arange(-5, 6)
    gaussian = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(gaussian, gaussian) / gaussian.sum() ** 2
    expected = np.stack(
        [ssim_by_definition(a[..., c].astype(float), b[..., c].astype(float), window) for c in range(3)]
    )
    assert ssim(b[None], a[None]) == pytest.approx(expected.mean(), abs=1e-12)
    mask = np.zeros((1, 40, 32), bool)
    mask[0, 8:20, 10:30] = True
    inside = expected.transpose(1, 2, 0)[mask[0, 5:-5, 5:-5]]
    assert ssim(b[None], a[None], mask) == pytest.approx(inside.mean(), abs=1e-12)


def test_the_ssim_of_disco_is_that_of_its_definition_on_rounded_gray():
    a = picture(40, 32)
    b = noisy(a[None], 25)[0]
    gray = [cv2.cvtColor(x[..., ::-1].copy(), cv2.COLOR_BGR2GRAY).astype(float) for x in (b, a)]
    assert np.abs(gray[1] - a @ (0.299, 0.587, 0.114)).max() <= 0.51
    expected = ssim_by_definition(*gray, np.full((7, 7), 1 / 49), correction=49 / 48).mean()
    assert ssim_disco(b[None], a[None]) == pytest.approx(expected, abs=1e-12)
    assert abs(ssim_disco(b[None], a[None]) - ssim(b[None], a[None])) > 0.01


def test_l1_is_on_the_scale_of_bytes_and_does_not_wrap_around():
    a = clip()
    assert l1(a + 10, a) == l1(a, a + 10) == 10
    b = a.copy()
    b[0] += 30
    assert l1(b, a) == 15
    mask = np.zeros(a.shape[:3], bool)
    assert np.isnan(l1(b, a, mask))
    mask[0, :3] = True
    assert l1(b, a, mask) == 30


def test_the_l1_of_disco_divides_by_the_pixels_once_more():
    a = np.zeros((2, 256, 256, 3), np.uint8)
    assert l1_disco(a + 21, a) == pytest.approx(21 / 65536 * 1e4)
    by_their_formula = np.mean([np.abs(x - y.astype(float)) / (256 * 256) for x, y in zip(a + 21.0, a)])
    assert l1_disco(a + 21, a) == pytest.approx(1e4 * by_their_formula)
    assert l1_disco((a + 21)[:, :128, :128], a[:, :128, :128]) == pytest.approx(4 * l1_disco(a + 21, a))


def test_an_exact_frame_counts_as_much_as_eight_bits_can_tell_and_does_not_hide_the_others():
    a = clip(frames=2)
    assert pytest.approx(58.922, abs=0.001) == PSNR_CEILING
    b = a.copy()
    b[1] += 10
    assert psnr(b, a) == np.inf
    other = 10 * np.log10(255**2 / 100)
    assert measure("psnr", b, a)["psnr"] == pytest.approx((PSNR_CEILING + other) / 2)
    found = measure("psnr", a, a, np.ones(a.shape[:3], bool))
    assert found == {"psnr": pytest.approx(PSNR_CEILING), "psnr_person": pytest.approx(PSNR_CEILING)}
    mask = np.zeros(a.shape[:3], bool)
    mask[1] = True
    assert measure("psnr", b, a, mask)["psnr_person"] == pytest.approx(other)


def test_an_error_of_one_step_everywhere_is_below_the_ceiling():
    a = clip(frames=1)
    assert capped_psnr_over(a + 1, a, [None])[0] == psnr(a + 1, a) == pytest.approx(48.1308, abs=1e-4)


def measure(name, made, truth, mask=None):
    return METRICS[name].build(NoSettings(), Machine()).measure(clip_of(made, truth, mask))


@pytest.mark.parametrize("name", METRICS)
def test_more_blur_and_more_noise_are_worse(name):
    truth = picture()[None]
    metric = METRICS[name].build(NoSettings(), Machine())
    first = metric.values[0]
    for row in spoilt_more_and_more(truth):
        values = [first.sign * measure(name, made, truth)[first.name] for made in row]
        assert all(later < sooner for sooner, later in zip(values, values[1:]))
        assert first.sign * measure(name, truth, truth)[first.name] > values[0]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_its_values_and_nan_without_a_truth_or_a_person(name):
    truth = clip()
    made = noisy(truth, 20)
    metric = METRICS[name].build(NoSettings(), Machine())
    assert isinstance(metric, ClipMetric) and metric.protocol()["resize"] is None
    whole, *person = (v.name for v in metric.values)
    assert list(measure(name, made, truth)) == [whole, *person]
    assert np.isnan(list(measure(name, made, None).values())).all()
    assert np.isfinite(measure(name, made, truth)[whole])
    for key in person:
        mask = np.zeros(truth.shape[:3], bool)
        assert np.isnan(measure(name, made, truth)[key]) and np.isnan(measure(name, made, truth, mask)[key])
        mask[:, 8:20, 8:16] = True
        assert np.isfinite(measure(name, made, truth, mask)[key])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((2, 32, 24, 3)), "candidate: float64"),
        (np.zeros((2, 32, 24), np.uint8), r"candidate: uint8 \[2, 32, 24\]"),
        (np.zeros((2, 32, 24, 4), np.uint8), "candidate: uint8"),
        (np.zeros((2, 32, 24, 1), np.uint8), "candidate: uint8"),
        (np.zeros((0, 32, 24, 3), np.uint8), "candidate: uint8"),
        (np.zeros((3, 32, 24, 3), np.uint8), "make their shapes alike"),
    ],
)
def test_other_shapes_and_types_are_refused(bad, said):
    for function in (psnr, ssim, l1, ssim_disco, l1_disco):
        with pytest.raises(InputError, match=said):
            function(bad, clip())


def test_a_mask_that_does_not_fit_is_refused():
    a = clip()
    for mask in (np.ones((2, 9, 9), bool), np.ones(a.shape[:3], np.uint8)):
        for name in ("psnr", "ssim", "l1"):
            with pytest.raises(InputError, match=r"mask: .*; give bool"):
                measure(name, a, a, mask)


def test_frames_that_no_window_fits_into_are_refused_with_their_size():
    a = clip()
    with pytest.raises(InputError, match=r"SSIM: frames of 10x24 pixels; .* at least 11"):
        ssim(a[:, :10], a[:, :10])
    with pytest.raises(InputError, match=r"SSIM: frames of 32x6 pixels; .* at least 7"):
        ssim_disco(a[:, :, :6], a[:, :, :6])
    assert ssim(a[:, :11, :11], a[:, :11, :11]) == pytest.approx(1) == ssim_disco(a[:, :7, :7], a[:, :7, :7])
