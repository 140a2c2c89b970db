"""Inception-I3D on RGB (Carreira and Zisserman 2017), the network of FVD (Unterthiner et al. 2018), from Kinetics-400 weights.

Its structure is a table; channels are the weights' own. Everything is padded as TensorFlow's "SAME" does: to ceil(size / stride),
an odd pixel at the end. Batch normalisation (without a scale) is folded into the convolutions in float64. Tensors are kept with
channels last: on a CPU that makes the poolings ten times faster and the convolutions up to two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = "i3d-kinetics-400"
SIDE_PX = 224
CLASSES = 400
FORMAT = torch.channels_last_3d

Size = tuple[int, int, int]
"""Frames, rows, columns."""
LAYERS: tuple[tuple[str, Size] | tuple[str] | tuple[Size, Size], ...] = (
    ("Conv3d_1a_7x7", (2, 2, 2)),
    ((1, 3, 3), (1, 2, 2)),
    ("Conv3d_2b_1x1", (1, 1, 1)),
    ("Conv3d_2c_3x3", (1, 1, 1)),
    ((1, 3, 3), (1, 2, 2)),
    ("Mixed_3b",),
    ("Mixed_3c",),
    ((3, 3, 3), (2, 2, 2)),
    ("Mixed_4b",),
    ("Mixed_4c",),
    ("Mixed_4d",),
    ("Mixed_4e",),
    ("Mixed_4f",),
    ((2, 2, 2), (2, 2, 2)),
    ("Mixed_5b",),
    ("Mixed_5c",),
)
"""In their order: a convolution (name, stride), a max pooling (kernel, stride) or a block of four branches (name)."""
HEADS = ("Branch_0/Conv3d_0a_1x1", "Branch_1/Conv3d_0a_1x1", "Branch_2/Conv3d_0a_1x1")
"""The 1x1x1 convolutions that a block's input enters."""
TAILS = ("Branch_1/Conv3d_0b_3x3", "Branch_2/Conv3d_0b_3x3")
"""What follows the second and the third of them; the fourth branch is a max pooling and ``POOLED``."""
POOLED = "Branch_3/Conv3d_0b_1x1"


