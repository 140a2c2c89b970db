"""The Inception network of FID (TensorFlow's of 2015-12-05; Szegedy et al. 2015, Heusel et al. 2017) and its features.

Its structure is a table; kernel sizes and channels are the weights' own. Against the published architecture its average pooling
does not count the padding, and its last block pools by maximum.

Batch normalisation is folded into the convolutions (in float64), and the 1x1 convolution after an average pooling comes before
it, where it leaves fewer channels to pool: both are linear, so only rounding differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation import choosing
from evaluation.features import resize
from evaluation.metrics.base import Machine
from imanim import weights
from imanim.errors import InputError

WEIGHTS = "inception-2015"
BN_EPSILON = 1e-3


@dataclass(frozen=True)
class Branch:
    """One branch of a block: convolutions one after another, by their names in the weights.

    ``pool`` (``mean``, ``max``) comes before them, ``ends`` are side by side after them. ``stride`` is the last convolution's,
    or the pooling's where there is none; with 2 it is not padded.
    """

    convs: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    pool: str = ""
    stride: int = 1


def _tower(name: str, convs: int, stride: int = 1) -> Branch:
    return Branch(tuple(f"{name}.conv{f'_{i}' if i else ''}" for i in range(convs)), stride=stride)


def _split(name: str, convs: int) -> Branch:
    ends = (f"{name}_mixed_conv", f"{name}_mixed_conv_1")
    return Branch(tuple(f"{name}_conv{f'_{i}' if i else ''}" for i in range(convs)), ends)


_SHRINK = Branch(pool="max", stride=2)
_FINE = (Branch(("conv",)), _tower("tower", 2), _tower("tower_1", 3), Branch(("tower_2.conv",), pool="mean"))
_MIDDLE = (Branch(("conv",)), _tower("tower", 3), _tower("tower_1", 5), Branch(("tower_2.conv",), pool="mean"))
_COARSE = (Branch(("conv",)), _split("tower", 1), _split("tower_1", 2))
STEM: dict[int, tuple[tuple[str, int, bool], ...]] = {
    64: (("conv", 2, False), ("conv_1", 1, False), ("conv_2", 1, True)),
    192: (("conv_3", 1, True), ("conv_4", 1, False)),
}
"""Convolutions (name, stride, padded) before the blocks, by the width after them; a maximum pooling ends each row."""
BLOCKS: dict[int, dict[str, tuple[Branch, ...]]] = {
    768: {
        "mixed": _FINE,
        "mixed_1": _FINE,
        "mixed_2": _FINE,
        "mixed_3": (Branch(("conv",), stride=2), _tower("tower", 3, stride=2), _SHRINK),
        "mixed_4": _MIDDLE,
        "mixed_5": _MIDDLE,
        "mixed_6": _MIDDLE,
        "mixed_7": _MIDDLE,
    },
    2048: {
        "mixed_8": (_tower("tower", 2, stride=2), _tower("tower_1", 4, stride=2), _SHRINK),
        "mixed_9": (*_COARSE, Branch(("tower_2_conv",), pool="mean")),
        "mixed_10": (*_COARSE, Branch(("tower_2_conv",), pool="max")),
    },
}
"""Blocks in their order, by the width after the last: branches whose results are concatenated."""
DIMS = (*STEM, *BLOCKS)
"""Widths that features can have; each is the mean over the picture of what its row of the tables gives."""


class Conv(nn.Module):
    """A convolution with its batch normalisation folded in, then ReLU."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str, stride: int = 1, padded: bool = True):
        super().__init__()
        weight, beta, mean, var = (
            tensors[f"net.layers.{name}.{k}"].double() for k in ("weight", "beta", "mean", "var")
        )
        scale = (var + BN_EPSILON).rsqrt()
        folded = (weight * scale[:, None, None, None]).float().contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(folded, requires_grad=False)
        self.bias = nn.Parameter((beta - mean * scale).float(), requires_grad=False)
        self.stride = stride
        self.padding = tuple((side - 1) // 2 if padded else 0 for side in weight.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.linear(x))

    def linear(self, x: Tensor) -> Tensor:
        """Without ReLU."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class MeanThenConv(nn.Module):
    """3x3 average pooling that does not count its padding, then a 1x1 convolution; computed the other way round."""

    def __init__(self, conv: Conv):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(F.avg_pool2d(self.conv.linear(x), 3, 1, 1, count_include_pad=False))


class SideBySide(nn.Module):
    """The same input through several modules; their results concatenated by channels."""

    def __init__(self, parts: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)


class Inception(nn.Module):
    """The network up to the features of a width.

    Args:
        tensors: of the weights :data:`WEIGHTS`.
        dim: one of :data:`DIMS`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], dim: int = 2048):
        super().__init__()
        if dim not in DIMS:
            raise InputError(f"dim: {dim}; Inception has features of {', '.join(map(str, DIMS))}")
        layers: list[nn.Module] = []
        for row in (width for width in DIMS if width <= dim):
            layers += [Conv(tensors, name, stride, padded) for name, stride, padded in STEM.get(row, ())]
            layers += [nn.MaxPool2d(3, 2)] if row in STEM else []
            layers += [
                SideBySide([_built(tensors, name, branch) for branch in branches])
                for name, branches in BLOCKS.get(row, {}).items()
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [n,3,299,299] of :mod:`evaluation.features.resize` -> [n,dim]."""
        return self.layers(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))


def _built(tensors: Mapping[str, Tensor], block: str, branch: Branch) -> nn.Module:
    last = len(branch.convs) - 1
    convs = [
        Conv(tensors, f"{block}.{name}", *((branch.stride, branch.stride == 1) if i == last else ()))
        for i, name in enumerate(branch.convs)
    ]
    if branch.pool == "mean":
        return nn.Sequential(MeanThenConv(convs[0]), *convs[1:])
    pool = [nn.MaxPool2d(3, branch.stride, 1 if branch.stride == 1 else 0)] if branch.pool == "max" else []
    ends = [SideBySide([Conv(tensors, f"{block}.{name}") for name in branch.ends])] if branch.ends else []
    return nn.Sequential(*pool, *convs, *ends)


class PictureFeatures:
    """Every frame of a clip, or some evenly spread, to a row of features; an ``Extractor`` of :mod:`evaluation.metrics.base`.

    Args:
        resizer: a key of :data:`evaluation.features.resize.RESIZERS`.
        dim: one of :data:`DIMS`.
        frames_per_clip: how many frames of each clip; None: all.
        machine: where, and pictures at a time.

    Raises:
        InputError: an unknown resizer or width; weights that are not here.
    """

    def __init__(
        self, resizer: str, dim: int = 2048, frames_per_clip: int | None = None, machine: Machine | None = None
    ):
        resize.lookup(resizer)
        self.resizer, self.dim, self.frames_per_clip = resizer, dim, frames_per_clip
        self.machine = machine or Machine()
        self.network = Inception(weights.tensors(WEIGHTS), dim).eval().to(self.machine.device)
        some = "all" if frames_per_clip is None else str(frames_per_clip)
        self.key = f"{WEIGHTS} {weights.fingerprint(WEIGHTS)} resize={resizer} dim={dim} frames_per_clip={some}"

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T,H,W,3] -> float32 [n,dim]: a row a frame.

        Raises:
            InputError: frames that are not uint8 colour pictures; fewer of them than ``frames_per_clip``.
        """
        resize.check(frames)
        chosen = spread(len(frames), self.frames_per_clip)
        rows = np.empty((len(chosen), self.dim), np.float32)
        # In TensorFloat-32, cuDNN's default, features are 1e-3 off.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for start in range(0, len(chosen), self.machine.batch_size):
                some = slice(start, start + self.machine.batch_size)
                pictures = resize.resize(frames[chosen[some]], self.resizer, self.machine.device)
                rows[some] = self.network(pictures).cpu().numpy()
        return rows


def spread(frames: int, wanted: int | None) -> np.ndarray:
    """Numbers of ``wanted`` evenly spread frames, the middles of as many equal parts; all of them for None.

    Raises:
        InputError: there are fewer.
    """
    if wanted is None:
        return np.arange(frames)
    if not 0 < wanted <= frames:
        raise InputError(
            f"frames_per_clip: {wanted} of a clip of {frames} frames; set it to 1 to {frames}, or null for all"
        )
    return np.array(choosing.spread(frames, wanted))
