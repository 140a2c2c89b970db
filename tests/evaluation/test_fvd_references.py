"""FVD by recipe against the codes that the recipes are named after, and what a result says about itself."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image
from plain_i3d import plain_i3d
from weights_here import need

from evaluation.features import i3d, video_resize
from evaluation.metrics import registry
from evaluation.metrics.base import Machine, SetMetric
from evaluation.metrics.fvd import METRICS, RECIPES, StyleganvSettings, WindowSettings
from imanim import config, weights
from imanim.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")


def video(seed, frames=10, height=24, width=32):
    """Moving stripes in noise: no two alike."""
    dice = np.random.default_rng(seed)
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    waves = [np.sin((x * a + y * b + t * c) / 3) for a, b, c in dice.normal(size=(3, 3))]
    return (
        (127 + 80 * np.stack(waves, -1) + dice.normal(0, 15, (frames, height, width, 3))).clip(0, 255).astype(np.uint8)
    )


class Rows:
    """Features at hand."""

    def __init__(self, rows):
        self.rows, self.units = rows, [str(i) for i in range(len(rows))]

    def __len__(self):
        return len(self.rows)

    def read(self, i):
        return self.rows[i]


def frechet_as_published(made, truth, ddof):
    """The formula in numpy and scipy."""
    one, other = (np.cov(rows, rowvar=False, ddof=ddof) for rows in (made, truth))
    root = scipy.linalg.sqrtm(one @ other)
    apart = np.square(made.mean(0) - truth.mean(0)).sum()
    return float(np.real(apart + np.trace(one + other - 2 * root)))


# ------------------------------------------------------------------------------------------------------- resizing

SIZES = [(24, 32), (32, 24), (41, 41), (300, 260), (224, 224)]


@pytest.mark.parametrize("size", [(7, 5), (9, 12)])
def test_the_original_resizes_like_tensorflow_1(size):
    frames = video(0, 2, *size)
    ours = video_resize.tf1(frames, 16).numpy()
    for t, c, i, j in np.ndindex(2, 3, 16, 16):
        y, x = i * size[0] / 16, j * size[1] / 16
        top, left = int(y), int(x)
        rows, columns = (top, min(top + 1, size[0] - 1)), (left, min(left + 1, size[1] - 1))
        corners = frames[t][np.ix_(rows, columns)][..., c].astype(float)
        wanted = [1 - (y - top), y - top] @ corners @ [1 - (x - left), x - left]
        assert ours[t, c, i, j] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_is_pytorchs_without_antialias(size):
    frames = video(1, 2, *size)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    assert torch.equal(
        video_resize.bilinear(frames, 224), F.interpolate(x, (224, 224), mode="bilinear", align_corners=False)
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_short_side_is_resized_and_the_middle_cut_out_as_common_metrics_does_it(size):
    frames = video(2, 2, *size)
    x = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
    scale = 224 / min(size)
    wanted = (224, math.ceil(size[1] * scale)) if size[0] < size[1] else (math.ceil(size[0] * scale), 224)
    x = F.interpolate(x, size=wanted, mode="bilinear", align_corners=False)
    top, left = (x.shape[2] - 224) // 2, (x.shape[3] - 224) // 2
    x = (x[:, :, top : top + 224, left : left + 224] - 0.5) * 2
    ours = video_resize.short_side(frames, 224) / 127.5 - 1
    assert ours.shape == (2, 3, 224, 224)
    assert torch.allclose(ours, x.transpose(0, 1), rtol=0, atol=1e-6)


def test_rounding_makes_some_squares_a_row_too_tall_and_that_is_kept():
    assert math.ceil(41 * (224 / 41)) == 225
    frames = video(3, 1, 41, 41)
    taller = F.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(), (225, 224), mode="bilinear", align_corners=False
    )
    assert torch.equal(video_resize.short_side(frames, 224), taller[:, :, :224])


@pytest.mark.parametrize("size", SIZES)
def test_bicubic_is_pillows_on_float_planes_neither_rounded_nor_clipped(size):
    frames = video(4, 1, *size)
    frames[:, : size[0] // 2] = 255
    frames[:, size[0] // 2 :] = 0
    ours = video_resize.pil_bicubic(frames, 112)
    for c in range(3):
        plane = Image.fromarray(frames[0, :, :, c].astype(np.float32), mode="F")
        assert np.array_equal(ours[0, c].numpy(), np.asarray(plane.resize((112, 112), Image.Resampling.BICUBIC)))
    assert ours.max() > 255 and ours.min() < 0


# ---------------------------------------------------------------------------------------------------------- cd-fvd


def cdfvd_network():
    """cd-fvd's own I3D with the same weights, and its preprocessing; the file that it would fetch is not needed."""
    pytest.importorskip("cdfvd", reason="cd-fvd is not installed (pip install --no-deps cd-fvd==0.1.1)")
    pytest.importorskip("einops", reason="einops is not installed; cd-fvd needs it")
    from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d
    from cdfvd.third_party.i3d.utils import preprocess_i3d

    tensors = weights.tensors("i3d-kinetics-400")
    branches = {"b0": "0/Conv3d_0a_1x1", "b1a": "1/Conv3d_0a_1x1", "b1b": "1/Conv3d_0b_3x3"}
    branches |= {"b2a": "2/Conv3d_0a_1x1", "b2b": "2/Conv3d_0b_3x3", "b3b": "3/Conv3d_0b_1x1"}
    network = InceptionI3d(400, in_channels=3).eval()
    state = network.state_dict()
    for key in state:
        layer, *rest = key.split(".")
        name = f"{layer}.Branch_{branches[rest[0]]}" if rest[0] in branches else layer
        name = "Logits/Conv3d_0c_1x1" if layer == "logits" else name
        source = {
            "weight": "params.{}.Conv_0.kernel",
            "bias": "params.{}.Conv_0.bias" if layer == "logits" else "params.{}.BatchNorm_0.bias",
            "running_mean": "batch_stats.{}.BatchNorm_0.mean",
            "running_var": "batch_stats.{}.BatchNorm_0.var",
        }.get(rest[-1])
        if key.endswith("bn.weight"):
            state[key] = torch.ones_like(state[key])
        elif source:
            found = tensors[source.format(name)]
            state[key] = found.permute(4, 3, 0, 1, 2) if rest[-1] == "weight" else found.flatten()
    network.load_state_dict(state)
    return network, preprocess_i3d


