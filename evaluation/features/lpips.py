"""LPIPS 0.1 (Zhang et al. 2018, arXiv:1801.03924): how far apart two pictures look, by the features of AlexNet or VGG-16.

Both pictures go through the backbone; at five depths the features are brought to unit length over the channels, their
squared difference is weighted channel by channel, and the five results are averaged over the picture and added. The
numbers are those of the package ``lpips`` 0.1.4. What must be right for that: the input is RGB in [-1,1] (a published
table was made with [0,1], Wangt-CN/DisCo#41), and no picture is resized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn import functional

from imanim import weights
from imanim.errors import InputError

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for pictures in [-1,1], as LPIPS 0.1 rounds them."""
EPSILON = 1e-10
"""Added to a feature vector's length before dividing by it."""
PASS_PX = 16 * 256 * 256
"""Pixels of one side of the pairs in one pass, at most: VGG's first stage keeps 0.5 kB for each, twice."""


@dataclass(frozen=True)
class Conv:
    """A convolution and its ReLU; before it, a max pooling of ``pool`` pixels at stride 2 (0: none)."""

    channels: int
    size: int = 3
    stride: int = 1
    pad: int = 1
    pool: int = 0


@dataclass(frozen=True)
class Backbone:
    """Five stages of convolutions: LPIPS compares the features after each. ``min_px``: the smallest side that it can take."""

    weights: str
    prefix: str
    stages: tuple[tuple[Conv, ...], ...]
    min_px: int


BACKBONES = {
    # Krizhevsky 2014 (arXiv:1404.5997).
    "alex": Backbone(
        "lpips-alex",
        "AlexNet_0",
        (
            (Conv(64, size=11, stride=4, pad=2),),
            (Conv(192, size=5, pad=2, pool=3),),
            (Conv(384, pool=3),),
            (Conv(256),),
            (Conv(256),),
        ),
        min_px=31,
    ),
    # Simonyan and Zisserman 2015 (arXiv:1409.1556), configuration D.
    "vgg": Backbone(
        "lpips-vgg",
        "VGG16_0",
        (
            (Conv(64), Conv(64)),
            (Conv(128, pool=2), Conv(128)),
            (Conv(256, pool=2), Conv(256), Conv(256)),
            (Conv(512, pool=2), Conv(512), Conv(512)),
            (Conv(512, pool=2), Conv(512), Conv(512)),
        ),
        min_px=16,
    ),
}


class Lpips(nn.Module):
    """The distance of LPIPS 0.1, for inference: parameters are frozen. ``net``: a key of :data:`BACKBONES`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str):
        super().__init__()
        self.net = net
        self.backbone = BACKBONES[net]
        self.stages, self.heads = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for convs in self.backbone.stages:
            layers: list[nn.Module] = []
            for conv in convs:
                layers += [nn.MaxPool2d(conv.pool, 2)] if conv.pool else []
                layers += [nn.Conv2d(channels, conv.channels, conv.size, conv.stride, conv.pad), nn.ReLU(inplace=True)]
                channels = conv.channels
            self.stages.append(nn.Sequential(*layers))
            self.heads.append(nn.Conv2d(channels, 1, 1, bias=False))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def maps(self, one: Tensor, other: Tensor) -> Iterator[Tensor]:
        """What the pictures differ by at each of the five depths: float32 [n,1,h,w], smaller from depth to depth.

        Args:
            one, other: float32 [n,3,H,W], RGB in [-1,1].

        Raises:
            InputError: other shapes, pictures too small for the network, values that are not finite or beyond [-1,1].
        """
        self._check(one, other)
        features = ((torch.cat([one, other]) - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        for stage, head in zip(self.stages, self.heads):
            features = stage(features)
            length = features.square().sum(1, keepdim=True).sqrt()
            a, b = (features / (length + EPSILON)).chunk(2)
            yield head((a - b).square())

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """The distance of each pair, float32 [n]. Arguments and errors as in :meth:`maps`."""
        return torch.stack([m.mean((1, 2, 3)) for m in self.maps(one, other)]).sum(0)

    def spatial(self, one: Tensor, other: Tensor) -> Tensor:
        """Where the pictures differ, float32 [n,H,W]. Arguments and errors as in :meth:`maps`."""
        return self.both(one, other)[1]

    def both(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` and :meth:`spatial` from one pass.

        The map's mean is not quite the distance: each depth is upsampled bilinearly to the picture first, which gives
        its border a little more weight.
        """
        found = list(self.maps(one, other))
        distance = torch.stack([m.mean((1, 2, 3)) for m in found]).sum(0)
        size = one.shape[-2:]
        full = [functional.interpolate(m, size=size, mode="bilinear", align_corners=False)[:, 0] for m in found]
        return distance, torch.stack(full).sum(0)

    def _check(self, one: Tensor, other: Tensor) -> None:
        name = f"lpips-{self.net}"
        if one.ndim != 4 or one.shape[1] != 3 or one.shape != other.shape:
            found = f"{list(one.shape)} and {list(other.shape)}"
            raise InputError(f"{name}: pictures of shape {found}; give two of one shape [n,3,H,W]")
        check_size(self.net, *one.shape[-2:])
        for pictures in (one, other):
            # NaN fails this comparison too.
            if pictures.numel() and not bool((pictures.abs() <= 1).all()):
                low, high = float(pictures.min()), float(pictures.max())
                raise InputError(f"{name}: values from {low:.4g} to {high:.4g}; give finite RGB in [-1,1]")