class I3D(nn.Module):
    """Clips to the logits of 400 actions, averaged over time.

    Args:
        tensors: as in the weight file ``i3d-kinetics-400`` (Flax: kernels as frames, rows, columns, in, out).
        eps: added to the variance in batch normalisation: 1e-3 in the TensorFlow original, 1e-5 in VideoGPT's port of it.
        pool_frames: neighbours in time that are averaged before the logits are: 2 in the original, 1 in DisCo's copy. With 2
            the first and the last step count half as much as the others.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, eps: float = 1e-3, pool_frames: int = 2):
        super().__init__()
        self.pool_frames = pool_frames
        self.layers = nn.Sequential(*(_layer(tensors, row, eps) for row in LAYERS))
        kernel, bias = (tensors[f"params.Logits/Conv3d_0c_1x1.Conv_0.{part}"] for part in ("kernel", "bias"))
        self.weight = nn.Parameter(kernel[0, 0, 0].T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)

    def forward(self, clips: Tensor) -> Tensor:
        """float32 [B,3,T,224,224] in [-1,1] -> float32 [B,400]; T at least 8 * (pool_frames - 1) + 1."""
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[3:] != (SIDE_PX, SIDE_PX):
            raise ValueError(f"clips: expected [B,3,T,{SIDE_PX},{SIDE_PX}], found {list(clips.shape)}")
        x = self.layers(clips.contiguous(memory_format=FORMAT))
        x = F.avg_pool3d(x, (self.pool_frames, *x.shape[3:]), stride=1).flatten(2).mean(2)
        return F.linear(x, self.weight, self.bias)


class Conv(nn.Module):
    """A convolution with ReLU (unless ``linear``), its batch normalisation folded in.

    Padded to ceil(size / stride), or by half a kernel on each side if ``centred`` (PyTorch's way, which differs with strides).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, stride: Size = (1, 1, 1), *, linear: bool = False, centred: bool = False
    ):
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(memory_format=FORMAT), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride, self.linear, self.centred = stride, linear, centred

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[2:]
        pads = [(k // 2, k // 2) for k in kernel] if self.centred else same_padding(x.shape[2:], kernel, self.stride)
        even = all(before == after for before, after in pads)
        if not even:
            x = F.pad(x, [side for pad in reversed(pads) for side in pad])
        x = _conv3d(x, self.weight, self.bias, self.stride, [pad[0] for pad in pads] if even else [0, 0, 0])
        return x if self.linear else x.relu_()


class MaxPool(nn.Module):
    """Max pooling padded to ceil(size / stride). What is padded never wins: it follows a ReLU."""

    def __init__(self, kernel: Size, stride: Size):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        # ceil_mode is the odd pixel at the end.
        before = [pad[0] for pad in same_padding(x.shape[2:], self.kernel, self.stride)]
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)


class Mixed(nn.Module):
    """Four branches side by side. Those that begin with a 1x1x1 convolution of the input share one."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str, eps: float):
        super().__init__()
        heads = [_folded(tensors, f"{name}.{head}", eps) for head in HEADS]
        self.widths = [len(bias) for _, bias in heads]
        self.head = Conv(torch.cat([w for w, _ in heads]), torch.cat([b for _, b in heads]))
        self.tails = nn.ModuleList(Conv(*_folded(tensors, f"{name}.{tail}", eps)) for tail in TAILS)
        self.pool = nn.Sequential(MaxPool((3, 3, 3), (1, 1, 1)), Conv(*_folded(tensors, f"{name}.{POOLED}", eps)))

    def forward(self, x: Tensor) -> Tensor:
        # A slice of channels has no format of its own, and what is concatenated from one is no longer channels last.
        first, *others = (part.contiguous(memory_format=FORMAT) for part in self.head(x).split(self.widths, 1))
        return torch.cat([first, *(tail(part) for tail, part in zip(self.tails, others)), self.pool(x)], 1)


def same_padding(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """How much "SAME" pads before and after, an axis each: to ceil(size / stride), the odd one after."""
    pads = []
    for length, width, step in zip(size, kernel, stride):
        total = max((-(-length // step) - 1) * step + width - length, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def fold(
    weight: Tensor, mean: Tensor, var: Tensor, bias: Tensor, eps: float, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A convolution's weight [out,in,...] and the batch normalisation after it as one weight and bias, by way of float64."""
    factor = (var.double() + eps).rsqrt() * (1 if scale is None else scale.double())
    folded = weight.double() * factor.view(-1, *[1] * (weight.ndim - 1))
    return folded.float(), (bias.double() - mean.double() * factor).float()


@contextmanager
def exact() -> Iterator[None]:
    """Inference in float32 as it is written: no TF32, no choice of algorithm by timing."""
    with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _conv3d(x: Tensor, weight: Tensor, bias: Tensor, stride: Size, padding: list[int]) -> Tensor:
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # PyTorch takes its own kernels for single clips of few pixels, which are up to ten times slower and lose the format.
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


def _layer(tensors: Mapping[str, Tensor], row: tuple, eps: float) -> nn.Module:
    if len(row) == 1:
        return Mixed(tensors, row[0], eps)
    first, stride = row
    return Conv(*_folded(tensors, first, eps), stride) if isinstance(first, str) else MaxPool(first, stride)


def _folded(tensors: Mapping[str, Tensor], name: str, eps: float) -> tuple[Tensor, Tensor]:
    kernel = tensors[f"params.{name}.Conv_0.kernel"].permute(4, 3, 0, 1, 2)
    mean, var = (tensors[f"batch_stats.{name}.BatchNorm_0.{part}"].flatten() for part in ("mean", "var"))
    return fold(kernel, mean, var, tensors[f"params.{name}.BatchNorm_0.bias"], eps)