def test_features_agree_with_cd_fvds_own_network_and_preprocessing():
    need("i3d-kinetics-400")
    network, preprocess = cdfvd_network()
    clip = video(5)
    with torch.no_grad():
        theirs = network(preprocess(clip[None])).numpy()
    ours = METRICS["fvd-cdfvd"].build(WindowSettings(), Machine()).extractor(clip)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.slow
def test_the_distance_agrees_with_cd_fvds():
    need("i3d-kinetics-400")
    network, preprocess = cdfvd_network()
    from cdfvd.utils.metric_utils import FeatureStats

    clips = [[video(10 * side + i) for i in range(4)] for side in (1, 2)]
    stats = []
    for side in clips:
        stats.append(FeatureStats(capture_mean_cov=True))
        for clip in side:
            with torch.no_grad():
                stats[-1].append_torch(network(preprocess(clip[None])), num_gpus=1, rank=0)
    (mean1, cov1), (mean2, cov2) = (s.get_mean_cov() for s in stats)
    theirs = np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2 - 2 * scipy.linalg.sqrtm(cov1 @ cov2)).real
    metric = METRICS["fvd-cdfvd"].build(WindowSettings(), Machine())
    ours = metric.distance(*(Rows([metric.extractor(clip) for clip in side]) for side in clips))
    assert ours["fvd_cdfvd"].value == pytest.approx(theirs, rel=1e-3)


# ----------------------------------------------------------------------------------------------------- the metrics


