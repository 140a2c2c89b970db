"""The I3D network against a plain one, its published values, and which frames make a row of features."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_i3d import BLOCKS, STEM, plain_i3d, same
from weights_here import need

from evaluation.features import i3d
from evaluation.metrics.base import Machine
from evaluation.metrics.fvd import METRICS, RECIPES, WindowFeatures, WindowSettings
from imanim import config, weights
from imanim.errors import ConfigError, InputError


@cache
def random_tensors():
    """Weights of the published shapes, in the published layout."""
    shapes = dict(STEM)
    width = 192
    for name, (a, b, c, d, e, f) in BLOCKS.items():
        branches = {"0/Conv3d_0a_1x1": (width, a, 1), "1/Conv3d_0a_1x1": (width, b, 1), "1/Conv3d_0b_3x3": (b, c, 3)}
        branches |= {"2/Conv3d_0a_1x1": (width, d, 1), "2/Conv3d_0b_3x3": (d, e, 3), "3/Conv3d_0b_1x1": (width, f, 1)}
        shapes |= {f"{name}.Branch_{branch}": shape for branch, shape in branches.items()}
        width = a + c + e + f
    dice, out = torch.Generator().manual_seed(0), {}
    for name, (before, after, k) in shapes.items():
        spread = (2 / (before * k**3)) ** 0.5
        out[f"params.{name}.Conv_0.kernel"] = torch.randn(k, k, k, before, after, generator=dice) * spread
        out[f"params.{name}.BatchNorm_0.bias"] = torch.randn(after, generator=dice) * 0.1
        out[f"batch_stats.{name}.BatchNorm_0.mean"] = torch.randn(1, 1, 1, 1, after, generator=dice) * 0.1
        out[f"batch_stats.{name}.BatchNorm_0.var"] = torch.rand(1, 1, 1, 1, after, generator=dice) + 0.01
    out["params.Logits/Conv3d_0c_1x1.Conv_0.kernel"] = torch.randn(1, 1, 1, width, 400, generator=dice) / 32
    out["params.Logits/Conv3d_0c_1x1.Conv_0.bias"] = torch.randn(400, generator=dice)
    return out


def noise(batch, frames, seed=0):
    return torch.rand(batch, 3, frames, 224, 224, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("frames", "eps", "pool_frames"), [(11, 1e-3, 2), (8, 1e-5, 1)])
def test_the_network_agrees_with_a_plain_one(frames, eps, pool_frames):
    tensors, clips = random_tensors(), noise(1, frames)
    with torch.no_grad():
        plain = plain_i3d(tensors, clips, eps, pool_frames)
        ours = i3d.I3D(tensors, eps=eps, pool_frames=pool_frames)(clips)
    assert ours.shape == (1, 400) and plain.std() > 0.1
    assert torch.allclose(ours, plain, rtol=0, atol=1e-5 * plain.abs().max().item())


def test_a_clips_features_do_not_depend_on_those_beside_it():
    network, clips = i3d.I3D(random_tensors()), noise(2, 10)
    with i3d.exact():
        together, alone = network(clips), torch.cat([network(clips[:1]), network(clips[1:])])
    assert (together - alone).abs().max() <= 1e-6 * together.abs().max()


@pytest.mark.parametrize("size", [1, 4, 5, 7, 56, 57])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (2, 2), (7, 2)])
def test_same_padding_gives_size_over_stride_rounded_up_and_the_odd_one_after(size, kernel, stride):
    ((before, after),) = i3d.same_padding([size], [kernel], [stride])
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
    assert 0 <= after - before <= 1


@pytest.mark.parametrize("size", [7, 8])
def test_max_pooling_is_padded_like_tensorflows(size):
    x = torch.rand(1, 2, size, size, size)
    for kernel, stride in [
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 2, 2)),
        ((2, 2, 2), (2, 2, 2)),
        ((3, 3, 3), (1, 1, 1)),
    ]:
        assert torch.equal(i3d.MaxPool(kernel, stride)(x), F.max_pool3d(same(x, kernel, stride), kernel, stride))


def test_a_wrong_input_size_is_refused():
    with pytest.raises(ValueError, match="224"):
        i3d.I3D(random_tensors())(torch.zeros(1, 3, 10, 112, 112))


# ------------------------------------------------------------------------------------------------ published values

ZEROS_AND_ONES = [
    ("fvd-tf", 10, 569.771),
    ("fvd-tf", 13, 146.515),
    ("fvd-tf", 16, 152.902),
    ("fvd-commonmetrics", 30, 151.3925),
    ("fvd-videogpt", 30, 151.7595),
]


class Rows:
    """Features at hand."""

    def __init__(self, rows):
        self.rows, self.units = rows, [str(i) for i in range(len(rows))]

    def __len__(self):
        return len(self.rows)

    def read(self, i):
        return self.rows[i]


def zeros_and_ones(metric, frames):
    """Eight black videos against eight white ones: all of a side are alike, so one is read."""
    black, white = (metric.extractor(np.full((frames, 64, 64, 3), v, np.uint8)) for v in (0, 255))
    return metric.distance(Rows([white] * 8), Rows([black] * 8), bootstrap=0, seed=0)


@pytest.mark.parametrize(("name", "frames", "value"), ZEROS_AND_ONES)
def test_zeros_against_ones_give_the_published_distance(name, frames, value):
    need("i3d-kinetics-400")
    metric = METRICS[name].build(WindowSettings(), Machine())
    # float32 moves it by 3e-6; the original, in TensorFlow, printed 151.39244.
    assert zeros_and_ones(metric, frames)[name.replace("-", "_")].value == pytest.approx(value, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "value"), [(30, 151.39244), (22, 82.538)])
def test_in_float64_zeros_against_ones_give_the_published_digits(frames, value):
    need("i3d-kinetics-400")
    network = i3d.I3D(weights.tensors("i3d-kinetics-400")).double()
    with i3d.exact():
        black, white = (network(torch.full((1, 3, frames, 224, 224), v, dtype=torch.float64)) for v in (-1.0, 1.0))
    assert (black - white).square().sum().item() == pytest.approx(value, abs=1e-3 if frames < 30 else 1e-4)


# -------------------------------------------------------------------------------------------------------- windows


def frame_numbers(frames=None, step_frames=None, min_frames=2):
    """An extractor whose row is the first and the last frame's number."""

    def network(clip):
        return torch.tensor([[clip[0, 0, 0, 0], clip[-1, 0, 0, 0]]], dtype=torch.float32)

    return WindowFeatures("numbers", 2, network, WindowSettings(frames, step_frames), min_frames)


