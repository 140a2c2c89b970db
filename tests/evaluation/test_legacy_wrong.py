"""What old tables were computed with: right reproductions of wrong metrics, under names that nobody can mistake."""

import numpy as np
import pytest
import torch
from picture_references import ssim_of
from pictures import blurred, clip_of, noisy, picture
from weights_here import need

from evaluation.features import lpips
from evaluation.metrics import legacy_wrong, pixels
from evaluation.metrics.base import ClipMetric, Machine, NoSettings
from imanim.errors import InputError


def metric(name):
    spec = legacy_wrong.METRICS[name]
    need(*spec.weights(NoSettings()))
    return spec.build(NoSettings(), Machine(batch_size=2))


def value(name, made, truth):
    (found,) = metric(name).measure(clip_of(made, truth)).values()
    return found


def every_byte_with_every_other():
    byte = np.arange(256, dtype=np.uint8)
    pair = np.broadcast_arrays(byte[:, None, None], byte[None, :, None])
    return [np.repeat(side, 3, -1)[None] for side in pair]


def test_psnr_in_uint8_wraps_around_at_256():
    one, other = every_byte_with_every_other()
    wrapped = [(a - b) ** 2 % 256 for a in range(256) for b in range(256)]
    found = value("legacy_wrong-psnr-uint8", one, other)
    assert found == pytest.approx(10 * np.log10(255**2 / np.mean(wrapped)), abs=1e-9)
    assert found == pytest.approx(27.90, abs=0.005) and pixels.psnr(one, other) == pytest.approx(7.75, abs=0.005)


def test_psnr_in_uint8_takes_a_difference_of_16_for_an_exact_copy_of_100_db():
    truth = np.full((2, 16, 16, 3), 40, np.uint8)
    assert value("legacy_wrong-psnr-uint8", truth, truth) == 100
    assert value("legacy_wrong-psnr-uint8", truth + 16, truth) == 100
    assert value("legacy_wrong-psnr-uint8", truth - 32, truth) == 100


def test_psnr_in_uint8_reads_a_blurred_picture_too_high_and_agrees_where_nothing_wraps():
    truth = picture()[None]
    strong, weak = blurred(truth, 4), truth // 2 + 60
    assert value("legacy_wrong-psnr-uint8", strong, truth) > pixels.psnr(strong, truth) + 5
    small = np.clip(truth, 20, 200)
    near = (small + np.random.default_rng(0).integers(-15, 16, small.shape)).astype(np.uint8)
    assert value("legacy_wrong-psnr-uint8", near, small) == pytest.approx(pixels.psnr(near, small), abs=1e-9)
    assert value("legacy_wrong-psnr-uint8", weak, truth) != pytest.approx(pixels.psnr(weak, truth), abs=1)


def test_psnr_in_uint8_ranks_a_larger_error_above_a_smaller_one():
    truth = np.full((1, 16, 16, 3), 40, np.uint8)
    small, large = truth + 11, truth + 17
    assert pixels.psnr(small, truth) > pixels.psnr(large, truth)
    assert value("legacy_wrong-psnr-uint8", small, truth) < value("legacy_wrong-psnr-uint8", large, truth)


def test_ssim_with_its_padded_border_is_that_of_torchmetrics(tmp_path):
    truth = np.stack([picture(48, 40, seed) for seed in range(2)])
    made = np.stack([noisy(truth[:1], 25)[0], blurred(truth[1:], 2)[0]])
    theirs = ssim_of(tmp_path, *(f.transpose(0, 3, 1, 2).astype(float) for f in (made, truth)))
    for t in range(2):
        found = value("legacy_wrong-ssim-padded", made[t : t + 1], truth[t : t + 1])
        assert 0.1 < found < 0.95 and found == pytest.approx(theirs[t], abs=1e-6)


def test_ssim_with_its_padded_border_differs_by_the_border_alone():
    truth = picture(48, 40)[None]
    made = noisy(truth, 25)
    inner = legacy_wrong._ssim_map(made[0], truth[0])[5:-5, 5:-5].mean()
    assert inner == pytest.approx(pixels.ssim(made, truth), abs=1e-12)
    made = truth.copy()
    made[:, :, :5] = 255 - made[:, :, :5]
    gap = pixels.ssim(made, truth) - value("legacy_wrong-ssim-padded", made, truth)
    assert gap > 0.05
    with pytest.raises(InputError, match="SSIM: frames of 10x40"):
        value("legacy_wrong-ssim-padded", truth[:, :10], truth[:, :10])


def test_lpips_fed_half_the_range_is_the_network_on_such_pictures_and_reads_lower():
    truth = np.stack([picture(48, 40, seed) for seed in range(3)])
    made = blurred(truth, 2)
    found = value("legacy_wrong-lpips-01", made, truth)
    pair = [torch.from_numpy(f).permute(0, 3, 1, 2) / 255 for f in (made, truth)]
    assert found == pytest.approx(lpips.load("vgg")(*pair).mean().item(), abs=1e-6)
    right = lpips.measured(lpips.load("vgg"), made, truth, None, 2)[0].mean()
    assert 0.01 < found < 0.97 * right


def test_black_and_white_fed_as_zeros_and_ones_read_another_distance():
    black = np.zeros((1, 64, 64, 3), np.uint8)
    assert value("legacy_wrong-lpips-01", black, black + 255) == pytest.approx(0.494536, abs=1e-6)


@pytest.mark.parametrize("name", legacy_wrong.METRICS)
def test_nobody_can_mistake_or_rank_them(name):
    assert name.startswith("legacy_wrong-")
    made = metric(name)
    assert isinstance(made, ClipMetric) and "wrong" in made.protocol()
    (only,) = made.values
    assert only.name == name.replace("-", "_") and only.label.startswith("WRONG") and only.sign == 0
    truth = picture()[None]
    assert list(made.measure(clip_of(truth, truth))) == [only.name]
    assert np.isnan(list(made.measure(clip_of(truth, None)).values())).all()
