"""What four published codes make of two folders of pictures, run in a process of their own: FID, KID, features and pixels.

Usage of the process: DIM FOLDER CODE ..., where FOLDER has made/ and truth/ and gets CODE-DIM.npz.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imanim.errors import InputError
from launchers.benchmarks import references

PACKAGES = {
    "clean": ("torch_fidelity", "cleanfid"),
    "tf1": ("torch_fidelity",),
    "pytorch": ("torch_fidelity", "pytorch_fid"),
    "torchmetrics": ("torch_fidelity", "torchmetrics"),
}
SEED, SUBSETS = 5, 3


def of(code: str, dim: int, folder: Path) -> dict[str, np.ndarray]:
    """fid, kid (NaN where the code has none), kid_std, features_made, features_truth, pixels (of the made pictures).

    All codes that are installed run at the first call. Skips where this one is not.
    """
    try:
        for package in PACKAGES[code]:
            references.installed(package)
    except InputError as error:
        pytest.skip(str(error))
    if not (folder / f"{code}-{dim}.npz").is_file():
        here = [c for c, packages in PACKAGES.items() if all(map(importlib.util.find_spec, packages))]
        environment = {**os.environ, "PYTHONPATH": str(references.ROOT)}
        command = [sys.executable, __file__, str(dim), str(folder), *here]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
    with np.load(folder / f"{code}-{dim}.npz") as found:
        return dict(found)


def main(dim: int, folder: Path, codes: list[str]) -> None:
    references.without_torchvision()
    _working_transforms()
    _square_root_with_disp()
    for code in codes:
        seen = Seen(dim)
        run = {"clean": clean, "tf1": tf1, "pytorch": pytorch, "torchmetrics": torchmetrics}[code]
        fid, kid, kid_std = map(float, run(str(folder / "made"), str(folder / "truth"), dim, seen))
        np.savez(folder / f"{code}-{dim}.npz", fid=fid, kid=kid, kid_std=kid_std, **seen.arrays())


class Seen:
    """torch-fidelity's network, and what went through it: the pixels after resizing, and the features."""

    def __init__(self, dim: int):
        self.network = references.fidelity_network(dim)
        self.dim, self.pixels, self.features = dim, [], []

    def watch(self, network) -> None:
        network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: self.pixels.append(given[0].numpy().copy()))

    def keep(self, features):
        self.features.append(features.detach().numpy().reshape(-1, self.dim))
        return features

    def from_pixels(self, pixels):
        """Pixels from 0 to 255 at 299x299 to features, which the network itself takes only as uint8."""
        import torch

        last = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "Mixed_7c"}[self.dim]
        layers = dict(self.network.named_children())
        x = (pixels - 128) / 128
        for name in list(layers)[: list(layers).index(last) + 1]:
            x = layers[name](x)
        return self.keep(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    def arrays(self) -> dict[str, np.ndarray]:
        rows = np.concatenate(self.features)
        half = len(rows) // 2
        return {
            "pixels": np.concatenate(self.pixels)[:half],
            "features_made": rows[:half],
            "features_truth": rows[half:],
        }


def clean(made: str, truth: str, dim: int, seen: Seen) -> tuple:
    import cleanfid.fid
    import torch

    seen.watch(seen.network)
    settings = {"num_workers": 0, "batch_size": 1, "device": torch.device("cpu"), "verbose": False}
    fid = cleanfid.fid.compute_fid(made, truth, custom_feat_extractor=seen.from_pixels, **settings)
    at = len(seen.features)
    cleanfid.fid.build_feature_extractor = lambda *_, **__: seen.from_pixels
    kid = cleanfid.fid.compute_kid(made, truth, **settings)
    del seen.features[at:]
    return fid, kid, np.nan


def tf1(made: str, truth: str, dim: int, seen: Seen) -> tuple:
    import torch_fidelity

    module = references.give_fidelity_weights()
    forward = module.FeatureExtractorInceptionV3.forward

    def watched(self, x):
        found = forward(self, x)
        seen.keep(found[0])
        return found

    class Watched(module.FeatureExtractorInceptionV3):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            seen.watch(self)

    Watched.forward = watched
    torch_fidelity.register_feature_extractor("watched", Watched)
    common = {"batch_size": 1, "cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False}
    sizes = {"kid_subsets": SUBSETS, "kid_subset_size": len(list(Path(made).iterdir()))}
    found = torch_fidelity.calculate_metrics(
        input1=made,
        input2=truth,
        fid=True,
        kid=True,
        feature_extractor="watched",
        feature_layer_fid=str(dim),
        feature_layer_kid=str(dim),
        **common,
        **sizes,
    )
    return tuple(
        found[f"{k}"]
        for k in ("frechet_inception_distance", *(f"kernel_inception_distance_{k}" for k in ("mean", "std")))
    )


def pytorch(made: str, truth: str, dim: int, seen: Seen) -> tuple:
    blocks, models = sys.modules["torchvision.models.inception"], sys.modules["torchvision.models"]
    theirs = references.give_fidelity_weights()
    # torchvision's blocks, which pytorch-fid inherits its layers from; what they compute it writes anew.
    blocks.InceptionA, blocks.InceptionC, blocks.InceptionE = theirs.InceptionA, theirs.InceptionC, theirs.InceptionE_1
    models.inception_v3 = lambda **_: seen.network
    from pytorch_fid import fid_score, inception

    inception.load_state_dict_from_url = lambda *_, **__: references.fidelity_weights()
    network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[dim]]).eval()
    seen.watch(seen.network)
    stats = []
    activations = fid_score.get_activations
    fid_score.get_activations = lambda *a, **k: _kept(activations(*a, **k), seen)
    for folder in (made, truth):
        stats += fid_score.compute_statistics_of_path(folder, network, 1, dim, "cpu", num_workers=0)
    return fid_score.calculate_frechet_distance(*stats), np.nan, np.nan


def _kept(rows: np.ndarray, seen: Seen) -> np.ndarray:
    seen.features.append(rows)
    return rows


def torchmetrics(made: str, truth: str, dim: int, seen: Seen) -> tuple:
    import torch
    from PIL import Image
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    fid = FrechetInceptionDistance(feature=dim)
    kid = KernelInceptionDistance(feature=dim, subsets=SUBSETS, subset_size=len(list(Path(made).iterdir())) // 2)
    seen.watch(fid.inception)
    fid.inception.register_forward_hook(lambda _, __, features: seen.keep(features))
    for folder, real in ((made, False), (truth, True)):
        for path in sorted(Path(folder).iterdir()):
            picture = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
            fid.update(picture, real=real)
            kid.update(picture, real=real)
    torch.manual_seed(SEED)
    return fid.compute(), *kid.compute()


def _working_transforms() -> None:
    """The parts of torchvision that the codes do call."""
    import torch

    def pil_to_tensor(picture):
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    class ToTensor:
        def __call__(self, picture):
            pixels = pil_to_tensor(picture)
            return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels

    class Compose:
        def __init__(self, steps):
            self.steps = steps

        def __call__(self, picture):
            for step in self.steps:
                picture = step(picture)
            return picture

    sys.modules["torchvision.transforms"].ToTensor = ToTensor
    sys.modules["torchvision.transforms"].Compose = Compose
    sys.modules["torchvision.transforms.functional"].pil_to_tensor = pil_to_tensor


def _square_root_with_disp() -> None:
    """SciPy 1.18 took the argument away that pytorch-fid and clean-fid give."""
    import scipy.linalg

    plain = scipy.linalg.sqrtm
    scipy.linalg.sqrtm = lambda a, disp=True: plain(a) if disp else (plain(a), 0.0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