@pytest.fixture(scope="module")
def built():
    need("i3d-kinetics-400")
    return {name: METRICS[name].build(WindowSettings(), Machine()) for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_distance_has_its_codes_ddof(built, name):
    dice = np.random.default_rng(0)
    made, truth = (dice.normal(shift, 1, (12, 400)).astype(np.float32) for shift in (0, 0.1))
    found = built[name].distance(Rows(list(made[:, None])), Rows(list(truth[:, None])))
    by_ddof = [frechet_as_published(made.astype(float), truth.astype(float), ddof) for ddof in (0, 1)]
    assert found[name.replace("-", "_")].value == pytest.approx(by_ddof[0 if name == "fvd-cdfvd" else 1], rel=1e-4)
    assert abs(by_ddof[1] - by_ddof[0]) > 0.01 * by_ddof[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_result_names_everything_that_it_depends_on(built, name):
    about, recipe = built[name].protocol(), RECIPES[name]
    assert about["weights_sha256"] == weights.fingerprint("i3d-kinetics-400")
    assert about["ddof"] == recipe.ddof and about["batch_norm_epsilon"] == recipe.eps
    assert "224x224" in about["resize"] and about["frames"] is None
    (value,) = built[name].values
    assert (value.name, value.better, value.needs_truth) == (name.replace("-", "_"), "lower", True)
    assert isinstance(built[name], SetMetric)


@pytest.mark.parametrize(
    ("name", "eps", "pool_frames"),
    [("fvd-tf", 1e-3, 2), ("fvd-commonmetrics", 1e-3, 2), ("fvd-videogpt", 1e-5, 2), ("fvd-disco", 1e-3, 1)],
)
def test_a_recipe_is_its_resizing_its_range_and_a_plain_network(built, name, eps, pool_frames):
    clip = video(7, height=224, width=224)
    x = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        wanted = plain_i3d(weights.tensors("i3d-kinetics-400"), x, eps, pool_frames).numpy()
    assert np.abs(built[name].extractor(clip) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_protocols_of_different_recipes_differ(built):
    protocols = [metric.protocol() for metric in built.values()]
    assert all(a != b for i, a in enumerate(protocols) for b in protocols[:i])


def test_a_short_clip_is_refused_where_the_code_cannot_take_it(built):
    with pytest.raises(InputError, match=r"a clip has 9, this metric needs 10"):
        built["fvd-tf"].extractor(video(0, frames=9))


def test_the_metrics_say_which_weights_they_need_and_build_through_the_registry(monkeypatch):
    assert all(list(METRICS[name].weights(WindowSettings())) == ["i3d-kinetics-400"] for name in RECIPES)
    monkeypatch.setattr(registry, "MODULES", ("evaluation.metrics.fvd",))
    registry.known.cache_clear()
    try:
        with pytest.raises(InputError, match=r"fid-vid\.weights: not set"):
            registry.build({"fid-vid": {}}, Machine())
        with pytest.raises(InputError, match="step_frames"):
            registry.build({"fvd-tf": {"step_frames": 3}}, Machine())
    finally:
        registry.known.cache_clear()


# -------------------------------------------------------------------------------------------------------- StyleGAN-V


class StandInDetector(torch.nn.Module):
    """Takes what StyleGAN-V's network takes; its 400 features are means over pieces of time and rows."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert rescale and resize and return_features
        x = x.float() / 127.5 - 1
        return F.adaptive_avg_pool3d(x, [1, 20, 20]).mean(1).flatten(1)


@pytest.fixture
def detector(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(StandInDetector()).save(str(path))
    return path


def styleganv(path=None, **settings):
    given = {"torchscript": str(path)} if path else {}
    return METRICS["fvd-styleganv"].build(config.from_dict(StyleganvSettings, given | settings), Machine())


def test_stylegan_vs_network_is_the_users_and_without_it_the_metric_says_which_file():
    with pytest.raises(InputError, match=r"fvd-styleganv\.torchscript: not set.*i3d_torchscript\.pt"):
        styleganv()


def test_a_torchscript_is_not_run_before_its_sha256_is_stated(detector):
    sha256 = weights.sha256_of(detector)
    with pytest.raises(InputError, match=f"not set.*{sha256}.*code that will be run"):
        styleganv(detector)
    with pytest.raises(InputError, match=sha256):
        styleganv(detector, sha256="0" * 64)
    assert styleganv(detector, sha256=sha256).protocol()["weights_sha256"] == sha256


def test_stylegan_vs_network_gets_uint8_clips_and_its_rows_are_kept(detector):
    metric = styleganv(detector, sha256=weights.sha256_of(detector))
    clip = video(6, frames=33)
    rows = metric.extractor(clip)
    assert rows.shape == (2, 400) and metric.protocol()["ddof"] == 0
    x = torch.from_numpy(clip[16:32]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    wanted = F.adaptive_avg_pool3d(x, [1, 20, 20]).mean(1).flatten(1)
    assert np.allclose(rows[1], wanted[0], atol=1e-6)


def test_a_file_that_is_no_torchscript_is_refused(tmp_path):
    path = tmp_path / "i3d.pt"
    path.write_bytes(b"no network")
    with pytest.raises(InputError, match="not a TorchScript file"):
        styleganv(path, sha256=weights.sha256_of(path))


def test_inference_is_in_plain_float32():
    with i3d.exact():
        assert not torch.backends.cudnn.allow_tf32 and torch.is_inference_mode_enabled()
