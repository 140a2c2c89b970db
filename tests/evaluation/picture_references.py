"""The packages `lpips` and `torchmetrics`, each in a process of its own: `lpips_of` and `ssim_of` in a test.

Both want torchvision, which is not installed. `lpips` builds its backbones with it: a stand-in hands it the published layers,
filled with the imported weights; everything else that it computes, and its linear heads, are its own. `torchmetrics` only
comes by it while it is imported whole: its SSIM is imported alone.
"""

import importlib.util
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ALEX = [(64, 11, 4, 2), 3, (192, 5, 1, 2), 3, (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), 3]
VGG = [64, 64, 2, 128, 128, 2, 256, 256, 256, 2, 512, 512, 512, 2, 512, 512, 512, 2]
VGG = [(n, 3, 1, 1) if n > 2 else n for n in VGG]


def lpips_of(folder: Path, one: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Of pictures float32 [n,3,H,W], which go in as they are: `alex` and `vgg` [n], `alex_map` and `vgg_map` [n,H,W]."""
    return _run("lpips", "lpips==0.1.4", folder, one, other)


def ssim_of(folder: Path, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The structural similarity [n] of pictures float64 [n,3,H,W] on [0,255]."""
    return _run("torchmetrics", "torchmetrics==1.9.0 lightning-utilities==0.15.3", folder, one, other)["ssim"]


def _run(package: str, pins: str, folder: Path, one: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install --no-deps {pins})")
    given, found = folder / "in.npz", folder / "out.npz"
    np.savez(given, one=one, other=other)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, package, str(given), str(found)]
    ran = subprocess.run(command, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr[-2000:]
    with np.load(found) as kept:
        return dict(kept)


def layers(plan, name, prefix):
    """What torchvision keeps as `features`; an int is a max pooling of that size at stride 2."""
    import torch
    from torch import nn

    from imanim import weights

    stored, channels, made, convs = weights.tensors(name), 3, [], 0
    for item in plan:
        if isinstance(item, int):
            made.append(nn.MaxPool2d(item, 2))
            continue
        conv = nn.Conv2d(channels, *item)
        with torch.no_grad():
            conv.weight.copy_(torch.einsum("hwio->oihw", stored[f"{prefix}.Conv_{convs}.kernel"]))
            conv.bias.copy_(stored[f"{prefix}.Conv_{convs}.bias"])
        made += [conv, nn.ReLU(inplace=True)]
        channels, convs = item[0], convs + 1
    return types.SimpleNamespace(features=nn.Sequential(*made))


def run_lpips(one, other):
    import torch

    torchvision, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    torchvision.models = models
    models.alexnet = lambda pretrained: layers(ALEX, "lpips-alex", "AlexNet_0")
    models.vgg16 = lambda pretrained: layers(VGG, "lpips-vgg", "VGG16_0")
    sys.modules |= {"torchvision": torchvision, "torchvision.models": models}
    import lpips

    out = {}
    with torch.no_grad():
        for net in ("alex", "vgg"):
            out[net] = lpips.LPIPS(net=net, verbose=False)(one, other).numpy()[:, 0, 0, 0]
            out[f"{net}_map"] = lpips.LPIPS(net=net, spatial=True, verbose=False)(one, other).numpy()[:, 0]
    return out


def run_torchmetrics(one, other):
    root = Path(importlib.util.find_spec("torchmetrics").origin).parent
    for name in ("torchmetrics", "torchmetrics.functional", "torchmetrics.functional.image"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules["torchmetrics"]._logger = logging.getLogger("torchmetrics")
    from torchmetrics.functional.image.ssim import structural_similarity_index_measure

    return {"ssim": structural_similarity_index_measure(one, other, data_range=255.0, reduction="none").numpy()}


def main(package, given, found):
    import torch

    with np.load(given) as kept:
        pair = torch.from_numpy(kept["one"]), torch.from_numpy(kept["other"])
    np.savez(found, **{"lpips": run_lpips, "torchmetrics": run_torchmetrics}[package](*pair))


if __name__ == "__main__":
    main(*sys.argv[1:])