def check_size(net: str, height: int, width: int) -> None:
    """Raises InputError for pictures that are too small for the network's last stage."""
    least = BACKBONES[net].min_px
    if min(height, width) < least:
        raise InputError(f"lpips-{net}: pictures of {height}x{width} pixels; give sides of at least {least}")


@cache
def load(net: str, device: str = "cpu") -> Lpips:
    """The network with its published weights. One for each device, shared: nothing in it changes.

    Raises:
        InputError: unknown network; its weights are not here (see :mod:`imanim.weights`).
    """
    if net not in BACKBONES:
        raise InputError(f"lpips network `{net}`: unknown; known: {', '.join(BACKBONES)}")
    model = Lpips(net)
    stored = weights.tensors(model.backbone.weights)
    wanted: dict[str, Tensor] = {}
    convs = [name for name, layer in model.stages.named_modules() if isinstance(layer, nn.Conv2d)]
    for i, ours in enumerate(convs):
        wanted[f"stages.{ours}.weight"] = _from_flax(stored[f"{model.backbone.prefix}.Conv_{i}.kernel"])
        wanted[f"stages.{ours}.bias"] = stored[f"{model.backbone.prefix}.Conv_{i}.bias"]
    for i in range(len(model.heads)):
        wanted[f"heads.{i}.weight"] = _from_flax(stored[f"NetLinLayer_{i}.Conv_0.kernel"])
    model.load_state_dict(wanted | {"shift": model.shift, "scale": model.scale}, strict=True)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _from_flax(kernel: Tensor) -> Tensor:
    """[height,width,in,out] to [out,in,height,width]."""
    return kernel.permute(3, 2, 0, 1).contiguous()


def to_input(frames: Tensor) -> Tensor:
    """uint8 [n,3,H,W] to the network's [-1,1]."""
    return frames.float() / 127.5 - 1


def to_unit_range(frames: Tensor) -> Tensor:
    """uint8 [n,3,H,W] to [0,1]: not what the network takes (see :mod:`evaluation.metrics.legacy_wrong`)."""
    return frames.float() / 255


def measured(
    model: Lpips,
    one: np.ndarray,
    other: np.ndarray,
    mask: np.ndarray | None,
    batch_size: int,
    scaled: Callable[[Tensor], Tensor] = to_input,
) -> tuple[np.ndarray, np.ndarray]:
    """The distance of each pair of frames, over the whole frame and inside the mask.

    Args:
        one, other: uint8 [T,H,W,3].
        mask: bool [T,H,W] or None.
        batch_size: pairs in one pass, at most (large pictures: :data:`PASS_PX`); the results do not depend on it.
        scaled: uint8 [n,3,H,W] to what goes into the network.

    Returns:
        float64 [T] and [T]; the second is the mean of :meth:`Lpips.spatial` over the mask, NaN where a frame has none.
    """
    device = model.shift.device

    def input_of(frames: np.ndarray) -> Tensor:
        return scaled(torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2))

    whole, inside = np.empty(len(one)), np.full(len(one), np.nan)
    pairs = max(1, min(batch_size, PASS_PX // (one.shape[1] * one.shape[2])))
    for start in range(0, len(one), pairs):
        here = slice(start, start + pairs)
        # cuDNN would round a convolution's inputs to TF32's 10 bits: far above the 1e-6 that a device may change.
        with torch.inference_mode(), cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            pair = input_of(one[here]), input_of(other[here])
            if mask is None:
                whole[here] = model(*pair).cpu().numpy()
                continue
            distance, where = model.both(*pair)
        whole[here] = distance.cpu().numpy()
        for t, (values, counted) in enumerate(zip(where.double().cpu().numpy(), mask[here]), start):
            if counted.any():
                inside[t] = values[counted].mean()
    return whole, inside
