"""FID-VID's 3D ResNet-50 against a plain one, on weights in the published layout, and files that are refused."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from evaluation.features import resnet3d
from evaluation.metrics.base import Machine
from evaluation.metrics.fvd import METRICS, FidVidSettings
from imanim import config, weights
from imanim.errors import InputError


class Block(nn.Module):
    """A bottleneck with its stride in the 3x3x3, as in kenshohara/3D-ResNets-PyTorch."""

    def __init__(self, before, width, stride, projected):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(before, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride, 1, bias=False), nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, 4 * width, 1, bias=False), nn.BatchNorm3d(4 * width)
        self.downsample = None
        if projected:
            norm = nn.BatchNorm3d(4 * width)
            self.downsample = nn.Sequential(nn.Conv3d(before, 4 * width, 1, stride, bias=False), norm)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Plain(nn.Module):
    """The network with everything by itself, its attributes named as in the published file."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False), nn.BatchNorm3d(64)
        before = 64
        for stage, (count, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 1):
            blocks = [Block(before, width, 1 if stage == 1 else 2, True)]
            blocks += [Block(4 * width, width, 1, False) for _ in range(count - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            before = 4 * width
        self.fc = nn.Linear(2048, 400)

    def forward(self, x):
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        assert x.shape[2:] == (1, 4, 4)
        return F.avg_pool3d(x, (1, 4, 4), stride=1).flatten(1)


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    network = Plain().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def checkpoint(plain, tmp_path_factory):
    """As it is published: a checkpoint of DataParallel's state dict among plain values."""
    path = tmp_path_factory.mktemp("weights") / "resnet-50-kinetics.pth"
    state = {f"module.{name}": tensor for name, tensor in plain.state_dict().items()}
    torch.save({"epoch": 99, "arch": "resnet-50", "state_dict": state}, path)
    return path


def build(path, **settings):
    return METRICS["fid-vid"].build(config.from_dict(FidVidSettings, {"weights": str(path), **settings}), Machine())


def as_disco_does_it(network, clip):
    """Frames one by one through Pillow, filled up to whole segments with the last, less the mean colour; segments averaged."""
    frames = []
    for frame in clip:
        planes = [
            Image.fromarray(frame[:, :, c].astype(np.float32)).resize((112, 112), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        frames.append(np.stack([np.asarray(p) for p in planes], -1))
    frames += [frames[-1]] * (-len(frames) % 16)
    x = torch.from_numpy(np.stack(frames)).double() - torch.tensor([114.7748, 107.7354, 99.4750], dtype=torch.float64)
    x = x.view(-1, 16, 112, 112, 3).permute(0, 4, 1, 2, 3).float()
    with torch.no_grad():
        return network(x).mean(0, keepdim=True).numpy()


@pytest.mark.parametrize("frames", [16, 21])
def test_features_agree_with_a_plain_network_fed_as_disco_does_it(plain, checkpoint, frames):
    clip = np.random.default_rng(0).integers(0, 256, (frames, 40, 30, 3)).astype(np.uint8)
    theirs, ours = as_disco_does_it(plain, clip), build(checkpoint).extractor(clip)
    assert ours.shape == (1, 2048) and theirs.std() > 0.01
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_the_table_of_shapes_is_the_plain_networks(plain):
    wanted = {k: tuple(v.shape) for k, v in plain.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert resnet3d.shapes() == wanted


def test_safetensors_and_a_checkpoint_give_the_same_features(plain, checkpoint, tmp_path):
    path = tmp_path / "resnet.safetensors"
    save_file(plain.state_dict(), path)
    clip = np.random.default_rng(1).integers(0, 256, (16, 20, 20, 3)).astype(np.uint8)
    one, other = build(checkpoint), build(path)
    assert np.array_equal(one.extractor(clip), other.extractor(clip))
    assert one.extractor.key != other.extractor.key


def test_a_result_names_the_file_and_how_it_was_fed(checkpoint):
    metric = build(checkpoint)
    about = metric.protocol()
    assert about["weights_sha256"] == weights.sha256_of(checkpoint)
    assert "112x112" in about["resize"] and about["ddof"] == 1 and "114.7748" in about["range"]
    assert [(v.name, v.better) for v in metric.values] == [("fid_vid", "lower")]


def test_without_the_weights_the_metric_says_which_file(tmp_path):
    with pytest.raises(InputError, match=r"fid-vid\.weights: not set.*resnet-50-kinetics\.pth"):
        METRICS["fid-vid"].build(FidVidSettings(), Machine())
    with pytest.raises(InputError, match="is no file"):
        build(tmp_path / "nothing.pth")


class Evil:
    """What a pickle may do."""

    def __reduce__(self):
        return (print, ("ran",))


def test_a_file_that_only_unpickling_could_read_is_refused_and_not_run(tmp_path, capsys):
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save(Evil(), tmp_path / "torch.pth")
    for name in ("plain.pth", "torch.pth"):
        with pytest.raises(InputError, match="not a file of tensors"):
            build(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


def test_files_that_hold_no_tensors_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        build(tmp_path / "list.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="not a file of tensors"):
        build(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer3.2.conv1.weight"), r"no tensor `layer3\.2\.conv1\.weight`"),
        (lambda s: s.update(conv1=s["conv1.weight"]), "unknown tensor `conv1`"),
        (lambda s: s.update({"conv1.weight": s["conv1.weight"][:32]}), r"`conv1\.weight` is \[32, 3, 7, 7, 7\]"),
        (
            lambda s: s.update({"bn1.bias": s["bn1.bias"] * float("nan")}),
            r"`bn1\.bias` holds numbers that are not finite",
        ),
    ],
    ids=["missing", "unknown", "misshapen", "not finite"],
)
def test_another_networks_weights_are_refused(plain, change, message):
    state = dict(plain.state_dict())
    change(state)
    with pytest.raises(InputError, match=message):
        resnet3d.ResNet50(state)


def test_one_frame_is_refused(checkpoint):
    with pytest.raises(InputError, match="a clip has 1, this metric needs 2"):
        build(checkpoint).extractor(np.zeros((1, 20, 20, 3), np.uint8))
