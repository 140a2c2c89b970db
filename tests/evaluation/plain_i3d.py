"""I3D as the papers draw it, with everything by itself, from weights in the published layout."""

import torch
import torch.nn.functional as F

STEM = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
BLOCKS = {  # widths as published: branch 0, branch 1 (two), branch 2 (two), branch 3
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOLS = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
"""The max pooling before a layer."""


def same(x, kernel, stride):
    """TensorFlow's rule, an axis at a time."""
    for axis, (k, s) in enumerate(zip(kernel, stride), 2):
        size = x.shape[axis]
        total = max(k - (s if size % s == 0 else size % s), 0)
        pad = [0, 0] * (4 - axis) + [total // 2, total - total // 2]
        x = F.pad(x, pad)
    return x


def plain_i3d(tensors, x, eps, pool_frames):
    """The network as the papers draw it: every convolution, normalisation, ReLU and pooling by itself."""

    def unit(x, name, stride=1):
        kernel = tensors[f"params.{name}.Conv_0.kernel"].permute(4, 3, 0, 1, 2)
        x = F.conv3d(same(x, kernel.shape[2:], (stride,) * 3), kernel, stride=stride)
        mean, var = (tensors[f"batch_stats.{name}.BatchNorm_0.{k}"].flatten() for k in ("mean", "var"))
        return F.relu(F.batch_norm(x, mean, var, None, tensors[f"params.{name}.BatchNorm_0.bias"], eps=eps))

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    for name in [*STEM, *BLOCKS]:
        x = pool(x, *POOLS[name]) if name in POOLS else x
        if name in STEM:
            x = unit(x, name, 2 if name == "Conv3d_1a_7x7" else 1)
            continue
        b = f"{name}.Branch_"
        x = torch.cat(
            [
                unit(x, f"{b}0/Conv3d_0a_1x1"),
                unit(unit(x, f"{b}1/Conv3d_0a_1x1"), f"{b}1/Conv3d_0b_3x3"),
                unit(unit(x, f"{b}2/Conv3d_0a_1x1"), f"{b}2/Conv3d_0b_3x3"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{b}3/Conv3d_0b_1x1"),
            ],
            1,
        )
    x = F.avg_pool3d(x, (pool_frames, 7, 7), 1)
    kernel, bias = (tensors[f"params.Logits/Conv3d_0c_1x1.Conv_0.{k}"] for k in ("kernel", "bias"))
    return F.conv3d(x, kernel.permute(4, 3, 0, 1, 2), bias)[..., 0, 0].mean(2)
