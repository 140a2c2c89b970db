"""Features of video for FVD against a plain loop: the I3D that one writes down first, one clip at a time.

    python launchers/benchmark.py features_video
    python launchers/benchmark.py features_video --threads 1 2 --frames 16 --json features_video.json

Both sides go from the same uint8 clips (moving noise) to the logits of recipe `fvd-cdfvd`, in turns, on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from imanim import cli, weights
from imanim.data.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

RECIPE = "fvd-cdfvd"
EPS = 1e-5


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns by threads each side's median seconds a clip, their ratio and how far the features differ."""
    import torch

    from evaluation.metrics.base import Machine, SetMetric
    from evaluation.metrics.fvd import METRICS, WindowSettings

    args = _parser().parse_args(arguments)
    dice = np.random.default_rng(0)
    clips = dice.integers(0, 256, (args.clips, args.frames, args.side, args.side, 3)).astype(np.uint8)
    metric = METRICS[RECIPE].build(WindowSettings(), Machine())
    assert isinstance(metric, SetMetric)
    ours, plain = metric.extractor, _plain_loop(weights.tensors("i3d-kinetics-400"))
    threads_before = torch.get_num_threads()
    out: dict[str, Any] = {}
    try:
        for threads in args.threads:
            torch.set_num_threads(threads)
            apart = float(np.abs(ours(clips[0]) - plain(clips[0])).max() / np.abs(plain(clips[0])).max())
            sides: dict[str, Callable[[np.ndarray], np.ndarray]] = {"ours": ours, "plain": plain}
            turns = [{name: _seconds(side, clips) for name, side in sides.items()} for _ in range(args.turns)]
            found: dict[str, Any] = {f"{name}_sec": statistics.median(turn[name] for turn in turns) for name in sides}
            ratios = sorted(turn["plain"] / turn["ours"] for turn in turns)
            found |= {"plain_over_ours": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}
            found["features_apart"] = apart
            out[f"threads_{threads}"] = found
            print(
                f"{threads} thread(s), {args.frames} frames: {found['ours_sec']:.3f} s a clip, plain {found['plain_sec']:.3f} s;"
                f" plain over ours {found['plain_over_ours']:.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}];"
                f" features differ by {apart:.1e} of the largest",
                flush=True,
            )
    finally:
        torch.set_num_threads(threads_before)
    if args.json:
        write_json(args.json, out)
    return out


def _seconds(side: Callable[[np.ndarray], np.ndarray], clips: np.ndarray) -> float:
    since = time.perf_counter()
    for clip in clips:
        side(clip)
    return (time.perf_counter() - since) / len(clips)


def _plain_loop(tensors: Mapping[str, Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    import torch
    import torch.nn.functional as F

    network = _plain_network(tensors).eval()

    def features(clip: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            x = F.interpolate(torch.from_numpy(clip).permute(0, 3, 1, 2).float(), (224, 224), mode="bilinear")
            x = (2 * x / 255 - 1).transpose(0, 1)[None].contiguous()
            return network(x)[..., 0, 0].mean(2).numpy()

    return features


def _plain_network(tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Convolution, normalisation and ReLU one after another, frames as [B,C,T,H,W] in memory."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from evaluation.features.i3d import HEADS, LAYERS, POOLED, TAILS, Size, same_padding

    class Same(nn.Module):
        """Pads for what follows."""

        def __init__(self, kernel: Size, stride: Size):
            super().__init__()
            self.kernel, self.stride = kernel, stride

        def forward(self, x: Tensor) -> Tensor:
            pads = same_padding(x.shape[2:], self.kernel, self.stride)
            return F.pad(x, [side for pad in reversed(pads) for side in pad])

    class Branches(nn.ModuleList):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([branch(x) for branch in self], 1)

    def unit(name: str, stride: Size = (1, 1, 1)) -> nn.Sequential:
        kernel = tensors[f"params.{name}.Conv_0.kernel"].permute(4, 3, 0, 1, 2).contiguous()
        t, h, w = kernel.shape[2:]
        conv = nn.Conv3d(kernel.shape[1], kernel.shape[0], (t, h, w), stride, bias=False)
        norm = nn.BatchNorm3d(len(kernel), eps=EPS)
        conv.weight.data = kernel
        norm.bias.data = tensors[f"params.{name}.BatchNorm_0.bias"]
        norm.running_mean, norm.running_var = (
            tensors[f"batch_stats.{name}.BatchNorm_0.{part}"].flatten() for part in ("mean", "var")
        )
        return nn.Sequential(Same((t, h, w), stride), conv, norm, nn.ReLU())

    def pool(kernel: Size, stride: Size) -> nn.Sequential:
        return nn.Sequential(Same(kernel, stride), nn.MaxPool3d(kernel, stride))

    def block(name: str) -> Branches:
        first, *others = (unit(f"{name}.{head}") for head in HEADS)
        tails = [nn.Sequential(other, unit(f"{name}.{tail}")) for other, tail in zip(others, TAILS)]
        return Branches([first, *tails, nn.Sequential(pool((3, 3, 3), (1, 1, 1)), unit(f"{name}.{POOLED}"))])

    def layer(row: tuple) -> nn.Module:
        return block(row[0]) if len(row) == 1 else unit(*row) if isinstance(row[0], str) else pool(*row)

    logits = nn.Conv3d(1024, 400, 1)
    logits.weight.data = tensors["params.Logits/Conv3d_0c_1x1.Conv_0.kernel"].permute(4, 3, 0, 1, 2).contiguous()
    logits.bias = nn.Parameter(tensors["params.Logits/Conv3d_0c_1x1.Conv_0.bias"])
    return nn.Sequential(*(layer(row) for row in LAYERS), nn.AvgPool3d((2, 7, 7), stride=1), logits)


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of PyTorch (default 1 2)")
    p.add_argument("--clips", type=int, default=4, help="clips a turn (default 4)")
    p.add_argument("--frames", type=int, default=16, help="frames of a clip, 10 or more (default 16)")
    p.add_argument("--side", type=int, default=128, help="height and width of the frames (default 128)")
    p.add_argument("--turns", type=int, default=3, help="turns of each side (default 3)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p
