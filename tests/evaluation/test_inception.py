"""The FID Inception: its structure, its features, and the metrics that are made of them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_sets import single
from weights_here import need

from evaluation.features import inception
from evaluation.metrics import fid, frechet, kid
from evaluation.metrics.base import Machine, SetMetric
from imanim import config, weights
from imanim.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def tensors():
    need("inception-2015")
    return weights.tensors("inception-2015")


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(3).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def narrow(tensors):
    return inception.PictureFeatures("tf1", 64)


def test_every_tensor_of_the_weights_is_used_once(tensors):
    class Noting(dict):
        def __getitem__(self, key):
            used.append(key)
            return super().__getitem__(key)

    used = []
    inception.Inception(Noting(tensors))
    assert sorted(used) == sorted(tensors)


def test_a_folded_convolution_is_convolution_normalisation_and_relu(tensors):
    x = torch.randn(2, 3, 31, 31, dtype=torch.float64)
    given = {k: v.double() for k, v in tensors.items() if k.startswith("net.layers.conv.")}
    p = "net.layers.conv"
    y = F.conv2d(x, given[f"{p}.weight"], stride=2)
    mean, var, beta = (given[f"{p}.{k}"] for k in ("mean", "var", "beta"))
    expected = F.batch_norm(y, mean, var, None, beta, eps=1e-3).relu()
    found = inception.Conv(tensors, "conv", 2, False)(x.float())
    assert (found - expected).abs().max() < 1e-4


def test_pooling_after_the_convolution_is_pooling_before_it(tensors):
    conv = inception.Conv(tensors, "mixed.tower_2.conv")
    x = torch.rand(2, 192, 9, 7, generator=torch.Generator().manual_seed(0))
    inside = F.unfold(F.pad(x, (1, 1, 1, 1)), 3).reshape(2, 192, 9, -1).sum(2)
    counted = F.unfold(F.pad(torch.ones(2, 1, 9, 7), (1, 1, 1, 1)), 3).sum(1, keepdim=True)
    pooled = (inside / counted).reshape(2, 192, 9, 7)
    assert (inception.MeanThenConv(conv)(x) - conv(pooled)).abs().max() < 1e-5


@pytest.mark.parametrize("dim", fid.DIMS)
def test_features_have_the_width_that_was_asked_for(dim, tensors, clip):
    assert fid.DIMS == inception.DIMS
    found = inception.PictureFeatures("clean", dim)(clip[:2])
    assert found.shape == (2, dim)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.std(0).max() > 0


def test_features_do_not_depend_on_the_batch(tensors):
    frames = np.random.default_rng(1).integers(0, 256, (17, 30, 30, 3), dtype=np.uint8)
    rows = [inception.PictureFeatures("tf1", machine=Machine(batch_size=b))(frames) for b in (16, 3)]
    assert np.abs(rows[0] - rows[1]).max() <= 1e-6 * rows[0].max()


def test_the_distance_does_not_depend_on_the_batch(tensors):
    random = np.random.default_rng(2)
    sets = [random.integers(low, 256, (20, 30, 30, 3), dtype=np.uint8) for low in (0, 60)]
    found = []
    for batch_size in (16, 3):
        features = inception.PictureFeatures("tf1", 192, machine=Machine(batch_size=batch_size))
        found.append(frechet.distance(*(single(features(frames)) for frames in sets)).value)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_frames_are_spread_evenly(clip, narrow):
    assert inception.spread(5, None).tolist() == [0, 1, 2, 3, 4]
    assert inception.spread(9, 3).tolist() == [1, 4, 7]
    assert inception.spread(8, 1).tolist() == [4]
    assert inception.spread(4, 4).tolist() == [0, 1, 2, 3]
    some = inception.PictureFeatures("tf1", 64, 2)
    assert np.array_equal(some(clip), narrow(clip)[[1, 3]])


@pytest.mark.parametrize("wanted", [0, 6])
def test_more_frames_than_there_are_is_refused(wanted):
    with pytest.raises(InputError, match=f"frames_per_clip: {wanted} of a clip of 5 frames; set it to 1 to 5"):
        inception.spread(5, wanted)


def test_frames_that_are_no_colour_pictures_are_refused(narrow):
    with pytest.raises(InputError, match="give uint8"):
        narrow(np.full((2, 8, 8, 3), np.nan, np.float32))


def test_the_key_tells_apart_whatever_changes_features(tensors):
    keys = {
        inception.PictureFeatures(*settings).key
        for settings in (("clean", 64), ("tf1", 64), ("clean", 192), ("clean", 64, 3), ("clean", 64, 4))
    }
    assert len(keys) == 5
    assert all(weights.fingerprint("inception-2015") in key for key in keys)
    machines = {inception.PictureFeatures("clean", 64, machine=Machine(batch_size=b)).key for b in (1, 2)}
    assert len(machines) == 1


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("fid-clean", {"dim": 2047}, "dim: 2047; use one of 64, 192, 768, 2048"),
        ("fid-tf1", {"frames_per_clip": 0}, "frames_per_clip: 0; use 1 or more"),
        ("kid-clean", {"subsets": 0}, "subsets: 0; use 1 or more"),
        ("kid-tf1", {"subset_size": 1}, "subset_size: 1; use 2 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, said):
    with pytest.raises(ConfigError, match=said):
        config.from_dict(fid.METRICS[name].settings, settings)


@pytest.mark.parametrize("name", [name for name in fid.METRICS if not name.endswith("-within")])
def test_each_metric_gives_its_values_and_tells_its_protocol(name, tensors, clip):
    spec = fid.METRICS[name]
    small = {"subsets": 3, "subset_size": 4} if name.startswith("kid") else {}
    metric = spec.build(config.from_dict(spec.settings, {"dim": 64, "frames_per_clip": 4, **small}), Machine())
    assert isinstance(metric, SetMetric)
    assert spec.weights(None) == ("inception-2015",)
    rows = metric.extractor(clip)
    found = metric.distance(single(rows), single(rows[::-1] + 1), bootstrap=0, seed=0)
    assert list(found) == [value.name for value in metric.values]
    assert all(np.isfinite(spread.value) for spread in found.values())
    assert found[metric.values[0].name].value > 1
    protocol = metric.protocol()
    code = name.partition("-")[2]
    assert (protocol["resize"], protocol["dim"], protocol["frames_per_clip"]) == (code, 64, 4)
    assert protocol["weights_sha256"] == weights.fingerprint("inception-2015")
    assert protocol.items() >= ({"ddof": 1} if name.startswith("fid") else small).items()


def test_value_names_are_all_different(tensors):
    metrics = [spec.build(spec.settings(dim=64), Machine()) for spec in fid.METRICS.values()]
    names = [value.name for metric in metrics for value in metric.values]
    assert len(set(names)) == len(names) == 16


def test_fid_within_a_clip_is_the_fid_of_its_frames_alone(narrow, clip):
    from evaluation.clip import Clip

    truth = np.random.default_rng(4).integers(0, 200, clip.shape, dtype=np.uint8)
    metric = fid.METRICS["fid-tf1-within"].build(fid.FidSettings(dim=64), Machine())
    known = {"key": "a", "driving": clip, "character": clip[0], "fps": 12.0}
    found = metric.measure(Clip(made=clip, truth=truth, **known))["fid_tf1_within"]
    assert found == pytest.approx(frechet.distance(single(narrow(clip)), single(narrow(truth))).value, rel=1e-6)
    assert metric.measure(Clip(made=clip, truth=clip, **known))["fid_tf1_within"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(metric.measure(Clip(made=clip, **known))["fid_tf1_within"])


def test_kid_refuses_subsets_larger_than_the_sets(narrow, clip):
    spec = fid.METRICS["kid-clean"]
    metric = spec.build(spec.settings(dim=64), Machine())
    rows = single(narrow(clip))
    with pytest.raises(InputError, match="1000"):
        metric.distance(rows, rows, bootstrap=0, seed=0)


def test_the_metrics_are_listed_without_importing_torch():
    code = "import sys, evaluation.metrics.fid; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def documented(tensors):
    """The pictures of torchmetrics' examples: seed 42, whose numbers the making of its own network uses up first."""
    drawn = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith(".weight"))
    torch.manual_seed(42)
    torch.empty(drawn + 1008 * 2048 + 1008).uniform_()
    for low, high in ((0, 200), (100, 255)):
        made = torch.randint(low, high, (100, 3, 299, 299), dtype=torch.uint8)
        yield made.permute(0, 2, 3, 1).numpy()


@pytest.mark.slow
def test_fid_is_the_one_that_torchmetrics_documents(tensors):
    before = torch.get_rng_state()
    try:
        truth, made = documented(tensors)
    finally:
        torch.set_rng_state(before)
    features = inception.PictureFeatures("torchmetrics", 64)
    found = frechet.distance(single(features(made)), single(features(truth))).value
    assert found == pytest.approx(12.63882, abs=1e-5)


@pytest.mark.slow
def test_kid_is_the_one_that_torchmetrics_documents(tensors):
    before = torch.get_rng_state()
    try:
        truth, made = documented(tensors)
        random = torch.Generator()
        random.set_state(torch.get_rng_state())
    finally:
        torch.set_rng_state(before)
    features = inception.PictureFeatures("torchmetrics")
    found = kid.distance(single(features(made)), single(features(truth)), subset_size=50, seed=random)
    assert found["mean"].value == pytest.approx(0.031170, abs=1e-6)
    assert found["std"].value == pytest.approx(0.002475, abs=1e-6)
