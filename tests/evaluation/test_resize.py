"""Pictures to 299x299: each way against the code that it is named after, or against other libraries that compute the same."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.features import resize
from evaluation.metrics.fid import CODES
from imanim.errors import InputError

SIZES_PX = [(64, 128), (299, 299), (480, 333), (17, 1000), (1, 1)]


def pictures(height, width, count=2):
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def package_file(package, file):
    """A module of a package by itself: the packages' own import wants torchvision."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed: see launchers/benchmarks/references.py")
    spec = importlib.util.spec_from_file_location(file, Path(found.origin).with_name(f"{file}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planes(frames):
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float()


def test_every_metric_has_its_resizer():
    assert tuple(resize.RESIZERS) == CODES


@pytest.mark.parametrize("size", SIZES_PX)
def test_clean_has_the_pixels_of_clean_fid(size):
    theirs = package_file("cleanfid", "resize").build_resizer("clean")
    frames = pictures(*size)
    expected = np.stack([(theirs(frame) - 128) / 128 for frame in frames])
    assert np.array_equal(resize.resize(frames, "clean").permute(0, 2, 3, 1).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("size", SIZES_PX)
def test_tf1_has_the_pixels_of_torch_fidelity(size):
    theirs = package_file("torch_fidelity", "interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    frames = pictures(*size)
    expected = (theirs(planes(frames), size=(299, 299), align_corners=False) - 128) / 128
    assert torch.equal(resize.resize(frames, "tf1"), expected)


@pytest.mark.parametrize("size", SIZES_PX)
def test_tf1_takes_pixels_at_whole_multiples_of_the_scale(size):
    frames = pictures(*size)
    at = [np.arange(299) * side / 299 for side in size]
    padded = np.pad(frames[0].astype(np.float64), ((0, 1), (0, 1), (0, 0)), mode="edge")
    (y, x), (dy, dx) = (a.astype(int) for a in at), (a % 1 for a in at)
    rows = padded[y] * (1 - dy)[:, None, None] + padded[y + 1] * dy[:, None, None]
    expected = rows[:, x] * (1 - dx)[:, None] + rows[:, x + 1] * dx[:, None]
    found = resize.resize(frames, "tf1")[0].permute(1, 2, 0).numpy() * 128 + 128
    assert np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize("size", SIZES_PX)
def test_pytorch_is_opencvs_bilinear(size):
    frame = pictures(*size)[0]
    expected = cv2.resize(frame.astype(np.float32), (299, 299), interpolation=cv2.INTER_LINEAR)
    found = (resize.resize(frame[None], "pytorch")[0].permute(1, 2, 0).numpy() + 1) / 2 * 255
    assert np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize("size", SIZES_PX)
def test_torchmetrics_is_pillows_bilinear(size):
    frame = pictures(*size)[0]
    channels = [Image.fromarray(frame[..., c].astype(np.float32)) for c in range(3)]
    expected = np.stack([np.asarray(c.resize((299, 299), Image.Resampling.BILINEAR)) for c in channels])
    found = resize.resize(frame[None], "torchmetrics")[0].numpy() * 128 + 128
    assert np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize("code", CODES)
def test_a_picture_of_the_right_size_keeps_its_pixels(code):
    frames = pictures(299, 299)
    scale, shift = (127.5, 127.5) if code == "pytorch" else (128, 128)
    found = resize.resize(frames, code).permute(0, 2, 3, 1).numpy() * scale + shift
    assert np.abs(found - frames).max() < 1e-3


@pytest.mark.parametrize("code", CODES)
def test_a_picture_does_not_depend_on_its_neighbours(code):
    frames = pictures(75, 50, count=5)
    alone = torch.cat([resize.resize(frame[None], code) for frame in frames])
    assert torch.equal(resize.resize(frames, code), alone)


@pytest.mark.parametrize("code", CODES)
def test_a_view_of_an_array_is_read_as_what_it_shows(code):
    frames = pictures(60, 40)
    flipped = frames[:, :, ::-1]
    assert torch.equal(resize.resize(flipped, code), resize.resize(flipped.copy(), code))


def test_ways_that_do_not_filter_alias_where_the_others_do_not():
    stripes = np.zeros((1, 1200, 1200, 3), np.uint8)
    stripes[:, :, ::2] = 255
    spread = {code: resize.resize(stripes, code).std().item() for code in CODES}
    assert max(spread["clean"], spread["torchmetrics"]) < 0.1 < 0.5 < min(spread["tf1"], spread["pytorch"])


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"float32 \[2, 8, 8, 3\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"\[2, 8, 8, 4\]"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"\[2, 8, 8, 1\]"),
        (np.zeros((8, 8, 3), np.uint8), r"\[8, 8, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\[0, 8, 8, 3\]"),
    ],
)
def test_what_is_no_colour_picture_is_refused(frames, said):
    with pytest.raises(InputError, match=f"{said}; give uint8"):
        resize.resize(frames, "clean")


def test_an_unknown_resizer_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="resizer `lanczos`: unknown; known: clean, tf1, pytorch, torchmetrics"):
        resize.resize(pictures(8, 8), "lanczos")
