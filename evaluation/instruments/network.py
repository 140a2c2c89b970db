"""The reader's two networks: one frame of a Doubles render to joints and part labels, the face in it to facial actions.

A residual U-Net with four resolutions reads the frame; a small network reads the face, cut out where the joints say it is. Nothing
of ``imanim.models`` is in them, so they share no weakness with what they measure.
Letters: B frames, J joints, P part labels, A facial actions; H, W the frame's pixels, multiples of 16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evaluation.instruments.truth import ACTIONS
from imanim.data.sample import JOINTS, PARTS

WIDTHS = (24, 48, 80, 128)
"""Channels at 1/2, 1/4, 1/8 and 1/16 of the frame."""


FACE_PX = 48
_MEAN_ACTION = 0.12
_NECK = JOINTS.index("neck")
_EYES = [JOINTS.index("r_eye"), JOINTS.index("l_eye")]
_FACE = [JOINTS.index(name) for name in ("nose", "r_eye", "l_eye", "r_ear", "l_ear")]


class Output(NamedTuple):
    """heat: [B,J,H/2,W/2] scores of where each joint is. parts: [B,P,H,W] scores."""

    heat: Tensor
    parts: Tensor


class Conv(nn.Module):
    """3x3 convolution, batch normalisation and, unless ``linear``, ReLU: [B,c,h,w] -> [B,d,h/stride,w/stride]."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, linear: bool = False):
        super().__init__()
        self.conv: nn.Conv2d = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.linear else F.relu(x, inplace=True)

    def fold(self) -> None:
        """Takes the normalisation into the convolution, for good."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class Residual(nn.Module):
    """Two convolutions beside a straight connection: [B,c,h,w] -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.one, self.two = Conv(channels, channels), Conv(channels, channels, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.two(self.one(x)))


class Up(nn.Module):
    """Coarse features [B,c,h,w] doubled in size and added to the encoder's [B,d,2h,2w]."""

    def __init__(self, coarse: int, fine: int):
        super().__init__()
        self.project = nn.Conv2d(coarse, fine, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return fine + F.interpolate(self.project(coarse), scale_factor=2, mode="nearest")


class ReaderNetwork(nn.Module):
    """Frames float32 [B,3,H,W] in [-1,1] to :class:`Output`."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = Conv(12, a)
        self.down_4 = nn.Sequential(Conv(a, b, stride=2), Residual(b))
        self.down_8 = nn.Sequential(Conv(b, c, stride=2), Residual(c))
        self.down_16 = nn.Sequential(Conv(c, d, stride=2), Residual(d), Residual(d))
        self.up_8, self.up_4, self.up_2 = Up(d, c), Up(c, b), Up(b, a)
        self.at_8, self.at_4, self.at_2 = Residual(c), Residual(b), Conv(a + 12, 32)
        self.heat = nn.Conv2d(32, len(JOINTS), 1)
        self.parts = nn.Conv2d(32, 4 * len(PARTS), 1)

    def forward(self, x: Tensor) -> Output:
        pixels = F.pixel_unshuffle(x.contiguous(), 2).contiguous(memory_format=torch.channels_last)
        half = self.stem(pixels)
        quarter = self.down_4(half)
        eighth = self.down_8(quarter)
        eighth = self.at_8(self.up_8(self.down_16(eighth), eighth))
        quarter = self.at_4(self.up_4(eighth, quarter))
        half = self.at_2(torch.cat([self.up_2(quarter, half), pixels], 1))
        parts = F.pixel_shuffle(self.parts(half).contiguous(), 2)
        return Output(self.heat(half), parts)


class FaceNetwork(nn.Module):
    """Faces float32 [B,3,48,48], as :func:`cut_faces` gives them, to facial actions [B,A], about 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(64, len(ACTIONS))
        # Starts from what faces do on average: with random guesses to unlearn, training takes several times as long.
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, _MEAN_ACTION)
        self.layers = nn.Sequential(
            Conv(3, 16),
            Conv(16, 32, stride=2),
            Residual(32),
            Conv(32, 64, stride=2),
            Residual(64),
            Conv(64, 96, stride=2),
            nn.Flatten(),
            nn.Linear(96 * (FACE_PX // 8) ** 2, 64),
            nn.ReLU(),
            last,
        )

    def forward(self, faces: Tensor) -> Tensor:
        return self.layers(faces)


class Networks(nn.Module):
    """Both, as they are shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.frame, self.face = ReaderNetwork(), FaceNetwork()


def folded(network: nn.Module) -> nn.Module:
    """For inference: frozen, the normalisations taken into the convolutions."""
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Conv):
            module.fold()
    return network


def cut_faces(x: Tensor, joints: Tensor) -> Tensor:
    """The face of each frame at one size, brightness and contrast: a square from brows to chin, as wide as 0.9 times the way
    from neck to eyes. Hair and clothes, whose colours say nothing, are mostly outside.

    Args:
        x: frames [B,3,H,W]. joints: [B,J,2], x and y in [0,1].

    Returns:
        [B,3,48,48], mean 0 and deviation about 1 in each frame; the edge goes on beyond the frame.
    """
    size = torch.tensor([x.shape[-1], x.shape[-2]], dtype=x.dtype, device=x.device)
    place = joints * size
    eyes, centre = place[:, _EYES].mean(1), place[:, _FACE].mean(1)
    half = 0.45 * (eyes - place[:, _NECK]).norm(dim=-1).clamp_min(1.0)
    centre = centre + half[:, None] * x.new_tensor([0.0, 0.25])
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = (half[:, None] / size * 2).unbind(1)
    theta[:, :, 2] = centre / size * 2 - 1
    grid = F.affine_grid(theta, [len(x), 3, FACE_PX, FACE_PX], align_corners=False)
    faces = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    return (faces - faces.mean((2, 3), keepdim=True)) / (faces.std((1, 2, 3), keepdim=True) + 0.05)


def places(heat: Tensor) -> Tensor:
    """Scores [B,J,h,w] -> the mean place [B,J,2] under their softmax, x and y in [0,1] of the frame: finer than a cell."""
    height, width = heat.shape[-2:]
    chance = heat.flatten(2).softmax(-1).unflatten(2, (height, width))
    x = (torch.arange(width, device=heat.device) + 0.5) / width
    y = (torch.arange(height, device=heat.device) + 0.5) / height
    return torch.stack([(chance.sum(2) * x).sum(-1), (chance.sum(3) * y).sum(-1)], -1)