def numbered(count):
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3))


def test_a_whole_clip_is_one_row():
    assert frame_numbers()(numbered(21)).tolist() == [[0, 20]]


def test_windows_follow_one_another_and_what_is_left_over_is_not_measured():
    assert frame_numbers(8)(numbered(21)).tolist() == [[0, 7], [8, 15]]
    assert frame_numbers(8)(numbered(8)).tolist() == [[0, 7]]


def test_windows_may_overlap():
    assert frame_numbers(8, 1)(numbered(10)).tolist() == [[0, 7], [1, 8], [2, 9]]
    assert frame_numbers(4, 3)(numbered(10)).tolist() == [[0, 3], [3, 6], [6, 9]]


def test_a_clip_that_is_too_short_is_refused_with_its_number_of_frames():
    with pytest.raises(InputError, match=r"a clip has 9, this metric needs 10"):
        frame_numbers(min_frames=10)(numbered(9))
    with pytest.raises(InputError, match=r"a clip has 15, this metric needs 16"):
        frame_numbers(16)(numbered(15))
    with pytest.raises(InputError, match=r"a clip has 1, this metric needs 2"):
        frame_numbers()(numbered(1))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((12, 8, 8), np.uint8),
        np.zeros((12, 8, 8, 1), np.uint8),
        np.zeros((12, 8, 8, 4), np.uint8),
        np.zeros((12, 8, 8, 3), np.float32),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
    ids=["no channels", "grey", "alpha", "float", "no frames"],
)
def test_frames_that_are_not_uint8_colour_are_refused(frames):
    with pytest.raises(InputError, match=r"give uint8 \[T,H,W,3\]"):
        frame_numbers()(frames)


def test_features_that_are_not_finite_are_refused():
    broken = WindowFeatures("broken", 1, lambda clip: torch.tensor([[float("nan")]]), WindowSettings(), 2)
    with pytest.raises(InputError, match="finite"):
        broken(numbered(3))


def test_windows_that_make_no_sense_are_refused():
    for settings, key in [
        ({"frames": 1}, "frames"),
        ({"step_frames": 2}, "step_frames"),
        ({"frames": 16, "step_frames": 0}, "step"),
    ]:
        with pytest.raises(ConfigError, match=key):
            config.from_dict(WindowSettings, settings)


def test_a_window_shorter_than_the_network_needs_is_refused_before_any_clip():
    need("i3d-kinetics-400")
    with pytest.raises(InputError, match=r"frames: 8; this network needs 10"):
        METRICS["fvd-tf"].build(WindowSettings(8), Machine())
    assert METRICS["fvd-disco"].build(WindowSettings(8), Machine()).extractor.frames == 8


def test_features_are_kept_apart_by_whatever_changes_them():
    need("i3d-kinetics-400")
    keys = [
        METRICS[name].build(WindowSettings(*s), Machine()).extractor.key
        for name in RECIPES
        for s in [(), (16,), (16, 1)]
    ]
    assert all(a != b for a, b in pairwise(sorted(keys)))
    assert all(weights.fingerprint("i3d-kinetics-400") in key for key in keys)


def test_no_number_depends_on_the_batch_size():
    need("i3d-kinetics-400")
    frames = np.random.default_rng(0).integers(0, 256, (20, 24, 32, 3)).astype(np.uint8)
    one, many = (METRICS["fvd-tf"].build(WindowSettings(10), Machine(batch_size=n)).extractor for n in (1, 8))
    rows = one(frames)
    assert rows.shape == (2, 400) and rows.dtype == np.float32
    assert np.array_equal(rows, many(frames))
    assert np.array_equal(rows[1:], one(frames[10:]))
