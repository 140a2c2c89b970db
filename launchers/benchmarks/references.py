"""Published networks that ours are measured against, with the weights that ours have.

The packages import torchvision at their top, which CPU builds of torch do without; what is used here needs none of it, so empty
classes take its place. Call :func:`without_torchvision` only in a process of its own: others look for torchvision too.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from imanim import weights
from imanim.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PINS = {
    "torch_fidelity": "torch-fidelity==0.4.0",
    "torchmetrics": "torchmetrics==1.9.0 lightning-utilities==0.15.3",
    "cleanfid": "clean-fid==0.1.35",
    "pytorch_fid": "pytorch-fid==0.3.0",
}
"""Package to what brings it."""
_STEM = ("conv conv_1 conv_2 conv_3 conv_4", "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3")
_A = (
    "conv tower.conv tower.conv_1 tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_2.conv",
    "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool",
)
_B = ("conv tower.conv tower.conv_1 tower.conv_2", "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3")
_C = (
    "conv tower.conv tower.conv_1 tower.conv_2 tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_1.conv_3 tower_1.conv_4"
    " tower_2.conv",
    "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5"
    " branch_pool",
)
_D = (
    "tower.conv tower.conv_1 tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_1.conv_3",
    "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
)
_E = (
    "conv tower_conv tower_mixed_conv tower_mixed_conv_1 tower_1_conv tower_1_conv_1 tower_1_mixed_conv tower_1_mixed_conv_1"
    " tower_2_conv",
    "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a branch3x3dbl_3b branch_pool",
)
_BLOCKS = {"5b": _A, "5c": _A, "5d": _A, "6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C, "7a": _D, "7b": _E, "7c": _E}
_CLASSES = 1008


def installed(package: str) -> None:
    """Raises InputError with the command that installs it."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{package}: not installed; run `pip install --no-deps {PINS[package]}`")


def without_torchvision() -> None:
    """Puts empty classes in the place of torchvision's for this whole process."""
    for name in ("", ".models", ".models.inception", ".transforms", ".transforms.functional", ".datasets"):
        _stand_in(f"torchvision{name}")


def _stand_in(name: str) -> None:
    def empty(attribute: str) -> type:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return type(attribute, (), {})

    module = types.ModuleType(name)
    module.__getattr__ = empty  # type: ignore[method-assign]
    module.__path__ = []
    module.__version__ = "0.0"  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def fidelity_weights() -> dict[str, Any]:
    """Our weights under torch-fidelity's names (pytorch-fid has the same), with a classifier of zeros, which no feature uses."""
    import torch

    names = dict(zip(*(side.split() for side in _STEM)))
    for i, (block, (ours, theirs)) in enumerate(_BLOCKS.items()):
        prefix = f"mixed{f'_{i}' if i else ''}"
        names |= {f"{prefix}.{a}": f"Mixed_{block}.{b}" for a, b in zip(ours.split(), theirs.split(), strict=True)}
    given, out = weights.tensors("inception-2015"), {}
    for ours, theirs in names.items():
        tensor = {key: given[f"net.layers.{ours}.{key}"] for key in ("weight", "beta", "mean", "var")}
        out[f"{theirs}.conv.weight"] = tensor["weight"]
        out[f"{theirs}.bn.weight"] = torch.ones_like(tensor["beta"])
        out[f"{theirs}.bn.bias"] = tensor["beta"]
        out[f"{theirs}.bn.running_mean"], out[f"{theirs}.bn.running_var"] = tensor["mean"], tensor["var"]
        out[f"{theirs}.bn.num_batches_tracked"] = torch.tensor(0)
    return out | {"fc.weight": torch.zeros(_CLASSES, 2048), "fc.bias": torch.zeros(_CLASSES)}


def give_fidelity_weights() -> Any:
    """torch-fidelity's module of the Inception network, which from now on takes our weights where it would download its own."""
    from torch_fidelity import feature_extractor_inceptionv3

    state = fidelity_weights()
    feature_extractor_inceptionv3.load_state_dict_from_url = lambda *_, **__: state
    return feature_extractor_inceptionv3


def fidelity_network(*dims: int) -> Any:
    """torch-fidelity's extractor: uint8 [n,3,H,W] to a tuple of features, one a width."""
    module = give_fidelity_weights()
    return module.FeatureExtractorInceptionV3("inception-v3-compat", [str(dim) for dim in dims])
