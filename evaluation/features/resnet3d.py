"""The 3D ResNet-50 of FID-VID: Kinetics-400 weights of Hara et al. 2018 in the layout of kenshohara/3D-ResNets-PyTorch.

Preprocessing and features as in Wangt-CN/DisCo (``tool/metrics``, mode FVD-3DRN50): the mean colour is taken off,
16-frame segments, 2048 features before the classifier, averaged over a clip's segments. Read against that code; the published file
(``resnet-50-kinetics.pth``) is the user's to bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluation.features.i3d import FORMAT, Conv, fold
from imanim.errors import InputError, from_os_error
from imanim.pickled_tensors import UnpicklingError

SIDE_PX = 112
SEGMENT_FRAMES = 16
DIM = 2048
MEAN_RGB = (114.7748, 107.7354, 99.4750)
"""Of 0 to 255; nothing is divided."""
BN_EPSILON = 1e-5
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Bottleneck blocks, channels inside a block (four times as many leave it), and the stride of the first one's 3x3x3."""
PREFIX = "module."
"""What DataParallel put before every name in the published file."""


class ResNet50(nn.Module):
    """Clips to 2048 features each.

    Args:
        state: the network's state dict; a ``module.`` before the names is taken off.

    Raises:
        InputError: a tensor is missing, unknown, not finite or of another shape.
    """

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__()
        state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
        check_state(state)
        self.stem = _conv(state, "conv1", "bn1", (1, 2, 2))
        self.blocks = nn.Sequential(
            *(
                Bottleneck(state, f"layer{stage}.{i}", step if i == 0 else 1)
                for stage, (count, _, step) in enumerate(STAGES, 1)
                for i in range(count)
            )
        )

    def forward(self, clips: Tensor) -> Tensor:
        """float32 [B,3,T,112,112], RGB in [0,255] -> float32 [B,2048].

        T that is no multiple of 16 is filled up with the last frame.
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[3:] != (SIDE_PX, SIDE_PX):
            raise ValueError(f"clips: expected [B,3,T,{SIDE_PX},{SIDE_PX}], found {list(clips.shape)}")
        missing = -clips.shape[2] % SEGMENT_FRAMES
        clips = torch.cat([clips, clips[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
        clips = clips - clips.new_tensor(MEAN_RGB).view(1, 3, 1, 1, 1)
        segments = [self._segment(part) for part in clips.split(SEGMENT_FRAMES, 2)]
        return torch.stack(segments).mean(0)

    def _segment(self, x: Tensor) -> Tensor:
        x = self.stem(x.contiguous(memory_format=FORMAT))
        x = F.max_pool3d(x, 3, stride=2, padding=1)
        return self.blocks(x).mean((2, 3, 4))


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 with the stride, 1x1x1, added to the (projected) input."""

    def __init__(self, state: Mapping[str, Tensor], name: str, stride: int):
        super().__init__()
        step = (stride, stride, stride)
        self.inner = nn.Sequential(
            _conv(state, f"{name}.conv1", f"{name}.bn1"),
            _conv(state, f"{name}.conv2", f"{name}.bn2", step),
            _conv(state, f"{name}.conv3", f"{name}.bn3", linear=True),
        )
        projected = f"{name}.downsample.0.weight" in state
        self.shortcut = (
            _conv(state, f"{name}.downsample.0", f"{name}.downsample.1", step, linear=True)
            if projected
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).add_(self.shortcut(x)).relu_()


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the network by its name in the published file, counters of batches left out."""
    out: dict[str, tuple[int, ...]] = {"fc.weight": (400, DIM), "fc.bias": (400,)}

    def layer(conv: str, norm: str, *shape: int) -> None:
        out[f"{conv}.weight"] = shape
        out.update({f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")})

    layer("conv1", "bn1", 64, 3, 7, 7, 7)
    before = 64
    for stage, (count, width, _) in enumerate(STAGES, 1):
        for i in range(count):
            name = f"layer{stage}.{i}"
            layer(f"{name}.conv1", f"{name}.bn1", width, before, 1, 1, 1)
            layer(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3, 3)
            layer(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1, 1, 1)
            if i == 0:
                layer(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, before, 1, 1, 1)
            before = 4 * width
    return out


def check_state(state: Mapping[str, Tensor]) -> None:
    """Raises InputError naming the first tensor that is missing, unknown, misshapen or not finite."""
    wanted = shapes()
    for name, shape in wanted.items():
        if name not in state:
            raise InputError(
                f"FID-VID weights: no tensor `{name}`; give the Kinetics-400 ResNet-50 of 3D-ResNets-PyTorch"
            )
        if tuple(state[name].shape) != shape:
            raise InputError(
                f"FID-VID weights: `{name}` is {list(state[name].shape)} instead of {list(shape)};"
                " give the Kinetics-400 ResNet-50 (shortcut B) of 3D-ResNets-PyTorch"
            )
        if not torch.isfinite(state[name]).all():
            raise InputError(f"FID-VID weights: `{name}` holds numbers that are not finite; fetch the file again")
    unknown = [name for name in state if name not in wanted and not name.endswith("num_batches_tracked")]
    if unknown:
        raise InputError(
            f"FID-VID weights: unknown tensor `{unknown[0]}`; give the plain ResNet-50 of 3D-ResNets-PyTorch"
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from a checkpoint of PyTorch that holds nothing but tensors and plain values.

    Raises:
        InputError: the file is not there, damaged, or holds objects that only unpickling would bring.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise from_os_error(error, path) from None
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a file of tensors ({reason}); convert it to .safetensors") from None
    state = stored.get("state_dict", stored) if isinstance(stored, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: holds no state dict of tensors; give one, or a checkpoint with `state_dict`")
    return {str(name): tensor for name, tensor in state.items()}


def _conv(
    state: Mapping[str, Tensor], conv: str, norm: str, stride: tuple[int, int, int] = (1, 1, 1), *, linear: bool = False
) -> Conv:
    scale, bias, mean, var = (state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    weight, bias = fold(state[f"{conv}.weight"], mean, var, bias, BN_EPSILON, scale)
    return Conv(weight, bias, stride, linear=linear, centred=True)
